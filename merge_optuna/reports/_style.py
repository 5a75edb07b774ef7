"""How all figures look: one layout, one set of colours, numbers rounded for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SEARCH = "#1f5fa8"
"""The search itself."""
BASELINES = ("#c2571a", "#7a5195", "#3b7d3b", "#8a6d1d", "#5b6770", "#a33b5c")
"""Lines of baselines, in the order of the table. Told apart by dashes and labels as well."""
PALE = "#c9d3df"
"""What stands in the background: all trials, everybody who lost."""
SCALE = "Blues"
"""Of heat maps that begin at 0."""
DIVERGING = "RdBu"
"""Of heat maps with values of both signs, 0 in the middle."""


def number(value: float) -> str:
    """A number as people read it: four significant digits."""
    return f"{value:.4g}"


def finished(figure: Figure, title: str, subtitle: str = "", height: int = 420) -> Figure:
    """A figure with the layout of all of them.

    Args:
        figure: With its traces; changed in place.
        title: What it shows, as a sentence that says the result where there is one.
        subtitle: How to read it.
        height: Pixels. The width is that of the page, 320 pixels at least.
    """
    figure.update_layout(
        title={
            "text": title + (f"<br><sup>{subtitle}</sup>" if subtitle else ""),
            "x": 0,
            "xanchor": "left",
            "xref": "paper",
        },
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 70, "b": 50},
        legend={"orientation": "h", "y": -0.2, "x": 0},
        font={"size": 13},
    )
    return figure
