"""From a recipe to tensors, to a live model refilled in place, or to a folder."""

from __future__ import annotations

from merge_optuna.engine._build import build
from merge_optuna.engine._live import Engine
from merge_optuna.engine._tensors import Merger, check_finite, tensors
from merge_optuna.engine._write import write
from merge_optuna.engine.layer_path import LivePath

__all__ = ["Engine", "LivePath", "Merger", "build", "check_finite", "tensors", "write"]
