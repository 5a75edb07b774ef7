"""From what users write to a recipe: lists per model, filters as dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from merge_optuna.checkpoints import Checkpoint, Vocabulary
from merge_optuna.errors import RecipeError, shown
from merge_optuna.recipes._tree import Recipe, check_sources
from merge_optuna.recipes._values import Value, as_value


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
