"""MergeStudy: the total is reached, never exceeded, by one process or several."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.samplers import CmaEsSampler
from merge_optuna.samplers.plumbing import owner_of
from merge_optuna.study import counts
from merge_optuna.testing import on_write
from tests import processes
from tests.trained import Task, read_rows, right

optuna.logging.set_verbosity(optuna.logging.ERROR)


def declared(
    task: Task, evaluate: Callable[[nn.Module], float] = lambda model: 1.0, **options: Any
) -> mo.MergeStudy:
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    options = {"n_trials": 4, **options}
    return mo.MergeStudy("toy", mo.MergeObjective(recipe, evaluate), **options, baselines=False)


# -- one process ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_started_again_it_runs_what_is_missing(task: Task, scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}:///{tmp_path}/s"
    search = declared(task)
    assert len(search.run(url, progress=False).trials) == 4
    assert len(search.run(url, progress=False).trials) == 4
    study = search.run(url, n_trials=6, progress=False)
    assert len(study.trials) == 6
    assert (mo.remaining(study, 10), mo.remaining(study, 3)) == (4, 0)
    whole = declared(task, n_trials=6).run(None, progress=False)
    assert [t.params for t in study.trials] == [t.params for t in whole.trials]


def test_pruned_trials_count_and_failed_ones_do_not(task: Task) -> None:
    scores = iter([1.0, float("nan"), OSError("gone"), 1.0, OSError("gone"), 1.0, 1.0])

    def evaluate(model: nn.Module) -> float:
        score = next(scores)
        if isinstance(score, OSError):
            raise score
        return score

    study = declared(task, evaluate).run(None, progress=False)
    assert counts(study) == {"complete": 3, "pruned": 1, "failed": 2, "running": 0}


def test_ten_failed_candidates_in_a_row_end_it(task: Task, tmp_path: Path) -> None:
    calls = []

    def evaluate(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) != 10:
            raise OSError(f"call {len(calls)}")
        return 1.0

    whole = declared(task).run(None, progress=False)
    search = declared(task, evaluate, sampler=task_sampler(whole))
    with pytest.raises(StudyError) as caught:
        search.run(f"sqlite:///{tmp_path}/s.db", progress=False)
    assert len(calls) == 20, "nine failures, a success, ten failures"
    message = str(caught.value)
    assert message.startswith("10 candidates in a row have failed in 'toy'. The first of them:\n")
    assert "in evaluate" in message
    assert message.endswith("OSError: call 11\n")


@pytest.mark.parametrize(
    ("method", "after", "count"),
    [
        ("create_new_trial", False, 2),
        ("set_trial_system_attr", False, 2),
        ("set_trial_system_attr", True, 1),  # signed
        ("set_trial_system_attr", True, 2),  # signed and claimed
        ("set_trial_param", True, 1),
        ("set_trial_state_values", False, 2),  # Optuna 5.0: an UnboundLocalError
        ("set_trial_state_values", True, 2),
    ],
)
def test_ctrl_c_anywhere(task: Task, method: str, after: bool, count: int) -> None:
    points = []

    def hook(k: int, name: str, is_after: bool) -> None:
        points.append((name, is_after))
        if points.count((method, after)) == count and points[-1] == (method, after):
            raise KeyboardInterrupt

    storage = on_write(optuna.storages.InMemoryStorage(), hook)
    whole = declared(task).run(None, progress=False)
    search = declared(task, sampler=task_sampler(whole))
    with pytest.raises(KeyboardInterrupt):
        search.run(storage, progress=False)
    study = search.run(storage, progress=False)
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert [t.params for t in done] == [t.params for t in whole.trials]
    assert not any(t.state == TrialState.RUNNING for t in study.trials)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "method",
    ["create_new_trial", "set_trial_system_attr", "set_trial_param", "set_trial_state_values"],
)
def test_a_signal_never_hits_the_storage(task: Task, method: str, after: bool) -> None:
    """What raises in the test above is kept for later: nothing of Optuna is interrupted."""
    points = []

    def hook(k: int, name: str, is_after: bool) -> None:
        points.append((name, is_after))
        if points[-1] == (method, after) and points.count((method, after)) == 2:
            signal.raise_signal(signal.SIGINT)
            points.append(("not raised", after))

    whole = declared(task).run(None, progress=False)
    search = declared(task, sampler=task_sampler(whole))
    storage = on_write(optuna.storages.InMemoryStorage(), hook)
    with pytest.raises(KeyboardInterrupt):
        search.run(storage, progress=False)
    assert ("not raised", after) in points
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    study = search.open(storage)
    assert 1 <= len(study.trials) <= 2, "it ends with the trial under way"
    assert all(t.state.is_finished() for t in study.trials)
    search.run(storage, progress=False)
    done = [t.params for t in study.trials if t.state == TrialState.COMPLETE]
    assert done == [t.params for t in whole.trials]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("outcome", ["raised", "swallowed", "another error", "twice"])
def test_a_signal_while_evaluating(task: Task, outcome: str) -> None:
    calls = []

    def evaluate(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) != 2:
            return 1.0
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if outcome == "another error":
                raise OSError("could not read") from None
            if outcome == "twice":
                signal.raise_signal(signal.SIGINT)
            if outcome != "swallowed":
                raise
        return 1.0

    whole = declared(task).run(None, progress=False)
    storage = optuna.storages.InMemoryStorage()
    search = declared(task, evaluate, sampler=task_sampler(whole))
    with pytest.raises(KeyboardInterrupt):
        search.run(storage, progress=False)
    assert len(calls) == 2
    study = search.run(storage, progress=False)
    done = [t.params for t in study.trials if t.state == TrialState.COMPLETE]
    assert done == [t.params for t in whole.trials], "no candidate is blamed"
    assert counts(study)["failed"] == 0


@pytest.mark.usefixtures("ctrl_c")
def test_somebody_else_handles_ctrl_c(task: Task) -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    search = declared(task, lambda model: signal.raise_signal(signal.SIGINT) or 1.0)
    search.run(None, progress=False)
    assert len(seen) == 4


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_ignored_where_it_was(task: Task) -> None:
    """Under nohup, in cron, in the background of a script: Unix wants it to go on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    search = declared(task, lambda model: signal.raise_signal(signal.SIGINT) or 1.0)
    study = search.run(None, progress=False)
    assert counts(study)["complete"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def task_sampler(study: optuna.Study) -> CmaEsSampler:
    """The sampler of a study, except that a candidate may fail but once."""
    return CmaEsSampler(study.trials[0].distributions, seed=0, max_attempts=1)


def test_what_is_shown(task: Task, capfd: pytest.CaptureFixture[str]) -> None:
    scores = iter([0.25, OSError("the disk is gone"), 0.75])

    def evaluate(model: nn.Module) -> float:
        score = next(scores)
        if isinstance(score, OSError):
            raise score
        return score

    search = declared(task, evaluate, n_trials=2)
    search.run(None)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Trial 1 failed: OSError: the disk is gone" in err
    last = err.splitlines()[-1]
    assert last.startswith("toy: 2/2 [")
    assert "best=0.75, pruned=0, failed=1" in last
    declared(task).run(None, progress=False)
    assert capfd.readouterr().err == ""


def test_test_data(task: Task) -> None:
    search = declared(task, test=mo.evaluators.Classification(task.test))
    study = search.run(None, progress=False)
    recipe = mo.recipe_of(study)
    expected = right(mo.Engine().load(recipe), read_rows(task.test)).mean()
    assert search.test_value(study, recipe) == expected
    with pytest.raises(StudyError, match="without test="):
        declared(task).test_value(study, recipe)


def test_a_study_of_another_direction_gets_no_trial(task: Task, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(study_name="toy", storage=url, direction="minimize")
    with pytest.raises(StudyError, match="'toy' is to minimize"):
        declared(task).run(url, progress=False)
    with pytest.raises(StudyError, match="HyperbandPruner"):
        declared(task, pruner=optuna.pruners.HyperbandPruner()).run(None, progress=False)
    assert study.trials == []


# -- trials that nobody runs ------------------------------------------------------------------


@pytest.mark.parametrize("left", ["dead", "elsewhere"])
def test_trials_that_nobody_runs_are_not_waited_for(task: Task, left: str, tmp_path: Path) -> None:
    """A process was killed before it could sign its trial; a machine has not come back."""
    url = {"dead": f"sqlite:///{tmp_path}/s.db", "elsewhere": f"journal:///{tmp_path}/s.log"}[left]
    storage = mo.storage(url)
    study = declared(task).open(storage)
    trial_id = storage.create_new_trial(study._study_id)
    if left == "elsewhere":  # and a journal has no heartbeat
        owner = {"trial": 0, "host": "elsewhere", "pid": 1, "start": 1}
        storage.set_trial_system_attr(trial_id, "merge_optuna:owner", owner)
    sampler = "optuna.samplers.RandomSampler(0)"
    lines = "recipe = mo.recipes.task_arithmetic(base, [a, b], weight=mo.free(0, 1))"
    file = task.file(
        tmp_path / "search.py",
        n_trials=2,
        sampler=sampler,
        test=None,
        lines=f"{lines}; objective = mo.MergeObjective(recipe, lambda model: 1.0)",
    )
    result = processes.command("run", file, "--storage", url, cwd=tmp_path).wait()
    assert result.code == 0, result.err
    assert counts(study) == {"complete": 2, "pruned": 0, "failed": 0, "running": 1}


# -- several processes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "workers"), [("None", 3), ("optuna.samplers.TPESampler()", 2)]
)
def test_several_processes_never_exceed_the_total(
    task: Task, sampler: str, workers: int, tmp_path: Path
) -> None:
    lines = """
import os, pathlib, time
class Together(mo.evaluators.Classification):
    def __call__(self, model):
        pathlib.Path(f"here-{os.getpid()}").touch()
        while len(list(pathlib.Path(".").glob("here-*"))) < 2:
            time.sleep(0.02)
        yield from super().__call__(model)
objective = mo.MergeObjective(recipe, Together("DEV", batch_size=20))
"""
    lines = lines.replace("DEV", str(task.dev))
    file = task.file(tmp_path / "search.py", n_trials=9, sampler=sampler, lines=lines)
    several = [processes.command("run", file, cwd=tmp_path) for _ in range(workers)]
    for result in [running.wait() for running in several]:
        assert result.code == 0, result.err
        assert "9 complete" in result.out, "nobody leaves before the search is complete"
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(done) == 9
    pids = {owner["pid"] for t in done if (owner := owner_of(t)) is not None}
    assert len(pids) > 1, "at least two of them took part"


def test_processes_that_take_the_cores_from_each_other(task: Task, tmp_path: Path) -> None:
    lines = """
import os, pathlib, time
torch.set_num_threads(os.cpu_count() if os.environ["MANY"] == "yes" else 1)
here = lambda: list(pathlib.Path(".").glob(f"here-{os.environ['MANY']}-*"))
seconds = []  # of a trial: more for the process that was here first
def evaluate(model):
    seconds.append(0.1 if here() else 0.5)
    pathlib.Path(f"here-{os.environ['MANY']}-{os.getpid()}").touch()
    while len(here()) < 2:
        time.sleep(0.02)
    time.sleep(seconds[0])
    return 1.0
objective = mo.MergeObjective(recipe, evaluate)
"""
    file = task.file(tmp_path / "search.py", n_trials=6, lines=lines, test=None)
    for many in ("yes", "no"):
        url = f"sqlite:///{tmp_path}/{many}.db"
        both = [
            processes.command("run", file, "--storage", url, cwd=tmp_path, env={"MANY": many})
            for _ in range(2)
        ]
        errs = [running.wait().err for running in both]
        said = [err.count("2 processes of this machine run") for err in errs]
        assert max(said) == (many == "yes"), errs


def test_the_others_do_the_trial_of_a_killed_one(task: Task, tmp_path: Path) -> None:
    file = task.file(
        tmp_path / "search.py",
        n_trials=2,
        lines="""
import os, pathlib, signal, time
scores = objective.evaluator
class Slow:
    directions, metric_names, value = scores.directions, scores.metric_names, scores.value
    def __len__(self):
        return len(scores)
    def __call__(self, model):
        if os.environ.get("DIE"):
            pathlib.Path("evaluating").touch()
            while not pathlib.Path("die").exists():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        yield from scores(model)
objective.evaluator = Slow()
""",
    )
    first = processes.command("run", file, cwd=tmp_path, env={"DIE": "1"})
    _until((tmp_path / "evaluating").exists)
    second = processes.command("run", file, cwd=tmp_path)
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    _until(lambda: len(study.trials) == 3)  # the second has done one and waits for the other
    waiting = {"complete": 1, "pruned": 0, "failed": 0, "running": 1}
    _until(lambda: counts(study) == waiting)
    time.sleep(0.5)
    assert counts(study) == waiting
    (tmp_path / "die").touch()
    assert first.wait().code == -9
    assert second.wait().code == 0
    assert counts(study) == {"complete": 2, "pruned": 0, "failed": 1, "running": 0}


def _until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
