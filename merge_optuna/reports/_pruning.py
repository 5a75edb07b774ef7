"""How it got there: what pruning saved, and at which values trials were given up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna._schema import EXAMPLES, REASON, SAME_AS, SECONDS_EVALUATE
from merge_optuna.reports._style import (
    BAND,
    MARKED,
    SEARCH,
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
    if not (race.complete and race.stopped):
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
        return all(EXAMPLES in trial.user_attrs for trial in [*self.complete, *self.stopped])

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
        if not all(SECONDS_EVALUATE in t.user_attrs for t in [*self.complete, *self.stopped]):
            return None
        full = float(np.mean([*map(_seconds, self.complete)]))
        return sum(max(0.0, full - _seconds(trial)) for trial in self.stopped)

    def curve(self, trial: FrozenTrial) -> Mapping[int, float]:
        """The value so far by step, of batches that of their means."""
        steps = sorted(trial.intermediate_values)
        values = np.array([trial.intermediate_values[step] for step in steps], float)
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
    if best is None or not best.intermediate_values:
        return []
    from plotly.graph_objects import Scatter

    steps, values = zip(*thinned([*race.curve(best).items()], _STEPS), strict=True)
    line = {"color": SEARCH, "width": 3}
    return [Scatter(x=steps, y=rounded(values), name="best", mode="lines", line=line)]


def _stopped(race: Race) -> Any:
    from plotly.graph_objects import Scatter

    shown = thinned(race.stopped, _DOTS)
    return Scatter(
        x=[_last(trial) for trial in shown],
        y=rounded(race.curve(trial)[_last(trial)] for trial in shown),
        text=[trial.number for trial in shown],
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


def _range(figure: Figure) -> list[float]:
    """Of the values: all that is drawn, but the outermost of the pruned trials."""
    *drawn, pruned, _ = [np.array(trace.y, float) for trace in figure.data]
    values = np.concatenate([*drawn, np.quantile(pruned, (0.02, 0.98))])
    room = 0.05 * float(np.ptp(values)) or 1.0
    return rounded((values.min() - room, values.max() + room))


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
