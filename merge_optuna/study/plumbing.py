"""What the run of a search, and what shows it, need of a study beside what is public there."""

from __future__ import annotations

from merge_optuna.study import _interrupt as interrupt
from merge_optuna.study._baseline_recipes import check_kinds
from merge_optuna.study._baseline_scoring import keep
from merge_optuna.study._checks import check_objectives
from merge_optuna.study._counts import COUNTED
from merge_optuna.study._limit import Deadline, Overdue, check_limit, check_seconds, limited
from merge_optuna.study._outcome import excuse, failed, outcome
from merge_optuna.study._progress import Bar, Crowd, beaten, quiet
from merge_optuna.study._recorded import stored_space
from merge_optuna.study._storage import told_plainly

__all__ = [
    "COUNTED",
    "Bar",
    "Crowd",
    "Deadline",
    "Overdue",
    "beaten",
    "check_kinds",
    "check_limit",
    "check_objectives",
    "check_seconds",
    "excuse",
    "failed",
    "interrupt",
    "keep",
    "limited",
    "outcome",
    "quiet",
    "stored_space",
    "told_plainly",
]
