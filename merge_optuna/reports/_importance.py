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

_MOST_ROWS = 40
_ROW, _HEAD = 24, 18  # pixels
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
    """The rows of each panel, by what they are; only of what differs."""
    panels = {}
    for kind in ("model", "layer", "parameter"):
        groups: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            label = getattr(place, kind) or _WHOLE.get(kind, "")
            groups.setdefault(label, []).append(i)
        if len(groups) > 1:
            panels[kind] = _rows(kind, groups, found)
    return panels


def _rows(kind: str, groups: dict[str, list[int]], found: Explained) -> list[_Row]:
    """Layers first to last, neighbours together where there are many; others largest first."""
    if kind == "layer":
        labels, k = [*groups], math.ceil(len(groups) / _MOST_ROWS)
        runs = [labels[i : i + k] for i in range(0, len(labels), k)]
        merged = {_run(run): [i for one in run for i in groups[one]] for run in runs}
        return [_Row(label, *found.of(group)) for label, group in merged.items()]
    rows = [_Row(label, *found.of(group)) for label, group in groups.items()]
    rows.sort(key=lambda row: -row.share)
    if len(rows) <= _MOST_ROWS:
        return rows
    kept = {row.label for row in rows[: _MOST_ROWS - 1]}
    rest = [i for label, group in groups.items() if label not in kept for i in group]
    return [*rows[: len(kept)], _Row(f"{len(rows) - len(kept)} others", *found.of(rest))]


def _run(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"


# -- figure -------------------------------------------------------------------------------------


def _drawn(panels: dict[str, list[_Row]]) -> Figure:
    from plotly.subplots import make_subplots

    heights = [len(rows) + 1.0 for rows in panels.values()]
    plot = _ROW * sum(heights) + 40 * len(panels)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        row_heights=heights,
        shared_xaxes=True,
        vertical_spacing=40 / plot,
        subplot_titles=[f"by {kind}" for kind in panels],
    )
    for place, rows in enumerate(panels.values(), 1):
        figure.add_traces(_bars(rows, first=place == 1), rows=place, cols=1)
    figure.update_yaxes(autorange="reversed", type="category", dtick=1)
    figure.update_xaxes(rangemode="tozero", ticksuffix=" %")
    title = _title(panels)
    top = finished(figure, title, _SUBTITLE).layout.margin.t
    finished(figure, title, _SUBTITLE, height=int(plot) + top + _HEAD + 50)
    figure.update_layout(bargap=0.25, margin={"t": top + _HEAD})
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    return figure


_SUBTITLE = (
    f"How much each tells of who is in the best third of every {WINDOW} trials in a row. Marks: "
    "what chance alone surpasses once in 20. What parameters do only together is not counted."
)


def _bars(rows: Sequence[_Row], *, first: bool) -> tuple[Bar, Scatter]:
    from plotly.graph_objects import Bar, Scatter

    labels = [row.label for row in rows]
    percent = rounded(100 * max(0.0, row.share) for row in rows)
    bars = Bar(
        x=percent,
        y=labels,
        orientation="h",
        marker={"color": [SEARCH if _stands_out(row) else PALE for row in rows]},
        text=[f"{x:.0f} %" if x >= 1 else "" for x in percent],
        textposition="auto",
        hovertemplate="%{y}: %{x:.3g} %<extra></extra>",
        name="explained",
        showlegend=False,
    )
    marks = Scatter(
        x=rounded(100 * row.chance for row in rows),
        y=labels,
        mode="markers",
        marker={"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": _CHANCE}},
        hovertemplate="by chance up to %{x:.3g} %<extra></extra>",
        name="by chance up to",
        showlegend=first,
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
