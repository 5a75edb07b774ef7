"""A recipe with free numbers as a search space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.distributions import FloatDistribution

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError
from merge_optuna.recipes._values import (
    Free,
    PerGroup,
    Value,
    filled,
    free,
    free_paths,
    numbers_in,
    numbers_of,
    value_at,
)
from merge_optuna.recipes.groups import Depth, Layout, Per, parse_per

if TYPE_CHECKING:
    from merge_optuna.methods import Parameter
    from merge_optuna.recipes._tree import Recipe


@dataclass(frozen=True)
class Slot:
    """One free number of a recipe.

    Attributes:
        name: The trial's parameter, e.g. ``weight/math/07``.
        distribution: Where it is drawn from.
        start: Where a search begins.
    """

    name: str
    distribution: FloatDistribution
    start: float


def slots(recipe: Recipe) -> Iterator[Slot]:
    """Every free number, in the order of the method's parameters, models and groups."""
    for key, value in recipe.parameters:
        if not isinstance(value, tuple):
            for path, number, start in free_paths(value, recipe.alignment.layout, key):
                yield Slot(path, number.distribution(), start)
            continue
        shares = _Shares(recipe, key, value)
        for i, (model, one) in enumerate(zip(recipe.model_names, value, strict=True)):
            for path, number, start in free_paths(one, recipe.layouts[i]):
                if path not in shares:
                    yield Slot(f"{key}/{model}{path}", number.distribution(), start)
                elif i < len(value) - 1:
                    yield Slot(
                        f"share/{model}{path}", FloatDistribution(0.0, 1.0), shares.start(i, path)
                    )
    for prefix, inner in recipe.nested:
        for slot in inner.slots:
            yield Slot(f"{prefix}/{slot.name}", slot.distribution, slot.start)


def bind(recipe: Recipe, params: Mapping[str, float]) -> Recipe:
    """The recipe with ``params`` in place of its free numbers."""
    layout = recipe.alignment.layout
    parameters: list[tuple[str, Any]] = []
    for key, value in recipe.parameters:
        if not isinstance(value, tuple):
            parameters.append((key, filled(value, layout, params, key)))
            continue
        numbers = _weights(recipe, key, value, params)
        bound = [
            filled(one, own, n) for one, own, n in zip(value, recipe.layouts, numbers, strict=True)
        ]
        parameters.append((key, tuple(bound)))
    nested = {prefix: inner.bind(_below(params, prefix)) for prefix, inner in recipe.nested}
    return recipe.changed(tuple(parameters), nested)


def params_of(recipe: Recipe, bound: Recipe) -> dict[str, float]:
    """The parameters with which ``recipe`` gives ``bound``."""
    if _outline(bound) != _outline(recipe):
        raise RecipeError(f"The recipe is {_outline(bound)}, but the space is {_outline(recipe)}.")
    layout = recipe.alignment.layout
    params: dict[str, float] = {}
    for key, value in recipe.parameters:
        other = bound.values[key]
        if not isinstance(value, tuple):
            params |= numbers_of(value, other, layout, key)
            continue
        shares = _Shares(recipe, key, value)
        numbers = [
            numbers_of(v, o, own) for v, o, own in zip(value, other, recipe.layouts, strict=True)
        ]
        for i, model in enumerate(recipe.model_names):
            for path, number in numbers[i].items():
                if path not in shares:
                    params[f"{key}/{model}{path}"] = number
                elif i < len(value) - 1:
                    rest = sum(n[path] for n in numbers[i:])
                    params[f"share/{model}{path}"] = number / rest if rest else 0.0
    for (prefix, inner), (_, other) in zip(recipe.nested, bound.nested, strict=True):
        params |= {f"{prefix}/{k}": v for k, v in inner.params_of(other).items()}
    return params


def _outline(recipe: Recipe) -> str:
    """What a space and its recipes have in common."""
    sources = [
        f"{source.name} ({source.digest})" if isinstance(source, Checkpoint) else source.method
        for source in recipe.sources
    ]
    without = f" without {', '.join(recipe.exclude)}" if recipe.exclude else ""
    return f"{recipe.method} of {', '.join(sources)}{without}"


def freed(
    recipe: Recipe, names: Sequence[str], per: Per, low: float | None, high: float | None
) -> Recipe:
    """The recipe with the named parameters free around their present values.

    Without names those that the method's spec has a search range for, over that range.
    """
    per = parse_per(per)
    if not names and (low, high) != (None, None):
        raise RecipeError("low and high need the names of the parameters that they belong to.")
    parameters = dict(recipe.parameters)
    for name in names or _searched(recipe):
        spec = recipe.spec.parameter(name)
        if not spec.numeric:
            raise RecipeError(f"{name} cannot be free: it is {spec.range}.")
        value = parameters[name]
        values = value if isinstance(value, tuple) else (value,)
        layouts = recipe.layouts if isinstance(value, tuple) else (recipe.alignment.layout,)
        try:
            if names:
                bottom, top = _range_around(values, spec, low, high)
            else:
                bottom, top = spec.search or (spec.low, spec.high)
                values = _moved_into(values, bottom, top, scale=_only_shares(recipe, name))
            around = tuple(
                _around(one, layout, per, bottom, top)
                for one, layout in zip(values, layouts, strict=True)
            )
        except RecipeError as error:
            raise RecipeError(f"{name} cannot be freed per {per}: {error}") from error
        parameters[name] = around if isinstance(value, tuple) else around[0]
    return recipe.changed(tuple(parameters.items()))


