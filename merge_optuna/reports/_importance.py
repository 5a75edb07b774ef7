"""Why: how much models, layers and parameters explain of which trials are good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna._records import violation_of
from merge_optuna.reports import _shared_layers
from merge_optuna.reports._explained import WINDOW, Explained, explained
from merge_optuna.reports._groups import Place, numbers, places
from merge_optuna.reports._style import PALE, SEARCH, finished, rounded
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Bar, Figure, Scatter

_MOST_LAYERS, _MOST_ROWS = 80, 6
_HEIGHT = 450
_CHANCE = "#39434d"
_WHOLE = {"model": "all models", "layer": "all layers"}


class _Row(NamedTuple):
    """One bar.

    Attributes:
        label: What the group is called.
        share: What it explains, from 0 to 1.
        chance: What one without effect surpasses once in 20 times.
    """

    label: str
    share: float
    chance: float


def draw(view: View) -> Figure | None:
    """Bars for models, layers and parameters; for layer paths which layers the good ones share.

    What they mean is said in :mod:`merge_optuna.reports._explained`. None before there are two
    windows of trials to compare, or if there is nothing to be told apart.
    """
    if _shared_layers.has_paths(view):
        return _shared_layers.draw(view)
    known = places(view)
    if len(view.paid) < 2 * WINDOW or len(known) < 2:
        return None
    losses = np.array([_losses(view, trial) for trial in view.paid])
    violations = np.array([violation_of(trial) for trial in view.paid])
    found = explained(*numbers(view.paid, [*known]), losses, violations)
    panels = _panels([*known.values()], found)
    return _drawn(panels) if panels else None


def _losses(view: View, trial: FrozenTrial) -> list[float]:
    """The values of a trial, smaller is better; of a pruned one the worst there is."""
    if trial.state != TrialState.COMPLETE:
        return [math.inf] * len(view.directions)
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in view.directions]
    return [sign * value for sign, value in zip(signs, trial.values, strict=True)]


# -- groups -------------------------------------------------------------------------------------


def _panels(places: Sequence[Place], found: Explained) -> dict[str, list[_Row]]:
    """The groups of each kind, of kinds in which there are several."""
    panels = {}
    for kind in ("layer", "model", "parameter"):
        groups: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            label = getattr(place, kind) or _WHOLE.get(kind, "")
            groups.setdefault(label, []).append(i)
        if len(groups) > 1:
            panels[kind] = _layers(groups, found) if kind == "layer" else _rows(groups, found)
    return panels


def _layers(groups: dict[str, list[int]], found: Explained) -> list[_Row]:
    """First to last, neighbours together where there are very many."""
    labels, k = [*groups], math.ceil(len(groups) / _MOST_LAYERS)
    runs = [labels[i : i + k] for i in range(0, len(labels), k)]
    names = [run[0] if k == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    merged = [[i for label in run for i in groups[label]] for run in runs]
    return [_Row(name, *found.of(group)) for name, group in zip(names, merged, strict=True)]


def _rows(groups: dict[str, list[int]], found: Explained) -> list[_Row]:
    """Largest first, small ones together where there are many."""
    rows = [_Row(label, *found.of(group)) for label, group in groups.items()]
    rows.sort(key=lambda row: -row.share)
    if len(rows) <= _MOST_ROWS:
        return rows
    kept = rows[: _MOST_ROWS - 1]
    named = {row.label for row in kept}
    rest = [i for label, group in groups.items() if label not in named for i in group]
    return [*kept, _Row(f"{len(rows) - len(kept)} others", *found.of(rest))]


# -- figure -------------------------------------------------------------------------------------


def _drawn(panels: dict[str, list[_Row]]) -> Figure:
    """Layers from left to right, and below them a row for each model and parameter."""
    from plotly.subplots import make_subplots

    layers = panels.get("layer", [])
    rows = {kind: panels[kind] for kind in panels if kind != "layer"}
    weights = ([4.0] if layers else []) + [len(one) + 0.5 for one in rows.values()]
    figure = make_subplots(rows=len(panels), cols=1, row_heights=weights, vertical_spacing=0.11)
    if layers:
        figure.add_traces(_traces(layers, upright=True), rows=1, cols=1)
        figure.update_yaxes(rangemode="tozero", ticksuffix=" %", nticks=4, row=1)
        figure.update_yaxes(title=_heading("layer"), row=1)
        figure.update_xaxes(type="category", tickangle=0, nticks=12, tickfont={"size": 10}, row=1)
    for place, (kind, one) in enumerate(rows.items(), 1 + bool(layers)):
        figure.add_traces(_traces(one, upright=False), rows=place, cols=1)
        figure.update_yaxes(autorange="reversed", type="category", dtick=1, row=place)
        figure.update_yaxes(title=_heading(kind), row=place)
        figure.update_xaxes(rangemode="tozero", ticksuffix=" %", nticks=5, row=place)
    finished(figure, _title(panels), _SUBTITLE, _HEIGHT)
    figure.update_layout(bargap=0.25, showlegend=False)
    return figure


_SUBTITLE = "Share of what tells good trials from others. Below its mark it may be chance."


def _heading(kind: str) -> dict[str, object]:
    return {"text": kind, "font": {"size": 12}, "standoff": 4}


def _traces(rows: Sequence[_Row], *, upright: bool) -> tuple[Bar, Scatter]:
    """The bars, and marks at what chance gives."""
    from plotly.graph_objects import Bar, Scatter

    labels = [row.label for row in rows]
    along, across = ("y", "x") if upright else ("x", "y")
    percent = rounded(100 * max(0.0, row.share) for row in rows)
    bars = Bar(
        {along: percent, across: labels},
        orientation="v" if upright else "h",
        marker={"color": [SEARCH if _stands_out(row) else PALE for row in rows]},
        text=None if upright else [f"{share:.0f} %" if share >= 1 else "" for share in percent],
        textangle=0,
        hovertemplate=f"%{{{across}}}: %{{{along}:.3g}} %<extra></extra>",
        name="explained",
    )
    marks = Scatter(
        {along: rounded(100 * row.chance for row in rows), across: labels},
        mode="markers",
        marker={
            "symbol": "line-ew" if upright else "line-ns",
            "size": 7 if upright else 12,
            "line": {"width": 2, "color": _CHANCE},
        },
        hovertemplate=f"by chance up to %{{{along}:.3g}} %<extra></extra>",
        name="by chance up to",
    )
    return bars, marks


def _stands_out(row: _Row) -> bool:
    return row.share > row.chance


def _title(panels: dict[str, list[_Row]]) -> str:
    """The first of each kind that stands out."""
    best = {kind: max(rows, key=lambda row: row.share) for kind, rows in panels.items()}
    told = [
        f"{'' if row.label in _WHOLE.values() else f'{kind} '}{row.label} ({row.share:.0%})"
        for kind, row in best.items()
        if _stands_out(row)
    ]
    if not told:
        return "No model, layer or parameter stands out from chance yet"
    return f"What decides most: {', '.join(told)}"
