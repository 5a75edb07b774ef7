"""Values a recipe's parameter may have: a number, a free number, one per group, by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Self

from optuna.distributions import FloatDistribution
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from merge_optuna.errors import MergeOptunaError, RecipeError, shown
from merge_optuna.recipes.groups import Depth, Layout, Per, matches, parse_per

_MOST_VALUES = 100_000
_MOST_FILTERS = 10_000

Number = StrictBool | StrictInt | StrictFloat | StrictStr
StrictReal = Annotated[float, Field(strict=True)]  # a number, and no word or truth value
PerField = Annotated[
    str | int | Depth,
    BeforeValidator(parse_per),
    PlainSerializer(lambda per: str(per) if isinstance(per, Depth) else per),
]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Free(_Value):
    """A number that a trial chooses; made by :func:`mo.free`."""

    low: StrictReal
    high: StrictReal
    per: PerField = "model"
    start: StrictReal | tuple[StrictReal, ...] | None = None
    log: StrictBool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.low, self.high
        if not (low < high and math.isfinite(high - low)):
            raise RecipeError(f"mo.free needs finite low < high, not [{low}, {high}].")
        if self.log and low <= 0:
            raise RecipeError(f"mo.free(log=True) needs low > 0, not {low}.")
        starts = self.start if isinstance(self.start, tuple) else (self.start,)
        if any(s is not None and not low <= s <= high for s in starts):
            raise RecipeError(f"start={self.start} lies outside [{low}, {high}].")
        return self

    def distribution(self) -> FloatDistribution:
        """The Optuna distribution of each of its numbers."""
        return FloatDistribution(self.low, self.high, log=self.log)

    def starts(self, labels: Sequence[str]) -> list[float]:
        """Where a search begins, one number per group."""
        if isinstance(self.start, tuple):
            if len(self.start) != len(labels):
                raise RecipeError(
                    f"start has {len(self.start)} numbers, but there are {len(labels)} groups per "
                    f"{self.per}: {', '.join(labels)}."
                )
            return list(self.start)
        if self.start is not None:
            return [self.start] * len(labels)
        middle = (
            math.sqrt(self.low * self.high) if self.log else self.low + (self.high - self.low) / 2
        )
        return [middle] * len(labels)


class PerGroup(_Value):
    """One value per layer group; made by :func:`mo.per_group`."""

    per: PerField
    values: tuple[Number | Free, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(isinstance(v, Free) and v.per != "model" for v in self.values):
            raise RecipeError("A free number inside mo.per_group is one number: leave out per=.")
        return self

    def labelled(self, layout: Layout) -> list[tuple[str, Any]]:
        """Pairs of group label and value.

        Raises:
            RecipeError: If there are not as many values as groups.
        """
        labels = layout.grouping(self.per).labels
        if len(labels) != len(self.values):
            raise RecipeError(
                f"{len(self.values)} values for {len(labels)} groups per {self.per}: "
                f"{', '.join(labels)}. Give one value per group, or per=mo.depth(k)."
            )
        return list(zip(labels, self.values, strict=True))


class ByName(_Value):
    """A value for the tensors whose name matches; written as ``{filter: value, "*": value}``.

    A filter with ``*``, ``?`` or ``[`` is a shell pattern for the whole name, any other one a part
    of it. The first that matches counts.
    """

    filters: Annotated[
        tuple[tuple[str, Number | Free | PerGroup], ...],
        BeforeValidator(lambda v: tuple(v.items()) if isinstance(v, Mapping) else v),
        PlainSerializer(lambda v: {k: _plain(inner) for k, inner in v}),
    ]

    @model_validator(mode="after")
    def _check(self) -> Self:
        patterns = [pattern for pattern, _ in self.filters]
        if len(patterns) > _MOST_FILTERS:
            raise RecipeError(
                f"A value may have {_MOST_FILTERS:,} name filters, this one has {len(patterns):,}."
            )
        if "*" not in patterns:
            raise RecipeError(
                f"The filters {patterns} leave other tensors without a value. Add '*'."
            )
        return self

    def parts(self, layout: Layout) -> list[tuple[str, Any, Layout]]:
        """For each filter its pattern, its value, and the tensors that have it."""
        layouts = layout.parts(tuple(pattern for pattern, _ in self.filters))
        return [(*pair, part) for pair, part in zip(self.filters, layouts, strict=True)]


def _plain(value: Any) -> Any:
    return (
        value.model_dump(mode="json", exclude_defaults=True)
        if isinstance(value, _Value)
        else value
    )


Value = Number | Free | PerGroup | ByName


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
    if isinstance(value, (Free, PerGroup, ByName, bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        try:
            return ByName(filters=tuple(value.items()))
        except ValidationError as error:
            raise unwrapped(error, "Name filters") from error
    raise RecipeError(f"Expected a number, mo.free, mo.per_group or filters, not {shown(value)}.")


def as_floats(value: Any) -> Any:
    """The value with its whole numbers as floats, so that equal recipes have equal digests."""
    if isinstance(value, PerGroup):
        return PerGroup(per=value.per, values=tuple(map(as_floats, value.values)))
    if isinstance(value, ByName):
        return ByName(filters=tuple((pattern, as_floats(v)) for pattern, v in value.filters))
    return float(value) if isinstance(value, int) else value


def numbers_in(value: Value) -> Iterator[Number | Free]:
    """Every number, word and free number in a value."""
    if isinstance(value, PerGroup):
        yield from value.values
    elif isinstance(value, ByName):
        for _, inner in value.filters:
            yield from numbers_in(inner)
    else:
        yield value


def value_at(value: Value, name: str, layout: Layout) -> Any:
    """The number that holds for one tensor.

    Raises:
        RecipeError: If it is still free, or a filter matches no tensor.
    """
    if isinstance(value, Free):
        raise RecipeError(
            "This recipe has free numbers. Bind them first: recipe.suggest(trial), "
            "recipe.bind(params) or mo.recipe_of(study)."
        )
    if isinstance(value, PerGroup):
        value.labelled(layout)
        pairs = layout.grouping(value.per).shares[name]
        if len(pairs) == 1:
            return value_at(value.values[pairs[0][0]], name, layout)
        return sum(value_at(value.values[i], name, layout) * share for i, share in pairs)
    if isinstance(value, ByName):
        inner = next(v for pattern, v, _ in value.parts(layout) if matches(pattern, name))
        return value_at(inner, name, layout)
    return value


def free_paths(
    value: Value, layout: Layout, prefix: str = ""
) -> Iterator[tuple[str, Free, float]]:
    """Every free number that has an effect: its path, what it is drawn from, and its start."""
    if isinstance(value, ByName):
        for pattern, inner, part in value.parts(layout):
            yield from free_paths(inner, part, f"{prefix}/{pattern}")
        return
    used = layout.used(value.per) if isinstance(value, (Free, PerGroup)) else set()
    for label, inner, start in _labelled(value, layout):
        if isinstance(inner, Free) and label in used:
            yield _path(prefix, label), inner, start


def filled(value: Value, layout: Layout, numbers: Mapping[str, float], prefix: str = "") -> Value:
    """The value with ``numbers`` (by path) in place of its free numbers.

    Free numbers without an effect get their start.
    """
    if isinstance(value, ByName):
        return ByName(
            filters=tuple(
                (pattern, filled(inner, part, numbers, f"{prefix}/{pattern}"))  # type: ignore[misc]
                for pattern, inner, part in value.parts(layout)
            )
        )
    if not isinstance(value, (Free, PerGroup)):
        return value
    values: list[Number | Free] = [
        numbers.get(_path(prefix, label), start) if isinstance(inner, Free) else inner
        for label, inner, start in _labelled(value, layout)
    ]
    is_one = isinstance(value, Free) and value.per == "model"
    return values[0] if is_one else PerGroup(per=value.per, values=tuple(values))


def numbers_of(value: Value, bound: Value, layout: Layout, prefix: str = "") -> dict[str, float]:
    """Inverse of :func:`filled`: the number at each path of ``value``, read from ``bound``.

    Raises:
        RecipeError: If ``bound`` does not have the same form.
    """
    numbers: dict[str, float] = {}
    if isinstance(value, ByName):
        if not isinstance(bound, ByName) or [p for p, _ in bound.filters] != [
            p for p, _ in value.filters
        ]:
            raise RecipeError(f"Expected filters {[p for p, _ in value.filters]}, not {bound!r}.")
        for (pattern, inner, part), (_, other) in zip(
            value.parts(layout), bound.filters, strict=True
        ):
            numbers |= numbers_of(inner, other, part, f"{prefix}/{pattern}")
        return numbers
    found: dict[str, Any] = {}
    if isinstance(bound, PerGroup) and bound.per == getattr(value, "per", None):
        found = dict(bound.labelled(layout))
    free = {path for path, _, _ in free_paths(value, layout, prefix)}
    for label, inner, _ in _labelled(value, layout):
        path, number = _path(prefix, label), found.get(label, bound)
        if isinstance(number, float) and path in free:
            numbers[path] = number
        elif path in free or (not isinstance(inner, Free) and number != inner):
            raise RecipeError(f"Expected {inner!r} at {path!r}, not {number!r}.")
    return numbers


def _labelled(value: Value, layout: Layout) -> list[tuple[str, Any, Any]]:
    """For each group its label, its number, and its start if that is free."""
    if isinstance(value, Free):
        labels = layout.grouping(value.per).labels
        return [(label, value, x) for label, x in zip(labels, value.starts(labels), strict=True)]
    pairs = value.labelled(layout) if isinstance(value, PerGroup) else [("", value)]
    return [(k, v, v.starts([k])[0] if isinstance(v, Free) else v) for k, v in pairs]


def _path(prefix: str, label: str) -> str:
    return f"{prefix}/{label}" if label else prefix
