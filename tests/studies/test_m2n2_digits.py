"""The parts of the digits study that are its own: data, network, pair, baselines and pictures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.datasets import load_digits

from studies import m2n2_digits as study
from tests.spaces import textbook

DATA = os.environ.get(study.DATA)
PIXELS, LABELS = load_digits(return_X_y=True)


def accuracy(flat: np.ndarray, rows: slice) -> float:
    """In %, of parameters in the paper's order."""
    w1, b1, w2, b2 = np.split(flat.astype(np.float64), [16_384, 16_640, 19_200])
    hidden = np.maximum(PIXELS[rows] @ w1.reshape(64, 256) + b1, 0)
    logits = hidden @ w2.reshape(256, 10) + b2
    return float(100 * np.mean(logits.argmax(axis=1) == LABELS[rows]))


def task(method: str = "m2n2", start: str = "made", passes: int = 50, run: int = 0) -> study.Task:
    return study.Task(method, start, run, passes, None if DATA is None else Path(DATA))


@pytest.fixture(scope="module")
def pair() -> list[np.ndarray]:
    return task().seeds


def test_each_of_the_pair_knows_its_half(pair: list[np.ndarray]) -> None:
    for flat, mine in zip(pair, (LABELS[1437:] < 5, LABELS[1437:] >= 5), strict=True):
        share = 100 * mine.mean()
        assert 0.8 * share < accuracy(flat, slice(1437, None)) <= share
    again, other = task().seeds, task(run=1).seeds
    assert np.array_equal(pair[0], again[0])
    assert not np.array_equal(pair[0], other[0])


def test_baselines(pair: list[np.ndarray]) -> None:
    a, b = pair
    for name, flat in {"a": a, "b": b, "average": (a + b) / 2}.items():
        result = study.METHODS[name].search(task(name))
        assert result.train == pytest.approx(accuracy(flat, slice(1437)), abs=0.08)  # a digit
        assert result.test == pytest.approx(accuracy(flat, slice(1437, None)), abs=0.3)
    x, y = (flat.astype(np.float64) for flat in pair)
    on_the_arc = [accuracy(textbook.cross(x, y, t), slice(1437)) for t in np.linspace(0, 1, 50)]
    result = study.METHODS["line_search"].search(task("line_search"))
    assert result.train == pytest.approx(max(on_the_arc), abs=0.08)
    assert result.evaluations == 50


def test_cma_es_learns_something() -> None:
    result = study.METHODS["cma_es"].search(task("cma_es", "scratch", passes=400))
    assert result.evaluations == 400
    assert result.train > 30
    tests = dict(result.curve)
    assert tests[max(tests)] == result.test


@pytest.mark.skipif(DATA is None, reason=f"{study.DATA} is not set")
def test_the_given_pair() -> None:
    tests = [accuracy(flat, slice(1437, None)) for flat in task(start="given").seeds]
    assert tests == pytest.approx([44.2, 45.3], abs=0.05)


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in (0, 1):
        for name in ("a", "line_search"):
            study.perform(task(name, run=run))
    written = task("a").place.stat().st_mtime_ns
    study.perform(task("a"))
    assert task("a").place.stat().st_mtime_ns == written
    table = study.report("made", 50, tmp_path / "out")
    numbers = json.loads((tmp_path / "out" / "made.json").read_text())
    mean = np.mean([result["test"] for result in numbers["line_search"]])
    assert f"slerp, line search | **{mean:.1f}** |" in table
    picture = ElementTree.parse(tmp_path / "out" / "made.svg")
    assert len(picture.findall(".//{*}polyline")) == 1
    assert (tmp_path / "out" / "made.html").stat().st_size < 100_000
