"""Values as users write them: mo.free, mo.per_group, plain numbers, name filters as dicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from merge_optuna.errors import MergeOptunaError, RecipeError, shown
from merge_optuna.recipes._values import ByName, Free, PerGroup, Value
from merge_optuna.recipes.groups import Per

_MOST_VALUES = 100_000


def free(
    low: float,
    high: float,
    *,
    per: Per = "model",
    start: float | Sequence[float] | None = None,
    log: bool = False,
) -> Free:
    """A number for the search to choose, in [low, high].

    Args:
        low: Smallest value.
        high: Largest value.
        per: How many numbers: one for the ``"model"``; one per ``"layer"`` (embedding, each
            block, head); one per ``k`` consecutive layers; per ``"module"`` (attention and MLP of
            each block); per ``"tensor"``; or ``mo.depth(k)`` numbers interpolated over the layers.
            Those that no tensor depends on are not searched.
        start: Where the search begins; the middle of the range when omitted. A sequence gives one
            number per group.
        log: Whether to search on a logarithmic scale; needs ``low > 0``.

    Raises:
        RecipeError: If the range is empty or the start lies outside.
    """
    starts = tuple(_limited(start)) if isinstance(start, Iterable) else start
    try:
        return Free(low=low, high=high, per=per, start=starts, log=log)
    except ValidationError as error:
        raise unwrapped(error, "mo.free") from error


def per_group(values: Sequence[float | Free], *, per: Per = "layer") -> PerGroup:
    """One value per group, in order; with ``per=mo.depth(k)`` ``k`` values interpolated."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise RecipeError(f"mo.per_group takes a list of numbers, not {shown(values)}.")
    try:
        return PerGroup(per=per, values=tuple(_limited(values)))
    except ValidationError as error:
        raise unwrapped(error, "mo.per_group") from error


def _limited(values: Iterable[Any]) -> Iterator[Any]:
    """The values, if they are not more than anybody can mean."""
    for number, value in enumerate(values):
        if number >= _MOST_VALUES:
            raise RecipeError(
                f"There may be {_MOST_VALUES:,} values, one per group, and here are more."
            )
        yield value


def unwrapped(error: ValidationError, what: str) -> MergeOptunaError:
    """The error of ours inside a validation error, or its list as one."""
    for entry in error.errors():
        cause = entry.get("ctx", {}).get("error")
        if isinstance(cause, MergeOptunaError):
            return cause
    lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
    return RecipeError(f"{what}: {'; '.join(lines)}.")


def as_value(value: object) -> Value:
    """Returns ``value`` as one of the value types, reading dicts as name filters.

    Raises:
        RecipeError: If it is none, or filters leave some tensors without a value.
    """
    if isinstance(value, Free | PerGroup | ByName | bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        try:
            return ByName(filters=tuple(value.items()))
        except ValidationError as error:
            raise unwrapped(error, "Name filters") from error
    raise RecipeError(f"Expected a number, mo.free, mo.per_group or filters, not {shown(value)}.")
