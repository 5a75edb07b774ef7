"""Why: which examples the winner gained and lost against the best baseline, and where.

An example is gained if the winner scores better on it than the baseline, in the direction of the
study, and lost if it scores worse; scores that differ by no more than single precision are equal.
Where all scores are 0 or 1, gained is right instead of wrong, and what counts is how many. Other
scores, of which nearly all differ, are weighed: gained is the sum of what is better, lost the sum
of what is worse, each divided by the number of examples. Either way gained − lost is how much
better the mean score is, of all examples and of each task or group by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge_optuna.errors import MergeOptunaError
from merge_optuna.reports._style import MARKED, SEARCH, finished, number, rounded
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Bar, Figure, Scatter

_MOST_ROWS, _MOST_MARKS = 8, 300
_NAME = 16  # characters
_HEIGHT = 450
_EQUAL = 1e-6
_ALL = "all"


class _Change(NamedTuple):
    """What became better and worse.

    Attributes:
        ids: Numbers of the examples that both have scores of, shape (n,).
        by: By how much the winner is better on each; 0 if it is as good; shape (n,).
        is_right: Whether scores are 0 or 1, and so right or wrong.
    """

    ids: NDArray[np.int64]
    by: NDArray[np.float64]
    is_right: bool

    def among(self, chosen: NDArray[np.bool_]) -> _Change:
        """Only some of the examples."""
        return _Change(self.ids[chosen], self.by[chosen], self.is_right)

    @property
    def gained(self) -> float:
        """The sum of what became better by the number of examples."""
        return float(self.by.clip(min=0).mean())

    @property
    def lost(self) -> float:
        """The sum of what became worse by the number of examples."""
        return float(-self.by.clip(max=0).mean())


def draw(view: View) -> Figure | None:
    """Bars for tasks or groups above the examples themselves; None without their scores."""
    row = view.baselines.best if view.single else None
    change = _change(view)
    if row is None or change is None:
        return None
    from plotly.subplots import make_subplots

    parts = _parts(view, change)
    names = None if view.parts is None else [view.parts.names[i] for i in view.parts.numbers]
    figure = make_subplots(
        rows=2,
        cols=1,
        row_heights=[len(parts) + 1, max(4, len(parts) / 2)],
        vertical_spacing=0.22,
    )
    figure.add_traces(_bars(parts), rows=1, cols=1)
    figure.add_trace(_marks(change, names), row=2, col=1)
    figure.update_yaxes(autorange="reversed", type="category", dtick=1, row=1)
    unit = "% of them" if change.is_right else "mean"
    figure.update_xaxes(title=f"← lost ({unit}) gained →", row=1)
    figure.update_xaxes(title="number of the example", rangemode="tozero", row=2)
    figure.update_yaxes(_differences(change), row=2)
    return finished(figure, _title(change, row.name), _subtitle(change, parts), _HEIGHT)


def _change(view: View) -> _Change | None:
    """The winner against the best baseline; None if one of them has no scores of examples."""
    best, row = view.best, view.baselines.best if view.single else None
    if best is None or row is None:
        return None
    try:
        theirs = row.scores
    except MergeOptunaError:
        return None
    ours = view.scores(best)
    if ours is None or theirs is None or ours.shape != theirs.shape or len(ours) < 2:
        return None
    ids = np.flatnonzero(np.isfinite(ours) & np.isfinite(theirs))
    a, b = ours[ids].astype(np.float64), theirs[ids].astype(np.float64)
    by = view.sign * (a - b)
    by[np.abs(by) <= _EQUAL * np.maximum(np.abs(a), np.abs(b))] = 0
    return _Change(ids, by, bool(np.isin([a, b], (0, 1)).all())) if len(ids) else None


def _parts(view: View, change: _Change) -> dict[str, _Change]:
    """The change in every task or group, best first; of many the ends, and all others together."""
    if view.parts is None or len(view.parts.numbers) <= change.ids.max():
        return {_ALL: change}
    of = view.parts.numbers[change.ids]
    found = {n: change.among(of == i) for i, n in enumerate(view.parts.names) if (of == i).any()}
    names = sorted(found, key=lambda name: -found[name].by.mean())
    if len(names) > _MOST_ROWS:
        half = (_MOST_ROWS - 1) // 2
        middle = names[half + 1 : -half]
        others = change.among(np.isin(of, [view.parts.names.index(name) for name in middle]))
        found[f"{len(middle)} others"] = others
        names = [*names[: half + 1], f"{len(middle)} others", *names[-half:]]
    return {_ALL: change, **{name: found[name] for name in names}}


# -- figure -------------------------------------------------------------------------------------


def _bars(parts: dict[str, _Change]) -> list[Bar]:
    from plotly.graph_objects import Bar

    labels = [_label(name, change) for name, change in parts.items()]
    bars = []
    for word, colour, sign in (("gained", SEARCH, 1), ("lost", MARKED, -1)):
        sums = [getattr(change, word) for change in parts.values()]
        counts = [int((sign * change.by > 0).sum()) for change in parts.values()]
        percent = 100 if parts[_ALL].is_right else 1
        bars.append(
            Bar(
                x=rounded(sign * percent * total for total in sums),
                y=labels,
                orientation="h",
                name=word,
                marker={"color": colour},
                text=[str(count) if count else "" for count in counts],
                customdata=[len(change.by) for change in parts.values()],
                hovertemplate=f"%{{y}}: %{{text}} of %{{customdata}} examples {word}"
                "<extra></extra>",
                textangle=0,
                showlegend=False,
                offsetgroup=0,
            )
        )
    return bars


def _label(name: str, change: _Change) -> str:
    short = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
    return f"{short} ({len(change.by)})"


def _marks(change: _Change, names: list[str] | None) -> Scatter:
    """The examples that differ; of many those that differ most."""
    from plotly.graph_objects import Scatter

    differ = np.flatnonzero(change.by)
    if len(differ) > _MOST_MARKS:
        order = np.argsort(-np.abs(change.by[differ]), kind="stable")
        ties = np.abs(change.by[differ]).min() == np.abs(change.by[differ]).max()
        chosen = np.linspace(0, len(differ) - 1, _MOST_MARKS).astype(int) if ties else order
        differ = np.sort(differ[chosen[:_MOST_MARKS]])
    better = change.by[differ] > 0
    return Scatter(
        x=change.ids[differ].tolist(),
        y=rounded(change.by[differ]),
        mode="markers",
        marker={
            "color": np.where(better, SEARCH, MARKED).tolist(),
            "symbol": np.where(better, "triangle-up", "triangle-down").tolist(),
            "size": 7,
            "opacity": 0.8,
        },
        text=None if names is None else [names[i] for i in change.ids[differ]],
        hovertemplate="example %{x}: %{y:+.3g}<extra>%{text}</extra>"
        if names is not None
        else "example %{x}: %{y:+.3g}<extra></extra>",
        showlegend=False,
    )


def _differences(change: _Change) -> dict[str, object]:
    """The axis of examples."""
    if change.is_right:
        return {"tickvals": [-1, 1], "ticktext": ["lost", "gained"], "range": [-1.6, 1.6]}
    return {"title": "better by"}


# -- what is said -------------------------------------------------------------------------------


def _title(change: _Change, baseline: str) -> str:
    better, worse, n = (change.by > 0).sum(), (change.by < 0).sum(), len(change.by)
    against = f"of {n} examples against {baseline}"
    if not better and not worse:
        return f"All {n} examples are as good as with {baseline}"
    if change.is_right:
        return f"Gained {better}, lost {worse} {against}"
    return f"Better on {better}, worse on {worse} {against}"


def _subtitle(change: _Change, parts: dict[str, _Change]) -> str:
    """Where, and what to keep in mind."""
    where = [name for name in parts if name != _ALL and not name.endswith(" others")]
    means = {name: parts[name].by.mean() for name in where}
    told = ""
    if len(where) > 1 and means[where[0]] > means[where[-1]]:
        told = f"Most gained in {where[0]} ({_signed(means[where[0]], change)}), "
        told += f"least in {where[-1]} ({_signed(means[where[-1]], change)}). "
    if not change.is_right:
        told += (
            f"Gained {number(change.gained)}, lost {number(change.lost)}, both as means over all. "
        )
    if np.count_nonzero(change.by) > _MOST_MARKS:
        told += f"The lower plot shows {_MOST_MARKS} of them. "
    return f"Against the best baseline. {told}These examples chose the winner, which flatters it."


def _signed(mean: float, change: _Change) -> str:
    return f"{100 * mean:+.2g} points" if change.is_right else f"{mean:+.3g}"
