"""A search: objective, storage, the run itself, and what comes out of it."""

from __future__ import annotations

from merge_optuna.study._export import best_trial, export, recipe_of
from merge_optuna.study._merge_study import MergeStudy, remaining
from merge_optuna.study._objective import MergeObjective
from merge_optuna.study._scores import scores, set_scores
from merge_optuna.study._storage import storage

__all__ = [
    "MergeObjective",
    "MergeStudy",
    "best_trial",
    "export",
    "recipe_of",
    "remaining",
    "scores",
    "set_scores",
    "storage",
]
