"""Panels as a figure: a heat map for each, with its numbers in the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from merge_optuna.recipes import Panel, range_of
from merge_optuna.reports._style import finished, number, rounded

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TALLEST = 450  # pixels that the dashboard shows of a card
_ROW, _HEAD, _BOTTOM = 30, 44, 12  # pixels
_NARROWEST = 12  # pixels of a row, on which a number can be read
_COLUMNS = 8, 16  # side by side: what a telephone has room for; and if that gets too high
_MOST_LAYERS = 50  # side by side, with their numbers
_BETWEEN = 0.4  # columns


_INK = "#101820"
# Pale enough for the same ink on all cells: plotly has one colour for all numbers of a map.
_BLUE, _RED, _NONE = "#6ea6d8", "#e8907f", "#fbfdff"
_SCALE = [[0, _NONE], [1, _BLUE]]
_DIVERGING = [[0, _RED], [0.5, _NONE], [1, _BLUE]]


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


def drawn(panels: Sequence[Panel], title: str, subtitle: str, *, rows: str = "layer") -> Figure:
    """The figure of panels.

    Args:
        panels: At least one; those with the same layers stand side by side, while there is room.
        title: What they say.
        subtitle: How to read them.
        rows: What a row is.
    """
    from plotly.graph_objects import Figure

    single = [panel for panel in panels if panel.values.size == 1]
    if len(single) < len(panels):  # a number for all needs no map
        panels = [panel for panel in panels if panel.values.size > 1]
        own = (panel for panel in single if "/" not in panel.parameter)  # not of fixed sources
        subtitle = "; ".join([subtitle, *map(_in_words, own)])
    figure = Figure()
    top = finished(figure, title, subtitle).layout.margin.t  # what the title takes
    lines, row = _arranged(panels, _TALLEST - top - _BOTTOM)
    placed = list(_placed(lines, row))
    height = max(one.y[1] for one in placed)
    for place, one in enumerate(placed, 1):
        _add(figure, one, height, place, rows)
    finished(figure, title, subtitle, height=round(height) + top + _BOTTOM)
    return figure.update_layout(margin={"l": 10, "r": 10, "b": _BOTTOM})


def _in_words(panel: Panel) -> str:
    return f"{panel.parameter}\u00a0{number(panel.values.item())}"  # in one line


def _arranged(panels: Sequence[Panel], room: float) -> tuple[list[list[Panel]], float]:
    """The panels in lines, and how high a row is, so that they fit.

    Where there are too many layers to read them one below the other, they stand side by side.

    Args:
        panels: All of them.
        room: Pixels from above to below.
    """
    for shown, most in (*((panels, most) for most in _COLUMNS), ([*map(_turned, panels)], 1)):
        lines = list(_lines(shown, most))
        row = (room - _HEAD * len(lines)) / sum(len(line[0].rows) for line in lines)
        if row >= _NARROWEST:
            break
    return lines, min(max(row, 2.0), _ROW)


def _turned(panel: Panel) -> Panel:
    """With a row per model."""
    return Panel(panel.parameter, panel.columns, panel.rows, panel.values.T)


def _placed(lines: Sequence[Sequence[Panel]], row: float) -> Iterator[Placed]:
    top = 0.0
    for line in lines:
        columns = [len(panel.columns) for panel in line]
        widest = max(_COLUMNS[0] / 2, sum(columns) + _BETWEEN * (len(line) - 1))
        low, high, left = top + _HEAD, top + _HEAD + row * len(line[0].rows), 0.0
        for i, panel in enumerate(line):
            right = left + len(panel.columns) / widest
            yield Placed(panel, (left, min(right, 1.0)), (low, high), is_first=i == 0)
            left = right + _BETWEEN / widest
        top = high


def _lines(panels: Sequence[Panel], most: int) -> Iterator[list[Panel]]:
    """Panels that stand beside each other: with the same layers, and not too many columns."""
    for _, alike in groupby(panels, key=lambda panel: panel.rows):
        line: list[Panel] = []
        for panel in alike:
            if line and sum(len(p.columns) for p in (*line, panel)) > most:
                yield line
                line = []
            line.append(panel)
        yield line


def _add(figure: Figure, one: Placed, height: float, place: int, rows: str) -> None:
    """Adds the trace, the axes and the name of a panel."""
    panel, axis = one.panel, "" if place == 1 else str(place)
    low, high = range_of(panel.values)
    figure.add_heatmap(
        z=[rounded(row) for row in panel.values],
        x=panel.columns,
        y=panel.rows,
        zmin=low,
        zmax=high,
        colorscale=_DIVERGING if low < 0 else _SCALE,
        textfont={"color": _INK},
        showscale=False,
        xgap=2,
        ygap=2,
        texttemplate=_digits(panel, high),
        hovertemplate=f"{panel.parameter}, %{{y}}, %{{x}}: %{{z}}<extra></extra>",
        name=panel.parameter,
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
    )
    domain = [max(0.0, 1 - one.y[1] / height), 1 - one.y[0] / height]
    axes = {f"xaxis{axis}": _columns(one, axis), f"yaxis{axis}": _rows(one, axis, domain)}
    figure.update_layout(axes)
    is_turned = len(panel.columns) > _COLUMNS[1]
    name = f"<b>{panel.parameter}</b>" + (f" by {rows}" if is_turned else "")
    _name(figure, name, one.x[0], domain[1], yshift=17, xanchor="left")
    if one.is_first and len(panel.rows) > 1 and not is_turned:
        _name(figure, rows, 0, domain[1], yshift=1, xanchor="right", xshift=-4)


def _name(figure: Figure, text: str, x: float, y: float, **place: Any) -> None:
    """Writes something above a map."""
    paper = {"xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False}
    figure.add_annotation(text=text, x=x, y=y, font={"size": 12}, **paper, **place)


def _digits(panel: Panel, high: float) -> str | None:
    """How numbers are written; where they have no room, colours remain, and pointing tells."""
    if len(panel.columns) > _MOST_LAYERS:
        return None
    return "%{z:.2f}" if len(panel.columns) > _COLUMNS[1] and high > 0.1 else "%{z:.3~g}"


def _columns(one: Placed, axis: str) -> dict[str, Any]:
    return {
        "domain": [*one.x],
        "anchor": f"y{axis}",
        "side": "top",
        "type": "category",
        "showgrid": False,
        "tickangle": 0,
        "fixedrange": True,
        "tickfont": {"size": 12},
    }


def _rows(one: Placed, axis: str, domain: list[float]) -> dict[str, Any]:
    return {
        "domain": domain,
        "anchor": f"x{axis}",
        "autorange": "reversed",
        "type": "category",
        "dtick": 1 if (one.y[1] - one.y[0]) / len(one.panel.rows) >= _NARROWEST else 2,
        "automargin": True,
        "showgrid": False,
        "showticklabels": one.is_first,
        "tickfont": {"size": 11},
        "fixedrange": True,
    }
