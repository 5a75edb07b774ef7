"""How it got there: which trials are the best at which examples."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merge_optuna.reports._style import MARKED, SEARCH, better, finished, number, rounded
from merge_optuna.reports._view import View
from merge_optuna.samplers.breeding import CHILD, ORIGIN

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial
    from plotly.graph_objects import Figure

_ROWS = 8
_COLUMNS = 120
"""Of more examples, neighbours are taken together."""
_READ = 1_000_000
"""Scores that are compared; of more, those of the last trials."""
_LEAST = 0.02
"""What another row must add, as a share of what all trials add to the best one."""
_PARTS = 6
"""Tasks or groups that are told apart, at most."""
_BETWEEN = {"color": MARKED, "width": 2}
_COLOURS = [[0, "#eef2f7"], [1, SEARCH]]


class Niches(NamedTuple):
    """Trials that are good at different examples.

    Attributes:
        trials: The best one first, then always the one that adds most to those before.
        scores: Shape (trials, examples), larger is better.
        gains: What each adds to those before: mean over the examples of the best score so far.
            Of the first it is its own mean.
        examples: Which these are, shape (examples,).
    """

    trials: Sequence[FrozenTrial]
    scores: NDArray[np.float32]
    gains: Sequence[float]
    examples: NDArray[np.intp]

    @property
    def binary(self) -> bool:
        """Whether examples are solved or not."""
        return bool(((self.scores == 0) | (self.scores == 1)).all())


def draw(view: View) -> Figure | None:
    """Who is good at which examples; None where individuals do not compete for them."""
    competes = view.archive and (not view.pedigree or _crosses(view))
    niches = niches_of(view) if competes else None
    if niches is None:
        return None
    from plotly.graph_objects import Figure, Heatmap

    parts = _parts(view, niches)
    z, x = _columns(niches, parts)
    heat = Heatmap(
        z=[rounded(row) for row in z],
        x=x,
        y=_labels(niches),
        zmin=0,
        zmax=1,
        colorscale=_COLOURS,
        showscale=False,
        ygap=2,
        hovertemplate="%{y}<br>%{z:.0%}<extra></extra>",
    )
    figure = Figure(heat)
    figure.update_xaxes(
        title="examples, by who is best at them", range=[0, niches.scores.shape[1]]
    )
    if parts is not None and view.parts is not None:
        _name_parts(figure, parts, view.parts.names)
    figure.update_yaxes(autorange="reversed", automargin=True, tickfont={"size": 11})
    return finished(figure, *_words(view, niches), height=190 + 44 * len(niches.trials))


def niches_of(view: View) -> Niches | None:
    """A few trials that together are good at as many examples as possible.

    None if there are no per-example scores, or one trial is the best at everything.
    """
    best = None if view.best is None else view.scores(view.best)
    if view.best is None or best is None:
        return None
    examples = np.flatnonzero(np.isfinite(best))
    if not len(examples):
        return None
    trials, raw = _compared(view, view.best, len(best))
    scores = np.float32(view.sign) * raw[:, examples]
    known = np.isfinite(scores)
    worst = np.min(scores, axis=0, where=known, initial=np.inf)  # who was not evaluated has that
    scores = np.where(known, scores, worst)
    rows, gains = _greedy(scores)
    if len(rows) < 2:
        return None
    return Niches([trials[i] for i in rows], scores[rows], gains, examples)


def _crosses(view: View) -> bool:
    """Whether children are those of two parents of any standing, as in M2N2."""
    return any("parent_b" in claim.parents for claim in view.claims.values())


def _compared(
    view: View, best: FrozenTrial, examples: int
) -> tuple[list[FrozenTrial], NDArray[np.float32]]:
    """The best trial, then the last ones, with their scores: shape (trials, examples)."""
    others = [trial for trial in view.feasible.values() if trial.number != best.number]
    trials = [best, *others[::-1][: max(_ROWS, _READ // max(1, examples))]]
    found = [(trial, view.scores(trial)) for trial in trials]
    alike = [(t, s) for t, s in found if s is not None and len(s) == examples]
    return [trial for trial, _ in alike], np.array([s for _, s in alike], np.float32)


def _greedy(scores: NDArray[np.float32]) -> tuple[list[int], list[float]]:
    """Rows and gains as in :class:`Niches`, of the first row and those that add most to it."""
    reached = scores[0]
    rows, gains = [0], [float(reached.mean(dtype=float))]
    least = _LEAST * float((scores.max(axis=0) - reached).mean(dtype=float))
    while len(rows) < _ROWS:
        added = np.maximum(scores - reached, 0).mean(axis=1, dtype=float)
        row = int(added.argmax())
        if added[row] <= 0 or added[row] < least:
            break
        rows.append(row)
        gains.append(float(added[row]))
        reached = np.maximum(reached, scores[row])
    return rows, gains


def _parts(view: View, niches: Niches) -> NDArray[np.intp] | None:
    """Of which task or group each example is, shape (examples,); None if of too many, or none."""
    if view.parts is None or len(view.parts.numbers) <= niches.examples.max():
        return None
    parts = view.parts.numbers[niches.examples]
    return parts if len(np.unique(parts)) <= _PARTS else None


def _columns(
    niches: Niches, parts: NDArray[np.intp] | None
) -> tuple[NDArray[np.float64], list[float]]:
    """Scores from 0 to 1, shape (trials, columns), and the places of the columns.

    Examples are sorted by their part, then by who is first the best. What all solve stands on the
    left, what nobody does on the right.
    """
    scores = niches.scores.astype(float)
    low, high = scores.min(axis=0), scores.max(axis=0)
    if not niches.binary:
        scores = np.where(high > low, (scores - low) / np.where(high > low, high - low, 1), 1)
    alike = np.where(scores[0] > 0.5, -1, len(scores))
    owner = np.where(high > low, niches.scores.argmax(axis=0), alike)
    part = np.zeros_like(owner) if parts is None else parts
    order = np.lexsort((-scores.mean(axis=0), owner, part))
    columns = np.array_split(order, min(_COLUMNS, len(order)))
    places = np.array_split(np.arange(len(order)) + 0.5, len(columns))
    z = np.array([scores[:, column].mean(axis=1) for column in columns]).T
    return z, rounded(float(place.mean()) for place in places)


def _name_parts(figure: Figure, parts: NDArray[np.intp], names: Sequence[str]) -> None:
    """Names below the examples of each part, and lines between them."""
    which, counts = np.unique(parts, return_counts=True)
    ends = np.cumsum(counts)
    for end in ends[:-1].tolist():
        figure.add_shape(type="line", x0=end, x1=end, y0=0, y1=1, yref="paper", line=_BETWEEN)
    figure.update_xaxes(
        tickvals=(ends - counts / 2).tolist(),
        ticktext=[textwrap.shorten(names[part], 16, placeholder="…") for part in which],
    )


def _labels(niches: Niches) -> list[str]:
    """Name of a trial and what it adds: examples that it solves, or at which it is the best."""
    wins = np.bincount(niches.scores.argmax(axis=0), minlength=len(niches.trials))
    if niches.binary:
        wins = np.rint(np.array(niches.gains) * niches.scores.shape[1]).astype(int)
    what = ["solves {}", "adds {}"] if niches.binary else ["best at {}"] * 2
    told = [what[min(place, 1)].format(n) for place, n in enumerate(wins)]
    winner = f"{_name(niches.trials[0])}, winner"
    names = [winner, *map(_name, niches.trials[1:])]
    return [f"{name}<br>{words}" for name, words in zip(names, told, strict=True)]


def _name(trial: FrozenTrial) -> str:
    origin = trial.params.get(ORIGIN, CHILD)
    return f"trial {trial.number}" if origin == CHILD else str(origin)


def _words(view: View, niches: Niches) -> tuple[str, str]:
    """Title and subtitle."""
    many, alone, together = len(niches.trials), niches.gains[0], sum(niches.gains)
    if niches.binary:
        return (
            f"{many} trials together solve {together:.1%} of the examples, the winner {alone:.1%}",
            "Dark: solved. Every trial adds what none above it solves.",
        )
    both = f"{number(view.sign * together)} on average, the winner {number(view.sign * alone)}"
    return (
        f"The best of {many} trials at each example: {both}",
        f"Dark: the best of these {many} at an example, pale: the worst. "
        f"{view.metrics[0]}: {better(view.directions[0])}.",
    )
