"""What has to hold for a front that is found: kills change nothing, and files score the same."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from _fronts_experiment import Experiment, Inputs
from _fronts_search import OURS, declared

import merge_optuna as mo

Make = Callable[[Path, Inputs], Experiment]  # in a work folder
Trial = tuple[dict[str, Any], list[float]]  # parameters and values


def killed(
    make: Make, folder: Path, inputs: Inputs, seed: int, expected: list[Trial]
) -> dict[str, Any]:
    """Runs a search in a process that is killed in its middle, and goes on.

    Args:
        make: Makes the experiment, here and in the process.
        folder: Where its models are.
        inputs: Of the experiment.
        seed: Of the search.
        expected: The first trials of the search that was not killed.

    Returns:
        How many trials there were when it was killed, how many it has made, and of those how many
        are as expected.
    """
    place = folder / "killed.json"
    if not place.exists():
        shutil.rmtree(folder / "killed", ignore_errors=True)
        (folder / "killed").mkdir()
        storage = f"sqlite:///{folder / 'killed' / 'search.db'}"
        study = declared(make(folder, inputs), OURS, seed, len(expected)).open(storage)
        arguments = (make, folder, inputs, seed, storage, len(expected))
        process = multiprocessing.get_context("spawn").Process(target=_run, args=arguments)
        process.start()
        while process.is_alive() and len(done(study)) < len(expected) // 2:
            time.sleep(0.02)  # the database is all that tells how far another process is
        process.kill()  # SIGKILL
        process.join()
        at = len(done(study))
        _run(*arguments)
        same = sum(one == other for one, other in zip(done(study), expected, strict=True))
        found = {"code": process.exitcode, "at": at, "same": same, "of": len(expected)}
        place.write_text(json.dumps(found))
    return json.loads(place.read_text())


def _run(make: Make, folder: Path, inputs: Inputs, seed: int, storage: str, n_trials: int) -> None:
    torch.set_num_threads(1)  # as in the process that was not killed
    declared(make(folder, inputs), OURS, seed, n_trials).run(storage, progress=False)


def done(study: optuna.Study) -> list[Trial]:
    """Parameters and values of all completed trials, in their order."""
    complete = (optuna.trial.TrialState.COMPLETE,)
    return [(t.params, t.values) for t in study.get_trials(deepcopy=False, states=complete)]


def exported(experiment: Experiment, study: optuna.Study, folder: Path) -> list[dict[str, Any]]:
    """Writes the three points of a front that spread best, and scores the files.

    Returns:
        Of each its values in the study, and those of what plain transformers has loaded.
    """
    heads = getattr(experiment.dev, "heads", None)
    folders = mo.export_front(study, folder, most=3, heads=heads, force=True)
    values = {f"trial-{point.number:05}": point.values for point in mo.pareto(study)}
    return [
        {"trial": one.name, "study": values[one.name], "plain": experiment.plain(one)}
        for one in folders
    ]
