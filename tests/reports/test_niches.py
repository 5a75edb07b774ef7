"""The card of which trials are the best at which examples."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from plotly.graph_objects import Figure

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import CLAIM, PARTS
from tests.reports.handmade import claim, individual, made, study_of
from tests.spaces.searches import search

optuna.logging.set_verbosity(optuna.logging.ERROR)

KEY = "5-niches"


def archive(scores: Sequence[Sequence[float]], *directions: str) -> optuna.Study:
    """Individuals with these scores; each value is their mean."""
    rows = [np.array(row) for row in scores]
    trials = [
        individual(i, float(row.mean()), (0, 1) if i > 1 else None, scores=row)
        for i, row in enumerate(rows)
    ]
    return study_of(trials, *directions)


def names(figure: Figure) -> list[str]:
    return [label.replace("<br>", ": ") for label in figure.data[0].y]


def test_who_adds_most() -> None:
    study = archive(
        [
            [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],  # the best
            [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],  # nothing new
            [0, 0, 0, 0, 0, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 1, 1, 1, 0],  # most, so this comes before
        ]
    )
    figure = mo.reports.figures(study)[KEY]
    assert names(figure) == ["ja, winner: solves 5", "trial 3: adds 3", "trial 2: adds 1"]
    assert figure.layout.meta["title"] == (
        "3 trials together solve 90.0% of the examples, the winner 50.0%"
    )
    assert np.array(figure.data[0].z).tolist() == [
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 1, 0],
    ]
    assert list(figure.data[0].x) == [i + 0.5 for i in range(10)]


def test_losses() -> None:
    losses = [[0.1, 0.1, 3.0, 3.0], [5.0, 5.0, 1.0, 1.0], [1.0, 1.0, 9.0, 2.0]]
    figure = mo.reports.figures(archive(losses, "minimize"))[KEY]
    assert names(figure) == ["ja, winner: best at 2", "math: best at 2"]
    assert "0.55 on average, the winner 1.55" in figure.layout.meta["title"]
    assert np.array(figure.data[0].z).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_against_numpy_on_a_search() -> None:
    study = search("niches", None, 30)
    scores = np.array([mo.scores(study, trial) for trial in study.trials])
    best = study.best_trial.number
    rows, reached = [best], scores[best]
    while True:
        gains = [np.maximum(row, reached).sum() - reached.sum() for row in scores]
        if max(gains) == 0 or len(rows) == 8:
            break
        rows.append(int(np.argmax(gains)))
        reached = np.maximum(reached, scores[rows[-1]])
    figure = mo.reports.figures(study)[KEY]
    shown = [re.split("[,:]", name)[0] for name in names(figure)]
    assert len(shown) == len(rows)
    cells = np.array(figure.data[0].z)
    assert cells.sum() == scores[figure_rows(study, shown)].sum()
    together = cells.max(axis=0).mean()
    assert together == pytest.approx(reached.mean())
    assert f"solve {together:.1%} of the examples" in figure.layout.meta["title"]
    columns = sorted(map(tuple, cells.T.tolist()))
    assert columns == sorted(map(tuple, scores[figure_rows(study, shown)].T.tolist()))
    first = [int(np.argmax(column)) for column in cells.T if 0 < column.sum() < len(shown)]
    assert first == sorted(first), "by who is first the best"


def figure_rows(study: optuna.Study, shown: list[str]) -> list[int]:
    """Numbers of the trials with these names."""
    sources = {t.params["origin"]: t.number for t in study.trials if "split" not in t.params}
    return [sources.get(name) if name in sources else int(name.split()[1]) for name in shown]  # type: ignore[misc]


def test_thousands_of_examples() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((12, 5000)) < 0.5
    figure = mo.reports.figures(archive(scores.tolist()))[KEY]
    assert len(figure.to_json()) < 30_000
    cells, shown = np.array(figure.data[0].z), figure_rows_of(figure)
    assert cells.shape[1] <= 120
    assert cells.mean(axis=1) == pytest.approx(scores[shown].mean(axis=1), abs=0.01)


def figure_rows_of(figure: Figure) -> list[int]:
    given = {"ja": 0, "math": 1}
    shown = [re.split("[,:]", name)[0] for name in names(figure)]
    return [given[name] if name in given else int(name.split()[1]) for name in shown]


def test_examples_that_were_not_evaluated() -> None:
    nan = float("nan")
    trials = [
        individual(0, 0.9, scores=[1, 1, 0, nan]),
        individual(1, 0.4, scores=[nan, 0, 1, 1]),
        individual(2, 0.3, (0, 1), scores=[0, 0, 0, 0]),
    ]
    figure = mo.reports.figures(study_of(trials))[KEY]
    assert names(figure) == ["ja, winner: solves 2", "math: adds 1"]


@pytest.mark.parametrize("generation", [lambda n: n, lambda n: n // 4])
def test_only_where_every_result_is_inserted(generation) -> None:  # type: ignore[no-untyped-def]
    """A population with slots has no niches, nor has a search without a sampler of ours."""
    trials = [
        made(n, 0.5, {CLAIM: claim(n, generation(n), parents=None)}, scores=np.eye(8)[n])
        for n in range(8)
    ]
    archived = generation(7) == 7
    assert (KEY in mo.reports.figures(study_of(trials))) == archived
    for trial in trials:
        trial.system_attrs.pop(CLAIM)
    assert KEY not in mo.reports.figures(study_of(trials))


def test_nothing_to_tell() -> None:
    assert KEY not in mo.reports.figures(archive([[1, 1, 1], [1, 0, 0], [0, 1, 0]]))
    trials = [individual(0, 0.9), individual(1, 0.4), individual(2, 0.3, (0, 1))]
    assert KEY not in mo.reports.figures(study_of(trials)), "no scores"
    assert KEY not in mo.reports.figures(search("evolver", None, 8)), "no competition"


def test_where() -> None:
    """Columns of each task stand together, under its name."""
    study = archive([[1, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0]])
    numbers = base64.b64encode(zlib.compress(np.array([0, 1, 0, 1, 1, 0], "<u2").tobytes()))
    parts = {"names": ["ja", "math"], "n": 6, "data": numbers.decode()}
    compat.set_study_system_attr(study, PARTS, parts)
    figure = mo.reports.figures(study)[KEY]
    assert np.array(figure.data[0].z).tolist() == [[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0]]
    axis = figure.layout.xaxis
    assert (list(axis.ticktext), list(axis.tickvals)) == (["ja", "math"], [1.5, 4.5])
    assert [(line.x0, line.x1) for line in figure.layout.shapes] == [(3, 3)]


def test_scores_that_are_not_finite() -> None:
    inf = float("inf")
    losses = [[0.1, inf, 3.0], [5.0, 5.0, 1.0], [inf, 1.0, 9.0]]
    trials = [
        individual(i, 1.0 + i, (0, 1) if i > 1 else None, scores=row)
        for i, row in enumerate(losses)
    ]
    figure = mo.reports.figures(study_of(trials, "minimize"))[KEY]
    assert names(figure) == ["ja, winner: best at 1", "math: best at 1"]
