"""The card ``4-examples`` against counts of the scores themselves."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from datasets import Dataset
from numpy.typing import NDArray
from plotly.graph_objects import Figure

import merge_optuna as mo
from merge_optuna._schema import PARTS
from merge_optuna.errors import EvaluationError
from merge_optuna.reports import figures
from merge_optuna.reports._view import View
from merge_optuna.study._parts import record_parts, stored_parts
from tests.reports import stored

N = 240
GROUPS = ("science", "sport", "state")
Array = NDArray[np.float32]


class Scored:
    """An evaluator of which only the parts matter."""

    directions, metric_names = ("maximize",), ("accuracy",)

    def __init__(self, parts: object, n: int = N) -> None:
        self.parts, self.n = parts, n

    def __len__(self) -> int:
        return self.n


def study_of(winner: Array, baseline: Array, direction: str = "maximize") -> optuna.Study:
    study = stored.study(direction)
    sign = 1 if direction == "maximize" else -1
    stored.trial(study, float(winner.mean()) - sign, scores=baseline)
    stored.trial(study, float(winner.mean()), scores=winner)
    stored.baseline(study, "worse", float(baseline.mean()) - sign, scores=1 - baseline)
    stored.baseline(study, "source a", float(baseline.mean()), scores=baseline, place=1)
    return study


def card(study: optuna.Study) -> Figure:
    return figures(study)["4-examples"]


def bars(figure: Figure) -> dict[str, tuple[float, float, int, int]]:
    """Of each row what is gained and lost, and of how many examples."""
    gained, lost = (trace for trace in figure.data if trace.type == "bar")
    rows = zip(gained.y, gained.x, lost.x, gained.text, lost.text, strict=True)
    return {
        label.rpartition(" (")[0]: (up, down, int(better or 0), int(worse or 0))
        for label, up, down, better, worse in rows
    }


@pytest.fixture
def right() -> tuple[Array, Array, list[str]]:
    rng = np.random.default_rng(0)
    groups = [GROUPS[i] for i in rng.integers(0, 3, N)]
    baseline = (rng.random(N) < 0.6).astype(np.float32)
    flip = rng.random(N) < np.where(np.array(groups) == "sport", 0.4, 0.1)
    return np.where(flip, 1 - baseline, baseline), baseline, groups


def test_right_and_wrong_answers_by_group(right: tuple[Array, Array, list[str]]) -> None:
    winner, baseline, groups = right
    study = study_of(winner, baseline)
    record_parts(study, Scored(groups))  # type: ignore[arg-type]
    found = bars(card(study))
    assert set(found) == {"all", *GROUPS}
    for name, row in found.items():
        of = [i for i in range(N) if name in ("all", groups[i])]
        gained = sum(winner[i] > baseline[i] for i in of)
        lost = sum(winner[i] < baseline[i] for i in of)
        assert row[2:] == (gained, lost)
        assert row[:2] == pytest.approx((100 * gained / len(of), -100 * lost / len(of)), rel=1e-3)
    title = card(study).layout.meta["title"]
    assert f"Gained {(winner > baseline).sum()}, lost {(winner < baseline).sum()} of 240" in title
    assert title.endswith("source a")


def test_the_examples_themselves(right: tuple[Array, Array, list[str]]) -> None:
    winner, baseline, groups = right
    study = study_of(winner, baseline)
    record_parts(study, Scored(groups))  # type: ignore[arg-type]
    (marks,) = (trace for trace in card(study).data if trace.type == "scatter")
    drawn = dict(zip(marks.x, marks.y, strict=True))
    assert drawn == {i: winner[i] - baseline[i] for i in np.flatnonzero(winner != baseline)}
    assert [*marks.text] == [groups[i] for i in marks.x]


def test_losses_are_weighed_and_less_is_better() -> None:
    rng = np.random.default_rng(1)
    baseline = rng.gamma(2, 1, N).astype(np.float32)
    winner = baseline - rng.normal(0.1, 0.3, N).astype(np.float32)
    study = study_of(winner, baseline, "minimize")
    (row,) = bars(card(study)).values()
    better = baseline.astype(float) - winner
    assert row[0] == pytest.approx(better[better > 0].sum() / N, rel=1e-3)
    assert row[1] == pytest.approx(better[better < 0].sum() / N, rel=1e-3)
    assert row[0] + row[1] == pytest.approx(baseline.mean() - winner.mean(), abs=1e-3)
    assert row[2:] == ((better > 0).sum(), (better < 0).sum())
    assert f"worse on {row[3]}" in card(study).layout.meta["title"]


def test_equal_but_for_rounding_is_equal() -> None:
    baseline = np.random.default_rng(2).gamma(2, 1, N).astype(np.float32)
    study = study_of(np.nextafter(baseline, np.float32(9)), baseline)
    assert "All 240 examples are as good" in card(study).layout.meta["title"]
    assert bars(card(study))["all"][2:] == (0, 0)


def test_of_many_groups_the_ends_are_shown_and_the_rest_together() -> None:
    rng = np.random.default_rng(3)
    baseline = (rng.random(N) < 0.5).astype(np.float32)
    winner = np.where(np.arange(N) % 24 < 6, 1, baseline).astype(np.float32)
    study = study_of(winner, baseline)
    record_parts(study, Scored([f"g{i % 24:02d}" for i in range(N)]))  # type: ignore[arg-type]
    found = bars(card(study))
    assert len(found) == 9
    assert "17 others" in found
    named = sum(row[2] for name, row in found.items() if name != "all")
    assert named == found["all"][2] == (winner > baseline).sum()


def test_many_examples_stay_small() -> None:
    rng = np.random.default_rng(4)
    baseline = rng.random(20_000).astype(np.float32)
    study = study_of(baseline + rng.normal(size=20_000).astype(np.float32), baseline)
    figure = card(study)
    assert len(figure.to_json()) < 30_000
    (marks,) = (trace for trace in figure.data if trace.type == "scatter")
    assert len(marks.x) == 300


def test_without_scores_there_is_no_card() -> None:
    study = stored.study()
    stored.trial(study, 0.5, scores=np.ones(4))
    assert "4-examples" not in figures(study)
    stored.baseline(study, "base", 0.4)
    assert "4-examples" not in figures(study)
    stored.baseline(study, "base", 0.4, scores=np.ones(3))
    assert "4-examples" not in figures(study)
    stored.baseline(study, "base", 0.4, scores=np.zeros(4))
    assert "4-examples" in figures(study)


# -- what a study knows of its examples -------------------------------------------------------


def test_parts_are_kept_as_they_are() -> None:
    names = [f"g{i % 700}" for i in range(5000)]
    study = stored.study()
    record_parts(study, Scored(names, 5000))  # type: ignore[arg-type]
    found = stored_parts(study)
    assert found is not None
    assert [found.names[i] for i in found.numbers] == names
    record_parts(study, Scored(["a", "b"], 2))  # type: ignore[arg-type]
    assert stored_parts(study) is not None
    assert len(stored_parts(study).numbers) == 5000  # type: ignore[union-attr]


@pytest.mark.parametrize("names", [None, ["a"] * N, [f"g{i}" for i in range(1001)]])
def test_what_is_no_division_is_not_kept(names: list[str] | None) -> None:
    study = stored.study()
    evaluator = Scored(names, len(names or "n"))
    record_parts(study, evaluator)  # type: ignore[arg-type]
    assert stored_parts(study) is None


def test_parts_of_an_evaluator_are_checked() -> None:
    with pytest.raises(EvaluationError, match="each of 240 examples"):
        record_parts(stored.study(), Scored(["a", "b"]))  # type: ignore[arg-type]


def test_damaged_parts_are_none() -> None:
    study = stored.study()
    record_parts(study, Scored(["a", "b"], 2))  # type: ignore[arg-type]
    good = study._storage.get_study_system_attrs(study._study_id)[PARTS]
    for bad in ({}, 3, {**good, "n": 3}, {**good, "names": ["a"]}, {**good, "data": "!"}):
        study._storage.set_study_system_attr(study._study_id, PARTS, bad)
        assert View(study).parts is None


def test_tasks_and_groups_of_evaluators() -> None:
    rows = [{"text": "x", "label": i % 2, "domain": f"d{i % 3}"} for i in range(6)]
    grouped = mo.evaluators.Classification(Dataset.from_list(rows), group="domain")
    plain = mo.evaluators.Classification(Dataset.from_list(rows[:2]))
    assert grouped.parts == ["d0", "d1", "d2", "d0", "d1", "d2"]
    assert plain.parts is None
    tasks = mo.evaluators.Tasks({"mr": plain, "news": grouped})
    assert tasks.parts == ["mr", "mr", *(f"news/{name}" for name in grouped.parts)]
