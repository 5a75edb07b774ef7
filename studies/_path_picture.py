"""Layer paths as pictures: the layers of every model are a column, the path is a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from merge_optuna.recipes import Hop, LayerPath

COLOURS = ("#2f7ebc", "#d9822b", "#5a9a3c", "#8a63b5")  # of the models
STEP, COLUMN, EDGE, TOP, RADIUS = 26, 136, 42, 52, 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Drawn:
    """One panel.

    Attributes:
        title: Above it.
        path: E.g. ``A0-A1-B1×0.8``.
        models: Their names and depths.
    """

    title: str
    path: str
    models: tuple[tuple[str, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        deepest = max(depth for _, depth in self.models)
        return COLUMN * len(self.models) + EDGE, TOP + STEP * (deepest + 1) + 10

    def svg(self) -> str:
        """From embedding to head: a thick line is a large scale; beside a node its visits."""
        hops = LayerPath.parse(self.path).hops
        parts = [f'<text x="4" y="14" class="title">{escape(self.title)}</text>']
        for number, (name, _) in enumerate(self.models):
            text = f"{chr(65 + number)} {escape(name)}"
            parts.append(f'<text x="{_at(number, 0)[0]}" y="32" class="name">{text}</text>')
        first, last = hops[0], hops[-1]
        ends = [_at(first.model, -0.75), *(_at(h.model, h.layer) for h in hops)]
        for begin, end, hop in zip(ends, ends[1:], hops, strict=False):
            parts.append(_line(begin, end, hop.scale, COLOURS[hop.model]))
        x, y = _at(last.model, last.layer)
        parts.append(_line((x, y), (x + 16, y + 16), 1, "#555", 'marker-end="url(#end)"'))
        for number, (_, depth) in enumerate(self.models):
            for layer in range(depth):
                parts.append(_node(number, layer, hops))
        return "\n".join(parts)


def _at(model: int, layer: float) -> Point:
    """The middle of a node."""
    return EDGE + COLUMN * model, TOP + STEP * (layer + 0.75)


def _line(begin: Point, end: Point, scale: float, colour: str, more: str = "") -> str:
    """Straight down to the next layer, bowed where that would hide it."""
    (x1, y1), (x2, y2) = begin, end
    if x1 != x2:
        way = f"C{x1 + (x2 - x1) * 0.3:g} {y1 + STEP / 2:g} {x2 - (x2 - x1) * 0.3:g} {y2:g}"
    elif 0 < y2 - y1 <= STEP:
        way = f"C{x1:g} {y1:g} {x2:g} {y2:g}"
    else:  # skips layers, goes back, or stays
        out, away = x1 - 16 - 2 * abs(y2 - y1) / STEP, 8 if y2 > y1 else -8
        if y1 == y2:
            out, away = out - 12, -14
        way = f"C{out:g} {y1 + away:g} {out:g} {y2 - away:g}"
    look = f'fill="none" stroke="{colour}" stroke-width="{2 * scale:.2f}" opacity="0.75"'
    return f'<path d="M{x1:g} {y1:g}{way} {x2:g} {y2:g}" {look} {more}/>'


def _node(model: int, layer: int, hops: Sequence[Hop]) -> str:
    """A layer, and at which hops and with what scales it is passed."""
    x, y = _at(model, layer)
    visits = [
        f"{place}" if hop.scale == 1 else f"{place}: ×{hop.scale:.2f}"
        for place, hop in enumerate(hops, 1)
        if (hop.model, hop.layer) == (model, layer)
    ]
    look = f'fill="{COLOURS[model]}"' if visits else 'fill="white" stroke="#bbb"'
    ink = "white" if visits else "#888"
    return (
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}" {look}/>'
        f'<text x="{x}" y="{y + 3}" class="layer" fill="{ink}">{layer}</text>'
        f'<text x="{x + 12}" y="{y + 3}" class="visit">{"; ".join(visits)}</text>'
    )


def picture(rows: Sequence[Sequence[Drawn]]) -> str:
    """An SVG of all panels, one row of them for every method."""
    panels, top, right = [], 0, 1
    for row in rows:
        left = 0
        for drawn in row:
            panels.append(f'<g transform="translate({left} {top})">\n{drawn.svg()}\n</g>')
            left += drawn.size[0] + 10
        right = max(right, left)
        top += max((drawn.size[1] for drawn in row), default=0)
    style = (
        "text{font:9px sans-serif}.title{font:bold 12px sans-serif}"
        ".name{font:11px sans-serif;text-anchor:middle}.layer{text-anchor:middle}"
        ".visit{paint-order:stroke;stroke:white;stroke-width:3px}"
    )
    head = (
        '<marker id="end" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="5" markerHeight="5" '
        'orient="auto"><path d="M0 0L6 3L0 6z" fill="#555"/></marker>'
    )
    size = f'width="{right}" height="{top + 1}"'
    body = "\n".join(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n'
        f'<defs>{head}</defs>\n<rect {size} fill="white"/>\n{body}\n</svg>\n'
    )
