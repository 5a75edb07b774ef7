"""Values a recipe's parameter may have: a number, a free number, one per group, by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, NamedTuple, Self, TypeVar

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
from merge_optuna.recipes.groups import Depth, Grouping, Layout, Per, matches, parse_per

_MOST_VALUES = 100_000
_MOST_FILTERS = 10_000

Number = StrictBool | StrictInt | StrictFloat | StrictStr
StrictReal = Annotated[float, Field(strict=True)]  # a number, and no word or truth value
PerField = Annotated[
    str | int | Depth,
    BeforeValidator(parse_per),
    PlainSerializer(lambda per: str(per) if isinstance(per, Depth) else per),
]


class Entry(NamedTuple):
    """The number of one group.

    Attributes:
        label: Of the group; empty if it is the whole model.
        number: The number; where a search begins if it is free.
        free: What it is drawn from, if it is free.
        used: Whether some tensor depends on it.
    """

    label: str
    number: Any
    free: Free | None = None
    used: bool = True

    @property
    def written(self) -> Any:
        """What stands in the value."""
        return self.number if self.free is None else self.free

    @property
    def path(self) -> str:
        """The end of a trial's parameter, e.g. ``/07``; empty if it is the whole model."""
        return f"/{self.label}" if self.label else ""


class Form(ABC):
    """What each form of a value answers; :func:`form_of` gives that of any value."""

    @abstractmethod
    def at(self, name: str, layout: Layout) -> Any:
        """The number that holds for one tensor.

        Raises:
            RecipeError: If it is still free, or a filter matches no tensor.
        """

    @abstractmethod
    def entries(self, layout: Layout) -> Iterator[Entry]:
        """The number of every group."""

    @abstractmethod
    def rebuilt(self, numbers: Iterator[Any], layout: Layout) -> Value:
        """The same with other numbers, one per entry."""

    @abstractmethod
    def numbers(self) -> Iterator[Number | Free]:
        """Every number, word and free number that is written in it."""

    @abstractmethod
    def mapped(self, change: Callable[[Any], Any]) -> Value:
        """The value with every number changed that is not free."""

    @property
    def is_one(self) -> bool:
        """Whether it is one number for all tensors."""
        return False

    def slots(self, layout: Layout) -> list[tuple[str, Free, float]]:
        """Every free number that has an effect: its path, what it is drawn from, its start."""
        every = self.entries(layout)
        return [(e.path, e.free, e.number) for e in every if e.free is not None and e.used]

    def filled(self, layout: Layout, numbers: Mapping[str, float]) -> Value:
        """The value with ``numbers``, by their paths, in place of its free numbers.

        Free numbers without an effect get their start.
        """
        every = (
            e.number if e.free is None else numbers.get(e.path, e.number)
            for e in self.entries(layout)
        )
        return self.rebuilt(every, layout)

    def read(self, bound: Value, layout: Layout, prefix: str = "") -> dict[str, float]:
        """Inverse of :meth:`filled`: the number at each path, read from ``bound``.

        Raises:
            RecipeError: If ``bound`` does not have the same form.
        """
        mine, theirs = list(self.entries(layout)), list(form_of(bound).entries(layout))
        is_alike = [e.label for e in mine] == [e.label for e in theirs]
        given = [e.written for e in theirs] if is_alike else [bound] * len(mine)
        numbers: dict[str, float] = {}
        for entry, number in zip(mine, given, strict=True):
            path, is_read = prefix + entry.path, entry.free is not None and entry.used
            if is_read and isinstance(number, float):
                numbers[path] = number
            elif is_read or (entry.free is None and number != entry.number):
                raise RecipeError(f"Expected {entry.written!r} at {path!r}, not {number!r}.")
        return numbers


@dataclass(frozen=True)
class Constant(Form):
    """A plain number or word, which is written as itself."""

    value: Number

    def at(self, name: str, layout: Layout) -> Number:
        return self.value

    def entries(self, layout: Layout) -> Iterator[Entry]:
        yield Entry("", self.value)

    def rebuilt(self, numbers: Iterator[Any], layout: Layout) -> Any:
        return next(numbers)

    def numbers(self) -> Iterator[Number | Free]:
        yield self.value

    def mapped(self, change: Callable[[Any], Any]) -> Any:
        return change(self.value)

    @property
    def is_one(self) -> bool:
        return True


class _Value(BaseModel, Form):
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

    def at(self, name: str, layout: Layout) -> Any:
        raise RecipeError(
            "This recipe has free numbers. Bind them first: recipe.suggest(trial), "
            "recipe.bind(params) or mo.recipe_of(study)."
        )

    def numbers(self) -> Iterator[Number | Free]:
        yield self

    def mapped(self, change: Callable[[Any], Any]) -> Value:
        return self

    @property
    def is_one(self) -> bool:
        return self.per == "model"

    def entries(self, layout: Layout) -> Iterator[Entry]:
        labels, used = layout.grouping(self.per).labels, layout.used(self.per)
        for label, start in zip(labels, self.starts(labels), strict=True):
            yield Entry(label, start, self, label in used)

    def rebuilt(self, numbers: Iterator[Any], layout: Layout) -> Any:
        if self.is_one:
            return next(numbers)
        own = islice(numbers, len(layout.grouping(self.per).labels))
        return PerGroup(per=self.per, values=tuple(own))


