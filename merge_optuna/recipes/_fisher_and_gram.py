"""What statistics say of themselves, and whether they belong to the models of a recipe.

Statistics are a checkpoint folder whose tensors have the names of a model's and whose
``config.json`` says under :data:`KEY` what they are and which model and data they were made from.
"""

from __future__ import annotations

from collections.abc import Sequence

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import CheckpointMismatch, RecipeError
from merge_optuna.methods import Method

KEY = "merge_optuna_statistics"


def is_statistics(checkpoint: Checkpoint) -> bool:
    """Whether the tensors of a checkpoint are no weights."""
    return KEY in (checkpoint.config or {})


def check_number(method: Method, given: int, models: int) -> None:
    """Checks that there are statistics where the method needs them, one per model.

    Raises:
        RecipeError: If there are too few or too many, or the method needs none.
    """
    kind = method.statistics
    if kind is None and given:
        raise RecipeError(f"{method.name} takes no statistics.")
    if kind is not None and given != models:
        raise RecipeError(
            f"{method.name} needs statistics of each of its {models} models, not {given}: "
            f"statistics=[mo.statistics.{kind}(model, data) for model in models]."
        )


def check_origin(
    method: Method, statistics: Checkpoint, model: str | None, origins: Sequence[Checkpoint]
) -> None:
    """Checks that statistics are of the right kind and were made from their model.

    Args:
        method: What needs them.
        statistics: Those of one model.
        model: Its name.
        origins: The model; for a recipe any checkpoint in it: the models that a merge evolves
            from lend it theirs.

    Raises:
        CheckpointMismatch: If not.
    """
    facts = (statistics.config or {}).get(KEY, {})
    kind, made_from = facts.get("kind"), facts.get("model")
    remedy = f"Make them with mo.statistics.{method.statistics}(model, data)."
    if kind != method.statistics:
        raise CheckpointMismatch(
            f"{method.name} needs {method.statistics} statistics, but {statistics.name!r} "
            f"({statistics.ref}) holds {kind or 'none'}. {remedy}"
        )
    if not any(_is_of(origin, made_from) for origin in origins):
        raise CheckpointMismatch(
            f"The statistics {statistics.name!r} ({statistics.ref}) were made from a model with "
            f"digest {made_from}, but belong to {model!r}, which has "
            f"{', '.join(origin.digest for origin in origins)}. Give them in the order of the "
            f"models. {remedy}"
        )


def _is_of(model: Checkpoint, digest: object) -> bool:
    """Whether statistics that were made from a model with a digest, maybe long ago, are of it."""
    return isinstance(digest, str) and model.digest_like(digest) == digest
