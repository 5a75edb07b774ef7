"""mo.optimize: the total is exact, in one process or several, for any objective and sampler."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, InfeasibleRecipe, SourceChanged, StudyError
from merge_optuna.samplers import CmaEsSampler
from merge_optuna.samplers._protocol.owner import fail_as_killed
from merge_optuna.samplers.plumbing import owner_of
from merge_optuna.study import counts, failure
from tests import processes
from tests.study import workers
from tests.study.workers import sphere
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
STORAGES = ["sqlite", "journal"]


# -- one process ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", STORAGES)
def test_the_total_is_that_of_the_study(scheme: str, tmp_path: Path) -> None:
    study = optuna.create_study(storage=workers.storage(scheme, tmp_path))
    study.optimize(sphere, n_trials=2)
    for total, expected in ((5, 5), (5, 5), (3, 5), (6, 6)):
        assert mo.optimize(study, sphere, total, progress=False) is None
        assert len(study.trials) == expected


def test_the_trials_are_those_of_study_optimize() -> None:
    plain, ours = (optuna.create_study(sampler=CmaEsSampler(seed=3)) for _ in range(2))
    plain.optimize(sphere, n_trials=12)
    mo.optimize(ours, sphere, 5, progress=False)
    mo.optimize(ours, sphere, 12, progress=False)
    assert [(t.params, t.values) for t in ours.trials] == [
        (t.params, t.values) for t in plain.trials
    ]


def test_an_exception_fails_the_trial_and_not_the_search() -> None:
    values = [None, float("nan"), "0.5", (1.0, 2.0), [0.5]]
    outcomes = iter([1.0, OSError("gone"), optuna.TrialPruned(), *values, 2])

    def objective(trial: optuna.Trial) -> Any:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    study = optuna.create_study()
    mo.optimize(study, objective, 4, progress=False)
    assert [t.state.name for t in study.trials] == [
        *("COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE")
    ]
    reasons = [failure(t) for t in study.trials if t.state == TrialState.FAIL]
    assert reasons[0].endswith("OSError: gone\n")
    assert "in objective" in reasons[0]
    assert reasons[1:] == [f"The objective returned {v!r}, not a number." for v in values[:4]]


def test_ten_failures_in_a_row_end_it() -> None:
    def objective(trial: optuna.Trial) -> float:
        raise OSError(f"trial {trial.number}")

    study = optuna.create_study(study_name="toy")
    with pytest.raises(StudyError, match=r"(?s)^10 candidates in a row .*OSError: trial 0\n$"):
        mo.optimize(study, objective, 20, progress=False)
    with pytest.raises(StudyError, match=r"^2 candidates in a row"):
        mo.optimize(study, objective, 20, callbacks=[mo.callbacks.MaxFailures(2)], progress=False)
    assert len(study.trials) == 12


def test_what_no_other_trial_can_mend_ends_it(task: Task) -> None:
    def objective(trial: optuna.Trial) -> float:
        raise SourceChanged("the source has changed")

    study = optuna.create_study()
    with pytest.raises(SourceChanged, match="has changed"):
        mo.optimize(study, objective, 20, progress=False)
    assert [t.state for t in study.trials] == [TrialState.FAIL]
    assert counts(study)["failed"] == 0, "its candidate is not to blame"
    merging = mo.MergeObjective(task.recipe(), lambda model: 1.0)
    study = optuna.create_study(direction="minimize")
    with pytest.raises(StudyError, match="is to minimize"):
        mo.optimize(study, merging, 20, progress=False)
    assert study.trials == [], "refused before the first trial"


def test_models_that_do_not_fit_end_their_trial_only() -> None:
    outcomes = iter([CheckpointMismatch("other shapes"), InfeasibleRecipe("all are zero")])

    def objective(trial: optuna.Trial) -> float:
        for error in outcomes:
            raise error
        return 1.0

    study = optuna.create_study()
    mo.optimize(study, objective, 2, progress=False)
    assert [t.state.name for t in study.trials] == ["FAIL", "PRUNED", "COMPLETE"]
    assert counts(study)["failed"] == 1, "its candidate is to blame"
    assert failure(study.trials[0]).endswith("CheckpointMismatch: other shapes\n")
    assert study.trials[1].user_attrs == {"reason": "all are zero"}


def test_without_a_bar_it_still_says_what_is_wrong(tmp_path: Path) -> None:
    """On standard error where nobody has set up logging, as a script of four lines has not."""
    script = tmp_path / "search.py"
    script.write_text("""
