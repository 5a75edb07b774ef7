"""Why, in the data-flow space: which layers the good paths share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from merge_optuna._records import violation_of
from merge_optuna._schema import PATH
from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Route
from merge_optuna.reports._style import SCALE, finished
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LEAST = 20  # paths, so that two of them are good
_GOOD = 0.1
_HEIGHT = 450
_MOST_NUMBERS = 16  # layers: of more, cells are too low for them


def has_paths(view: View) -> bool:
    """Whether a trial is a path through layers."""
    return any(PATH in trial.user_attrs for trial in view.complete)


def draw(view: View) -> Figure | None:
    """Of every layer, the share of the good paths that go through it, beside that of all paths.

    Good is the best tenth of the completed trials; of several objectives those that the fewest
    others dominate. A path goes through a layer however often. None below 20 paths.
    """
    trials = [(trial, hops) for trial in view.complete if (hops := _layers(trial)) is not None]
    if len(trials) < _LEAST:
        return None
    good = _good(view, [trial for trial, _ in trials])
    paths = [hops for _, hops in trials]
    models = 1 + max(model for path in paths for model, _ in path)
    depth = 1 + max(layer for path in paths for _, layer in path)
    among_good = _shares([paths[i] for i in good], models, depth)
    return _drawn(view, among_good, _shares(paths, models, depth), len(good), len(paths))


def _layers(trial: FrozenTrial) -> set[tuple[int, int]] | None:
    """The (model, layer) of a path; None if that cannot be read."""
    try:
        return {hop[:2] for hop in Route.parse(trial.user_attrs.get(PATH, "")).hops}
    except RecipeError:
        return None


def _good(view: View, trials: list[FrozenTrial]) -> list[int]:
    """Places of the best tenth, feasible ones first."""
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in view.directions]
    losses = np.array([trial.values for trial in trials]) * signs
    dominated = [((losses <= one).all(1) & (losses < one).any(1)).sum() for one in losses]
    keys = [(violation_of(trial), int(n)) for trial, n in zip(trials, dominated, strict=True)]
    return sorted(range(len(trials)), key=keys.__getitem__)[: math.ceil(_GOOD * len(trials))]


def _shares(paths: list[set[tuple[int, int]]], models: int, depth: int) -> NDArray[np.float64]:
    """The share of the paths that go through each layer, shape (depth, models)."""
    counts = np.zeros((depth, models))
    for path in paths:
        for model, layer in path:
            counts[layer, model] += 1
    return counts / len(paths)


def _drawn(
    view: View, good: NDArray[np.float64], every: NDArray[np.float64], n_good: int, n: int
) -> Figure:
    from plotly.graph_objects import Heatmap
    from plotly.subplots import make_subplots

    depth, models = good.shape
    names = _names(view, models)
    titles = [f"the best {n_good} paths", f"all {n} paths"]
    figure = make_subplots(
        cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04
    )
    for column, shares in enumerate((good, every), 1):
        percent = np.round(100 * shares)
        figure.add_trace(
            Heatmap(
                z=percent.tolist(),
                x=names,
                y=[str(layer) for layer in range(depth)],
                text=percent.astype(int).tolist(),
                texttemplate="%{text}" if depth <= _MOST_NUMBERS else "",
                zmin=0,
                zmax=100,
                colorscale=SCALE,
                showscale=False,
                hovertemplate="layer %{y} of %{x}: in %{z} % of them<extra></extra>",
            ),
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_yaxes(title="layer", col=1)
    figure.update_xaxes(type="category")
    subtitle = "Percent of the paths that go through a layer, however often."
    finished(figure, _title(good, every, names), subtitle, _HEIGHT)
    return figure


def _names(view: View, models: int) -> list[str]:
    """The models as they are called in paths and by their names."""
    recipe = next(iter(view.recipes.values()), None)
    letters = [chr(ord("A") + i) for i in range(models)]
    if recipe is None or len(recipe.model_names) < models:
        return letters
    return [f"{a} {name}" for a, name in zip(letters, recipe.model_names, strict=False)]


def _title(good: NDArray[np.float64], every: NDArray[np.float64], names: list[str]) -> str:
    """What good paths have in common, and what tells them most from all paths."""
    shared = [
        f"{names[model][0]}{layer}"
        for model in range(good.shape[1])
        for layer in range(good.shape[0])
        if good[layer, model] >= 0.9
    ]
    layer, model = np.unravel_index(np.argmax(np.abs(good - every)), good.shape)
    more = "oftener" if good[layer, model] > every[layer, model] else "less often"
    told = f"they take {names[model][0]}{layer} {more} than others"
    if not shared:
        return f"Good paths have no layer in common; {told}"
    listed = ", ".join(shared[:12]) + (" …" if len(shared) > 12 else "")
    return f"Nearly all good paths share {listed}"
