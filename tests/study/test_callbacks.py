"""Stop rules against scans of the trials by hand, in scripts and in declared searches."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.samplers import CmaEsSampler
from merge_optuna.study import counts
from tests import processes
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)


def declared(task: Task, evaluate: Callable[[Any], float], **options: Any) -> mo.MergeStudy:
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    options = {"n_trials": 100, **options}
    return mo.MergeStudy("toy", mo.MergeObjective(recipe, evaluate), **options, baselines=False)


def scripted(values: Sequence[float | None]) -> Callable[[optuna.Trial], float]:
    """An objective that gives these values, by number; None is pruned."""

    def objective(trial: optuna.Trial) -> float:
        value = values[trial.number]
        if value is None:
            raise optuna.TrialPruned
        return value

    return objective


def trials_until_stagnation(values: Sequence[float | None], n: int, sign: int) -> int:
    """How many trials run before the best of them has not improved for n completed ones."""
    best, since = None, 0
    for number, value in enumerate(values):
        if value is None:
            continue
        if best is None or sign * value > sign * best:
            best, since = value, 0
        else:
            since += 1
        if since == n:
            return number + 1
    return len(values)


# -- Stagnation -------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    "values",
    [
        [5, 4, 3, 2, 1, 0, -1],
        [0, 1, 2, 3, 3, 3, 3, 3, 3],  # as good is not better
        [1, None, None, 1, None, 1, 1, None, 2, 1, 1, 1],
        [0, 3, 1, 2, 4, 1, 5, 5, 5, 5],
    ],
)
def test_stagnation(values: list[float | None], n: int, direction: str) -> None:
    expected = trials_until_stagnation(values, n, 1 if direction == "maximize" else -1)
    rule = mo.callbacks.Stagnation(n)
    study = optuna.create_study(direction=direction)
    study.optimize(scripted(values), n_trials=len(values), callbacks=[rule])
    assert len(study.trials) == expected
    # a new rule for every trial: everything it needs is stored
    study = optuna.create_study(direction=direction)
    while len(study.trials) < len(values) and not rule.reason(study):
        study.optimize(scripted(values), n_trials=1, callbacks=[mo.callbacks.Stagnation(n)])
    assert len(study.trials) == expected


def test_a_stagnated_search_stays_over(
    task: Task, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = itertools.chain([0.5, 0.75], itertools.repeat(0.25))
    search = declared(task, lambda model: next(values), callbacks=[mo.callbacks.Stagnation(3)])
    url = f"sqlite:///{tmp_path}/s.db"
    for _ in range(2):
        assert len(search.run(url).trials) == 5
        said = "Stopped with 95 of 100 trials to go: trial 1 is the best for 3 trials."
        assert said in capfd.readouterr().err
    search.run(url, progress=False)
    assert capfd.readouterr().err == ""


def test_rules_of_others(task: Task, capfd: pytest.CaptureFixture[str]) -> None:
    class GoodEnough(mo.callbacks.StopRule):
        def reason(self, study: optuna.Study) -> str | None:
            done = [t for t in study.trials if t.state == TrialState.COMPLETE]
            return "good enough" if done and study.best_value > 2 else None

    def third(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.number == 2:
            study.stop()

    for callback, reason in ((GoodEnough(), "good enough"), (third, "a callback has stopped it")):
        values = itertools.count()
        study = declared(task, lambda model, v=values: next(v), callbacks=[callback]).run()
        assert len(study.trials) == {"good enough": 4}.get(reason, 3)
        assert f"trials to go: {reason}." in capfd.readouterr().err


def test_every_process_stops(task: Task, tmp_path: Path) -> None:
    file = task.file(
        tmp_path / "search.py",
        n_trials=200,
        lines="""
import pathlib, time
def evaluate(model):
    pathlib.Path(f"here-{__import__('os').getpid()}").touch()
    while len(list(pathlib.Path(".").glob("here-*"))) < 2:  # both have begun
        time.sleep(0.02)
    time.sleep(0.05)
    return 1.0
