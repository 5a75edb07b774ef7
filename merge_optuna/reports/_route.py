"""A layer path as a figure: which layer of which model comes after which, and its scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merge_optuna.recipes import Route
from merge_optuna.reports._style import BASELINES, PALE, SEARCH, finished, rounded

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MODELS = SEARCH, *BASELINES
"""Colour of each model, in the order of the letters that paths have for them."""
_MARKS = "circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon"
_SCALES = 0.3  # of the height is for the scales, where there are any


def drawn(route: Route, models: Sequence[str], title: str) -> Figure:
    """The figure of a path: steps to the right, layers upwards, a colour and mark per model.

    Args:
        route: Through the layers of the models.
        models: Their names.
        title: What it says.
    """
    from plotly.graph_objects import Figure

    hops = route.hops
    steps = [*range(1, len(hops) + 1)]
    line = {"color": PALE, "width": 2}
    layers = [hop.layer for hop in hops]
    figure = Figure()
    figure.add_scatter(
        x=steps, y=layers, mode="lines", line=line, hoverinfo="skip", showlegend=False
    )
    for model, name in enumerate(models):
        own = [i for i, hop in enumerate(hops) if hop.model == model]
        figure.add_scatter(**_layers_of(route, model, name, own))
        if route.is_scaled and own:
            figure.add_bar(**_scales_of(route, model, name, own))
    figure.update_xaxes(title="step of a forward pass", range=[0.4, len(hops) + 0.6])
    bottom = _SCALES + 0.1 if route.is_scaled else 0.0
    upwards = {"range": [-0.5, max(layers) + 0.5], "domain": [bottom, 1]}
    figure.update_layout(yaxis={"title": "layer of its model", **upwards})
    if route.is_scaled:
        _add_scales(figure, route)
    return finished(figure, title, _subtitle(route, models), height=450)


def _layers_of(route: Route, model: int, name: str, own: Sequence[int]) -> dict[str, Any]:
    """The marks of a model."""
    mark = {
        "color": MODELS[model % len(MODELS)],
        "size": 10,
        "symbol": _MARKS[model % len(_MARKS)],
    }
    return {
        "x": [i + 1 for i in own],
        "y": [route.hops[i].layer for i in own],
        "customdata": rounded(route.hops[i].scale for i in own),
        "mode": "markers",
        "marker": mark,
        "name": f"{name} ({len(own)} step{'' if len(own) == 1 else 's'})",
        "hovertemplate": f"step %{{x}}: layer %{{y}} of {name}, scale %{{customdata}}"
        "<extra></extra>",
    }


def _scales_of(route: Route, model: int, name: str, own: Sequence[int]) -> dict[str, Any]:
    """The scales of a model's layers, as bars from 1 on."""
    return {
        "x": [i + 1 for i in own],
        "y": rounded(route.hops[i].scale - 1 for i in own),
        "base": 1,
        "customdata": rounded(route.hops[i].scale for i in own),
        "yaxis": "y2",
        "marker": {"color": MODELS[model % len(MODELS)]},
        "name": f"scales of {name}",
        "showlegend": False,
        "hovertemplate": "step %{x}: scale %{customdata}<extra></extra>",
    }


def _add_scales(figure: Figure, route: Route) -> None:
    """The axis of the scales below the path."""
    figure.update_layout(
        xaxis={"anchor": "y2"},
        yaxis2={"title": "scale", "domain": [0, _SCALES], "anchor": "x"},
        barmode="overlay",
    )
    figure.add_hline(1, yref="y2", line={"color": PALE, "width": 1})


def _subtitle(route: Route, models: Sequence[str]) -> str:
    """How many layers of whom, and what a scale is about."""
    used = dict.fromkeys(models[hop.model] for hop in route.hops)
    said = f"The path: {len(route.hops)} layers of {', '.join(used)}"
    if not route.is_scaled:
        return said
    what = {
        "branch": "what the layer before adds at its end",
        "stream": "the whole input of its layer",
    }[route.scale_target]
    return f"{said}; a scale multiplies {what}"
