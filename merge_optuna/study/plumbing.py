"""What the run of a search, and what shows it, need of a study beside what is public there."""

from __future__ import annotations

from merge_optuna.study import _interrupt as interrupt
from merge_optuna.study._baseline_recipes import check_kinds
from merge_optuna.study._baseline_scoring import keep
from merge_optuna.study._board import is_better
from merge_optuna.study._checks import check_objectives
from merge_optuna.study._counts import COUNTED
from merge_optuna.study._held_out import HeldOut, held_out, keep_held_out, score_held_out
from merge_optuna.study._limit import Deadline, Overdue, check_limit, check_seconds, limited
from merge_optuna.study._outcome import excuse, failed, outcome
from merge_optuna.study._parts import Parts, stored_parts
from merge_optuna.study._progress import Bar, Crowd, beaten, quiet
from merge_optuna.study._recorded import stored_space
from merge_optuna.study._shares import MEMBERS
from merge_optuna.study._storage import told_plainly

__all__ = [
    "COUNTED",
    "MEMBERS",
    "Bar",
    "Crowd",
    "Deadline",
    "HeldOut",
    "Overdue",
    "Parts",
    "beaten",
    "check_kinds",
    "check_limit",
    "check_objectives",
    "check_seconds",
    "excuse",
    "failed",
    "held_out",
    "interrupt",
    "is_better",
    "keep",
    "keep_held_out",
    "limited",
    "outcome",
    "quiet",
    "score_held_out",
    "stored_parts",
    "stored_space",
    "told_plainly",
]
