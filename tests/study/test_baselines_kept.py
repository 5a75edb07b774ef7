"""Baselines are scored once per study, whoever is killed and whatever fails."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from torch import nn

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import BASELINE, BASELINE_OWNER
from merge_optuna.errors import StudyError
from tests import processes, toys
from tests.study.linears import GRID, LAMBDAS, Near, around, linears, weight
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

KINDS = ["base", "source", "uniform average", "untuned operator"]


# -- once per study ---------------------------------------------------------------------------


def search(url: str | None, evaluator: Any, **options: Any) -> optuna.Study:
    objective = around(0, 1, 3, evaluate=evaluator)
    options = {"n_trials": 2, **options}
    return mo.MergeStudy("s", objective, **options).run(url, progress=False)


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_they_are_scored_before_the_search_and_once(scheme: str, tmp_path: Path) -> None:
    url, near = f"{scheme}:///{tmp_path}/s", Near()
    study = search(url, near)
    assert len(study.trials) == 2, "they are no trials"
    names = ["base", "source a", "source b", "uniform average", "task_arithmetic, untuned"]
    found = mo.baselines(study)
    assert [row.name for row in found] == [*names, *GRID, "greedy soup"]
    by_hand = [0, 1, 3, 2, 4, *(4 * x for x in LAMBDAS), 2]
    np.testing.assert_allclose(near.calls, by_hand + near.calls[-2:], rtol=1e-6)
    for row, value in zip(found, [*by_hand[:-1], 2], strict=True):
        assert row.scores is not None
        np.testing.assert_allclose(row.scores, -np.abs(near.numbers - value), atol=1e-6)
        assert row.value == pytest.approx(row.scores.mean(), rel=1e-6)
        assert row.examples == 4
    again = Near()
    resumed = search(url, again, n_trials=4)
    assert len(again.calls) == 2, "two trials and no baseline"
    assert mo.baselines(resumed)[:] == found[:]
    plain = around(0, 1, 3, evaluate=Near())
    alone = mo.MergeStudy("s", plain, n_trials=4, baselines=False).run(None, progress=False)
    assert [(t.params, t.values) for t in resumed.trials] == [
        (t.params, t.values) for t in alone.trials
    ], "the search does not know of them"


def test_a_study_that_has_all_its_trials_is_left_alone(tmp_path: Path) -> None:
    url, near = f"sqlite:///{tmp_path}/s.db", Near()
    search(url, near, baselines=False)
    study = search(url, near)
    assert len(near.calls) == 2
    assert list(mo.baselines(study)) == []
    assert repr(mo.baselines(study)) == "no baselines"


def test_some_kinds_only() -> None:
    near = Near()
    study = search(None, near, baselines=["greedy soup", "base"])
    assert [row.name for row in mo.baselines(study)] == ["base", "greedy soup"]
    assert len(near.calls) == 1 + 3 + 2
    with pytest.raises(StudyError, match=r"no baselines 'souces'\. .* list of these: base, sou"):
        search(None, near, baselines=["souces"])


def test_another_evaluator_or_family_is_scored_anew() -> None:
    """Of spaces and evaluators that do not say what they are, so that no study refuses them."""
    study, near = optuna.create_study(direction="maximize"), Near()
    base, a, b = linears(0, 1, 3)

    def objective(models: Sequence[mo.Checkpoint]) -> mo.MergeObjective:
        def space(trial: optuna.Trial) -> mo.Recipe:
            weight = trial.suggest_float("weight", 0, 1)
            return mo.recipes.task_arithmetic(base, models, weight=weight)

        return mo.MergeObjective(space, near)

    kinds = ["source", "uniform average"]
    mo.baselines(objective([a, b]), study, kinds=kinds, progress=False)
    assert near.calls == [1, 3, 2]
    mo.baselines(objective([a, b]), study, kinds=kinds, progress=False)
    assert near.calls == [1, 3, 2]
    found = mo.baselines(objective([b, a]), study, kinds=kinds, progress=False)
    assert near.calls == [1, 3, 2, 3, 1, 2], "an average in another order is another recipe"
    assert [row.name for row in found] == ["source b", "source a", "uniform average"]
    found = mo.baselines(objective([a]), study, kinds=kinds, progress=False)
    assert [row.name for row in found] == ["source a"], "those of other models are forgotten"
    assert mo.baselines(study)[:] == found[:]


def test_a_script_without_a_declared_study(tmp_path: Path) -> None:
    objective = around(0, 1, 3, evaluate=Near())
    study = optuna.create_study(directions=objective.directions)
    found = mo.baselines(objective, study, progress=False)
    assert mo.baselines(study)[:] == found[:]
    mo.optimize(study, objective, n_trials=2, progress=False)
    assert len(study.trials) == 2
    with pytest.raises(StudyError, match=r"takes a mo\.MergeObjective or a study, not 3"):
        mo.baselines(3)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="to minimize, but nearness is to maximize"):
        mo.baselines(objective, optuna.create_study())


# The file notes what it scores, and waits in the third baseline to be killed.
WAITING = """
import os, time

