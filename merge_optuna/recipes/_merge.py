"""From what users write to a recipe: lists per model, filters as dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_optuna.checkpoints import Checkpoint, Vocabulary
from merge_optuna.errors import RecipeError, shown
from merge_optuna.recipes._given import as_value
from merge_optuna.recipes._tree import Recipe
from merge_optuna.recipes._values import Value


def check_sources(
    taker: str, base: Checkpoint | Recipe | None, models: Sequence[Checkpoint | Recipe]
) -> None:
    """Checks that somebody who takes models was given models.

    Raises:
        RecipeError: If not, or one instead of a list.
    """
    if isinstance(models, (Checkpoint, Recipe)):
        raise RecipeError(f"{taker} takes a list of models: [{models.name}], not one model.")
    if isinstance(models, str | Path) or not isinstance(models, Sequence):
        raise RecipeError(
            f"{taker} takes a list of models, [mo.Checkpoint(folder), ...], not {models!r}."
        )
    for source in (base, *models):
        if source is not None and not isinstance(source, (Checkpoint, Recipe)):
            raise RecipeError(
                f"{taker} expected a mo.Checkpoint or a recipe, not {source!r}. "
                "Wrap a folder: mo.Checkpoint(folder)."
            )


def merge(
    method: str,
    base: Checkpoint | Recipe | None,
    models: Sequence[Checkpoint | Recipe],
    parameters: Mapping[str, Any],
    *,
    statistics: Sequence[Checkpoint] = (),
    exclude: Sequence[str] = (),
    name: str | None = None,
    tokenizer: str | Vocabulary | None = None,
    chat_template: str | None = None,
    config: str | None = None,
) -> Recipe:
    """Makes a recipe from what users write: lists per model, filters as dicts."""
    check_sources(method, base, models)
    if isinstance(exclude, str):
        exclude = (exclude,)
    if not isinstance(exclude, Sequence):
        raise RecipeError(f"exclude takes name filters, ['lm_head'], not {shown(exclude)}.")
    return Recipe(
        method=method,
        base=base,
        models=tuple(models),
        parameters=tuple((key, _as_given(value)) for key, value in parameters.items()),
        exclude=tuple(exclude),
        statistics=tuple(statistics),
        name=name,
        tokenizer=tokenizer,
        chat_template=chat_template,
        config=config,
    )


def _as_given(value: Any) -> Value | tuple[Value, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(as_value(v) for v in value)
    return as_value(value)
