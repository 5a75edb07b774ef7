"""What statistics say of themselves, and whether they belong to the models of a recipe.

Statistics are a checkpoint folder whose tensors have the names of a model's and whose
``config.json`` says under :data:`KEY` what they are and which model and data they were made from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import CheckpointMismatch, RecipeError

if TYPE_CHECKING:
    from merge_optuna.recipes._tree import Recipe

KEY = "merge_optuna_statistics"


def is_statistics(checkpoint: Checkpoint) -> bool:
    """Whether the tensors of a checkpoint are no weights."""
    return KEY in (checkpoint.config or {})


def check_number(recipe: Recipe) -> None:
    """Checks that there are statistics where the method needs them, one per model.

    Raises:
        RecipeError: If there are too few or too many, or the method needs none.
    """
    given, kind = len(recipe.statistics), recipe.spec.statistics
    if kind is None and given:
        raise RecipeError(f"{recipe.method} takes no statistics.")
    if kind is not None and given != len(recipe.models):
        raise RecipeError(
            f"{recipe.method} needs statistics of each of its {len(recipe.models)} models, not "
            f"{given}: statistics=[mo.statistics.{kind}(model, data) for model in models]."
        )


def check_origin(recipe: Recipe) -> None:
    """Checks that each statistics are of the right kind and were made from their model.

    For a recipe among the models they may be those of any checkpoint in it: the models that a
    merge evolves from lend it theirs.

    Raises:
        CheckpointMismatch: If not.
    """
    for statistics, model in zip(recipe.statistics, recipe.models, strict=False):
        facts = (statistics.config or {}).get(KEY, {})
        kind, made_from = facts.get("kind"), facts.get("model")
        origins = (model,) if isinstance(model, Checkpoint) else model.leaves()
        remedy = f"Make them with mo.statistics.{recipe.spec.statistics}(model, data)."
        if kind != recipe.spec.statistics:
            raise CheckpointMismatch(
                f"{recipe.method} needs {recipe.spec.statistics} statistics, but "
                f"{statistics.name!r} ({statistics.ref}) holds {kind or 'none'}. {remedy}"
            )
        if not any(_is_of(origin, made_from) for origin in origins):
            raise CheckpointMismatch(
                f"The statistics {statistics.name!r} ({statistics.ref}) were made from a model "
                f"with digest {made_from}, but belong to {model.name!r}, which has "
                f"{', '.join(origin.digest for origin in origins)}. Give them in the order of the "
                f"models. {remedy}"
            )


def _is_of(model: Checkpoint, digest: object) -> bool:
    """Whether statistics that were made from a model with a digest, maybe long ago, are of it."""
    return isinstance(digest, str) and model.digest_like(digest) == digest