def _searched(recipe: Recipe) -> list[str]:
    """What is freed when nothing is named: every fixed parameter that has a search range."""
    found = [p.name for p in recipe.spec.parameters if p.search is not None]
    if "weight" in found and "lambda_" in found and not _only_shares(recipe, "weight"):
        found.remove("lambda_")  # the weights set the scale already
    if not found:
        raise RecipeError(
            f"No parameter of {recipe.method} has a search range of its own. Name those to free: "
            "recipe.free(name, low=..., high=...)."
        )
    fixed = [name for name in found if not _has_free(recipe.values[name])]
    if not fixed:
        raise RecipeError(f"{', '.join(found)} of {recipe.method} are free already.")
    return fixed


def _has_free(value: Any) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return any(isinstance(number, Free) for one in values for number in numbers_in(one))


def _only_shares(recipe: Recipe, name: str) -> bool:
    """Whether only the proportions of a parameter's values over the models matter."""
    always = recipe.spec.proportional
    return name == "weight" and (always or bool(recipe.values.get("normalize")))


def _range_around(
    values: Sequence[Any], spec: Parameter, low: float | None, high: float | None
) -> tuple[float, float]:
    """The spec's search range, or a larger one if present values lie outside."""
    every = [_fixed(number) for one in values for number in numbers_in(one)]
    if spec.search is not None and all(spec.search[0] <= x <= spec.search[1] for x in every):
        bottom, top = spec.search
    else:
        bottom = max(spec.low, min([0.0, *every]))
        top = min(spec.high, 1.0 if max(every) <= 1 else 2 * max(every))
    return bottom if low is None else low, top if high is None else high


def _moved_into(values: Sequence[Any], low: float, high: float, *, scale: bool) -> tuple[Any, ...]:
    """Present values clipped into a range; scaled down first where only proportions matter."""
    every = [_fixed(number) for one in values for number in numbers_in(one)]
    factor = high / max(every) if scale and max(every) > high else 1.0

    def moved(value: Any) -> Any:
        if isinstance(value, PerGroup):
            return PerGroup(per=value.per, values=tuple(map(moved, value.values)))
        return min(max(value * factor, low), high) if isinstance(value, (int, float)) else value

    return tuple(map(moved, values))


def _fixed(number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise RecipeError("it is free already.")
    return float(number)


def _around(value: Any, layout: Layout, per: Per, low: float, high: float) -> Free:
    """A free number that starts at a present value."""
    labels = layout.grouping(per).labels
    if isinstance(value, PerGroup) and value.per == per:
        start = tuple(_fixed(number) for number in value.values)
    elif isinstance(value, (int, float)):
        start = (float(value),) * len(labels)
    else:
        start = _one_per_group(value, layout, per)
    if not all(low <= s <= high for s in start):
        raise RecipeError(f"its values {start} lie outside [{low}, {high}].")
    return free(low, high, per=per, start=start)


def _one_per_group(value: Value, layout: Layout, per: Per) -> tuple[float, ...]:
    """The present number of each group, where its tensors have one and the same."""
    if isinstance(per, Depth):
        raise RecipeError("its values are given in another granularity.")
    grouping = layout.grouping(per)
    found: list[set[float]] = [set() for _ in grouping.labels]
    for name, shares in grouping.shares.items():
        for i, _ in shares:
            found[i].add(_fixed(value_at(value, name, layout)))
    for label, numbers in zip(grouping.labels, found, strict=True):
        if len(numbers) > 1:
            raise RecipeError(
                f"its values are given in another granularity: {label or 'the model'} has several."
            )
    return tuple(next(iter(numbers)) for numbers in found)


class _Shares:
    """Paths at which the free weights of all models only matter by their proportions.

    With ``normalize=True``, and in methods that are ``proportional`` anyway, scaling all weights
    changes nothing, so n free weights would leave the search a dead direction. Instead n − 1
    shares are free: each model takes its share of what the models before it have left, which
    reaches every proportion.
    """

    def __init__(self, recipe: Recipe, key: str, value: Sequence[Any]) -> None:
        self._starts: list[dict[str, float]] = []
        self._paths: set[str] = set()
        if not _only_shares(recipe, key):
            return
        layout = recipe.alignment.layout
        found = [{path: (f, start) for path, f, start in free_paths(v, layout)} for v in value]
        self._paths = set.intersection(*(set(f) for f in found))
        self._starts = [{path: f[path][1] for path in self._paths} for f in found]
        ranges = {(f[path][0].low, f[path][0].high) for f in found for path in self._paths}
        if any(low != 0 for low, _ in ranges) or len(ranges) > 1:
            always = recipe.spec.proportional
            where = f"In {recipe.method}" if always else "With normalize=True"
            raise RecipeError(
                f"{where} only the proportions of the weights matter. Use "
                f"weight=mo.free(0, 1, ...) for all{'' if always else ', or normalize=False'}."
            )

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def start(self, model: int, path: str) -> float:
        rest = sum(starts[path] for starts in self._starts[model:])
        return self._starts[model][path] / rest if rest else 0.0


def _weights(
    recipe: Recipe, key: str, value: Sequence[Any], params: Mapping[str, float]
) -> list[dict[str, float]]:
    """For each model the numbers at its free paths."""
    shares = _Shares(recipe, key, value)
    left: dict[str, float] = {}
    numbers: list[dict[str, float]] = []
    for i, (model, one) in enumerate(zip(recipe.model_names, value, strict=True)):
        numbers.append({})
        for path, _, _ in free_paths(one, recipe.layouts[i]):
            if path not in shares:
                numbers[i][path] = params[f"{key}/{model}{path}"]
                continue
            remaining = left.get(path, 1.0)
            share = params[f"share/{model}{path}"] if i < len(value) - 1 else 1.0
            numbers[i][path] = remaining * share
            left[path] = remaining * (1 - share)
    return numbers


def _below(params: Mapping[str, float], prefix: str) -> dict[str, float]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in params.items() if k.startswith(start)}
