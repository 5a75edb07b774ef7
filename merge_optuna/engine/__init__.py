"""From a recipe to tensors, to a live model refilled in place, or to a folder."""

from __future__ import annotations

from merge_optuna.engine._live import Engine
from merge_optuna.engine._live_path import LivePath
from merge_optuna.engine._tensors import Merger, check_finite, tensors
from merge_optuna.engine._write import write

__all__ = ["Engine", "LivePath", "Merger", "check_finite", "tensors", "write"]
