"""Which block of layers is worth running again: a heat map over where it starts and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import FrozenTrial

from merge_optuna.reports._style import MARKED, SCALE, finished, number
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_GENE = "block/1"
_LEAST = 3  # blocks
_MOST_NUMBERS = 12  # starts and lengths: cells of more are too small for numbers


def draw(view: View) -> Figure | None:
    """The value of every block that was repeated once where it ends, as in :func:`mo.scan`.

    None with several objectives, or if trials have anything else that they vary.
    """
    if not view.single or not _is_scan(view):
        return None
    found = {block: trial for trial in view.complete if (block := _block(trial)) is not None}
    if len(found) < _LEAST:
        return None
    return _drawn(view, found)


def _is_scan(view: View) -> bool:
    names = {name for trial in view.complete for name in trial.params}
    repeated = all(
        not t.params[f"{_GENE}/times"]
        or t.params[f"{_GENE}/at"] == t.params[f"{_GENE}/start"] + t.params[f"{_GENE}/length"]
        for t in view.complete
        if f"{_GENE}/times" in t.params
    )
    known = {f"{_GENE}/{key}" for key in ("times", "start", "length", "at")}
    return names == known and repeated


def _block(trial: FrozenTrial) -> tuple[int, int] | None:
    """Start and length; None for the model as it is."""
    params = trial.params
    if not params[f"{_GENE}/times"]:
        return None
    return params[f"{_GENE}/start"], params[f"{_GENE}/length"]


def _drawn(view: View, found: dict[tuple[int, int], FrozenTrial]) -> Figure:
    from plotly.graph_objects import Figure

    starts = range(max(start for start, _ in found) + 1)
    lengths = range(min(length for _, length in found), max(length for _, length in found) + 1)
    values = np.full((len(starts), len(lengths)), np.nan)
    for (start, length), trial in found.items():
        values[start, length - lengths[0]] = trial.value
    (start, length), best = max(found.items(), key=lambda one: view.sign * (one[1].value or 0.0))
    plain = next((t.value for t in view.complete if _block(t) is None), None)
    scale = SCALE if view.sign > 0 else f"{SCALE}_r"
    small = max(len(starts), len(lengths)) <= _MOST_NUMBERS
    figure = Figure()
    figure.add_heatmap(
        z=[[None if np.isnan(value) else float(value) for value in row] for row in values],
        x=[*lengths],
        y=[*starts],
        colorscale=scale,
        texttemplate="%{z:.3~g}" if small else "",
        colorbar={"title": view.metrics[0]},
        hovertemplate=f"layers %{{y}} on, %{{x}} of them: {view.metrics[0]} %{{z}}<extra></extra>",
    )
    mark = {"symbol": "square-open", "size": 16, "color": MARKED, "line": {"width": 2}}
    figure.add_scatter(
        x=[length], y=[start], mode="markers", marker=mark, hoverinfo="skip", showlegend=False
    )
    figure.update_yaxes(
        title="first layer of the block", autorange="reversed", dtick=_tick(starts)
    )
    figure.update_xaxes(title="layers in the block", dtick=_tick(lengths))
    better = plain is not None and view.sign * (best.value - plain) > 0  # type: ignore[operator]
    told = "is worth repeating" if better else "hurts least when repeated"
    title = f"The block of layers {start} to {start + length - 1} {told}"
    subtitle = f"{view.metrics[0]} {number(best.value or 0.0)}, of {len(found)} blocks"
    if plain is not None:
        subtitle += f"; without any {number(plain)}"
    return finished(figure, title, subtitle)


def _tick(values: range) -> int:
    return 1 if len(values) <= 2 * _MOST_NUMBERS else 5
