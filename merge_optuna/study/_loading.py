"""What an evaluator is given to score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_optuna.engine import AnyEngine
from merge_optuna.evaluators import Evaluator, has_all_heads, name_of
from merge_optuna.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn

    from merge_optuna.checkpoints import Checkpoint


def load_for(evaluator: Evaluator, engine: AnyEngine, recipe: Recipe | Checkpoint) -> nn.Module:
    """The live model with a recipe or a checkpoint, for an evaluator.

    What an engine serves is no module; an evaluator that cannot do without says so.

    Where it has heads of its own, that of the live model need not be that of what is loaded.
    """
    model: nn.Module = engine.load(recipe, user=name_of(evaluator), body=has_all_heads(evaluator))
    return model
