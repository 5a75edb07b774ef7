"""A recipe as people look at it: a table of layers and models per parameter, and one line.

Names and layouts only: no tensor is read.
"""

from __future__ import annotations

import math
import string
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge_optuna.methods import Parameter
from merge_optuna.methods.descent import Descent
from merge_optuna.methods.splice import Segments
from merge_optuna.recipes._tree import Recipe
from merge_optuna.recipes._values import ByName, Form, form_of
from merge_optuna.recipes.groups import Depth, Layout, Per
from merge_optuna.recipes.route import Hop

ALL = "all"
"""The row of a parameter that is the same in all layers, the column of one for all models."""


class Panel(NamedTuple):
    """The numbers of one parameter, or of anything else that layers and models have.

    Attributes:
        parameter: What they are, e.g. ``"weight"``; of a nested recipe with its name before it.
        rows: Labels of the layers, first to last; one where a parameter is the same in all.
        columns: Names of the models; one where a parameter is the same for all.
        values: Shape (rows, columns); NaN where there is none.
    """

    parameter: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]


def panels_of(recipe: Recipe) -> tuple[Panel, ...]:
    """The numbers of a recipe by layers and models, outer recipes before those inside.

    A parameter whose values differ inside of layers has a panel for each part: per module
    ``weight/attn`` and ``weight/mlp`` (and ``weight`` for what is in neither), by name one for
    each filter, ``weight/self_attn``. Values per tensor are means over the tensors of a module,
    and their panel says so: ``weight/attn, mean``. A combination of models by segments of the
    flat model (M2N2's) has the mean ``coefficient`` of each model over the elements of a layer.

    Parameters that stand at their defaults everywhere are left out, but for a method's first. So
    is what is no real number.

    Args:
        recipe: Without free numbers.

    Returns:
        Empty for layer paths, which are no table of layers and models, and for individuals that
        are known by their ancestors alone.

    Raises:
        RecipeError: If numbers are still free.
        CheckpointMismatch: If the sources do not fit together.
    """
    inside = (
        panel._replace(parameter=f"{prefix}/{panel.parameter}")
        for prefix, one in recipe.nested
        for panel in panels_of(one)
    )
    return (*_own_panels(recipe), *inside)


def _own_panels(recipe: Recipe) -> Iterator[Panel]:
    """Those of the recipe itself."""
    return _of_parameters(recipe) if recipe.individual is None else _of_segments(recipe)


# -- parameters -----------------------------------------------------------------------------


class _Column(NamedTuple):
    """What one model has of a parameter, in one part of each layer.

    Attributes:
        values: By the label of the group.
        group_of: Label of the group by that of a layer.
    """

    values: Mapping[str, float]
    group_of: Mapping[str, str]


def _of_parameters(recipe: Recipe) -> Iterator[Panel]:
    shown = [p for p in recipe.spec.parameters if p.grouped and _is_told(p, recipe)]
    for parameter in shown:
        found: dict[str, dict[str, _Column]] = {}
        for given in _given(recipe, parameter.name):
            for part, column in _columns(given.form, given.layout, given.layers):
                found.setdefault(part, {})[given.name] = column
        for part, columns in sorted(found.items(), key=lambda one: not one[0]):  # rest last
            yield _joined(parameter.name + part, columns, recipe.alignment.layout.order)


def _is_told(parameter: Parameter, recipe: Recipe) -> bool:
    """Whether it is a method's first, or anywhere not at its default."""
    value = recipe.values[parameter.name]
    forms = map(form_of, value if isinstance(value, tuple) else (value,))
    is_first = parameter is recipe.spec.parameters[0]
    return is_first or any(x != parameter.default for form in forms for x in form.numbers())


class _Given(NamedTuple):
    """What one model has of a parameter.

    Attributes:
        name: That of the model, or :data:`ALL`.
        form: Its value.
        layout: The tensors that it is about, by the model's own names.
        layers: Of each of them the label of the layer in the merged model.
    """

    name: str
    form: Form
    layout: Layout
    layers: Mapping[str, str]


