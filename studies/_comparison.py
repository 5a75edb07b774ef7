"""Classifiers compared on the same texts: their results on disk, tables and a figure."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from _rows import by_rows
from numpy.typing import NDArray

from merge_optuna.study import Cost, Entry, Kind, Leaderboard, Run

Array = NDArray[Any]


@dataclass(frozen=True)
class Line:
    """A line of the tables, with one value per seed; a seed has its own experts and dev texts.

    Attributes:
        method: What it is called.
        kind: As in a leaderboard.
        evaluations: How many models it has scored on dev.
        test: Mean over the domains of macro-F1 on the test texts.
        dev: The same on dev; one number if only the mean over seeds was kept.
        by_domain: Test by domain, the mean over the seeds.
        begins: What its search begins with: the name of another line.
        seconds: Of an evaluation.
        answers: Predicted classes of the test texts, packed; empty if they were not kept.
        paths: If it is one through the layers.
    """

    method: str
    kind: Kind
    evaluations: int
    test: list[float]
    dev: list[float] = field(default_factory=list)
    by_domain: dict[str, float] = field(default_factory=dict)
    begins: str = ""
    seconds: list[float] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """With the evaluations of a search."""
        return f"{self.method}, {self.evaluations}" if self.evaluations > 1 else self.method


@dataclass(frozen=True)
class Results:
    """What a study has come to, as ``results.json`` keeps it.

    Attributes:
        dev: Number of dev texts.
        test: Number of test texts.
        lines: Of the tables.
        texts: True class and number of the domain of each test text, packed; None if answers were
            not kept.
        remark: What else there is to know of them.
    """

    dev: int
    test: int
    lines: list[Line]
    texts: dict[str, str] | None = None
    remark: str = ""

    @property
    def seeds(self) -> int:
        """How many repetitions of everything there are."""
        return max(len(line.test) for line in self.lines)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """From ``results.json``."""
        data = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return cls(**{**data, "lines": [Line(**line) for line in data["lines"]]})

    def save(self, folder: Path) -> None:
        """To ``results.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        data = {**vars(self), "lines": [_short(line) for line in self.lines]}
        (folder / "results.json").write_text(by_rows(data), encoding="utf-8")

    def board(self) -> Leaderboard:
        """All lines side by side."""
        texts = self.texts and np.stack([unpacked(self.texts[n]) for n in ("true", "domain")], 1)
        entries = [Entry(one.name, _runs(one, texts), one.kind) for one in self.lines]
        return Leaderboard.of(entries, value=macro_f1, metric="macro-F1")


def _short(line: Line) -> dict[str, Any]:
    """Without what is empty."""
    return {name: value for name, value in asdict(line).items() if value or name == "evaluations"}


def _runs(line: Line, texts: Array | None) -> list[Run]:
    runs = []
    for seed, test in enumerate(line.test):
        scores: Array | float = test
        if line.answers and texts is not None:
            scores = np.column_stack([unpacked(line.answers[seed]), texts])
        cost = Cost(
            evaluations=line.evaluations or None,
            seconds=line.evaluations * line.seconds[seed] if line.seconds else None,
        )
        dev = line.dev[seed if len(line.dev) > 1 else 0] if line.dev else float("nan")
        runs.append(Run(dev, scores, seed, cost))
    return runs


def packed(numbers: Array) -> str:
    """Classes, up to 255, as text."""
    return base64.b64encode(zlib.compress(numbers.astype(np.uint8).tobytes(), 9)).decode()


def unpacked(text: str) -> Array:
    """The inverse of :func:`packed`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).astype(np.int64)


def macro_f1(rows: Array) -> float:
    """Mean over the domains of macro-F1 over the classes that occur.

    Args:
        rows: Predicted and true class and number of the domain of each text, shape (n, 3).
    """
    predicted, true, domain = rows.astype(np.int64).T
    classes = 1 + max(predicted.max(), true.max())
    cells = (domain * classes + true) * classes + predicted
    counts = np.bincount(cells, minlength=(1 + domain.max()) * classes**2)
    by_domain = _macro_f1(counts.reshape(-1, classes, classes)[np.unique(domain)])
    return float(by_domain.mean())


def _macro_f1(confusion: Array) -> Array:
    """Mean F1 of the classes that occur, from counts of shape (..., true, predicted)."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    return f1.sum(-1, where=true > 0) / (true > 0).sum(-1)


