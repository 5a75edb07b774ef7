"""The free numbers of a recipe as a search space."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from optuna.distributions import FloatDistribution

from merge_optuna.errors import RecipeError
from merge_optuna.methods import Method, Parameter
from merge_optuna.recipes._values import Form, Free, form_of, free
from merge_optuna.recipes.groups import Depth, Layout, Per, parse_per


@dataclass(frozen=True)
class Slot:
    """One free number of a recipe.

    Attributes:
        name: The trial's parameter, e.g. ``weight/math/07``.
        distribution: Where it is drawn from.
        start: Where a search begins.
        parameter: Which parameter of the method it is a number of, e.g. ``weight``; of a nested
            recipe, a module or a filter with their names: ``weight/attn``.
        model: Which model it is about; empty if it is about all of them. A share weighs it against
            the models after it, and they are named, too: ``ja against math``.
        layer: Label of the layer or layers; empty if it is about all of them.
    """

    name: str
    distribution: FloatDistribution
    start: float
    parameter: str
    model: str
    layer: str

    def under(self, prefix: str) -> Slot:
        """The same with more before its name."""
        return replace(self, name=prefix + self.name, parameter=prefix + self.parameter)


class _Part(NamedTuple):
    """A parameter, or of one with a value for every model that of one.

    Attributes:
        form: Its value.
        layout: The tensors that it is about.
        prefix: Before the names of its slots.
        share: The same where a share is searched instead.
        key: The parameter.
        model: Whose it is; empty if it is that of all models.
    """

    form: Form
    layout: Layout
    prefix: str
    share: str
    key: str
    model: str

    def slot(self, path: str, distribution: FloatDistribution, start: float) -> Slot:
        """A free number of it."""
        layer, others = self.layout.located(path)
        key = self.key + others
        return Slot(self.prefix + path, distribution, start, key, self.model, layer)

    def share_of(self, path: str, start: float, rest: Sequence[_Part]) -> Slot:
        """Its share of what it and the parts after it have."""
        others = rest[0].model if len(rest) == 1 else f"{len(rest)} others"
        slot = self.slot(path, FloatDistribution(0.0, 1.0), start)
        return replace(slot, name=self.share + path, model=f"{self.model} against {others}")


class _Draw(NamedTuple):
    """A free number, as it is searched.

    Attributes:
        part: Number of the part that it stands in.
        path: Where in the part.
        is_share: Whether its share of what the parts before it have left is searched instead.
        slot: What a trial chooses; None for the last part's share, which is all that is left.
    """

    part: int
    path: str
    is_share: bool
    slot: Slot | None


@dataclass(frozen=True)
class Numbers:
    """The parameters of a recipe as a search space, without those of recipes inside.

    Where only the proportions of the models' weights matter, n free weights would leave the search
    a dead direction. Instead n − 1 shares are free: each model takes its share of what the models
    before it have left, which reaches every proportion.

    Attributes:
        method: What they are parameters of.
        values: Them, by name; a tuple where every model has its own.
        layout: The tensors that a value for all models is about.
        layouts: Those that a value of each model is about.
        models: How the models are called.
    """

    method: Method
    values: Mapping[str, Any]
    layout: Layout
    layouts: Sequence[Layout]
    models: Sequence[str]

    def slots(self) -> Iterator[Slot]:
        """Every free number, in the order of the method's parameters, models and groups."""
        return (draw.slot for draws in self._draws.values() for draw in draws if draw.slot)

    def bound(self, params: Mapping[str, float]) -> dict[str, Any]:
        """The parameters with a trial's in place of free numbers."""
        return {key: self._bound(key, params) for key in self.values}

    def _bound(self, key: str, params: Mapping[str, float]) -> Any:
        parts, left = self._parts(key), defaultdict[str, float](lambda: 1.0)
        numbers: list[dict[str, float]] = [{} for _ in parts]
        for part, path, is_share, slot in self._draws[key]:
            chosen = 1.0 if slot is None else params[slot.name]
            if is_share:
                chosen, left[path] = left[path] * chosen, left[path] * (1 - chosen)
            numbers[part][path] = chosen
        filled = [p.form.filled(p.layout, own) for p, own in zip(parts, numbers, strict=True)]
        return self._like(key, filled)

    def params_of(self, bound: Mapping[str, Any]) -> dict[str, float]:
        """Inverse of :meth:`bound`."""
        params: dict[str, float] = {}
        for key, draws in self._draws.items():
            given = bound[key] if isinstance(bound[key], tuple) else (bound[key],)
            pairs = zip(self._parts(key), given, strict=True)
            numbers = [part.form.read(one, part.layout) for part, one in pairs]
            for part, path, is_share, slot in draws:
                number = numbers[part][path]
                rest = sum(own[path] for own in numbers[part:]) if is_share else 1.0
                if slot is not None:
                    params[slot.name] = number / rest if rest else 0.0
        return params

    @cached_property
    def _draws(self) -> dict[str, list[_Draw]]:
        return {key: list(self._drawn(key)) for key in self.values}

    def _drawn(self, key: str) -> Iterator[_Draw]:
        """The free numbers of a parameter."""
        parts = self._parts(key)
        found = [{path: (f, x) for path, f, x in p.form.slots(p.layout)} for p in parts]
        shared = set.intersection(*map(set, found)) if self._only_shares(key) else set()
        self._check_ranges(own[path][0] for own in found for path in shared)
        for i, (part, own) in enumerate(zip(parts, found, strict=True)):
            for path, (number, start) in own.items():
                if path not in shared:
                    slot = part.slot(path, number.distribution(), start)
                    yield _Draw(i, path, is_share=False, slot=slot)
                    continue
                left = sum(one[path][1] for one in found[i:])
                share = start / left if left else 0.0
                rest = parts[i + 1 :]
                drawn = part.share_of(path, share, rest) if rest else None
                yield _Draw(i, path, is_share=True, slot=drawn)

    def _check_ranges(self, weights: Iterable[Free]) -> None:
        """Refuses free weights of which shares would reach other proportions than they."""
        ranges = {(weight.low, weight.high) for weight in weights}
        if any(low != 0 for low, _ in ranges) or len(ranges) > 1:
            always = self.method.proportional
            where = f"In {self.method.name}" if always else "With normalize=True"
            raise RecipeError(
                f"{where} only the proportions of the weights matter. Use "
                f"weight=mo.free(0, 1, ...) for all{'' if always else ', or normalize=False'}."
            )

    def freed(
        self, names: Sequence[str], per: Per, low: float | None, high: float | None
    ) -> dict[str, Any]:
        """The parameters, those with the names free around their present values.

        Without names those that the method's spec has a search range for, over that range.
        """
        per = parse_per(per)
        if not names and (low, high) != (None, None):
            raise RecipeError("low and high need the names of the parameters that they belong to.")
        return {
            **self.values,
            **{n: self._freed(n, bool(names), per, low, high) for n in names or self._searched()},
        }

    def _freed(
        self, name: str, is_named: bool, per: Per, low: float | None, high: float | None
    ) -> Any:
        spec = self.method.parameter(name)
        if not spec.numeric:
            raise RecipeError(f"{name} cannot be free: it is {spec.range}.")
        parts = self._parts(name)
        forms = [part.form for part in parts]
        try:
            every = [_fixed(number) for form in forms for number in form.numbers()]
            if is_named:
                bottom, top = _range_around(every, spec, low, high)
            else:
                bottom, top = spec.search or (spec.low, spec.high)
                factor = top / max(every) if self._only_shares(name) and max(every) > top else 1.0
                forms = [
                    form_of(f.mapped(lambda x: min(max(x * factor, bottom), top))) for f in forms
                ]
            return self._like(
                name,
                [
                    _around(f, part.layout, per, bottom, top)
                    for f, part in zip(forms, parts, strict=True)
                ],
            )
        except RecipeError as error:
            raise RecipeError(f"{name} cannot be freed per {per}: {error}") from error

    def _searched(self) -> list[str]:
        """What is freed when nothing is named: every fixed parameter that has a search range."""
        found = [p.name for p in self.method.parameters if p.search is not None]
        if "weight" in found and "lambda_" in found and not self._only_shares("weight"):
            found.remove("lambda_")  # the weights set the scale already
        if not found:
            raise RecipeError(
                f"No parameter of {self.method.name} has a search range of its own. Name those to "
                "free: recipe.free(name, low=..., high=...)."
            )
        fixed = [name for name in found if not self._has_free(name)]
        if not fixed:
            raise RecipeError(f"{', '.join(found)} of {self.method.name} are free already.")
        return fixed

    def _has_free(self, name: str) -> bool:
        return any(isinstance(x, Free) for p in self._parts(name) for x in p.form.numbers())

    def _parts(self, key: str) -> list[_Part]:
        value = self.values[key]
        if not isinstance(value, tuple):
            return [_Part(form_of(value), self.layout, key, "", key, "")]
        return [
            _Part(form_of(one), layout, f"{key}/{model}", f"share/{model}", key, model)
            for one, layout, model in zip(value, self.layouts, self.models, strict=True)
        ]

    def _like(self, key: str, values: Sequence[Any]) -> Any:
        """One value per part as the parameter has them."""
        return tuple(values) if isinstance(self.values[key], tuple) else values[0]

    def _only_shares(self, key: str) -> bool:
        """Whether only the proportions of a parameter's values over the models matter."""
        proportional = self.method.proportional or bool(self.values.get("normalize"))
        return key == "weight" and proportional


