"""How a value of ours is said with mergekit's filters and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from merge_optuna.checkpoints import NUMBERED
from merge_optuna.errors import RecipeError
from merge_optuna.mergekit._node import Node
from merge_optuna.mergekit._settings import Seen, conditions
from merge_optuna.methods import Parameter
from merge_optuna.recipes import ByName, PerGroup, Value, form_of
from merge_optuna.recipes.groups import Depth, Layout, matches

Numbers = Mapping[str, Any]


def setting(value: Value, layout: Layout, seen: Mapping[str, Seen], parameter: Parameter) -> Any:
    """The setting that gives every tensor the number that ``value`` gives it.

    Said as ``value`` says it where possible, else tensor by tensor with a gradient over the
    layers each.

    Raises:
        RecipeError: If mergekit's filters, parts of names, cannot tell the tensors apart.
    """
    if not isinstance(value, (PerGroup, ByName)):
        return value
    numbers = {name: form_of(value).at(name, layout) for name in layout.names}
    for entries in (_as_said(value, layout, seen, numbers), _by_tensor(seen, numbers)):
        found = list(entries)
        made = found[0]["value"] if len(found) == 1 and "filter" not in found[0] else found
        if made and _says(made, numbers, seen, parameter):
            return made
    raise RecipeError(
        f"mergekit's filters cannot say {parameter.name}: they match parts of the tensors' names, "
        "and some of these are parts of others."
    )


def _says(made: Any, numbers: Numbers, seen: Mapping[str, Seen], parameter: Parameter) -> bool:
    chain = conditions(Node(made, "to_mergekit"), parameter, {})

    def number(how: Seen) -> Any:
        return next((c.at(how.layer, how.layers) for c in chain if c.holds(how.name)), None)

    return all(number(how) == numbers[name] for name, how in seen.items())


def _as_said(
    value: PerGroup | ByName, layout: Layout, seen: Mapping[str, Seen], numbers: Numbers
) -> Iterator[dict[str, Any]]:
    if isinstance(value, PerGroup):
        yield from _gradient(value, None, layout, seen, numbers)
        return
    for pattern, inner in value.filters:
        part = None if pattern == "*" else pattern.strip("*")
        if isinstance(inner, PerGroup):
            yield from _gradient(inner, part, layout, seen, numbers)
        else:
            yield _entry(part, inner)


def _gradient(
    value: PerGroup,
    part: str | None,
    layout: Layout,
    seen: Mapping[str, Seen],
    numbers: Numbers,
) -> Iterator[dict[str, Any]]:
    """A gradient, and before it what stands outside the layers and does not have its start."""
    if isinstance(value.per, Depth):
        points = list(value.values)
    elif value.per == "layer":
        points = [e.number for e in value.entries(layout) if e.label not in ("embed", "head")]
    else:
        points = _one_per_layer(part, seen, numbers)
    if not points:
        return
    for name, how in seen.items():
        covered = how.layer is None and (part is None or matches(part, name))
        if covered and numbers[name] != points[0]:
            yield _entry(name, numbers[name])
    yield _entry(part, points)


def _one_per_layer(part: str | None, seen: Mapping[str, Seen], numbers: Numbers) -> list[Any]:
    """The number of each layer; none if one has several."""
    found: dict[int, set[Any]] = {}
    for name, how in seen.items():
        if how.layer is not None and (part is None or matches(part, name)):
            found.setdefault(how.layer, set()).add(numbers[name])
    layers = next((how.layers for how in seen.values() if how.layers), 0)
    if set(found) != set(range(layers)) or any(len(values) > 1 for values in found.values()):
        return []
    return [next(iter(found[layer])) for layer in range(layers)]


def _by_tensor(seen: Mapping[str, Seen], numbers: Numbers) -> Iterator[dict[str, Any]]:
    """Every tensor outside the layers by its name, every tensor within a layer by that there."""
    values: dict[str, Any] = {}
    for name, how in seen.items():
        match = NUMBERED.match(name)
        if how.layer is None or match is None:
            values[name] = numbers[name]
        else:
            # Of two stacks of other depths, as in a vision-language model, no list says both.
            over_layers = values.setdefault(match["rest"], [])
            over_layers += [numbers[name]] * (how.layers - len(over_layers))
            over_layers[how.layer] = numbers[name]
    # Names that are parts of others come after them.
    for name in sorted(values, key=len, reverse=True):
        value = values[name]
        same = isinstance(value, list) and len(set(value)) == 1
        yield _entry(name, value[0] if same else value)


def _entry(part: str | None, value: Any) -> dict[str, Any]:
    return ({} if part is None else {"filter": part}) | {"value": value}
