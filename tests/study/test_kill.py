"""``kill -9`` of ``merge-optuna run`` on SQLite, then the same command again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests import processes
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

TRIALS = 8  # populations of four
FATAL = 5  # the trial in which it is killed: the second of the second population

# The study file kills its own process, where the environment says.
LINES = """
import os, signal
from itertools import count
from merge_optuna.testing import on_write

trials, batches = count(), count()
trial, point = -1, os.environ.get("KILL")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def hook(k, method, after):
    global trial
    if method == "create_new_trial" and not after:
        trial = next(trials)
    if trial == FATAL and point == f"{'after' if after else 'before'} {method}":
        die()

class Killed(mo.MergeStudy):
    def run(self, storage, **options):
        return super().run(on_write(storage, hook) if point else storage, **options)

class Evaluator(mo.evaluators.Classification):
    def __call__(self, model):
        for step, batch in enumerate(super().__call__(model)):
            if trial == FATAL and point == f"batch {step}":
                die()
            yield batch

objective = mo.MergeObjective(recipe, Evaluator("DEV", batch_size=20))
mo.MergeStudy = Killed
"""

POINTS = [
    "after create_new_trial",
    "after set_trial_system_attr",  # signed and claimed, nothing suggested yet
    "after set_trial_intermediate_value",
    "batch 5",
    "before set_trial_state_values",
    "after set_trial_state_values",
]


def finished(folder: Path) -> list[dict[str, Any]]:
    """What is kept of the finished trials, in their order."""
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{folder}/toy.db")
    return [
        {
            "number": t.number,
            "params": t.params,
            "values": t.values,
            "scores": t.system_attrs["merge_optuna:scores"],
            "intermediate": t.intermediate_values,
        }
        for t in study.trials
        if t.state == TrialState.COMPLETE
    ]


def without_numbers(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in trial.items() if k != "number"} for trial in trials]


def search(task: Task, folder: Path, kill: str) -> processes.Running:
    folder.mkdir(exist_ok=True)
    lines = LINES.replace("FATAL", str(FATAL)).replace("DEV", str(task.dev))
    sampler = "recipe.sampler(seed=3, population_size=4)"
    pruner = "optuna.pruners.MedianPruner(n_startup_trials=100)"  # reads, and prunes nothing
    options = {"sampler": sampler, "pruner": pruner, "test": None}
    file = task.file(folder / "search.py", n_trials=TRIALS, lines=lines, **options)
    return processes.command("run", file, "--json", cwd=folder, env={"KILL": kill})


@pytest.fixture(scope="module")
def whole(task: Task, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert search(task, folder, "").wait().code == 0
    trials = finished(folder)
    assert [t["number"] for t in trials] == list(range(TRIALS))
    assert len({tuple(t["params"].values()) for t in trials}) == TRIALS
    return trials


@pytest.mark.parametrize("points", [POINTS[0::2], POINTS[1::2]])
def test_killed_and_started_again(
    task: Task, whole: list[dict[str, Any]], points: list[str], tmp_path: Path
) -> None:
    folders = [tmp_path / point.replace(" ", "-") for point in points]
    killed = [search(task, folder, point) for folder, point in zip(folders, points, strict=True)]
    assert [running.wait().code for running in killed] == [-9] * len(points)
    before = [finished(folder) for folder in folders]
    again = [search(task, folder, "") for folder in folders]
    for point, folder, kept, running in zip(points, folders, before, again, strict=True):
        result = running.wait()
        assert result.code == 0, result.err
        assert kept == whole[: FATAL + (point == "after set_trial_state_values")]
        after = finished(folder)
        assert after[: len(kept)] == kept, "no finished trial is lost"
        assert without_numbers(after) == without_numbers(whole), "bit for bit"
