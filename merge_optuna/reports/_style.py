"""How all figures look: one layout, one set of colours, numbers rounded for people."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

T = TypeVar("T")

SEARCH = "#1f5fa8"
"""The search itself."""
BASELINES = ("#c2571a", "#7a5195", "#3b7d3b", "#8a6d1d", "#5b6770", "#a33b5c")
"""Lines of baselines, in the order of the table. Told apart by dashes and labels as well."""
PALE = "#c9d3df"
"""What stands in the background: all trials, everybody who lost."""
MARKED = "#c2571a"
"""The one thing in a picture to look at."""
BAND = "rgba(31, 95, 168, 0.18)"
"""Where most of many are."""
SCALE = "Blues"
"""Of heat maps that begin at 0."""


def number(value: float) -> str:
    """A number as people read it: four significant digits."""
    return f"{value:.4g}"


HEIGHT = 450
"""Pixels that the dashboard gives a figure: it cuts off what is higher."""
_BUTTONS = ["zoom", "pan", "select", "lasso", "zoomin", "zoomout", "autoscale"]
_BUTTONS += ["resetscale", "toimage"]
"""Which are left out, since they cover titles: dragging zooms, a double click resets."""
_TITLE, _SUBTITLE = 38, 54
"""Characters that fit into a line of 317 pixels, the width of the dashboard on a telephone."""


def rounded(values: Iterable[float]) -> list[float]:
    """Numbers as people read them: what is drawn takes a third of the bytes."""
    return [float(f"{value:.4g}") for value in values]


def thinned(items: Sequence[T], size: int) -> Sequence[T]:
    """Not many more than ``size`` of them, evenly chosen, with the first and the last."""
    if len(items) <= size:
        return items
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, size).astype(int))]


def duration(seconds: float) -> str:
    """A time as people say it, e.g. ``3.5 h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def band(x: Sequence[Any], low: Iterable[float], high: Iterable[float], name: str) -> list[Any]:
    """Two traces with an area between them.

    Args:
        x: Where, n places.
        low: Lower ends, n.
        high: Upper ends, n.
        name: What is in it.
    """
    from plotly.graph_objects import Scatter

    line = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": x, "name": name}
    filled = {"fill": "tonexty", "fillcolor": BAND, "showlegend": True}
    return [
        Scatter(y=rounded(low), showlegend=False, **line),
        Scatter(y=rounded(high), **filled, **line),
    ]


def around(values: Iterable[float]) -> list[float]:
    """The range of an axis: all of these values that are finite, and some room."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = 0.07 * (high - low) or 1.0
    return rounded((low - room, high + room))


def better(direction: str) -> str:
    """Which values are better, in words."""
    return "higher is better" if direction == "maximize" else "lower is better"


def finished(figure: Figure, title: str, subtitle: str = "", height: int = HEIGHT) -> Figure:
    """A figure with the layout of all of them.

    Args:
        figure: With its traces; changed in place.
        title: What it shows, as a sentence that says the result where there is one.
        subtitle: How to read it.
        height: Pixels, at most :data:`HEIGHT`. The width is that of the page.
    """
    height = min(height, HEIGHT)
    lines = textwrap.wrap(title, _TITLE)
    small = "<span style='font-size:12px'>{}</span>"
    below = [small.format(line) for line in textwrap.wrap(subtitle, _SUBTITLE)]
    top = 26 + 21 * len(lines) + 20 * len(below)
    below_axis = -60 / (height - top - 50)  # in heights of the plot
    figure.update_layout(
        title={
            "text": "<br>".join(lines + below),
            "font": {"size": 16},
            "x": 0.02,
            "xanchor": "left",
            "xref": "container",  # labels of rows may be wide
            "y": 1 - 22 / height,
            "yanchor": "top",
        },
        meta={"title": title, "subtitle": subtitle},  # not wrapped, for pages of HTML
        template=_template(),
        height=height,
        margin={"l": 60, "r": 20, "t": top, "b": 50},
        legend={"orientation": "h", "y": below_axis, "x": 0, "traceorder": "normal"},
        modebar={"remove": _BUTTONS},
        font={"size": 13},
    )
    return figure


@functools.cache
def _template() -> Any:
    """White, with pale lines: a tenth of the bytes and of the time of plotly's own."""
    from plotly.graph_objs.layout import Template

    axis = {
        "automargin": True,
        "ticks": "",
        "gridcolor": "#e6ebf2",
        "zerolinecolor": "#d5dde6",
        "title": {"standoff": 12},
    }
    page = {"paper_bgcolor": "white", "plot_bgcolor": "white", "font": {"color": "#26374a"}}
    return Template(layout={**page, "hovermode": "closest", "xaxis": axis, "yaxis": axis})
