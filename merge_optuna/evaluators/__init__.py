"""How good a model is: per-example scores and the value they add up to.

What evaluators are made of (batches, labels, groups, heads) is also what learns from the
predictions of models: statistics and fitted recipes.
"""

from __future__ import annotations

from merge_optuna.evaluators._arguments import (
    Arguments,
    digest_of,
    logits_of,
    placed,
    run,
    token_mask,
)
from merge_optuna.evaluators._batches import Batches, Pieces
from merge_optuna.evaluators._data import Columns, Groups, Labels, read, table_of, texts
from merge_optuna.evaluators._function import Function, as_evaluator
from merge_optuna.evaluators._harness import has_lm_eval
from merge_optuna.evaluators._head import Head, has_all_heads, heads_of
from merge_optuna.evaluators._prompts import Prompt
from merge_optuna.evaluators._protocol import (
    ADDED_PARTS,
    BATCH_SIZE,
    Evaluator,
    as_scores,
    batches_of,
    breakdown_over,
    check_evaluator,
    check_length,
    check_metrics,
    is_deterministic,
    name_of,
    part_name,
    parts_of,
    value_of,
    value_over,
)
from merge_optuna.evaluators._sampling import Sampling
from merge_optuna.evaluators._serving import Serving
from merge_optuna.evaluators._unlabelled import batches
from merge_optuna.evaluators.classification import Classification
from merge_optuna.evaluators.generation import Generation
from merge_optuna.evaluators.kl_divergence import KLDivergence
from merge_optuna.evaluators.likelihood import NegativeLogLikelihood, Perplexity
from merge_optuna.evaluators.lm_eval import LmEval
from merge_optuna.evaluators.multiple_choice import MultipleChoice
from merge_optuna.evaluators.no_worse import BASE, NoWorse
from merge_optuna.evaluators.regression import Regression
from merge_optuna.evaluators.similarity import Similarity
from merge_optuna.evaluators.tasks import Tasks

__all__ = [
    "ADDED_PARTS",
    "BASE",
    "BATCH_SIZE",
    "Arguments",
    "Batches",
    "Classification",
    "Columns",
    "Evaluator",
    "Function",
    "Generation",
    "Groups",
    "Head",
    "KLDivergence",
    "Labels",
    "LmEval",
    "MultipleChoice",
    "NegativeLogLikelihood",
    "NoWorse",
    "Perplexity",
    "Pieces",
    "Prompt",
    "Regression",
    "Sampling",
    "Serving",
    "Similarity",
    "Tasks",
    "as_evaluator",
    "as_scores",
    "batches",
    "batches_of",
    "breakdown_over",
    "check_evaluator",
    "check_length",
    "check_metrics",
    "digest_of",
    "has_all_heads",
    "has_lm_eval",
    "heads_of",
    "is_deterministic",
    "logits_of",
    "name_of",
    "part_name",
    "parts_of",
    "placed",
    "read",
    "run",
    "table_of",
    "texts",
    "token_mask",
    "value_of",
    "value_over",
]