def _range_around(
    every: Sequence[float], spec: Parameter, low: float | None, high: float | None
) -> tuple[float, float]:
    """The spec's search range, or a larger one if present values lie outside."""
    if spec.search is not None and all(spec.search[0] <= x <= spec.search[1] for x in every):
        bottom, top = spec.search
    else:
        bottom = max(spec.low, min([0.0, *every]))
        top = min(spec.high, 1.0 if max(every) <= 1 else 2 * max(every))
    return bottom if low is None else low, top if high is None else high


def _fixed(number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise RecipeError("it is free already.")
    return float(number)


def _around(form: Form, layout: Layout, per: Per, low: float, high: float) -> Free:
    """A free number that starts at present ones."""
    entries = list(form.entries(layout))
    if [entry.label for entry in entries] == list(layout.grouping(per).labels):
        start = tuple(_fixed(entry.written) for entry in entries)
    else:
        start = _one_per_group(form, layout, per)
    if not all(low <= s <= high for s in start):
        raise RecipeError(f"its values {start} lie outside [{low}, {high}].")
    return free(low, high, per=per, start=start)


def _one_per_group(form: Form, layout: Layout, per: Per) -> tuple[float, ...]:
    """The present number of each group, where its tensors have one and the same."""
    grouping = layout.grouping(per)
    if form.is_one:
        return tuple(map(_fixed, form.numbers())) * len(grouping.labels)
    if isinstance(per, Depth):
        raise RecipeError("its values are given in another granularity.")
    found: list[set[float]] = [set() for _ in grouping.labels]
    for name, shares in grouping.shares.items():
        for i, _ in shares:
            found[i].add(_fixed(form.at(name, layout)))
    for label, numbers in zip(grouping.labels, found, strict=True):
        if len(numbers) > 1:
            raise RecipeError(
                f"its values are given in another granularity: {label or 'the model'} has several."
            )
    return tuple(next(iter(numbers)) for numbers in found)
