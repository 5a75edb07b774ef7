"""How good a model is: per-example scores and the value they add up to."""

from __future__ import annotations

from merge_optuna.evaluators._base import (
    ADDED_PARTS,
    Evaluator,
    Function,
    as_evaluator,
    name_of,
    value_of,
)
from merge_optuna.evaluators._checks import as_scores, batches_of, check_evaluator, value_over
from merge_optuna.evaluators.classification import Classification

__all__ = [
    "ADDED_PARTS",
    "Classification",
    "Evaluator",
    "Function",
    "as_evaluator",
    "as_scores",
    "batches_of",
    "check_evaluator",
    "name_of",
    "value_of",
    "value_over",
]
