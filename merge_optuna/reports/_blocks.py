"""Which block of layers is worth running again: a heat map over where it starts and how long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from optuna.trial import FrozenTrial

from merge_optuna.reports._style import MARKED, SCALE, finished, number
from merge_optuna.reports._view import View

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_GENE = "block/1"
_LEAST = 3  # blocks
_MOST_NUMBERS = 12  # starts and lengths: cells of more are too small for numbers
_PALEST = 0.05  # of what is lost: a gain of so much is as blue as can be
_DIVERGING = "#e8907f", "#eef1f5", "#6ea6d8"  # worse, as it is, better; as pale as other maps

Block: TypeAlias = tuple[int, int]


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


def _block(trial: FrozenTrial) -> Block | None:
    """Start and length; None for the model as it is."""
    params = trial.params
    if not params[f"{_GENE}/times"]:
        return None
    return params[f"{_GENE}/start"], params[f"{_GENE}/length"]


def _drawn(view: View, found: Mapping[Block, FrozenTrial]) -> Figure:
    from plotly.graph_objects import Figure

    plain = next((t.value for t in view.complete if _block(t) is None), None)
    best = max(found, key=lambda block: view.sign * (found[block].value or 0.0))
    starts, lengths = _range(start for start, _ in found), _range(length for _, length in found)
    figure = Figure()
    figure.add_heatmap(
        z=[[_value(found.get((start, length))) for length in lengths] for start in starts],
        x=[*lengths],
        y=[*starts],
        xgap=1,
        ygap=1,
        text=[[_text(found.get((s, length)), plain) for length in lengths] for s in starts],
        texttemplate="%{text}" if max(len(starts), len(lengths)) <= _MOST_NUMBERS else "",
        colorbar={"title": view.metrics[0]},
        hovertemplate=f"layers %{{y}} on, %{{x}} of them: {view.metrics[0]} %{{z}}<extra></extra>",
        **_colors(view, found, plain),
    )
    (start, length), edge = best, {"color": MARKED, "width": 3}
    cell = {"x0": length - 0.5, "x1": length + 0.5, "y0": start - 0.5, "y1": start + 0.5}
    figure.add_shape(type="rect", line=edge, **cell)
    axis = {"autorange": "reversed", "dtick": _tick(starts), "showgrid": False}
    figure.update_yaxes(title="first layer of the block", **axis)
    figure.update_xaxes(title="layers in the block", dtick=_tick(lengths), showgrid=False)
    return finished(figure, *_told(view, best, found, plain))


def _range(values: Iterable[int]) -> range:
    known = set(values)
    return range(min(known), max(known) + 1)


def _value(trial: FrozenTrial | None) -> float | None:
    return None if trial is None else trial.value


def _text(trial: FrozenTrial | None, plain: float | None) -> str:
    """What stands in a cell: how much more than the model as it is."""
    if trial is None or trial.value is None:
        return ""
    return number(trial.value) if plain is None else f"{trial.value - plain:+.2g}"


def _colors(view: View, found: Mapping[Block, FrozenTrial], plain: float | None) -> dict[str, Any]:
    """Blue what is better than the model as it is, red what is worse, each with its own end.

    Red ends at three times the median difference: a block that breaks the model would make all
    others look alike. Blue ends at the largest gain, which is small beside what most blocks lose;
    but one that is nothing beside that stays pale.
    """
    if plain is None:
        return {"colorscale": SCALE if view.sign > 0 else f"{SCALE}_r"}
    gains = [view.sign * (t.value - plain) for t in found.values() if t.value is not None]
    worse = 3 * float(np.median(np.abs(gains))) or max(map(abs, gains)) or 1.0
    better = max(*gains, _PALEST * worse)
    below, above = (worse, better) if view.sign > 0 else (better, worse)
    colors = _DIVERGING if view.sign > 0 else _DIVERGING[::-1]
    places = 0.0, below / (below + above), 1.0
    scale = [[place, color] for place, color in zip(places, colors, strict=True)]
    return {"colorscale": scale, "zmin": plain - below, "zmax": plain + above}


def _told(
    view: View, best: Block, found: Mapping[Block, FrozenTrial], plain: float | None
) -> tuple[str, str]:
    """Title and subtitle."""
    (start, length), value, metric = best, found[best].value or 0.0, view.metrics[0]
    layers = f"layer {start}" if length == 1 else f"layers {start} to {start + length - 1}"
    counted = f"{metric} {number(value)}, the best of {len(found)} blocks"
    if plain is None:
        return f"Repeating {layers} is best", counted
    does = "helps most" if view.sign * (value - plain) > 0 else "hurts least"
    subtitle = f"{counted}; {number(plain)} as it is. Difference from that, blue is better"
    return f"Repeating {layers} {does}", subtitle


def _tick(values: range) -> int:
    return 1 if len(values) <= 2 * _MOST_NUMBERS else 5