class PerGroup(_Value):
    """One value per layer group; made by :func:`mo.per_group`."""

    per: PerField
    values: tuple[Number | Free, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(isinstance(v, Free) and v.per != "model" for v in self.values):
            raise RecipeError("A free number inside mo.per_group is one number: leave out per=.")
        return self

    def _grouping(self, layout: Layout) -> Grouping:
        """The groups, if there are as many as values."""
        grouping = layout.grouping(self.per)
        if len(grouping.labels) != len(self.values):
            raise RecipeError(
                f"{len(self.values)} values for {len(grouping.labels)} groups per {self.per}: "
                f"{', '.join(grouping.labels)}. Give one value per group, or per=mo.depth(k)."
            )
        return grouping

    def at(self, name: str, layout: Layout) -> Any:
        pairs = self._grouping(layout).shares[name]
        values = [form_of(self.values[i]).at(name, layout) for i, _ in pairs]
        if len(pairs) == 1:
            return values[0]
        return sum(value * share for value, (_, share) in zip(values, pairs, strict=True))

    def numbers(self) -> Iterator[Number | Free]:
        yield from self.values

    def mapped(self, change: Callable[[Any], Any]) -> Value:
        values: Any = [form_of(value).mapped(change) for value in self.values]
        return PerGroup(per=self.per, values=tuple(values))

    def entries(self, layout: Layout) -> Iterator[Entry]:
        used = layout.used(self.per)
        for label, value in zip(self._grouping(layout).labels, self.values, strict=True):
            [entry] = form_of(value).entries(layout)
            yield entry._replace(label=label, used=label in used)

    def rebuilt(self, numbers: Iterator[Any], layout: Layout) -> Value:
        return PerGroup(per=self.per, values=tuple(islice(numbers, len(self.values))))


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
        if len(self.patterns) > _MOST_FILTERS:
            raise RecipeError(
                f"A value may have {_MOST_FILTERS:,} name filters, this one has "
                f"{len(self.patterns):,}."
            )
        if "*" not in self.patterns:
            raise RecipeError(
                f"The filters {self.patterns} leave other tensors without a value. Add '*'."
            )
        return self

    @property
    def patterns(self) -> list[str]:
        """The filters alone."""
        return [pattern for pattern, _ in self.filters]

    def parts(self, layout: Layout) -> Iterator[tuple[str, Form, Layout]]:
        """For each filter its pattern, its value, and the tensors that have it."""
        layouts = layout.parts(tuple(self.patterns))
        for (pattern, value), part in zip(self.filters, layouts, strict=True):
            yield pattern, form_of(value), part

    def at(self, name: str, layout: Layout) -> Any:
        inner = next(form for pattern, form, _ in self.parts(layout) if matches(pattern, name))
        return inner.at(name, layout)

    def entries(self, layout: Layout) -> Iterator[Entry]:
        for pattern, form, part in self.parts(layout):
            for entry in form.entries(part):
                yield entry._replace(label=pattern + entry.path)

    def rebuilt(self, numbers: Iterator[Any], layout: Layout) -> Value:
        return self._with(form.rebuilt(numbers, part) for _, form, part in self.parts(layout))

    def read(self, bound: Value, layout: Layout, prefix: str = "") -> dict[str, float]:
        if not isinstance(bound, ByName) or bound.patterns != self.patterns:
            raise RecipeError(f"Expected filters {self.patterns}, not {bound!r}.")
        numbers: dict[str, float] = {}
        for (_, other), (pattern, form, part) in zip(
            bound.filters, self.parts(layout), strict=True
        ):
            numbers |= form.read(other, part, f"{prefix}/{pattern}")
        return numbers

    def numbers(self) -> Iterator[Number | Free]:
        for _, value in self.filters:
            yield from form_of(value).numbers()

    def mapped(self, change: Callable[[Any], Any]) -> Value:
        return self._with(form_of(value).mapped(change) for _, value in self.filters)

    def _with(self, values: Iterable[Any]) -> Value:
        return ByName(filters=tuple(zip(self.patterns, values, strict=True)))


def _plain(value: Any) -> Any:
    return (
        value.model_dump(mode="json", exclude_defaults=True)
        if isinstance(value, _Value)
        else value
    )


Value = Number | Free | PerGroup | ByName
_Form = TypeVar("_Form", Free, PerGroup, ByName)


def form_of(value: Value) -> Form:
    """The value with its answers."""
    return Constant(value) if isinstance(value, bool | int | float | str) else value


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
    return _made("mo.free", Free, low=low, high=high, per=per, start=starts, log=log)


def per_group(values: Sequence[float | Free], *, per: Per = "layer") -> PerGroup:
    """One value per group, in order; with ``per=mo.depth(k)`` ``k`` values interpolated."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise RecipeError(f"mo.per_group takes a list of numbers, not {shown(values)}.")
    return _made("mo.per_group", PerGroup, per=per, values=tuple(_limited(values)))


def _limited(values: Iterable[Any]) -> Iterator[Any]:
    """The values, if they are not more than anybody can mean."""
    for number, value in enumerate(values):
        if number >= _MOST_VALUES:
            raise RecipeError(
                f"There may be {_MOST_VALUES:,} values, one per group, and here are more."
            )
        yield value


def _made(what: str, form: type[_Form], **fields: Any) -> _Form:
    try:
        return form(**fields)
    except ValidationError as error:
        raise unwrapped(error, what) from error


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
        return _made("Name filters", ByName, filters=tuple(value.items()))
    raise RecipeError(f"Expected a number, mo.free, mo.per_group or filters, not {shown(value)}.")
