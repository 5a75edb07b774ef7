"""Several objectives: the front of the search, with the baselines beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from merge_optuna._records import violation_of
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
from merge_optuna.reports._view import View
from merge_optuna.study import Baseline, Front, front_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MOST_PALE = 500  # trials behind the front
_MARKS = "diamond", "square", "triangle-up", "cross", "star", "hexagon"


def draw(view: View) -> Figure | None:
    """The first objective against each of the others; None if no trial is complete."""
    front = front_of(view.study)
    if not len(front):
        return None
    from plotly.graph_objects import Figure

    figure, others = Figure(), range(1, len(front.metrics))
    for place, other in enumerate(others):
        for trace in (_behind(view, front, other), _points(front, other), *_beside(front, other)):
            axis = "" if place == 0 else str(place + 1)
            shown = trace["showlegend"] and place == 0
            figure.add_scatter(
                **{**trace, "showlegend": shown}, xaxis=f"x{axis}", yaxis=f"y{axis}"
            )
    _place_axes(figure, front, len(others))
    finished(figure, _sentence(front), _subtitle(front), height=140 + 380 * len(others))
    # On a telephone it has a line per entry, and would lie over the axis that it is placed by.
    return figure.update_layout(legend={"yref": "container", "y": 0, "yanchor": "bottom"})


def _points(front: Front, other: int) -> dict[str, Any]:
    """The points of the front, joined where two objectives make a line of them."""
    order = sorted(front, key=lambda point: point.values[0])
    return {
        "x": rounded(point.values[0] for point in order),
        "y": rounded(point.values[other] for point in order),
        "mode": "lines+markers" if len(front.metrics) == 2 else "markers",
        "line": {"color": SEARCH, "width": 2, "shape": "linear"},
        "marker": {"color": SEARCH, "size": 9},
        "name": f"front ({_number(len(front))})",
        "text": [point.name for point in order],
        "hovertemplate": _hover(front, other),
        "showlegend": True,
    }


def _behind(view: View, front: Front, other: int) -> dict[str, Any]:
    """The trials that another dominates, or that are infeasible."""
    ahead = {point.number for point in front}
    known = [t for t in view.complete if t.number not in ahead]
    kept = thinned(known, _MOST_PALE)
    return {
        "x": rounded(t.values[0] for t in kept),
        "y": rounded(t.values[other] for t in kept),
        "mode": "markers",
        "marker": {"color": PALE, "size": 5, "symbol": [_symbol(violation_of(t)) for t in kept]},
        "name": "other trials" + (" (× infeasible)" if any(map(violation_of, kept)) else ""),
        "text": [f"trial {t.number}" for t in kept],
        "hovertemplate": _hover(front, other),
        "showlegend": bool(kept),
    }


def _beside(front: Front, other: int) -> list[dict[str, Any]]:
    """The baselines, each with a mark: the headlines, and those that a point is no better than."""
    ahead = {name for point in front for name in point.no_better_than}
    kept = {row.name for row in front.baselines.headlines} | ahead
    rows = [row for row in front.baselines if row.values is not None and row.name in kept]
    return [_baseline(row, i, front, other) for i, row in enumerate(rows)]


def _baseline(row: Baseline, place: int, front: Front, other: int) -> dict[str, Any]:
    assert row.values is not None
    mark = {
        "color": BASELINES[place % len(BASELINES)],
        "size": 11,
        "symbol": _MARKS[place % len(_MARKS)] + ("" if row.is_checkpoint else "-open"),
    }
    return {
        "x": rounded(row.values[:1]),
        "y": rounded([row.values[other]]),
        "mode": "markers",
        "marker": mark,
        "name": row.name,
        "text": [row.name],
        "hovertemplate": _hover(front, other),
        "showlegend": True,
    }


def _place_axes(figure: Figure, front: Front, count: int) -> None:
    """One plot below the other."""
    tall, gap = (1 - 0.12 * (count - 1)) / count, 0.12
    for place in range(count):
        axis, top = "" if place == 0 else str(place + 1), 1 - place * (tall + gap)
        figure.update_layout(
            {
                f"xaxis{axis}": {"title": _axis(front, 0), "anchor": f"y{axis}"},
                f"yaxis{axis}": {
                    "title": _axis(front, place + 1),
                    "domain": [max(0.0, top - tall), top],
                    "anchor": f"x{axis}",
                },
            }
        )


def _axis(front: Front, objective: int) -> str:
    return f"{front.metrics[objective]} ({better(front.directions[objective])})"


def _hover(front: Front, other: int) -> str:
    names = front.metrics[0], front.metrics[other]
    return f"%{{text}}: {names[0]} %{{x}}, {names[1]} %{{y}}<extra></extra>"


def _sentence(front: Front) -> str:
    """How many points, and which of the baselines they beat."""
    said = f"{_number(len(front))} on the front"
    known = [row for row in front.baselines if row.values is not None and row.is_checkpoint]
    if not known:
        return said
    return f"{said}, which dominates {len(front.dominated)} of {len(known)} baselines"


def _subtitle(front: Front) -> str:
    """The best of each objective."""
    return "; ".join(_best_in(front, i) for i in range(len(front.metrics)))


def _best_in(front: Front, objective: int) -> str:
    sign = -1 if front.directions[objective] == "maximize" else 1
    best = min(front, key=lambda point: (sign * point.values[objective], point.number))
    return f"best {front.metrics[objective]}: {number(best.values[objective])}, {best.name}"


def _number(trials: int) -> str:
    return f"{trials} trial{'s' if trials > 1 else ''}"


def _symbol(violation: float) -> str:
    return "x" if violation else "circle"