# -- in words ---------------------------------------------------------------------------------


def tables(results: Results, board: Leaderboard) -> str:
    """The leaderboard, what searches gain, test by domain and seed, and the paths, if any."""
    remark = [f"{results.remark}\n"] if results.remark else []
    parts = [
        board.to_markdown(),
        *remark,
        _gains(results, board),
        _by_seed(results),
        *_paths(results),
    ]
    return "\n".join(parts)


def _gains(results: Results, board: Leaderboard) -> str:
    rows = [
        f"| {line.name} | {line.begins} | {board.difference(line.name, line.begins):+.3f} |\n"
        for line in results.lines
        if line.begins
    ]
    head = "| method | begins with | gain on test |\n| --- | --- | --- |\n"
    return f"What searches gain over what they begin with:\n\n{head}{''.join(rows)}"


def _by_seed(results: Results) -> str:
    domains: Mapping[str, float] = max((line.by_domain for line in results.lines), key=len)
    head = ["test", *domains, "by seed"]
    rows = [head, ["---"] * len(head)]
    for line in results.lines:
        parts = [f"{line.by_domain[d]:.3f}" if d in line.by_domain else "" for d in domains]
        rows.append([line.name, *parts, ", ".join(f"{value:.3f}" for value in line.test)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _paths(results: Results) -> list[str]:
    found = {line.name: "; ".join(f"`{path}`" for path in line.paths) for line in results.lines}
    return [f"- {name}: {paths}\n" for name, paths in found.items() if paths]


def figure(board: Leaderboard, seeds: Mapping[str, Sequence[float]]) -> str:
    """An SVG: the mean over the seeds as a bar, its interval as a line, each seed as a point.

    Args:
        board: The rows, from the best down.
        seeds: Test by seed, by the name of the row.
    """
    values = [value for row in seeds.values() for value in row]
    low, high = np.floor(20 * min(values)) / 20, np.ceil(20 * max(values)) / 20
    left, width, step = 260, 440, 20
    bottom = step * (len(board.rows) + 1)

    def x(value: float) -> float:
        return round(left + width * float(np.clip((value - low) / (high - low), 0, 1)), 1)

    parts = []
    for tick in np.arange(low, high + 0.01, 0.05):
        parts.append(f'<path d="M{x(tick)} 10V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick)}" y="{bottom + 16}" class="tick">{tick:.2f}</text>')
    for i, row in enumerate(board.rows, 1):
        y, name, test = step * i, escape(row.name), row.test
        parts.append(f'<text x="{left - 10}" y="{y + 4}" class="name">{name}</text>')
        parts.append(f'<path d="M{left} {y}H{x(test.value)}" stroke="#8bd" stroke-width="11"/>')
        if not np.isnan(test.low):
            parts.append(f'<path d="M{x(test.low)} {y}H{x(test.high)}" stroke="#247"/>')
        parts += [f'<circle cx="{x(v)}" cy="{y}" r="2.5"/>' for v in seeds[row.name]]
    title = (
        "test macro-F1, mean over the domains; bars: mean over the seeds, lines: 95 % intervals"
    )
    parts.append(f'<text x="{left + width / 2}" y="{bottom + 36}" class="tick">{title}</text>')
    style = "text{font:12px sans-serif}.tick{text-anchor:middle}.name{text-anchor:end}"
    size = f'width="{left + width + 40}" height="{bottom + 45}"'
    body = "\n".join([f"<style>{style}</style>", f'<rect {size} fill="white"/>', *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'
