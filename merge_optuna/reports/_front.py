"""Several objectives: the front of the search, with the baselines beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_optuna._records import violation_of
from merge_optuna.reports._style import (
    MARKED,
    PALE,
    SEARCH,
    better,
    finished,
    number,
    rounded,
    thinned,
)
from merge_optuna.reports._view import View
from merge_optuna.study import Front, front_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MOST_PALE = 500  # trials behind the front
_APART = 0.3, 0.08  # shares of width and height that a label takes


def draw(view: View) -> Figure | None:
    """The first objective against each of the others; None if no trial is complete."""
    front = front_of(view.study)
    if not len(front):
        return None
    from plotly.graph_objects import Figure

    figure, others = Figure(), range(1, len(front.metrics))
    for place, other in enumerate(others):
        traces = _behind(view, front, other), _points(front, other), _beside(view, front, other)
        for trace in traces:
            axis = "" if place == 0 else str(place + 1)
            shown = trace["showlegend"] and place == 0
            figure.add_scatter(
                **{**trace, "showlegend": shown}, xaxis=f"x{axis}", yaxis=f"y{axis}"
            )
    _place_axes(figure, front, len(others))
    return finished(figure, _sentence(front), _subtitle(front), height=450)


def _points(front: Front, other: int) -> dict[str, Any]:
    """The points of the front, joined where two objectives make a line of them."""
    order = sorted(front, key=lambda point: point.values[0])
    return {
        "x": rounded(point.values[0] for point in order),
        "y": rounded(point.values[other] for point in order),
        "mode": "lines+markers" if len(front.metrics) == 2 else "markers",
        "line": {"color": SEARCH, "width": 2, "shape": "linear"},
        "marker": {"color": SEARCH, "size": 9},
        "name": "front",
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


def _beside(view: View, front: Front, other: int) -> dict[str, Any]:
    """The baselines: the headlines, and those that a point is no better than."""
    ahead = {name for point in front for name in point.no_better_than}
    kept = {row.name for row in front.baselines.headlines} | ahead
    rows = [row for row in front.baselines if row.values is not None and row.name in kept]
    at = [(row.values[0], row.values[other]) for row in rows if row.values is not None]
    names = [row.name for row in rows]
    symbols = ["diamond" if row.is_checkpoint else "diamond-open" for row in rows]
    return {
        "x": rounded(x for x, _ in at),
        "y": rounded(y for _, y in at),
        "mode": "markers+text",
        "marker": {"color": MARKED, "size": 9, "symbol": symbols},
        "text": _labels(names, at, [t.values for t in view.complete], other),
        "textposition": ["top left" if _is_right(x, at) else "top right" for x, _ in at],
        "textfont": {"color": MARKED, "size": 11},
        "customdata": names,
        "name": "baselines",
        "hovertemplate": _hover(front, other).replace("text", "customdata"),
        "showlegend": bool(rows),
    }


def _labels(
    names: Sequence[str],
    at: Sequence[tuple[float, float]],
    trials: Sequence[Sequence[float]],
    other: int,
) -> list[str]:
    """Names to be written beside marks: none over another, the others are told on pointing."""
    every = np.array([*at, *((values[0], values[other]) for values in trials)])
    size = np.maximum(np.ptp(every, axis=0), 1e-12)
    labels: list[str] = []
    for i, name in enumerate(names):
        apart = [np.abs(np.subtract(at[i], at[j])) / size for j in range(i) if labels[j]]
        is_free = all(x > _APART[0] or y > _APART[1] for x, y in apart)
        labels.append(name.removeprefix("task arithmetic, ") if is_free else "")
    return labels


def _is_right(x: float, at: Sequence[tuple[float, float]]) -> bool:
    """Whether it stands in the right half, where a label goes to the left."""
    low, high = min(x for x, _ in at), max(x for x, _ in at)
    return x > (low + high) / 2


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
