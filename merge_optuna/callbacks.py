"""Callbacks of ``study.optimize(callbacks=[...])`` and of ``mo.MergeStudy(callbacks=[...])``."""

from __future__ import annotations

from merge_optuna.study import KeepBest, MaxFailures, Stagnation, StopRule, UnchangedGeneration

__all__ = ["KeepBest", "MaxFailures", "Stagnation", "StopRule", "UnchangedGeneration"]
