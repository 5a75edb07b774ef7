"""How it got there: whom the winner descends from, among all who were tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merge_optuna.reports._style import (
    MARKED,
    PALE,
    SEARCH,
    around,
    better,
    finished,
    rounded,
    thinned,
)
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from merge_optuna.study import Ancestor, Lineage

_SHOWN = 200
"""Ancestors; of more, the last ones."""
_EDGES = 600
"""From parents to children; of more, the last ones."""
_EDGE = "#8fa3b8"
_DOTS = 700
"""Other trials; of more, evenly chosen ones."""
_WHITE = "rgba(255, 255, 255, 0.7)"
_COLOURS = [[0, "#e8eef5"], [1, SEARCH]]


def draw(view: View) -> Figure | None:
    """Trials by their scores, the ancestors of the best one joined; None without parents."""
    lineage = view.lineage
    if lineage is None:
        return None
    from plotly.graph_objects import Figure

    line = winning_line(lineage, view.sign)
    shown = _shown(lineage, line)
    others = _others(view, {one.trial for one in [*shown, *line]})
    figure = Figure([others, _edges(shown), _family(shown, view.sign), _winning(line)])
    near = {"showarrow": False, "xanchor": "left", "xshift": 8, "bgcolor": _WHITE}
    for one in _scored(shown).values():
        if not one.parents:
            figure.add_annotation(x=one.trial, y=one.value, text=one.origin, **near)
    figure.update_xaxes(title="trial", rangemode="tozero")
    figure.update_yaxes(title=view.metrics[0], range=_range(view, shown))
    return finished(figure, _title(lineage), _subtitle(view, lineage, shown))


def winning_line(lineage: Lineage, sign: float) -> list[Ancestor]:
    """From a source to the trial: of the parents always the one with the best score.

    Args:
        lineage: Of the trial.
        sign: 1 if larger is better, else -1.
    """
    known = {one.trial: one for one in lineage.ancestors}
    line = [lineage.trial]
    while line[-1].parents:
        parents = [known[n] for n in line[-1].parents.values()]
        line.append(max(parents, key=lambda one: (_rank(one, sign), -one.trial)))
    return line[::-1]


def _rank(one: Ancestor, sign: float) -> float:
    return -float("inf") if one.value is None else sign * one.value


def _shown(lineage: Lineage, line: Sequence[Ancestor]) -> list[Ancestor]:
    """The sources and, of the winning line and of all, the last ones."""
    kept = {one.trial for one in [*line[-_SHOWN:], *lineage.ancestors[-_SHOWN:]]}
    return [a for a in lineage.ancestors if a.trial in kept or not a.parents]


def _others(view: View, family: set[int]) -> Any:
    from plotly.graph_objects import Scatter

    everybody = [trial for trial in view.complete if trial.number not in family]
    others = thinned(everybody, _DOTS)
    return Scatter(
        x=[trial.number for trial in others],
        y=rounded(trial.values[0] for trial in others),
        mode="markers",
        name="others",
        marker={"color": PALE, "size": 5},
        hovertemplate="trial %{x}: %{y}<extra></extra>",
    )


def _edges(shown: Sequence[Ancestor]) -> Any:
    """From every ancestor to its parents, in one trace with gaps."""
    from plotly.graph_objects import Scatter

    scored = _scored(shown)
    x: list[Any] = []
    y: list[Any] = []
    pairs = [
        (one, scored[number])
        for one in reversed(scored.values())
        for number in dict.fromkeys(one.parents.values())
        if number in scored
    ]
    for one, parent in pairs[:_EDGES]:
        x += [parent.trial, one.trial, None]
        y += [*rounded((parent.value, one.value)), None]
    line = {"color": _EDGE, "width": 1}
    style = {"mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False}
    return Scatter(x=x, y=y, name="parent to child", **style)


def _winning(line: Sequence[Ancestor]) -> Any:
    from plotly.graph_objects import Scatter

    scored = _scored(line)
    before = len(scored) - 1
    sizes, symbols = [7] * before + [18], ["circle"] * before + ["star"]
    return Scatter(
        x=list(scored),
        y=rounded(one.value for one in scored.values()),
        mode="lines+markers",
        name="winning line",
        line={"color": MARKED, "width": 3},
        marker={"color": MARKED, "size": sizes, "symbol": symbols, "opacity": 1},
        hoverinfo="skip",
    )


def _family(shown: Sequence[Ancestor], sign: float) -> Any:
    """The ancestors, the better the darker."""
    from plotly.graph_objects import Scatter

    scored = _scored(shown)
    values = rounded(one.value for one in scored.values())
    return Scatter(
        x=list(scored),
        y=values,
        mode="markers",
        name="ancestors",
        marker={
            "color": values,
            "colorscale": _COLOURS,
            "reversescale": sign < 0,
            "size": 7,
            "line": {"color": SEARCH, "width": 0.5},
        },
        text=[_words(one) for one in scored.values()],
        hovertemplate="trial %{x}: %{y}<br>%{text}<extra></extra>",
    )


def _scored(ancestors: Sequence[Ancestor]) -> dict[int, Any]:
    """Those that have a score, by their trials; a parent that was pruned has none."""
    return {one.trial: one for one in ancestors if one.value is not None}


def _words(one: Ancestor) -> str:
    """What it is made of."""
    if not one.parents:
        return f"the source {one.origin}"
    named = dict.fromkeys(one.parents.values())
    return f"generation {one.generation}, of trials {', '.join(map(str, named))}"


def _range(view: View, shown: Sequence[Ancestor]) -> list[float]:
    """Of the scores: everybody in the lineage, and most of the others, whatever outliers do."""
    everybody = sorted(trial.values[0] for trial in view.complete)
    outliers = len(everybody) // 10
    most = everybody[outliers:] if view.sign > 0 else everybody[: len(everybody) - outliers]
    return around([*most, *(one.value for one in _scored(shown).values())])


def _title(lineage: Lineage) -> str:
    winner, sources = lineage.trial, [one.origin for one in lineage.ancestors if not one.parents]
    if not winner.parents:
        return f"The best trial is a source itself: {winner.origin}"
    if len(sources) > 3:
        return f"The best trial, {winner.trial}, descends from {len(sources)} sources"
    return f"The best trial, {winner.trial}, descends from {' and '.join(sources)}"


def _subtitle(view: View, lineage: Lineage, shown: Sequence[Ancestor]) -> str:
    size, generation = len(lineage.ancestors) - 1, lineage.trial.generation
    deep = "one generation" if generation == 1 else f"{generation} generations"
    which = "" if len(shown) > size else f"; the last {_SHOWN} are shown, and the sources"
    return (
        f"{size} of {len(view.trials)} trials are ancestors, {deep} deep"
        f"{which}. The thick line follows the better parent. "
        f"{view.metrics[0]}: {better(view.directions[0])}."
    )
