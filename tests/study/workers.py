"""Searches that any number of processes run at once, for tests and benchmarks/processes.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

import merge_optuna as mo
from tests.trained import Task

NAME = "s"
KINDS = ("plain", "merging", "declared")


def run(kind: str, scheme: str, folder: Path, total: int, root: Path, together: int = 0) -> None:
    """One process: the same, however often it is started.

    Args:
        kind: Which of the searches.
        scheme: ``"sqlite"`` or ``"journal"``.
        folder: Where the database lies.
        total: Trials in all.
        root: Where the models of :class:`Task` lie.
        together: It begins once so many processes are there.
    """
    _SEARCHES[kind](scheme, folder, total, Task(root), together)


def storage(scheme: str, folder: Path) -> BaseStorage:
    return mo.storage(f"{scheme}:///{folder}/s")


def sphere(trial: optuna.Trial) -> float:
    return sum(trial.suggest_float(name, -1, 1) ** 2 for name in "xy")


def _plain(scheme: str, folder: Path, total: int, task: Task, together: int) -> None:
    """Optuna's sampler and a function, that is now and then pruned or raises."""
    wait_for(together, folder)
    study = optuna.create_study(
        study_name=NAME,
        storage=storage(scheme, folder),
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(),
    )

    def objective(trial: optuna.Trial) -> float:
        value = sphere(trial)
        time.sleep(0.005)
        if trial.number % 5 == 2:
            raise optuna.TrialPruned
        if trial.number % 5 == 3:
            raise OSError("injected")
        return value

    mo.optimize(study, objective, total)
    assert mo.remaining(study, total) == 0, "nobody leaves before the total is reached"


def _merging(scheme: str, folder: Path, total: int, task: Task, together: int) -> None:
    """The script of the README."""
    base, *experts = task.checkpoints()
    recipe = mo.recipes.dare_ties(
        base, experts, weight=mo.free(0, 1, per="layer"), density=mo.free(0.1, 1, per=mo.depth(5))
    )
    objective = mo.MergeObjective(recipe, mo.evaluators.Classification(task.dev, batch_size=40))
    wait_for(together, folder)
    study = optuna.create_study(
        study_name=NAME,
        storage=storage(scheme, folder),
        load_if_exists=True,
        directions=objective.directions,
        sampler=recipe.sampler(seed=0),
        pruner=optuna.pruners.WilcoxonPruner(),
    )
    mo.optimize(study, objective, n_trials=total)


def _declared(scheme: str, folder: Path, total: int, task: Task, together: int) -> None:
    search = declared(task, first=3, n_trials=total)
    wait_for(together, folder)
    search.run(storage(scheme, folder))


_SEARCHES = dict(zip(KINDS, (_plain, _merging, _declared), strict=True))


def declared(task: Task, first: int, n_trials: int) -> mo.MergeStudy:
    """A search that begins with so many points of its own."""
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    return mo.MergeStudy(
        NAME,
        mo.MergeObjective(recipe, lambda model: 1.0),
        n_trials=n_trials,
        first=[dict.fromkeys(recipe.distributions(), i / 10) for i in range(first)],
        baselines=False,
    )


def wait_for(number: int, folder: Path) -> None:
    """Until so many processes have called it with this folder."""
    (folder / f"ready-{os.getpid()}").touch()
    while len(list(folder.glob("ready-*"))) < number:
        time.sleep(0.005)
