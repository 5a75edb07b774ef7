"""Classifiers compared on the same texts: paired bootstrap, tables and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from _rows import by_rows
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Line = dict[str, Any]  # of the tables: see write()


class Bootstrap:
    """Draws texts with replacement within each domain, the same ones for all models."""

    def __init__(self, true: Array, domain: Array, n: int = 2000) -> None:
        """Draws.

        Args:
            true: Classes from 0 on, one per text.
            domain: Numbers, one per text.
            n: Resamples.
        """
        rng = np.random.default_rng(0)
        self.true = true
        self.draws = []
        for number in np.unique(domain):
            texts = np.flatnonzero(domain == number)
            size = len(texts)
            counts = np.ones((1 + n, size), np.float32)  # first the texts as they are
            counts[1:] = rng.multinomial(size, np.full(size, 1 / size), n)
            self.draws.append((texts, counts))

    def macro_f1(self, predicted: Array) -> Array:
        """Macro-F1 of the texts as they are and of each resample, shape (domains, 1 + n)."""
        classes = 1 + max(self.true.max(), predicted.max())
        cells = np.eye(classes**2, dtype=np.float32)[classes * self.true + predicted]
        tables = [counts @ cells[texts] for texts, counts in self.draws]
        return np.stack([_macro_f1(t.reshape(-1, classes, classes)) for t in tables])


def _macro_f1(confusion: Array) -> Array:
    """Mean F1 of the classes that occur, from counts of shape (..., true, predicted)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    return f1.sum(-1, where=true > 0) / (true > 0).sum(-1)


def difference(one: ArrayLike, other: ArrayLike) -> dict[str, Any]:
    """One method minus another, from macro-F1 of shape (seeds, domains, 1 + n).

    The mean over seeds and domains, its 95 % interval over the resamples, and the seeds.
    """
    by_seed = (np.asarray(one) - np.asarray(other)).mean(1)
    low, high = np.percentile(by_seed[:, 1:].mean(0), [2.5, 97.5])
    return {
        "mean": float(by_seed[:, 0].mean()),
        "interval": [float(low), float(high)],
        "by seed": by_seed[:, 0].tolist(),
    }


def label(name: str, evaluations: int) -> str:
    """How a line of the tables is called."""
    return f"{name}, {evaluations}" if evaluations else name


def write(folder: Path, lines: Sequence[Line], note: str, about: dict[str, Any]) -> None:
    """Writes ``results.json``, ``results.md`` and ``results.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "results.json": by_rows({**about, "lines": lines}),
        "results.md": f"{note}\n{_table(lines)}\n![test macro-F1](results.svg)\n",
        "results.svg": _figure(lines),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")


def _table(lines: Sequence[Line]) -> str:
    domains = list(lines[0]["test by domain"])
    rivals = ("begins with", "gain", "best data-free", "gain over it")
    head = ["method", "evaluations", "dev", "test", *domains, *rivals]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        numbers = (line["dev"], line["test"], *line["test by domain"].values())
        row = [line["method"], str(line["evaluations"] or ""), *(f"{x:.3f}" for x in numbers)]
        for rival, gain in (("begins with", "gain"), ("best data-free", "gain over it")):
            row += [line[rival], _interval(**line[gain])] if rival in line else ["", ""]
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _interval(mean: float, interval: Sequence[float], **_: Any) -> str:
    return f"{mean:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _figure(lines: Sequence[Line]) -> str:
    """An SVG: the mean over the seeds as a bar, each seed as a point."""
    values = [value for line in lines for value in line["test by seed"]]
    low, high = np.floor(20 * min(values)) / 20, np.ceil(20 * max(values)) / 20
    left, width, step = 260, 440, 20
    bottom = step * (len(lines) + 1)

    def x(value: float) -> float:
        return round(left + width * float((value - low) / (high - low)), 1)

    parts = []
    for tick in np.arange(low, high + 0.01, 0.05):
        parts.append(f'<path d="M{x(tick)} 10V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick)}" y="{bottom + 16}" class="tick">{tick:.2f}</text>')
    for i, line in enumerate(lines, 1):
        y, name = step * i, escape(label(line["method"], line["evaluations"]))
        parts.append(f'<text x="{left - 10}" y="{y + 4}" class="name">{name}</text>')
        parts.append(f'<path d="M{left} {y}H{x(line["test"])}" stroke="#8bd" stroke-width="11"/>')
        parts += [f'<circle cx="{x(v)}" cy="{y}" r="2.5"/>' for v in line["test by seed"]]
    title = "test macro-F1, mean over the domains; bars: mean over the seeds"
    parts.append(f'<text x="{left + width / 2}" y="{bottom + 36}" class="tick">{title}</text>')
    style = "text{font:12px sans-serif}.tick{text-anchor:middle}.name{text-anchor:end}"
    size = f'width="{left + width + 40}" height="{bottom + 45}"'
    body = "\n".join([f"<style>{style}</style>", f'<rect {size} fill="white"/>', *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'
