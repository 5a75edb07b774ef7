"""Against what: the best value over time, beside what needs no search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from merge_optuna._records import violation_of
from merge_optuna.reports._style import BASELINES, SEARCH, finished, number
from merge_optuna.reports._view import COSTS, View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def draw(view: View) -> Figure | None:
    """The best value so far over what it has cost, with a line per baseline; None if neither."""
    if view.best is None:
        return None
    from plotly.graph_objects import Figure, Scatter

    done = [trial for trial in view.paid if trial.values is not None and not violation_of(trial)]
    at = {trial.number: place for place, trial in enumerate(view.paid)}
    best = view.sign * np.maximum.accumulate([view.sign * trial.values[0] for trial in done])
    places = [at[trial.number] for trial in done]
    by_unit = {unit: view.costs(unit)[places] for unit in COSTS}
    line = {"color": SEARCH, "width": 3}
    figure = Figure(Scatter(x=by_unit[COSTS[0]], y=best, name="best so far", line=line))
    for colour, row in zip(BASELINES * 9, view.baselines.headlines, strict=False):
        if row.values is not None:
            figure.add_hline(row.values[0], line={"color": colour, "dash": "dot"})
    figure.update_xaxes(title=COSTS[0])
    return finished(figure, f"Best {view.metrics[0]}: {number(view.best.values[0])}")
