"""What a parameter is for each tensor: mergekit's filters, gradients and precedence.

A setting is a number, a *gradient* (a list of numbers, interpolated over the layers), or a list of
conditions ``{filter, value}`` of which the first counts whose filter is part of the tensor's name.
Where no condition of a setting holds, the setting of the next lower level counts, and in the end
the method's default.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_optuna.checkpoints import block_of, find_stacks, renumbered
from merge_optuna.errors import RecipeError
from merge_optuna.mergekit._node import Node
from merge_optuna.methods import Parameter
from merge_optuna.recipes import ByName, PerGroup, Value, form_of
from merge_optuna.recipes.groups import Depth, Layout

Scalar = bool | int | float | str
_SCALARS = (bool, int, float, str)
_TRUE = (True, "true", "t", "yes", "y", "on", "1")  # 1 and 1.0 are equal to True
_FALSE = (False, "false", "f", "no", "n", "off", "0")


@dataclass(frozen=True)
class Seen:
    """How mergekit sees a tensor.

    Attributes:
        name: What filters are compared with.
        layer: Number of its layer within the slice; None before and behind the layers.
        layers: How many layers the slice has.
    """

    name: str
    layer: int | None
    layers: int


@dataclass(frozen=True)
class Condition:
    """A value, or a gradient of values, for the tensors that a filter lets through."""

    filter: str
    values: tuple[Scalar, ...]
    node: Node

    def holds(self, name: str) -> bool:
        """Whether it counts for a tensor."""
        return self.filter == "*" or self.filter in name

    def at(self, layer: int | None, layers: int) -> Scalar:
        """The value for a layer; what is no layer has the value of the first."""
        if layer is None or len(self.values) == 1:
            return self.values[0]
        if len(self.values) == layers:  # what interpolation comes to, without its rounding
            return self.values[layer]
        t = layer / (layers - 1) if layers > 1 else 1.0
        position = t * (len(self.values) - 1)
        left = int(position)
        if any(isinstance(v, (bool, str)) for v in self.values):
            return self.values[left]
        right = min(left + 1, len(self.values) - 1)
        share = position - left
        a, b = float(self.values[left]), float(self.values[right])
        return (1 - share) * a + share * b


def conditions(node: Node, parameter: Parameter, words: dict[Any, Any]) -> list[Condition]:
    """The conditions of a setting, with ``parameter``'s values.

    Raises:
        RecipeError: If the setting is none, or a value lies outside the parameter's range.
    """

    def values(given: Node) -> tuple[Scalar, ...]:
        several = given.items() if isinstance(given.value, list) else [given]
        return tuple(_scalar(one, parameter, words) for one in several)

    value = node.value
    if value == []:
        return []  # mergekit then asks the next level
    if isinstance(value, list) and not all(isinstance(v, _SCALARS) for v in value):
        entries = node.items()
    else:
        entries = [node]
    found = []
    for entry in entries:
        if not isinstance(entry.value, dict):
            found.append(Condition("*", values(entry), entry))
            continue
        entry.check_keys(("filter", "value"))
        given, pattern = entry.get("value"), entry.get("filter")
        if given is None:
            raise entry.error("a condition needs a value.")
        found.append(Condition("*" if pattern is None else pattern.text(), values(given), entry))
    return found


def _scalar(node: Node, parameter: Parameter, words: dict[Any, Any]) -> Scalar:
    """A value as ``parameter`` has it; YAML reads 1e-3 as a word."""
    value: Any = node.value
    if not isinstance(value, _SCALARS):
        raise node.error(f"expected a value for {parameter.name}, not {value!r}.")
    if words:
        value = words[truth(node)]
    elif isinstance(parameter.default, bool):
        value = truth(node)
    elif not isinstance(parameter.default, str):
        value = number(node)
        if isinstance(parameter.default, int) and value.is_integer():
            value = int(value)
    try:
        parameter.check(value)
    except RecipeError as error:
        raise node.error(str(error)) from None
    found: Scalar = value
    return found


def truth(node: Node) -> bool:
    """A boolean as pydantic reads it for mergekit, which also writes 1.0 for it.

    Raises:
        RecipeError: If it is none.
    """
    value = node.value.lower() if isinstance(node.value, str) else node.value
    for meaning, words in ((True, _TRUE), (False, _FALSE)):
        if value in words:
            return meaning
    raise node.error(f"must be true or false, not {node.value!r}.")


def whole_number(node: Node) -> int:
    """A whole number as pydantic reads it for mergekit.

    Raises:
        RecipeError: If it is none.
    """
    found = number(node)
    if not found.is_integer():
        raise node.error(f"expected a whole number, not {node.value!r}.")
    return int(found)


def number(node: Node) -> float:
    """A number as pydantic reads it for mergekit.

    Raises:
        RecipeError: If it is none.
    """
    try:
        return float(node.value)
    except (TypeError, ValueError):
        raise node.error(f"expected a number, not {node.value!r}.") from None


def value_of(
    chain: Sequence[Condition], layout: Layout, seen: dict[str, Seen], parameter: Parameter
) -> Value:
    """What the conditions, from highest to lowest precedence, come to as a value of ours.

    Args:
        chain: The conditions.
        layout: The merged tensors.
        seen: How mergekit sees each of them.
        parameter: What the value is for.

    Raises:
        RecipeError: If some tensor is left without a value, or a parameter that is one for all
            tensors differs between them.
    """
    rest = dict(seen)
    parts: list[tuple[Condition, dict[str, Seen]]] = []
    for condition in chain:
        own = {name: how for name, how in rest.items() if condition.holds(how.name)}
        if not any(condition.holds(how.name) for how in seen.values()):
            warnings.warn(
                f"{condition.node.place}: the filter {condition.filter!r} matches no tensor and "
                "is ignored.",
                stacklevel=2,
            )
        if own:
            parts.append((condition, own))
        rest = {name: how for name, how in rest.items() if name not in own}
    if rest:
        raise chain[0].node.error(f"{next(iter(rest))} is left without a {parameter.name}.")
    numbers = {
        name: condition.at(how.layer, how.layers)
        for condition, own in parts
        for name, how in own.items()
    }
    different = sorted(set(map(str, numbers.values())))
    if not parameter.grouped and len(different) > 1:
        raise parts[0][0].node.error(
            f"{parameter.name} must be the same for all tensors, not {', '.join(different)}."
        )
    if not parameter.grouped:
        return next(iter(numbers.values()))
    if all(c.holds(name) == c.holds(how.name) for c, _ in parts for name, how in seen.items()):
        return _by_name(parts, layout, seen)
    # A filter names a layer of the source, which has another number in the slice.
    return per_tensor(numbers, layout)


def per_tensor(numbers: Mapping[str, Scalar], layout: Layout) -> Scalar | PerGroup:
    """A number by tensor as a value: one number where all are the same."""
    labels = layout.grouping("tensor").labels
    if len(set(numbers.values())) == 1:
        return numbers[labels[0]]
    return PerGroup(per="tensor", values=tuple(numbers[name] for name in labels))


def _by_name(
    parts: Sequence[tuple[Condition, dict[str, Seen]]], layout: Layout, seen: dict[str, Seen]
) -> Value:
    *ends, (last, _) = parts
    if last.filter == "*" and all(_is_end(condition, own) for condition, own in ends):
        found = _over_depth(parts, layout)
        if found is not None:
            return found
    filters = [(c.filter, _per_layer(c, layout, seen)) for c, _ in parts]
    if len(filters) == 1:
        return filters[0][1]
    filters[-1] = ("*", filters[-1][1])  # nothing is left for those behind it
    return ByName(filters=tuple(filters))


def _is_end(condition: Condition, own: dict[str, Seen]) -> bool:
    """Whether a condition is about one tensor that stands before or behind the layers."""
    return len(condition.values) == 1 and [(n, how.layer) for n, how in own.items()] == [
        (condition.filter, None)
    ]


def _over_depth(
    parts: Sequence[tuple[Condition, dict[str, Seen]]], layout: Layout
) -> PerGroup | None:
    """A gradient with its ends as values interpolated over depth, or one per layer.

    None if there is no gradient, or a layer has several values.
    """
    points = parts[-1][0].values
    if len(points) == 1:
        return None
    numbers = {n: c.at(how.layer, how.layers) for c, own in parts for n, how in own.items()}
    layers = next((how.layers for _, own in parts for how in own.values() if how.layers), 0)
    candidates = [PerGroup(per=Depth(len(points)), values=points)] if len(points) != layers else []
    at = {layout.layers[name]: number for name, number in numbers.items()}
    candidates.append(PerGroup(per="layer", values=tuple(at[label] for label in layout.order)))
    for candidate in candidates:
        if all(form_of(candidate).at(name, layout) == x for name, x in numbers.items()):
            return candidate
    return None


def _per_layer(condition: Condition, layout: Layout, seen: dict[str, Seen]) -> Scalar | PerGroup:
    """A number, or one per layer label."""
    if len(condition.values) == 1:
        return condition.values[0]
    at = {layout.layers[name]: condition.at(how.layer, how.layers) for name, how in seen.items()}
    return PerGroup(per="layer", values=tuple(at[label] for label in layout.order))


def seen_from(layout: Layout, first_layer: int = 0) -> dict[str, Seen]:
    """How mergekit sees the tensors of a layout.

    Args:
        layout: The merged tensors.
        first_layer: The number that filters see for layer 0.
    """
    stacks, blocks = _stacks(layout.order), find_stacks(layout.names)
    found = {}
    for name in layout.names:
        label = layout.layers[name]
        stack = stacks.get(label.rpartition(".")[0], [])
        layer = stack.index(label) if label in stack else None
        block = block_of(name, blocks)
        shown = name if block is None else renumbered(name, block[1] + first_layer)
        found[name] = Seen(shown, layer, len(stack))
    return found


def _stacks(labels: Iterable[str]) -> dict[str, list[str]]:
    """The labels of the layers of each stack, e.g. of encoder and decoder."""
    stacks: dict[str, list[str]] = {}
    for label in labels:
        prefix, _, last = label.rpartition(".")
        if re.fullmatch(r"\d+", last):
            stacks.setdefault(prefix, []).append(label)
    return stacks
