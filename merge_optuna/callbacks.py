"""Callbacks of ``study.optimize(callbacks=[...])`` and of ``mo.MergeStudy(callbacks=[...])``."""

from __future__ import annotations

from merge_optuna.study._callbacks import (
    MaxFailures,
    Stagnation,
    StopRule,
    UnchangedGeneration,
)
from merge_optuna.study._keep_best import KeepBest

__all__ = ["KeepBest", "MaxFailures", "Stagnation", "StopRule", "UnchangedGeneration"]
