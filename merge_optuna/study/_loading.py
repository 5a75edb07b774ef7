"""What an evaluator is given to score."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import AnyEngine, Engine
from merge_optuna.errors import StudyError
from merge_optuna.evaluators import Evaluator, batches_of, has_all_heads, name_of, value_over
from merge_optuna.recipes import Recipe
from merge_optuna.study import _interrupt as interrupt

if TYPE_CHECKING:
    from torch import nn


def check_scorable(recipe: object) -> None:
    """Checks that something can be scored outside of any trial.

    Raises:
        StudyError: If it is neither a recipe nor a checkpoint.
    """
    if not isinstance(recipe, Recipe | Checkpoint):
        kind = type(recipe).__name__  # a module would fill pages
        raise StudyError(
            f"score takes a recipe or a checkpoint, not a {kind}: pass a recipe, "
            "mo.Checkpoint('...') or mo.Checkpoint.from_module(model)."
        )


def load_for(evaluator: Evaluator, engine: AnyEngine, recipe: Recipe | Checkpoint) -> nn.Module:
    """The live model with a recipe or a checkpoint, for an evaluator.

    What an engine serves is no module; an evaluator that cannot do without says so.

    Where it has heads of its own, that of the live model need not be that of what is loaded.
    """
    model: nn.Module = engine.load(recipe, user=name_of(evaluator), body=has_all_heads(evaluator))
    return model


def load_alone(
    evaluator: Evaluator, engine: AnyEngine, recipe: Recipe | Checkpoint, *, own: bool
) -> nn.Module:
    """The live model with what is no trial's.

    Args:
        evaluator: What is to score it.
        engine: That of the search.
        recipe: What to load.
        own: Whether it has the shape of the merges of the search: else it gets a live model of
            its own.
    """
    used = engine if own else Engine(engine.device, engine.dtype)
    return load_for(evaluator, used, recipe)


def measured(
    evaluator: Evaluator, engine: AnyEngine, recipe: Recipe | Checkpoint, *, own: bool = True
) -> float | tuple[float, ...]:
    """What a model scores on all examples; ctrl-C ends it where that does no harm."""
    with interrupt.interruptible():
        model = load_alone(evaluator, engine, recipe, own=own)
    try:
        with contextlib.closing(interrupt.interruptibly(batches_of(evaluator, model))) as batches:
            return value_over(evaluator, np.concatenate([scores for _, scores in batches]))
    finally:
        engine.look_again(recipe)  # an evaluator reads tokenizers, for one
