"""The run of a search: exactly so many trials, in however many processes, and what one shows."""

from __future__ import annotations

from merge_optuna.search._greedy_path import greedy_path
from merge_optuna.search._merge_study import MergeStudy
from merge_optuna.search._optimize import optimize
from merge_optuna.search._scan import scan

__all__ = ["MergeStudy", "greedy_path", "optimize", "scan"]
