"""How it got there: what pruning saved, and at which values trials were given up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna._schema import EXAMPLES, REASON, SAME_AS, SECONDS_EVALUATE
from merge_optuna.reports._style import (
    BAND,
    MARKED,
    SEARCH,
    around,
    band,
    better,
    duration,
    finished,
    rounded,
    thinned,
)
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_STEPS = 60
"""At most so many are shown, and the last one."""
_DOTS = 500
"""Of the pruned trials, evenly chosen."""


def draw(view: View) -> Figure | None:
    """Intermediate values as a band, and how many trials went on; None if none was pruned."""
    race = Race(view)
    if not (race.stopped and any(map(race.curve, race.complete))):
        return None
    from plotly.subplots import make_subplots

    shape = {"row_heights": [0.7, 0.3], "vertical_spacing": 0.08, "shared_xaxes": True}
    figure = make_subplots(2, 1, **shape)
    for trace in [*_complete(race), *_best(race, view.best), _stopped(race)]:
        figure.add_trace(trace, 1, 1)
    figure.add_trace(_going_on(race), 2, 1)
    figure.update_yaxes(title=f"{view.metrics[0]} so far", range=_range(figure), row=1)
    figure.update_yaxes(title="trials left", range=[0, 105], ticksuffix=" %", row=2)
    figure.update_xaxes(title=race.unit, row=2)
    return finished(figure, *_words(view, race))


class Race:
    """The trials of a study as far as they were evaluated.

    Attributes:
        complete: Those that were evaluated to the end. Not those that took over a result.
        stopped: Those that a pruner gave up before that.
        batches: Whether means of single batches were reported, not the value so far.
    """

    def __init__(self, view: View) -> None:
        self.complete = [
            trial
            for trial in view.complete
            if trial.intermediate_values and SAME_AS not in trial.user_attrs
        ]
        pruned = [t for t in view.paid if t.state == TrialState.PRUNED and t.intermediate_values]
        self.stopped = [trial for trial in pruned if _last(trial) < self.end]
        reasons = [str(trial.user_attrs.get(REASON, "")) for trial in self.stopped]
        self.batches = any(reason.startswith("WilcoxonPruner") for reason in reasons)

    @cached_property
    def end(self) -> int:
        """The last step of an evaluation to the end."""
        return max(map(_last, self.complete), default=0)

    @property
    def counts_examples(self) -> bool:
        """Whether trials say on how many examples they were evaluated."""
        return self._all_say(EXAMPLES)

    @property
    def unit(self) -> str:
        """Of the steps."""
        if self.batches:
            return "batches"
        return "examples" if self.counts_examples else "step"

    @property
    def saved(self) -> float:
        """Which share of the evaluations to the end of everybody was not necessary."""
        cost = _examples if self.counts_examples else _last
        full = float(np.median([*map(cost, self.complete)]))
        spared = sum(max(0.0, full - cost(trial)) for trial in self.stopped)
        return spared / (sum(map(cost, self.complete)) + len(self.stopped) * full)

    @property
    def saved_seconds(self) -> float | None:
        """How long they would have taken; None if trials do not say how long theirs took."""
        if not self._all_say(SECONDS_EVALUATE):
            return None
        full = float(np.mean([*map(_seconds, self.complete)]))
        return sum(max(0.0, full - _seconds(trial)) for trial in self.stopped)

    def _all_say(self, key: str) -> bool:
        """Whether a user attribute of all of them is a number; in other studies it may be any."""
        said = (trial.user_attrs.get(key) for trial in [*self.complete, *self.stopped])
        return all(isinstance(value, int | float) for value in said)

    def curve(self, trial: FrozenTrial) -> Mapping[int, float]:
        """The value so far by step, of batches that of their means; where it is finite."""
        reports = trial.intermediate_values
        steps = sorted(step for step in reports if np.isfinite(reports[step]))
        values = np.array([reports[step] for step in steps], float)
        if self.batches:
            values = np.cumsum(values) / np.arange(1, len(values) + 1)
        return dict(zip(steps, values.tolist(), strict=True))


def _last(trial: FrozenTrial) -> int:
    return max(trial.intermediate_values)


def _examples(trial: FrozenTrial) -> float:
    return float(trial.user_attrs[EXAMPLES])


def _seconds(trial: FrozenTrial) -> float:
    return float(trial.user_attrs[SECONDS_EVALUATE])


# -- traces ------------------------------------------------------------------------------------


def _complete(race: Race) -> list[Any]:
    curves = [*map(race.curve, race.complete)]
    steps = thinned(sorted({step for curve in curves for step in curve}), _STEPS)
    values = [[curve[step] for curve in curves if step in curve] for step in steps]
    low, high = np.array([np.quantile(one, (0.1, 0.9)) for one in values]).T
    return band(steps, low, high, "80 % of complete")


def _best(race: Race, best: FrozenTrial | None) -> list[Any]:
    """Nothing if the best trial has reported nothing."""
    curve = {} if best is None else race.curve(best)
    if not curve:
        return []
    from plotly.graph_objects import Scatter

    steps, values = zip(*thinned([*curve.items()], _STEPS), strict=True)
    line = {"color": SEARCH, "width": 3}
    return [Scatter(x=steps, y=rounded(values), name="best", mode="lines", line=line)]


def _stopped(race: Race) -> Any:
    from plotly.graph_objects import Scatter

    ends = [(trial.number, *one) for trial in race.stopped for one in _end(race.curve(trial))]
    numbers, steps, values = zip(*thinned(ends, _DOTS), strict=True) if ends else ((), (), ())
    return Scatter(
        x=steps,
        y=rounded(values),
        text=numbers,
        mode="markers",
        name="pruned",
        marker={"color": MARKED, "symbol": "x", "size": 6, "opacity": 0.5},
        hovertemplate="trial %{text}: %{y} at %{x}<extra></extra>",
    )


def _going_on(race: Race) -> Any:
    """The share of trials that were evaluated up to a step or further."""
    from plotly.graph_objects import Scatter

    ends = np.array([_last(trial) for trial in [*race.complete, *race.stopped]])
    steps = thinned([0, *sorted(set(ends.tolist()))], _STEPS)
    share = [100 * float(np.mean(ends >= step)) for step in steps]
    line = {"color": SEARCH, "shape": "vh"}
    style = {"mode": "lines", "fill": "tozeroy", "fillcolor": BAND, "showlegend": False}
    return Scatter(x=steps, y=rounded(share), line=line, name="trials that went on", **style)


def _end(curve: Mapping[int, float]) -> list[tuple[int, float]]:
    """Its last step and value, if it has any."""
    return [*curve.items()][-1:]


def _range(figure: Figure) -> list[float]:
    """Of the values: all that is drawn, but the outermost of the pruned trials."""
    *drawn, pruned, _ = [sorted(trace.y) for trace in figure.data]
    outliers = len(pruned) // 50
    return around([*chain(*drawn), *pruned[outliers : len(pruned) - outliers]])


def _words(view: View, race: Race) -> tuple[str, str]:
    """Title and subtitle."""
    of = "examples" if race.counts_examples else "steps"
    everybody = len(race.complete) + len(race.stopped)
    time = "" if not race.saved_seconds else f", about {duration(race.saved_seconds)}"
    return (
        f"Pruning saved {race.saved:.0%} of all {of}{time}",
        f"{len(race.stopped)} of {everybody} trials stopped early. "
        f"{view.metrics[0]}: {better(view.directions[0])}.",
    )