objective = mo.MergeObjective(recipe, evaluate)
""",
        test=None,
        callbacks="[mo.callbacks.Stagnation(6)]",
    )
    both = [processes.command("run", file, cwd=tmp_path) for _ in range(2)]
    for running in both:
        result = running.wait()
        assert result.code == 0, result.err
        assert "is the best for" in result.err
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    assert counts(study)["running"] == 0
    assert 7 <= counts(study)["complete"] <= 8, "each ends with the trial it runs"


# -- timeout ----------------------------------------------------------------------------------


def test_timeout(task: Task, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pauses = [2.0, 2.0]

    def evaluate(model: Any) -> float:
        time.sleep(pauses.pop() if pauses else 0)
        return 1.0

    url = f"sqlite:///{tmp_path}/s.db"
    search = declared(task, evaluate, timeout=2.0)
    for start in (1, 2):
        began = time.monotonic()
        study = search.run(url)
        assert time.monotonic() - began >= 2.0
        assert counts(study)["complete"] == start, "one under way is finished"
        assert counts(study)["running"] == counts(study)["failed"] == 0
        assert "trials to go: its 2 seconds are over." in capfd.readouterr().err
    assert len(search.run(url, n_trials=6, timeout=3600, progress=False).trials) == 6


def test_timeout_of_the_command(task: Task, tmp_path: Path) -> None:
    file = task.file(
        tmp_path / "search.py",
        n_trials=10_000,
        lines="""
import time
objective = mo.MergeObjective(recipe, lambda model: time.sleep(2) or 1.0)
""",
        test=None,
    )
    result = processes.command("run", file, "--timeout", 2, cwd=tmp_path).wait()
    assert result.code == 0, result.err
    assert "its 2 seconds are over." in result.err
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    assert counts(study)["complete"] == 1
    assert counts(study)["running"] == 0


# -- MaxFailures ------------------------------------------------------------------------------


def test_failures_of_a_plain_study_end_it(task: Task) -> None:
    calls = itertools.count(1)

    def evaluate(model: Any) -> float:
        if (call := next(calls)) != 3:
            raise OSError(f"call {call}")
        return 1.0

    objective = mo.MergeObjective(task.recipe(), evaluate)
    study = optuna.create_study(direction="maximize")
    with pytest.raises(StudyError, match=r"(?s)^4 candidates in a row .* call 4\n$"):
        study.optimize(objective, n_trials=50, callbacks=[mo.callbacks.MaxFailures(4)])
    states = [t.state.name for t in study.trials]
    assert states == ["FAIL", "FAIL", "COMPLETE", "FAIL", "FAIL", "FAIL", "FAIL"]


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_candidate_counts_once(attempts: int) -> None:
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    sampler = CmaEsSampler(space, seed=0, max_attempts=attempts)
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        raise OSError

    with pytest.raises(StudyError, match="5 candidates"):
        study.optimize(
            objective, n_trials=99, catch=OSError, callbacks=[mo.callbacks.MaxFailures(5)]
        )
    assert len({t.params["x"] for t in study.trials}) == 5
    assert len(study.trials) == 4 * attempts + 1


def test_a_declared_search_takes_its_own_number(task: Task) -> None:
    def evaluate(model: Any) -> float:
        raise OSError

    with pytest.raises(StudyError, match="2 candidates in a row"):
        declared(task, evaluate, callbacks=[mo.callbacks.MaxFailures(2)]).run(progress=False)


# -- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mo.callbacks.Stagnation(0), "Stagnation needs a number of at least 1, not 0"),
        (lambda: mo.callbacks.MaxFailures(-1), "MaxFailures needs a number of at least 1, not -1"),
    ],
)
def test_bad_numbers(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_bad_timeout(task: Task, timeout: float) -> None:
    with pytest.raises(StudyError, match="timeout must be a positive number"):
        declared(task, lambda model: 1.0, timeout=timeout)
    with pytest.raises(StudyError, match="timeout must be a positive number"):
        declared(task, lambda model: 1.0).run(timeout=timeout)


def test_several_objectives_have_no_best(task: Task) -> None:
    rule = mo.callbacks.Stagnation(3)
    study = optuna.create_study(directions=["maximize", "minimize"])
    with pytest.raises(
        StudyError, match=r"Stagnation follows the best trial, but .* 2 objectives"
    ):
        study.optimize(lambda trial: (1.0, 1.0), n_trials=2, callbacks=[rule])

    class Two(mo.evaluators.Function):
        def __init__(self) -> None:
            super().__init__(lambda model: 0.0)
            self.directions, self.metric_names = ("maximize", "minimize"), ("up", "down")

    objective = mo.MergeObjective(task.recipe(), Two())
    sampler = optuna.samplers.NSGAIISampler()
    with pytest.raises(StudyError, match="2 objectives"):
        mo.MergeStudy("s", objective, n_trials=2, sampler=sampler, callbacks=[rule])
