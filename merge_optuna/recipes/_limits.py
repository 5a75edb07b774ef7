"""How large a recipe may be: far above any merge, and far below what fills the memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from merge_optuna.errors import RecipeError

_MOST_NESTED = 50
_MOST_SOURCES = 10_000


def joint_extent(sources: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """How many recipes stand inside each other, and how many sources they have together.

    Args:
        sources: The same of every source; (0, 1) of a checkpoint.

    Raises:
        RecipeError: If these are too many.
    """
    inner = tuple(sources)
    nested = 1 + max((nested for nested, _ in inner), default=0)
    total = sum(total for _, total in inner)
    _check(nested, total)
    return nested, total


def check_extent(data: Mapping[str, Any]) -> None:
    """The same of a document, before anything of it is made.

    Raises:
        RecipeError: If these are too many.
    """
    nested = total = 0
    level: list[Mapping[str, Any]] = [data]
    while level:
        nested, total = nested + 1, total + len(level)
        _check(nested, total)
        level = [one for each in level for one in _sources_in(each) if isinstance(one, Mapping)]


def _sources_in(data: Mapping[str, Any]) -> list[Any]:
    models = data.get("models")
    return [data.get("base"), *(models if isinstance(models, list | tuple) else ())]


def _check(nested: int, total: int) -> None:
    if nested > _MOST_NESTED:
        raise RecipeError(
            f"More than {_MOST_NESTED} recipes stand inside each other. Write an inner one to a "
            "folder, and merge that."
        )
    if total > _MOST_SOURCES:
        raise RecipeError(f"A recipe may have {_MOST_SOURCES:,} sources, this one has more.")
