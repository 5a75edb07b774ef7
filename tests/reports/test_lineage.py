"""The card of whom the winner descends from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest

import merge_optuna as mo
from tests.reports.handmade import individual, study_of, thousands
from tests.spaces.searches import KINDS, search

optuna.logging.set_verbosity(optuna.logging.ERROR)

KEY = "5-lineage"


def parts(study: optuna.Study) -> dict[str, Any]:
    """The traces of the card by what the legend calls them."""
    return {trace.name: trace for trace in mo.reports.figures(study)[KEY].data}


def parents(study: optuna.Study, number: int) -> set[int]:
    """Those that the objective has written down for people, not those of the claim."""
    return {*study.trials[number].user_attrs.get("parents", {}).values()}


def ancestors(study: optuna.Study, number: int) -> Iterator[int]:
    yield number
    for parent in parents(study, number):
        yield from ancestors(study, parent)


def edges(trace: Any) -> set[tuple[Any, Any]]:
    """(parent, child), each with its score."""
    points = list(zip(trace.x, trace.y, strict=True))
    assert set(points[2::3]) == {(None, None)}, "a gap after each"
    return set(zip(points[::3], points[1::3], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_and_the_edges(kind: str) -> None:
    study = search(kind, None, 20)
    best, shown = study.best_trial.number, parts(study)
    family = {*ancestors(study, best)}
    value = {trial.number: pytest.approx(trial.value, rel=1e-3) for trial in study.trials}
    for name, expected in {
        "ancestors": family,
        "others": {*range(20)} - family,
    }.items():
        assert dict(zip(shown[name].x, shown[name].y, strict=True)) == {
            number: value[number] for number in expected
        }
    joined = edges(shown["parent to child"]) if len(family) > 1 else set()
    assert {(a[0], b[0]) for a, b in joined} == {
        (parent, child) for child in family for parent in parents(study, child)
    }
    for (a, y), (b, z) in joined:
        assert (y, z) == (value[a], value[b])


@pytest.mark.parametrize(("direction", "line"), [("maximize", [0, 3, 5]), ("minimize", [1, 4])])
def test_the_winning_line(direction: str, line: list[int]) -> None:
    study = study_of(
        [
            individual(0, 0.3),
            individual(1, 0.2),
            individual(2, 0.25),
            individual(3, 0.5, (0, 1)),
            individual(4, 0.1, (1, 2)),
            individual(5, 0.6, (4, 3)),
        ],
        direction,
    )
    shown = parts(study)["winning line"]
    assert [*shown.x] == line
    assert [*shown.y] == [study.trials[n].value for n in line]
    assert shown.marker.symbol[-1] == "star"


def test_words() -> None:
    study = study_of([individual(0, 0.3), individual(1, 0.2), individual(2, 0.9, (0, 1))])
    figure = mo.reports.figures(study)[KEY]
    assert "trial, 2, descends from ja and math" in figure.layout.meta["title"]
    assert "2 of 3 trials are ancestors, one generation deep" in figure.layout.meta["subtitle"]
    labels = {note.text: (note.x, note.y) for note in figure.layout.annotations}
    assert labels == {"ja": (0, 0.3), "math": (1, 0.2)}
    hover = dict(zip(figure.data[2].x, figure.data[2].text, strict=True))
    assert hover == {
        0: "the source ja",
        1: "the source math",
        2: "generation 1, of trials 0, 1",
    }
    study = study_of([individual(0, 0.3), individual(1, 0.2), individual(2, 0.1, (0, 1))])
    figure = mo.reports.figures(study)[KEY]
    assert figure.layout.meta["title"] == "The best trial is a source itself: ja"


def test_a_pruned_parent_has_no_place() -> None:
    trials = [individual(0, 0.3), individual(1, None), individual(2, 0.9, (0, 1))]
    shown = parts(study_of(trials))
    assert [*shown["ancestors"].x] == [0, 2]
    assert edges(shown["parent to child"]) == {((0, 0.3), (2, 0.9))}


def test_thousands() -> None:
    figure = mo.reports.figures(thousands())[KEY]
    assert len(figure.to_json()) < 60_000
    shown = {trace.name: trace for trace in figure.data}
    assert {*range(3)} <= {*shown["ancestors"].x}, "sources always"


def test_without_parents() -> None:
    study = optuna.create_study()
    study.optimize(lambda t: len(t.suggest_categorical("origin", ["child", "a"])), n_trials=3)
    assert KEY not in mo.reports.figures(study)
    assert KEY not in mo.reports.figures(optuna.create_study())