def evaluate(model):
    value = float(model.bert.embeddings.word_embeddings.weight.double().sum())
    with open("scored", "a") as file:
        file.write(f"{value}\\n")
    if not os.path.exists("go on") and len(open("scored").readlines()) == 3:
        time.sleep(1000)
    return value

objective = mo.MergeObjective(recipe, evaluate)
"""


def scored(folder: Path) -> list[str]:
    file = folder / "scored"
    return file.read_text().split() if file.exists() else []


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_started_again(task: Task, tmp_path: Path) -> None:
    """``kill -9`` in the third: the first two are kept, the others come, none comes twice."""
    file = task.file(tmp_path / "search.py", n_trials=1, lines=WAITING, test=None, baselines=KINDS)
    first = processes.command("run", file, cwd=tmp_path)
    wait_until(lambda: len(scored(tmp_path)) == 3)
    first.kill()
    first.wait()
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    kept = mo.baselines(study)
    assert [row.name for row in kept] == ["base", "source a"]
    (tmp_path / "go on").touch()
    again = processes.command("run", file, cwd=tmp_path).wait()
    assert again.code == 0, again.err
    found = mo.baselines(study)
    assert found[:2] == kept[:]
    assert [row.kind for row in found] == ["base", "source", "source", *KINDS[2:]]
    lines = scored(tmp_path)
    assert len(lines) == 5 + 1 + 1, "one was lost, and there is a trial"
    assert lines[2] == lines[3]
    assert [row.value for row in found] == [float(x) for x in [*lines[:2], *lines[3:6]]]


def test_processes_share_the_work(task: Task, tmp_path: Path) -> None:
    """While one is killed in the third, the other scores the rest, and that one in the end."""
    file = task.file(tmp_path / "search.py", n_trials=2, lines=WAITING, test=None, baselines=KINDS)
    first = processes.command("run", file, cwd=tmp_path)
    wait_until(lambda: len(scored(tmp_path)) == 3)
    second = processes.command("run", file, cwd=tmp_path)
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    wait_until(lambda: len(mo.baselines(study)) == 4)
    assert second.alive, "it waits for the other"
    assert len(study.get_trials()) == 0
    first.kill()
    first.wait()
    assert (result := second.wait()).code == 0, result.err
    assert [row.name for row in mo.baselines(study)][2] == "source b"
    assert len(scored(tmp_path)) == 5 + 1 + 2


def test_what_another_machine_has_begun_comes_last() -> None:
    """Nobody can tell whether it is still at it, so it is not waited for."""
    near = Near()
    objective = around(0, 1, 3, evaluate=near)
    study = optuna.create_study(direction="maximize")
    elsewhere = {"host": "elsewhere", "pid": 1, "start": 1}
    owner = {"process": elsewhere, "deaths": 0}
    compat.set_study_system_attr(study, BASELINE_OWNER + "source a", owner)
    found = mo.baselines(objective, study, kinds=["base", "source"], progress=False)
    assert near.calls == [0, 3, 1]
    assert [row.name for row in found] == ["base", "source a", "source b"]


# -- what goes wrong --------------------------------------------------------------------------


class Moody(Near):
    """Fails where the weights are near certain numbers."""

    def __init__(self, moods: dict[float, Any]) -> None:
        super().__init__()
        self.moods = moods

    def value(self, scores: np.ndarray) -> float:
        for where, mood in self.moods.items():
            if abs(self.calls[-1] - where) < 1e-6:
                if isinstance(mood, Exception):
                    raise mood
                return float(mood)
        return super().value(scores)


def test_what_fails_is_told_and_ends_nothing() -> None:
    moods = {0.0: OSError("the disk"), 1.0: float("nan"), 2.0: float("inf"), 3.0: MemoryError()}
    evaluator = Moody(moods)
    study = search(None, evaluator)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 2
    found = mo.baselines(study)
    assert {row.name: row.reason for row in found if row.reason} == {
        "base": "OSError: the disk",
        "source a": "The score is not finite: nan.",
        "source b": "MemoryError: ",
        "uniform average": "The score is not finite: inf.",
        GRID[4]: "The score is not finite: inf.",
        "greedy soup": "No expert has a score that is a number.",
    }
    assert all(row.values is None and row.examples == 0 for row in found if row.reason)
    assert found.best is not None
    assert found.best.reason is None
    assert "the disk" in str(found)
    with pytest.raises(StudyError, match="The baseline 'base' is no checkpoint: OSError: the di"):
        mo.recipe_of(study, baseline="base")
    evaluator.moods = {}
    objective = around(0, 1, 3, evaluate=evaluator)
    again = mo.baselines(objective, study, progress=False)
    assert all(row.reason is None for row in again), "those that have failed are tried again"
    assert again[GRID[0]] == found[GRID[0]]


def test_a_recipe_without_a_result() -> None:
    _, a, b = linears(0, 1, 2)
    space = mo.recipes.linear([a, b], weight=[1, mo.free(-1, 1, start=-1)])
    found = mo.baselines(mo.MergeObjective(space, weight), progress=False)
    assert found["linear, untuned"].reason is not None
    assert "sum to 0 and cannot be normalised" in found["linear, untuned"].reason


def test_the_time_that_one_may_take() -> None:
    def evaluate(model: nn.Module) -> float:
        if weight(model) == 3:
            time.sleep(60)
        return weight(model)

    started = time.monotonic()
    study = search(None, evaluate, trial_timeout=1)
    assert time.monotonic() - started < 50
    reason = "It took longer than trial_timeout=1 seconds."
    assert {row.name: row.reason for row in mo.baselines(study) if row.reason} == {
        "source b": reason,
    }
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 2


def test_the_time_of_a_run_is_for_them_too(caplog: pytest.LogCaptureFixture) -> None:
    def evaluate(model: nn.Module) -> float:
        time.sleep(0.5)
        return 1.0

    study = search(None, evaluate, timeout=1)
    assert 1 <= len(mo.baselines(study)) <= 3
    assert study.trials == []
    assert "Stopped with 2 of 2 trials to go: its 1 seconds are over." in caplog.text


def test_ctrl_c_in_one_keeps_those_before(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    calls = itertools.count()

    def evaluate(model: nn.Module) -> float:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return weight(model)

    named = mo.evaluators.Function(evaluate, digest="1")
    with pytest.raises(KeyboardInterrupt):
        search(url, named)
    study = optuna.load_study(study_name="s", storage=url)
    assert [row.name for row in mo.baselines(study)] == ["base", "source a"]
    assert study.trials == []
    assert len(mo.baselines(search(url, named))) == 16
    assert next(calls) == 3 + 14 + 2


def test_a_changed_source_ends_it(tmp_path: Path) -> None:
    folders = [toys.save(toys.bert(seed), tmp_path / f"m{seed}") for seed in range(2)]
    a, b = (mo.Checkpoint(folder, name=f"m{i}") for i, folder in enumerate(folders))
    file = next((tmp_path / "m1").glob("*.safetensors"))

    def evaluate(model: nn.Module) -> float:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        return 1.0

    objective = mo.MergeObjective(mo.recipes.linear([a, b], weight=mo.free(0, 1)), evaluate)
    with pytest.raises(mo.errors.SourceChanged):
        mo.MergeStudy("s", objective, n_trials=1).run(None, progress=False)


@pytest.mark.parametrize("damage", ["text", {}, {"values": ["many"]}, {"place": "first"}])
def test_a_damaged_one_is_named(damage: Any) -> None:
    study = search(None, Near(), baselines=["base"])
    key = BASELINE + "base"
    whole = compat.study_system_attrs(study)[key]
    broken = {**whole, **damage} if damage and isinstance(damage, dict) else damage
    compat.set_study_system_attr(study, key, broken)
    with pytest.raises(StudyError, match="The baseline 'base' is damaged, or was written by a ne"):
        mo.baselines(study)
    scores = {"n": 4, "type": "f4", "data": "x"}
    compat.set_study_system_attr(study, key, {**whole, "scores": scores, "recipe": "{}"})
    (found,) = mo.baselines(study)
    with pytest.raises(StudyError, match="scores of the baseline 'base' is damaged"):
        _ = found.scores
    with pytest.raises(StudyError, match="The recipe of the baseline 'base' is damaged"):
        _ = found.recipe
