"""A search that dies while it is shown, for tests/reports/test_kill.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna.reports import _artifacts

NAME = "s"
SPACE = {name: FloatDistribution(-1, 1) for name in "xyz"}
TRIALS = 16


def sphere(trial: optuna.Trial) -> float:
    values = [trial.suggest_float(name, -1, 1) for name in SPACE]
    mo.set_scores(trial, values)
    return sum(value**2 for value in values)


def run(url: str, point: str, call: int, reports: bool) -> None:
    """Runs the search, and dies at a call of what it is shown with.

    Args:
        url: Of the storage.
        point: ``"before"`` or ``"after"``, and the name of what is called; empty for no death.
        call: At which call.
        reports: Whether it is shown.
    """
    when, _, name = point.partition(" ")
    if name:
        owner: Any = {"_write": _artifacts.Artifacts, "set_attrs": compat}.get(name, compat)
        setattr(owner, name, _deadly(getattr(owner, name), when == "after", call))
    storage = mo.storage(url)
    sampler = mo.samplers.DESampler(SPACE, population_size=4, seed=0)
    study = optuna.create_study(
        study_name=NAME, storage=storage, sampler=sampler, load_if_exists=True
    )
    mo.optimize(study, sphere, TRIALS, progress=False, reports=reports)


def _deadly(function: Callable[..., Any], after: bool, call: int) -> Callable[..., Any]:
    calls = [0]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*args, **kwargs)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return deadly


def trials(folder: Path, scheme: str) -> list[tuple[dict[str, Any], Any, Any]]:
    """What the search has found, in its order, without those that died."""
    study = optuna.load_study(study_name=NAME, storage=mo.storage(f"{scheme}:///{folder}/s"))
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    return [(t.params, t.values, t.system_attrs["merge_optuna:scores"]) for t in complete]
