"""Panels as a figure: a heat map for each, with its numbers in the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from merge_optuna.recipes import Panel, range_of
from merge_optuna.reports._style import DIVERGING, SCALE, finished, rounded

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MOST_COLUMNS = 8  # side by side on a telephone, where a cell has 40 pixels then
_ROW, _HEAD = 19, 54  # pixels
_BETWEEN = 0.4  # columns
_MOST_NUMBERS = 2_000  # in cells; above it they are colours, and numbers are told on pointing


class Placed(NamedTuple):
    """A panel and the part of the figure that it takes.

    Attributes:
        panel: What is shown.
        x: Left and right edge, 0 to 1.
        y: Lower and upper edge in pixels from above, rising.
        is_first: Whether it stands at the left, where the layers are named.
    """

    panel: Panel
    x: tuple[float, float]
    y: tuple[float, float]
    is_first: bool


def drawn(panels: Sequence[Panel], title: str, subtitle: str) -> Figure:
    """The figure of panels.

    Args:
        panels: At least one; those with the same layers stand side by side, while there is room.
        title: What they say.
        subtitle: How to read them.
    """
    from plotly.graph_objects import Figure

    placed = list(_placed(panels))
    height = max(one.y[1] for one in placed)
    figure = Figure()
    for place, one in enumerate(placed, 1):
        _add(figure, one, height, place, sum(panel.values.size for panel in panels))
    finished(figure, title, subtitle)
    figure.update_layout(margin={"l": 10, "r": 10, "b": 20})
    return figure.update_layout(height=round(height) + figure.layout.margin.t + 20)


def _placed(panels: Sequence[Panel]) -> Iterator[Placed]:
    top = 0.0
    for line in _lines(panels):
        columns = [len(panel.columns) for panel in line]
        widest = max(_MOST_COLUMNS / 2, sum(columns) + _BETWEEN * (len(line) - 1))
        low, high, left = top + _HEAD, top + _HEAD + _ROW * len(line[0].rows), 0.0
        for i, panel in enumerate(line):
            right = left + len(panel.columns) / widest
            yield Placed(panel, (left, min(right, 1.0)), (low, high), is_first=i == 0)
            left = right + _BETWEEN / widest
        top = high


def _lines(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    """Panels that stand beside each other: with the same layers, and not too many columns."""
    for _, alike in groupby(panels, key=lambda panel: panel.rows):
        line: list[Panel] = []
        for panel in alike:
            if line and sum(len(p.columns) for p in (*line, panel)) > _MOST_COLUMNS:
                yield line
                line = []
            line.append(panel)
        yield line


def _add(figure: Figure, one: Placed, height: float, place: int, cells: int) -> None:
    """Adds the trace, the axes and the name of a panel."""
    panel, axis = one.panel, "" if place == 1 else str(place)
    low, high = range_of(panel.values)
    figure.add_heatmap(
        z=[rounded(row) for row in panel.values],
        x=panel.columns,
        y=panel.rows,
        zmin=low,
        zmax=high,
        colorscale=DIVERGING if low < 0 else SCALE,
        showscale=False,
        xgap=2,
        ygap=2,
        texttemplate="%{z:.3~g}" if cells <= _MOST_NUMBERS else None,
        textfont={"size": 10},
        hovertemplate=f"{panel.parameter}, layer %{{y}}, %{{x}}: %{{z}}<extra></extra>",
        name=panel.parameter,
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
    )
    domain = [max(0.0, 1 - one.y[1] / height), 1 - one.y[0] / height]
    axes = {f"xaxis{axis}": _columns(one, axis), f"yaxis{axis}": _rows(one, axis, domain)}
    figure.update_layout(axes)
    figure.add_annotation(
        text=f"<b>{panel.parameter}</b>",
        x=one.x[0],
        y=domain[1],
        xref="paper",
        yref="paper",
        yshift=17,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
    )


def _columns(one: Placed, axis: str) -> dict[str, Any]:
    return {
        "domain": [*one.x],
        "anchor": f"y{axis}",
        "side": "top",
        "type": "category",
        "showgrid": False,
        "tickangle": 0,
        "fixedrange": True,
    }


def _rows(one: Placed, axis: str, domain: list[float]) -> dict[str, Any]:
    return {
        "domain": domain,
        "anchor": f"x{axis}",
        "autorange": "reversed",
        "type": "category",
        "dtick": 1,
        "automargin": True,
        "showgrid": False,
        "showticklabels": one.is_first,
        "fixedrange": True,
    }
