"""The digits study beside plain numpy: its searches, the pair, the baselines and the report."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
from scipy.stats import norm, t
from sklearn.datasets import load_digits

import merge_optuna as mo
from studies import m2n2_digits as study
from tests.spaces import textbook

DATA = os.environ.get(study.DATA)
PIXELS, LABELS = load_digits(return_X_y=True)


def accuracy(flat: np.ndarray, rows: slice | np.ndarray) -> float:
    """In %, of parameters in the paper's order."""
    w1, b1, w2, b2 = np.split(flat.astype(np.float64), [16_384, 16_640, 19_200])
    hidden = np.maximum(PIXELS[rows] @ w1.reshape(64, 256) + b1, 0)
    logits = hidden @ w2.reshape(256, 10) + b2
    return float(100 * np.mean(logits.argmax(axis=1) == LABELS[rows]))


def task(
    method: str = "m2n2",
    start: str = "made",
    passes: int = 50,
    run: int = 0,
    storage: str = "memory",
) -> study.Task:
    return study.Task(method, start, run, passes, None if DATA is None else Path(DATA), storage)


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


@pytest.mark.parametrize("method", ["m2n2", "no_split", "map_elites"])
def test_a_search_is_the_textbooks(method: str, pair: list[np.ndarray], tmp_path: Path) -> None:
    """From its matings, on flat vectors; the same when it is stopped and continued."""
    url = f"journal:///{tmp_path}/search.log"
    study.METHODS[method].search(task(method, passes=8, storage=url))
    result = study.METHODS[method].search(task(method, passes=20, storage=url))
    assert result.evaluations == 12
    stored = optuna.load_study(study_name=f"{method}-made-0", storage=mo.storage(url))
    trials = stored.get_trials()
    made = [flat.astype(np.float64) for flat in pair]
    for trial in trials[2:]:
        params = trial.params
        parents = made[params["parent_a"]], made[params["parent_b"]]
        made.append(textbook.cross(*parents, params["ratio"], params["split"]))
        assert method != "no_split" or params["split"] == 1
    assert len(made) == 22
    train = np.array([accuracy(x, slice(1437)) for x in made])
    assert np.allclose([100 * trial.value for trial in trials], train, atol=0.15)  # two digits
    best = int(np.argmax([trial.value for trial in trials]))
    assert result.train == 100 * trials[best].value == result.curve[-1][1]
    assert result.test == pytest.approx(accuracy(made[best], slice(1437, None)), abs=0.3)
    assert result.curve[-1][0] == max(0, best - 1)

    again = study.METHODS[method].search(task(method, passes=20))
    assert (again.train, again.test, again.curve) == (result.train, result.test, result.curve)
    if method == "map_elites":
        low = LABELS[:1437] < 5
        half = stored.trials[0].user_attrs["low"]
        assert half == pytest.approx(accuracy(pair[0], low.nonzero()[0]) / 100, abs=0.005)


@pytest.mark.parametrize("method", ["m2n2", "no_crossover", "cma_es"])
def test_from_scratch(method: str) -> None:
    result = study.METHODS[method].search(task(method, "scratch", passes=100))
    assert result.evaluations == (100 if method == "cma_es" else 102)
    trains = [value for _, value in result.curve]
    assert trains == sorted(set(trains))
    assert result.train == trains[-1] > 15


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
    runs = [run["test"] for run in numbers["line_search"]["runs"].values()]
    error = abs(runs[0] - runs[1]) / 2
    assert f"slerp, line search | **{np.mean(runs):.1f} ± {error:.1f}** |" in table
    picture = ElementTree.parse(tmp_path / "out" / "made.svg")
    assert len(picture.findall(".//{*}circle")) == 4


def test_what_is_better() -> None:
    def runs(*tests: float) -> dict[int, study.Result]:
        return {run: study.Result(0, test, [], 1, 1) for run, test in enumerate(tests)}

    lead, interval = study.better_by(runs(3, 5, 7, 60), runs(1, 2, 6))
    assert lead is not None
    assert interval is not None
    assert (lead.mean, lead.error) == pytest.approx((2, 1 / np.sqrt(3)))  # of 2, 3 and 1
    draws = [np.mean(draw) for draw in product((2, 3, 1), repeat=3)]  # all there are
    stretch = np.sqrt(3 / 2) * t.ppf(0.975, 2) / norm.ppf(0.975)
    expected = 2 + stretch * (np.percentile(draws, [2.5, 97.5], method="inverted_cdf") - 2)
    assert interval == pytest.approx(expected)
    lead, interval = study.better_by(runs(3, 5), runs(1))
    assert lead == study.Mean(2, None)
    assert interval is None
    assert study.better_by({}, runs(1)) == (None, None)
