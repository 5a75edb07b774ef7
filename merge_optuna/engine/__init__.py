"""From a recipe to tensors, to a live model refilled in place, or to a folder."""

from __future__ import annotations

from merge_optuna.engine._any import AnyEngine
from merge_optuna.engine._arrays import Inputs, gram
from merge_optuna.engine._build import build
from merge_optuna.engine._frame import check_finite
from merge_optuna.engine._live import Engine
from merge_optuna.engine._live_path import LivePath, branches_of, layers_of
from merge_optuna.engine._served_model import ServedModel
from merge_optuna.engine._tensors import Merger, tensors
from merge_optuna.engine._vllm import VLLM
from merge_optuna.engine._write import write

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
    "layers_of",
    "tensors",
    "write",
]
