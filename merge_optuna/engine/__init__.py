"""From a recipe to tensors, to a live model refilled in place, or to a folder."""

from __future__ import annotations

from typing import TypeAlias

from merge_optuna.engine._arrays import Inputs, gram
from merge_optuna.engine._build import build
from merge_optuna.engine._frame import check_finite
from merge_optuna.engine._live import Engine
from merge_optuna.engine._live_path import LivePath, branches_of
from merge_optuna.engine._tensors import Merger, tensors
from merge_optuna.engine._vllm import VLLM, ServedModel
from merge_optuna.engine._write import write

AnyEngine: TypeAlias = Engine | VLLM
"""What holds the one model of a search: a live model, or one that an engine of its own serves."""

__all__ = [
    "VLLM",
    "AnyEngine",
    "Engine",
    "Inputs",
    "LivePath",
    "Merger",
    "ServedModel",
    "branches_of",
    "build",
    "check_finite",
    "gram",
    "tensors",
    "write",
]