def _given(recipe: Recipe, key: str) -> Iterator[_Given]:
    value, layout = recipe.values[key], recipe.alignment.layout
    if not isinstance(value, tuple):
        yield _Given(ALL, form_of(value), layout, layout.layers)
        return
    for row in zip(
        recipe.model_names, map(form_of, value), recipe.layouts, _layers(recipe), strict=True
    ):
        yield _Given(*row)


def _layers(recipe: Recipe) -> Sequence[Mapping[str, str]]:
    """For each model the layer of the merged one by its own names of tensors."""
    layout = recipe.alignment.layout
    if recipe.spec.structure == "overlay":
        return [layout.layers] * len(recipe.models)
    found: list[dict[str, str]] = [{} for _ in recipe.models]
    for name, layer in layout.layers.items():
        for i, own in recipe.structure.models_at(name):
            found[i][own] = layer
    return found


def _columns(
    form: Form, layout: Layout, layers: Mapping[str, str]
) -> Iterator[tuple[str, _Column]]:
    """The column of each part, with what the part's panel is called after the parameter."""
    if isinstance(form, ByName):
        for pattern, inner, tensors in form.parts(layout):
            for part, column in _columns(inner, tensors, layers):
                yield f"/{pattern}{part}", column
        return
    per = getattr(form, "per", "model")
    for part, groups in _groups(layout, per).items():
        values = {
            group: _mean(
                [form.at(name, layout) for name in (names if per == "tensor" else names[:1])]
            )
            for group, names in groups.items()
        }
        group_of = {layers[name]: group for group, names in groups.items() for name in names}
        yield part, _Column(values, group_of)