import optuna, merge_optuna as mo
def objective(trial):
    return 1 / trial.number
study = optuna.create_study(direction="maximize")
mo.optimize(study, objective, 9, callbacks=[mo.callbacks.Stagnation(2)], progress=False)
""")
    ran = processes.script(script, cwd=tmp_path).wait()
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert ran.err.splitlines()[1:] == [
        "Trial 0 failed: ZeroDivisionError: division by zero",
        "Stopped with 6 of 9 trials to go: trial 1 is the best for 2 trials.",
    ]


def test_what_it_says_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study()
    mo.optimize(study, lambda trial: 1 / trial.number, 1, progress=False)
    assert caplog.record_tuples == [
        ("merge_optuna", logging.WARNING, "Trial 0 failed: ZeroDivisionError: division by zero")
    ]


def test_callbacks_and_timeout(capfd: pytest.CaptureFixture[str]) -> None:
    study = optuna.create_study(study_name="toy")
    mo.optimize(study, lambda trial: 1.0, 20, callbacks=[mo.callbacks.Stagnation(3)])
    assert len(study.trials) == 4
    err = capfd.readouterr().err
    assert "Stopped with 16 of 20 trials to go: trial 0 is the best for 3 trials." in err
    assert "toy: 4/20 [" in err
    assert "best=1" in err
    seen: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        time.sleep(1)
        return 1.0

    mo.optimize(study, objective, 1000, timeout=1, callbacks=[lambda _, t: seen.append(t.number)])
    assert seen == [4], "the one under way is finished"
    assert "trials to go: its 1 seconds are over." in capfd.readouterr().err


def test_no_line_per_trial(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        study = optuna.create_study()
        capfd.readouterr()
        mo.optimize(study, sphere, 4)
        out, err = capfd.readouterr()
        assert out == ""
        assert "Trial 0 finished" not in err
        assert "no-name" not in err
        assert "4/4" in err
        mo.optimize(study, sphere, 5, progress=False)
        assert capfd.readouterr() == ("", "")
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_trials": -1}, "n_trials must not be negative"),
        *(
            ({"n_trials": wrong}, f"^n_trials must be a whole number, not {wrong!r}: the total")
            for wrong in (None, "3", 2.5, True)
        ),
        ({"timeout": 0}, "timeout must be a positive number of seconds, not 0"),
        ({"trial_timeout": float("nan")}, "trial_timeout must be a positive number"),
        ({"objective": 3}, "a function from a trial to a number, not 3"),
        ({"objective": mo.evaluators.Function(len)}, r"to a number, not .*Function.*MergeObj"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    study = optuna.create_study()
    with pytest.raises(StudyError, match=message):
        mo.optimize(study, **{"objective": sphere, "n_trials": 2, **arguments})
    assert study.trials == []


def test_a_total_of_numpy() -> None:
    study = optuna.create_study()
    mo.optimize(study, sphere, np.int64(3), progress=False)
    assert len(study.trials) == 3


# -- ctrl-C -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("where", ["alone", "storing"])
def test_ctrl_c_within_a_plain_objective(where: str, tmp_path: Path) -> None:
    """It is raised at once, except within the storage: then after the trial."""
    storage = mo.storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage)
    reached: list[int] = []
    hit: list[str] = []

    @sqlalchemy.event.listens_for(storage.engine, "before_cursor_execute")
    def _interrupt(_: Any, __: Any, statement: str, *___: Any) -> None:
        stores = "INSERT INTO trial_params" in statement
        if where == "storing" and reached == [0] and stores and not hit:
            hit.append(statement)
            signal.raise_signal(signal.SIGINT)

    def objective(trial: optuna.Trial) -> float:
        value = sphere(trial)
        if where == "alone" and trial.number == 1:
            signal.raise_signal(signal.SIGINT)
        reached.append(trial.number)
        return value

    with pytest.raises(KeyboardInterrupt):
        mo.optimize(study, objective, 5, progress=False)
    assert reached == ([0] if where == "alone" else [0, 1])
    assert [t.state.name for t in study.trials][1:] == ["FAIL" if where == "alone" else "COMPLETE"]
    assert counts(study)["failed"] == 0, "it is nobody's fault"
    mo.optimize(study, sphere, 5, progress=False)
    assert counts(study) == {"complete": 5, "pruned": 0, "failed": 0, "running": 0}


# -- trials that take too long -----------------------------------------------------------------

TOO_LONG = "It took longer than trial_timeout=1 seconds."


def stubborn() -> None:
    """An evaluator that swallows whatever is raised in it, once."""
    with contextlib.suppress(BaseException):
        time.sleep(600)
    time.sleep(600)


def busy() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    "hang",
    [functools.partial(time.sleep, 600), busy, stubborn, threading.Event().wait],
    ids=["asleep", "busy", "stubborn", "waiting"],
)
def test_a_trial_that_takes_too_long_fails(hang: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGALRM)
    sampler = CmaEsSampler({"x": optuna.distributions.FloatDistribution(0, 1)}, seed=0)
    study = optuna.create_study(sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if trial.number == 1:
            hang()
        return x

    mo.optimize(study, objective, 1, progress=False)  # imports what it needs, without a limit
    mo.optimize(study, objective, 3, trial_timeout=1, progress=False)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert failure(study.trials[1]) == study.trials[1].user_attrs["reason"] == TOO_LONG
    assert study.trials[2].params == study.trials[1].params, "it is tried again"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_merge_objective_takes_too_long(task: Task, tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(model: Any) -> float:
        calls.append(1)
        if len(calls) == 3:
            try:
                time.sleep(600)
            except Exception:  # what evaluators do with errors
                return 0.0
        return 1.0

    objective = mo.MergeObjective(task.recipe(), evaluate)
    objective.score(task.checkpoints()[0])  # whatever is compiled at first
    search = mo.MergeStudy("s", objective, n_trials=3, trial_timeout=600, baselines=False)
    study = search.run(f"sqlite:///{tmp_path}/s.db", trial_timeout=3, progress=False)
    assert counts(study) == {"complete": 3, "pruned": 0, "failed": 1, "running": 0}
    assert study.trials[1].user_attrs["reason"] == TOO_LONG.replace("1", "3")


def test_the_storage_is_never_interrupted(tmp_path: Path) -> None:
    storage = mo.storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage)
    dawdled: list[None] = []

    @sqlalchemy.event.listens_for(storage.engine, "before_cursor_execute")
    def _dawdle(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "INSERT INTO trial_params" in statement and not dawdled:
            dawdled.append(time.sleep(1.5))

    reached = []

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        reached.append(trial.number)
        if trial.number == 0:
            time.sleep(600)
        return 1.0

    mo.optimize(study, objective, 1, trial_timeout=1, progress=False)
    assert reached == [0, 1], "the parameter is stored, then the trial is interrupted"
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE"]


def test_another_thread_cannot_be_interrupted() -> None:
    study = optuna.create_study()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(mo.optimize, study, sphere, 1, trial_timeout=1, progress=False)
        with pytest.raises(StudyError, match="in the main thread"):
            running.result()
        pool.submit(mo.optimize, study, sphere, 1, progress=False).result()
    assert len(study.trials) == 1


# -- what a declared search begins with --------------------------------------------------------


def places(study: optuna.Study) -> list[tuple[int, str]]:
    marked = [t for t in study.trials if "first" in t.user_attrs]
    return [(t.user_attrs["first"], t.state.name) for t in marked]


def test_copies_of_the_first_trials_are_left_out(task: Task, tmp_path: Path) -> None:
    """As two processes queue them that have both seen an empty study."""
    search = workers.declared(task, first=3, n_trials=6)
    url = f"sqlite:///{tmp_path}/s.db"
    study = search.open(url)
    for place in (1, 2):
        study.enqueue_trial(dict(search.first[place]), user_attrs={"first": place})
    search.run(url, progress=False)
    assert counts(study) == {"complete": 6, "pruned": 0, "failed": 0, "running": 0}
    complete = [(place, "COMPLETE") for place in range(3)]
    assert places(study) == [*complete, (1, "FAIL"), (2, "FAIL")]


def test_first_trials_of_a_killed_process_are_queued_again(task: Task, tmp_path: Path) -> None:
    search = workers.declared(task, first=3, n_trials=5)
    url = f"sqlite:///{tmp_path}/s.db"
    study = search.open(url)
    with pytest.warns(UserWarning, match="Heartbeat"):
        study.ask()
    fail_as_killed(study, study.trials[0])  # what the next process does
    search.run(url, progress=False)
    assert counts(study)["complete"] == 5
    assert places(study) == [(0, "FAIL"), (1, "COMPLETE"), (2, "COMPLETE"), (0, "COMPLETE")]
    search.run(url, n_trials=6, progress=False)
    assert len(places(study)) == 4


def test_first_trials_are_not_for_a_search_that_has_begun(task: Task, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    workers.declared(task, first=0, n_trials=1).run(url, progress=False)
    assert places(workers.declared(task, first=2, n_trials=3).run(url, progress=False)) == []


# -- several processes ------------------------------------------------------------------------


def checked(scheme: str, folder: Path, total: int) -> optuna.Study:
    """The study, after so many trials that were evaluated."""
    study = optuna.load_study(study_name=workers.NAME, storage=workers.storage(scheme, folder))
    assert sum(t.state in COUNTED for t in study.trials) == total
    running = [t for t in study.trials if t.state == TrialState.RUNNING]
    assert [owner_of(t) for t in running] == [None] * len(running)
    return study


@pytest.mark.parametrize("scheme", STORAGES)
@pytest.mark.parametrize("kind", workers.KINDS)
def test_processes_started_at_once(kind: str, scheme: str, task: Task, tmp_path: Path) -> None:
    total = 12
    start = functools.partial(
        processes.call, workers.run, kind, scheme, tmp_path, total, task.root, 4, cwd=tmp_path
    )
    for running in [start() for _ in range(4)]:
        result = running.wait()
        assert result.code == 0, result.err
        assert "Trial 0 finished" not in result.err
    study = checked(scheme, tmp_path, total)
    assert counts(study)["running"] == 0
    assert len({owner["pid"] for t in study.trials if (owner := owner_of(t))}) > 1
    first = [place for place, state in places(study) if state == "COMPLETE"]
    assert sorted(first) == ([0, 1, 2] if kind == "declared" else [])


@pytest.mark.parametrize("scheme", STORAGES)
def test_one_of_them_is_killed(scheme: str, task: Task, tmp_path: Path) -> None:
    total = 20
    start = functools.partial(
        processes.call, workers.run, "plain", scheme, tmp_path, total, task.root, cwd=tmp_path
    )
    killed, *others = [start(4) for _ in range(4)]
    storage = workers.storage(scheme, tmp_path)
    while not optuna.get_all_study_names(storage):
        time.sleep(0.02)
    study = optuna.load_study(study_name=workers.NAME, storage=storage)
    while len(study.trials) < 6:
        time.sleep(0.02)
    killed.kill()
    for running in (start(0), *others):
        result = running.wait()
        assert result.code == 0, result.err
    checked(scheme, tmp_path, total)


def test_a_search_that_completes_nothing_says_why(
    task: Task, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(direction="maximize")
    objective = mo.MergeObjective(task.recipe(), lambda model: float("nan"))
    mo.optimize(study, objective, n_trials=2)
    said = capsys.readouterr().err
    assert "No trial was completed" in said
    assert "The score is not finite: nan" in said
