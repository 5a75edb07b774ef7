"""How it got there: the population over time, how good and how different it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from merge_optuna.reports._style import MARKED, SEARCH, band, better, finished, number, rounded
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from plotly.graph_objects import Figure

_BLOCK = 20
"""Trials that are shown together where a sampler has no generations."""
_SHOWN = 250
"""Generations; of more, several are taken together."""
_UNIFORM = 12**-0.5
"""Standard deviation of what is uniform in [0, 1]."""


class Generation(NamedTuple):
    """Trials that were drawn from the same population.

    Attributes:
        at: Its number, from 0; of a block of trials, the number of the first.
        values: Shape (trials, objectives), of those that were scored and keep all constraints.
        spread: How different their parameters are: 1 as if drawn uniformly, 0 if all are equal;
            NaN for individuals that are no points.
    """

    at: int
    values: NDArray[np.float64]
    spread: float


def draw(view: View) -> Figure | None:
    """Values per generation as a band, and the spread; None where no population was kept."""
    generations = generations_of(view)
    if len(generations) < 2:
        return None
    from plotly.subplots import make_subplots

    rows = len(view.directions) + (not view.pedigree)
    figure = make_subplots(rows, 1, shared_xaxes=True, vertical_spacing=0.09)
    for place, metric in enumerate(view.metrics):
        for trace in _values(generations, place, view.directions[place]):
            hidden = {} if place == 0 else {"showlegend": False}
            figure.add_trace(trace.update(**hidden), place + 1, 1)
        figure.update_yaxes(title=metric, row=place + 1)
    if not view.pedigree:
        figure.add_trace(_spread(generations), rows, 1)
        figure.update_yaxes(title="spread", rangemode="tozero", row=rows)
    figure.update_xaxes(title="trial" if view.archive else "generation", row=rows)
    if generations[-1].at < 10:
        figure.update_xaxes(dtick=1)  # there is nothing between two generations
    return finished(figure, *_words(view, generations))


def generations_of(view: View) -> list[Generation]:
    """The population of a search over time; empty without one, and among individuals of archives.

    Of an archive, into which every result goes at once, blocks of trials are taken.
    """
    if view.archive:
        numbers = [] if view.pedigree else sorted(n for group in view.generations for n in group)
        groups = {i: numbers[i : i + _BLOCK] for i in range(0, len(numbers), _BLOCK)}
    else:
        groups = dict(enumerate(view.generations))
    found = [_generation(view, at, numbers) for at, numbers in _few(groups)]
    return [one for one in found if len(one.values)]


def _few(groups: dict[int, list[int]]) -> list[tuple[int, list[int]]]:
    """Not more groups than can be told apart: neighbours are taken together."""
    together = max(1, -(-len(groups) // _SHOWN))
    items = list(groups.items())
    return [
        (items[i][0], [n for _, numbers in items[i : i + together] for n in numbers])
        for i in range(0, len(items), together)
    ]


def _generation(view: View, at: int, numbers: Sequence[int]) -> Generation:
    scored = [view.feasible[n].values for n in numbers if n in view.feasible]
    values = [one for one in scored if np.isfinite(one).all()]
    points = [] if view.pedigree else [view.points[n] for n in numbers if n in view.points]
    return Generation(at, np.array(values, float), _spread_of(points))


def _spread_of(points: Sequence[NDArray[np.float64]]) -> float:
    """Mean standard deviation of the coordinates, in that of a uniform one."""
    alike = [point for point in points if len(point) == len(points[-1])]  # of one search space
    if len(alike) < 2 or not len(alike[0]):
        return np.nan
    return float(np.std(alike, axis=0).mean() / _UNIFORM)


# -- traces ------------------------------------------------------------------------------------


def _values(generations: Sequence[Generation], place: int, direction: str) -> list[Any]:
    """A band of the middle 80 percent, the median, and the best of each."""
    from plotly.graph_objects import Scatter

    x = [one.at for one in generations]
    values = [one.values[:, place] for one in generations]
    low, middle, high = np.array([np.quantile(v, (0.1, 0.5, 0.9)) for v in values]).T
    best = [v.max() if direction == "maximize" else v.min() for v in values]
    median = {"name": "median", "line": {"color": SEARCH}}
    return [
        *band(x, low, high, "80 % of the trials"),
        Scatter(x=x, y=rounded(middle), mode="lines", **median),
        Scatter(x=x, y=rounded(best), mode="lines", name="best", line={"color": MARKED}),
    ]


def _spread(generations: Sequence[Generation]) -> Any:
    from plotly.graph_objects import Scatter

    known = [one for one in generations if one.spread == one.spread]
    return Scatter(
        x=[one.at for one in known],
        y=rounded(one.spread for one in known),
        name="spread of the parameters",
        mode="lines",
        line={"color": SEARCH, "dash": "dot"},
        showlegend=False,
    )


def _words(view: View, generations: Sequence[Generation]) -> tuple[str, str]:
    """Title and subtitle."""
    many = f"{len(view.generations)} generations"
    what = f"blocks of {_BLOCK} trials" if view.archive else many
    title = f"The population over {what}"
    if view.single:
        first, last = (number(np.median(generations[i].values)) for i in (0, -1))
        over = f"{what[0].upper()}{what[1:]}"
        title = f"{over}: the median went from {first} to {last}"
    spread = "Spread: 1 as if drawn at random, 0 if all are alike. "
    facing = zip(view.metrics, view.directions, strict=True)
    direction = ", ".join(f"{metric}: {better(way)}" for metric, way in facing)
    return title, ("" if view.pedigree else spread) + direction + "."
