"""Panels as a picture: an SVG with a coloured cell and a number for every layer and model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge_optuna.recipes._panels import Panel
from merge_optuna.recipes._tree import Recipe

if TYPE_CHECKING:
    from jinja2 import Template

_WIDTH = 860  # pixels that a page of the hub has for a picture
_CELL, _ROW = 62, 20
_LETTER = 6.6  # width of one, at most
_GAP, _EDGE, _HEAD, _ABOVE = 28, 12, 34, 44
_MOST_LETTERS = 22
_LOW, _HIGH, _NEGATIVE = (247, 251, 255), (8, 69, 148), (153, 27, 30)


class _Place(NamedTuple):
    """A panel and where it is drawn, in pixels."""

    panel: Panel
    x: int
    y: int
    width: int
    height: int


class Cell(NamedTuple):
    """A number of a panel, as it is drawn.

    Attributes:
        x: Of its left edge, in pixels.
        y: Of its upper edge.
        fill: Its colour.
        ink: The colour of the number.
        text: The number, with four significant digits at most.
        hint: What it is, in words.
    """

    x: float
    y: float
    fill: str
    ink: str
    text: str
    hint: str


def svg_of(panels: Sequence[Panel], title: str) -> str:
    """A picture of panels, one beside the other: a row per layer, a column per model.

    Darker is more, in each panel by itself (:func:`range_of`); blue is positive, red negative.

    Args:
        panels: At least one.
        title: Above them; also what is read aloud in place of the picture.

    Returns:
        A whole document, which needs nothing else.
    """
    placed = list(_placed(panels))
    right = max(one.x + one.width for one in placed)
    bottom = max(one.y + one.height for one in placed)
    return _template().render(
        title=title,
        blocks=[_block(one.panel, one.x, one.y) for one in placed],
        width=max(right, _EDGE + round(_LETTER * 1.25 * len(title))) + _EDGE,
        height=bottom + _EDGE,
        cell=_CELL,
        row=_ROW,
    )


def route_panels(recipe: Recipe) -> tuple[Panel, ...]:
    """The path of a recipe as panels: for each step of a forward pass the layer of the model.

    Where layers have scales there is a second panel with these.

    Returns:
        Empty for a recipe without a path.
    """
    if recipe.path is None:
        return ()
    hops, models = recipe.path.hops, recipe.model_names
    rows = tuple(f"step {step}" for step in range(1, len(hops) + 1))
    layers, scales = (np.full((len(hops), len(models)), np.nan) for _ in range(2))
    for step, hop in enumerate(hops):
        layers[step, hop.model], scales[step, hop.model] = hop.layer, hop.scale
    shown = [("layer", layers), *([("scale", scales)] if recipe.path.is_scaled else [])]
    return tuple(Panel(name, rows, models, values) for name, values in shown)


def range_of(values: NDArray[np.float64]) -> tuple[float, float]:
    """The numbers at which colours begin and are darkest.

    That is 0 and the largest number, so that twice the colour is twice the number; ± the largest
    where some are negative. Numbers that are all far from 0 would look alike: they begin a little
    below the smallest.

    Args:
        values: Any shape; NaN is passed over.

    Returns:
        The lower one first; they differ.
    """
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    if low < 0:
        most = max(-low, high)
        return -most, most
    if low < high <= 2 * low:
        return low - (high - low) / 4, high
    return 0.0, high or 1.0


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("merge_optuna.recipes", "")
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return made.get_template("panels.svg.jinja")


def _placed(panels: Sequence[Panel]) -> Iterator[_Place]:
    """Each with its place and size: as many side by side as a page has room for."""
    x, y, height = _EDGE, _ABOVE, 0
    for panel in panels:
        own = _label_width(panel) + _CELL * len(panel.columns)
        own = max(own, round(_LETTER * 1.2 * len(panel.parameter)))
        if x > _EDGE and x + own > _WIDTH:
            x, y, height = _EDGE, y + height + _GAP, 0
        tall = _HEAD + _ROW * len(panel.rows)
        yield _Place(panel, x, y, own, tall)
        x, height = x + own + _GAP, max(height, tall)


def _block(panel: Panel, x: int, y: int) -> dict[str, Any]:
    """What the template draws of a panel."""
    left, top = x + _label_width(panel), y + _HEAD
    columns = [
        {"x": left + _CELL * (i + 0.5), "text": _short(name, _CELL // _LETTER), "whole": name}
        for i, name in enumerate(panel.columns)
    ]
    rows = [
        {"y": top + _ROW * (i + 0.5), "text": _short(label, _MOST_LETTERS), "whole": label}
        for i, label in enumerate(panel.rows)
    ]
    cells = list(_cells(panel, left, top))
    texts = {"columns": columns, "rows": rows, "cells": cells, "name": panel.parameter}
    return {**texts, "x": x, "y": y + 12, "label_x": left - 6, "head_y": top - 6}


def _cells(panel: Panel, left: int, top: int) -> Iterator[Cell]:
    low, high = range_of(panel.values)
    shade = (panel.values - max(low, 0)) / (high - max(low, 0))
    for i, row in enumerate(panel.rows):
        for j, column in enumerate(panel.columns):
            value, dark = float(panel.values[i, j]), float(shade[i, j])
            text = f"{value:.3g}" if np.isfinite(value) else ""
            where = ", ".join(filter(None, (panel.parameter, row, column)))
            fill = _colour(dark)
            ink = "#fff" if abs(dark) > 0.55 else "#1b2733"
            yield Cell(left + _CELL * j, top + _ROW * i, fill, ink, text, f"{where}: {value:.4g}")


def _colour(shade: float) -> str:
    if np.isnan(shade):
        return "#f0f0f0"
    end = _HIGH if shade >= 0 else _NEGATIVE
    mixed = (round(a + (b - a) * abs(shade)) for a, b in zip(_LOW, end, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _label_width(panel: Panel) -> int:
    longest = max(len(_short(label, _MOST_LETTERS)) for label in panel.rows)
    return round(_LETTER * longest) + 8


def _short(text: str, most: float) -> str:
    """Its end tells a tensor from others, so it is the middle that goes."""
    if len(text) <= most:
        return text
    half = (int(most) - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
