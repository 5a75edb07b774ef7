"""Against what: the best value over time, beside what needs no search."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merge_optuna.reports._style import (
    BASELINES,
    PALE,
    SEARCH,
    better,
    finished,
    number,
    rounded,
    thinned,
)
from merge_optuna.reports._view import COSTS, View
from merge_optuna.study import Baseline

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from plotly.graph_objects import Figure, Scatter

_MOST_DOTS = 400  # of trials behind the curve; a picture has no place for more
_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
_TITLES = {
    "evaluations": "evaluations",
    "examples": "examples that were scored",
    "seconds": "seconds of merging and scoring",
}
_HEIGHT, _GAP = 450, 0.08
_LINE = 13  # pixels of a label
_FILLED = 0.6  # of the height, by labels: of more, some would stand far from their lines
_SPAN = 12.0
"""How many times as far from the best as most trials, or the best baseline, the worst shown is."""


class _Curve(NamedTuple):
    """The trials of one objective, feasible and in the order in which they ended.

    Attributes:
        places: Numbers of the trials among those that were paid.
        values: What they score.
        best: Places in both of those that were better than all before.
    """

    places: NDArray[np.int64]
    values: NDArray[np.float64]
    best: NDArray[np.int64]


def draw(view: View) -> Figure | None:
    """The best value so far over what it has cost, with a line per baseline.

    The best is that of the trials that keep all constraints. With several objectives each has a
    panel, with its own best: these are mostly not of one trial. None if no trial is feasible.
    """
    if not view.feasible:
        return None
    from plotly.subplots import make_subplots

    units = [unit for unit in COSTS if view.costs(unit)[-1] > 0]
    panels = len(view.directions)
    figure = make_subplots(rows=panels, cols=1, shared_xaxes=True, vertical_spacing=_GAP)
    figure.update_xaxes(rangemode="tozero")
    for objective in range(panels):
        figure.add_traces(_traces(view, objective), rows=objective + 1, cols=1)
        figure.update_yaxes(_axis(view, objective), row=objective + 1, col=1)
    figure.update_xaxes(title=_TITLES[units[0]], row=panels, col=1)
    finished(figure, _title(view), _subtitle(view), _HEIGHT)
    figure.update_layout(showlegend=False)
    if len(units) > 1:
        _offer(figure, view, units)
    for objective in range(panels):
        _label(figure, view, objective)
    return figure


def _curve(view: View, objective: int) -> _Curve:
    at = {trial.number: place for place, trial in enumerate(view.paid)}
    done = view.feasible.values()
    values = np.array([trial.values[objective] for trial in done])
    losses = -_sign(view, objective) * values
    ahead = np.minimum.accumulate(np.concatenate([[np.inf], losses[:-1]]))
    places = np.array([at[trial.number] for trial in done])
    best = thinned(np.flatnonzero(losses < ahead).tolist(), _MOST_DOTS)
    return _Curve(places, values, np.array(best))


def _sign(view: View, objective: int) -> float:
    return 1.0 if view.directions[objective] == "maximize" else -1.0


def _dots(curve: _Curve) -> NDArray[np.int64]:
    """Which trials are drawn: those that were best, and others at even distances."""
    return np.union1d(thinned(range(len(curve.values)), _MOST_DOTS), curve.best)


# -- what is drawn ------------------------------------------------------------------------------


def _traces(view: View, objective: int) -> list[Scatter]:
    """All trials, the baselines and the best so far, over evaluations."""
    from plotly.graph_objects import Scatter

    curve = _curve(view, objective)
    x = view.costs(COSTS[0])
    dots = _dots(curve)
    trials = Scatter(
        x=rounded(x[curve.places[dots]]),
        y=rounded(curve.values[dots]),
        name="a trial",
        mode="markers",
        marker={"color": PALE, "size": 5},
    )
    best = Scatter(
        x=rounded([*x[curve.places[curve.best]], x[-1]]),
        y=rounded([*curve.values[curve.best], curve.values[curve.best[-1]]]),
        name="best so far",
        mode="lines",
        line={"color": SEARCH, "width": 3, "shape": "hv"},
    )
    return [trials, *_lines(view, objective, float(x[-1])), best]


def _lines(view: View, objective: int, end: float) -> list[Scatter]:
    """A line per baseline, the best first."""
    from plotly.graph_objects import Scatter

    rows, looks = _scored(view, objective), _looks(view)
    return [
        Scatter(
            x=rounded([0, end]),
            y=rounded([value, value]),
            name=f"{row.name}: {number(value)}{', infeasible' if row.violation else ''}",
            mode="lines",
            line=dict(zip(("color", "dash"), looks[row.name], strict=True), width=1.5),
        )
        for row, value in rows
    ]


def _looks(view: View) -> dict[str, tuple[str, str]]:
    """Colour and dashes of every baseline, the same in all panels."""
    styles = zip(itertools.cycle(BASELINES), itertools.cycle(_DASHES))  # 30 of them
    return dict(zip([row.name for row in view.baselines.headlines], styles, strict=False))


def _label(figure: Figure, view: View, objective: int) -> None:
    """Names and values of the baselines at the right ends of their lines, none above another."""
    panels = len(view.directions)
    margin, axis = figure.layout.margin, "" if objective == 0 else objective + 1
    pixels = (_HEIGHT - margin.t - margin.b) * (1 - _GAP * (panels - 1)) / panels
    low, high = figure.layout[f"yaxis{axis}"].range
    rows = sorted(_scored(view, objective), key=lambda pair: -pair[1])
    rows = list(thinned(rows, max(2, int(pixels / _LINE * _FILLED))))
    wanted = np.array([(value - low) / (high - low) * pixels for _, value in rows])
    looks = _looks(view)
    for (row, value), at in zip(rows, _apart(wanted, pixels), strict=True):
        off = "" if low <= value <= high else " (off the axis)"
        figure.add_annotation(
            text=f"{row.name} {number(value)}{', infeasible' if row.violation else ''}{off}",
            x=1,
            xref=f"x{axis} domain",
            xanchor="right",
            y=low + at / pixels * (high - low),
            yref=f"y{axis}",
            showarrow=False,
            font={"size": 10, "color": looks[row.name][0]},
            bgcolor="white",
            borderpad=0,
        )


def _apart(wanted: NDArray[np.float64], pixels: float) -> NDArray[np.float64]:
    """Places near those wanted, falling, a line apart, inside of [0, pixels]."""
    places, half = wanted.clip(_LINE / 2, pixels - _LINE / 2), _LINE / 2
    for i in range(1, len(places)):
        places[i] = min(places[i], places[i - 1] - _LINE)
    for i in reversed(range(len(places))):  # what was pushed out at the bottom comes back
        floor = half if i == len(places) - 1 else places[i + 1] + _LINE
        places[i] = max(places[i], floor)
    return places


def _scored(view: View, objective: int) -> list[tuple[Baseline, float]]:
    """The baselines that have a value, with it, best first."""
    rows = [(row, row.values[objective]) for row in view.baselines.headlines if row.values]
    return sorted(rows, key=lambda pair: -_sign(view, objective) * pair[1])


def _axis(view: View, objective: int) -> dict[str, object]:
    """Name and range of an axis of values: what is far worse than most is not shown.

    The best baseline and the base always are: that the search is compared with them is the point.
    """
    curve = _curve(view, objective)
    sign = _sign(view, objective)
    trials, lines = -sign * curve.values, [-sign * value for _, value in _scored(view, objective)]
    top, bottom = min([trials.min(), *lines]), max([np.quantile(trials, 0.9), *lines])
    shown = [-sign * value for row, value in _scored(view, objective) if row.kind == "base"]
    reach = max(np.median(trials), *lines[:1], trials.min()) - top
    bottom = min(bottom, max([top + _SPAN * reach, *shown])) if reach > 0 else bottom
    margin = 0.06 * (bottom - top) or 0.5
    ends = sorted(-sign * np.array([top - margin, bottom + margin]))
    title = f"{view.metrics[objective]}<br>({better(view.directions[objective])})"
    return {"title": {"text": title, "font": {"size": 12}}, "range": rounded(ends)}


def _offer(figure: Figure, view: View, units: list[str]) -> None:
    """Buttons for the unit of costs, right above the plot."""
    by_unit = {unit: _places(view, unit) for unit in units}
    axis = "xaxis" if len(view.directions) == 1 else f"xaxis{len(view.directions)}"
    buttons = [
        {
            "label": unit,
            "method": "update",
            "args": [{"x": x}, {f"{axis}.title.text": _TITLES[unit]}],
        }
        for unit, x in by_unit.items()
    ]
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 4}}
    look = {"type": "buttons", "direction": "right", "showactive": True, "font": {"size": 11}}
    figure.update_layout(updatemenus=[{"buttons": buttons, **place, **look}])
    figure.update_layout(margin={"t": figure.layout.margin.t + 34})


def _places(view: View, unit: str) -> list[list[float]]:
    """The x of all traces of all panels, in their order."""
    costs, every = view.costs(unit), []
    for objective in range(len(view.directions)):
        curve = _curve(view, objective)
        every.append(rounded(costs[curve.places[_dots(curve)]]))
        every += [rounded([0, costs[-1]]) for _ in _scored(view, objective)]
        every.append(rounded([*costs[curve.places[curve.best]], costs[-1]]))
    return every


# -- what is said -------------------------------------------------------------------------------


def _title(view: View) -> str:
    if not view.single:
        return "The best of each objective over time, each by itself"
    curve = _curve(view, 0)
    value = float(curve.values[curve.best[-1]])
    said = f"Best {view.metrics[0]}: {number(value)}"
    row = view.baselines.best
    gain = view.baselines.gain([value])
    if row is None or gain is None:
        return said
    stands = "better than" if gain > 0 else "worse than" if gain < 0 else "as good as"
    return f"{said}, {f'{number(abs(gain))} ' if gain else ''}{stands} {row.name}"


def _subtitle(view: View) -> str:
    if not view.single:
        return "Dots: trials. Dashed: baselines. Good in both: see card 1."
    curve = _curve(view, 0)
    x = view.costs(COSTS[0])[curve.places].astype(int)
    found = f"Found at evaluation {x[curve.best[-1]]} of {int(view.costs(COSTS[0])[-1])}"
    passed = [i for i in curve.best if (view.baselines.gain([curve.values[i]]) or 0) > 0]
    first = f"; the best baseline was passed at {x[passed[0]]}" if passed else ""
    return f"{found}{first}. Dots: trials. Dashed: baselines."