@lru_cache(maxsize=256)
def _groups(layout: Layout, per: Per) -> Mapping[str, Mapping[str, Sequence[str]]]:
    """The tensors by the part of a layer that has a panel of its own, and by group in it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, (part, group) in _places(layout, per):
        found.setdefault(part, {}).setdefault(group, []).append(name)
    return found


def _places(layout: Layout, per: Per) -> Iterator[tuple[str, tuple[str, str]]]:
    """For each tensor its part and its group there."""
    grouping = layout.grouping("module" if per == "tensor" else per)
    layers = (layout.whole or layout).layers
    for name in layout.names:
        label = grouping.labels[grouping.shares[name][0][0]]
        if per in ("module", "tensor"):
            layer, slash, module = label.partition("/")
            yield name, (slash + module + (", mean" if per == "tensor" else ""), layer)
        else:
            yield name, ("", layers[name] if isinstance(per, Depth) else label)


def _mean(values: Sequence[float]) -> float:
    """The mean; of equal numbers that number, to the last bit."""
    return values[0] if len(set(values)) == 1 else fmean(values)


def _joined(title: str, columns: Mapping[str, _Column], order: Sequence[str]) -> Panel:
    """Columns side by side: by their groups if these are the same, else layer by layer."""
    every = list(columns.values())
    rows = tuple(x for x in order if any(x in c.group_of for c in every))
    values = [[_at(column, layer) for column in every] for layer in rows]
    first = every[0].group_of
    is_one = {group for c in every for group in c.values} == {""}
    if is_one or all(c.group_of == first for c in every):
        rows = tuple(dict.fromkeys(first[layer] or ALL for layer in order if layer in first))
        values = [[c.values["" if row == ALL else row] for c in every] for row in rows]
    return Panel(title, rows, tuple(columns), np.array(values, dtype=np.float64))


def _at(column: _Column, layer: str) -> float:
    group = column.group_of.get(layer)
    return math.nan if group is None else column.values[group]


# -- individuals ----------------------------------------------------------------------------


def _of_segments(recipe: Recipe) -> Iterator[Panel]:
    if not isinstance(recipe.individual, Segments):
        return
    sums: dict[str, Any] = {}
    sizes: defaultdict[str, int] = defaultdict(int)
    for part in recipe.parts.values():
        starts, coefficients = recipe.individual.within(part.offset, part.offset + part.size)
        sums[part.layer] = sums.get(part.layer, 0.0) + _lengths(starts, part.size) @ coefficients
        sizes[part.layer] += part.size
    rows = tuple(label for label in sums if sizes[label])
    values = np.array([sums[label] / sizes[label] for label in rows])
    yield Panel("coefficient", rows, recipe.model_names, values)


def _lengths(starts: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """How many elements of a range each segment has in it."""
    edges = np.array([*starts, size], dtype=np.float64)
    return np.diff(edges.clip(0, size))


# -- words ----------------------------------------------------------------------------------

_LONGEST = 200


def summary_of(recipe: Recipe, most: int = _LONGEST) -> str:
    """One line of so many characters at most: the method, means by model, or the path.

    Means are over layers and modules. Examples: ``ties: ja weight 0.62 density 0.41, math weight
    0.3 density 0.52``; ``path through ja (A), math (B): A[0:4] B4×0.82 B[5:8]``.

    Args:
        recipe: Without free numbers.
        most: The end of a longer one is left out.

    Raises:
        RecipeError: If numbers are still free.
        CheckpointMismatch: If the sources do not fit together.
    """
    text = "; ".join(_sentences(recipe))
    return text if len(text) <= most else text[: most - 1] + "…"


def _sentences(recipe: Recipe, prefix: str = "") -> Iterator[str]:
    """One per recipe, the outer one first."""
    start = f"{prefix} = {recipe.method}" if prefix else recipe.method
    if recipe.path is not None:
        letters = zip(recipe.model_names, string.ascii_uppercase, strict=False)
        names = ", ".join(f"{name} ({letter})" for name, letter in letters)
        yield f"{start} through {names}: {_short(recipe.path.hops)}"
    elif isinstance(recipe.individual, Descent):
        yield f"{start} from {', '.join(recipe.model_names)}: {_last_step(recipe.individual)}"
    else:
        yield f"{start}: {', '.join(_means(recipe))}"
    for name, one in recipe.nested:
        yield from _sentences(one, name)


def _means(recipe: Recipe) -> Iterator[str]:
    """What each model has, then what all have together."""
    every = {name: defaultdict[str, list[float]](list) for name in (*recipe.model_names, ALL)}
    for panel in _own_panels(recipe):
        for name, column in zip(panel.columns, panel.values.T, strict=True):
            parameter = panel.parameter.split("/")[0].removesuffix(", mean")
            every[name][parameter] += column[~np.isnan(column)].tolist()
    together = every.pop(ALL)
    is_one = {parameter for own in every.values() for parameter in own} <= {
        "weight",
        "coefficient",
    }
    for name in recipe.model_names:
        own = [
            ("" if is_one else f" {key}") + f" {_mean(x):.3g}" for key, x in every[name].items()
        ]
        yield name + "".join(own)
    yield from (f"{key} {_mean(numbers):.3g}" for key, numbers in together.items())


def _last_step(individual: Descent) -> str:
    steps = sum(one.operation is not None for one in individual.order(cached=False))
    if not steps:
        return "one of them"
    last = vars(individual.last.operation)
    told = [f"{key} {x:.3g}" for key, x in last.items() if isinstance(x, float)]
    kind = type(individual.last.operation).__name__.lower()
    return f"{steps} step{'s' if steps > 1 else ''}, the last a {' '.join([kind, *told])}"


def _short(hops: Sequence[Hop]) -> str:
    """A path with ranges and rounded scales, ``A[0:4] B4×0.82``."""
    words: list[str] = []
    for (model, _, scale), run in groupby(enumerate(hops), _run_of):
        layers = [hop.layer for _, hop in run]
        letter = string.ascii_uppercase[model]
        if len(layers) > 1:
            words.append(f"{letter}[{layers[0]}:{layers[-1] + 1}]")
        else:
            words.append(f"{letter}{layers[0]}" + ("" if scale == 1 else f"×{scale:.2f}"))
    return " ".join(words)


def _run_of(placed: tuple[int, Hop]) -> tuple[int, int, float]:
    """What consecutive layers of one model without scales have in common."""
    place, hop = placed
    return hop.model, hop.layer - place if hop.scale == 1 else -place - 1, hop.scale
