"""Fronts as an SVG: what was found on dev, and what it is worth on test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np

Points = Sequence[Sequence[float]]
Panel = Mapping[str, Sequence[Points]]  # of each method a front per seed

COLOURS = ("#bbb", "#b7b", "#b93", "#c22", "#f80", "#27c", "#293")
WIDTH, HEIGHT, LEFT, TOP = 360, 300, 60, 30


def picture(panels: Mapping[str, Panel], axes: tuple[str, str]) -> str:
    """Panels side by side, with the same axes and one legend; each seed is a line.

    Args:
        panels: By title, e.g. ``"dev"``.
        axes: What is on them.
    """
    of_all = [runs for panel in panels.values() for runs in panel.values()]
    every = [point for runs in of_all for run in runs for point in run]
    low, high = np.min(every, axis=0), np.max(every, axis=0)
    margin = 0.05 * (high - low) + 1e-9
    low, high = low - margin, high + margin
    names = [*next(iter(panels.values()))]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    parts: list[str] = []
    for i, (title, panel) in enumerate(panels.items()):
        left = LEFT + i * (WIDTH + LEFT)

        def at(point: Sequence[float], left: int = left) -> str:
            x, y = (np.asarray(point, float) - low) / (high - low)
            return f"{left + WIDTH * x:.1f} {TOP + HEIGHT * (1 - y):.1f}"

        parts += _frame(title, axes, left, low, high)
        for name, runs in panel.items():
            for run in runs:
                path = "L".join(at(point) for point in run)
                parts.append(f'<path d="M{path}" fill="none" stroke="{colours[name]}"/>')
                dots = "".join(f"M{at(point)}h0" for point in run)
                parts.append(f'<path class="dots" d="{dots}" stroke="{colours[name]}"/>')
    parts += _legend(colours)
    size = f'width="{LEFT + len(panels) * (WIDTH + LEFT)}" height="{TOP + HEIGHT + 100}"'
    style = "text{font:12px sans-serif;text-anchor:middle}.key{text-anchor:start}"
    style += ".dots{stroke-width:5;stroke-linecap:round}"
    body = "\n".join([f"<style>{style}</style>", f'<rect {size} fill="white"/>', *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


def _frame(
    title: str, axes: tuple[str, str], left: int, low: np.ndarray, high: np.ndarray
) -> Iterator[str]:
    middle, bottom = left + WIDTH / 2, TOP + HEIGHT
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    yield f'<rect x="{left}" y="{TOP}" {size} fill="none" stroke="#ccc"/>'
    yield f'<text x="{middle}" y="{TOP - 10}">{escape(title)}</text>'
    yield f'<text x="{middle}" y="{bottom + 34}">{escape(axes[0])}</text>'
    turned = f'transform="translate({left - 38} {TOP + HEIGHT / 2}) rotate(-90)"'
    yield f"<text {turned}>{escape(axes[1])}</text>"
    for share in (0.1, 0.5, 0.9):
        x, y = low + share * (high - low)
        yield f'<text x="{left + share * WIDTH}" y="{bottom + 16}">{x:.2f}</text>'
        yield f'<text x="{left - 18}" y="{bottom - share * HEIGHT + 4}">{y:.2f}</text>'


def _legend(colours: Mapping[str, str]) -> Iterator[str]:
    for i, (name, colour) in enumerate(colours.items()):
        x, y = LEFT + (i % 3) * 260, TOP + HEIGHT + 58 + 22 * (i // 3)
        yield f'<path d="M{x} {y}h18" stroke="{colour}" stroke-width="3"/>'
        yield f'<text class="key" x="{x + 24}" y="{y + 4}">{escape(name)}</text>'
