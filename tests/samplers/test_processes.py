"""Real processes: kills at writes, several workers, another hash seed; for every sampler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import optuna
import pytest

from merge_optuna.samplers import Box
from merge_optuna.testing import textbook
from tests.samplers import replay
from tests.samplers.driver import SAMPLERS, SPACE, WRITES, objective_of
from tests.samplers.storages import make_storage

ROOT = Path(__file__).parents[2]
ALL = "de"  # is killed at all of them, the others at three

pytestmark = pytest.mark.filterwarnings("ignore:.* has no per-example scores")

Drive: TypeAlias = Callable[..., Any]


@contextmanager
def a_driver(**env: str) -> Iterator[Drive]:
    """The driver as a process: ``drive(task, folder, …)`` performs one of its tasks."""
    command = [sys.executable, "-m", "tests.samplers.driver"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def drive(task: str, folder: Path, *arguments: Any) -> Any:
        process.stdin.write(json.dumps([task, str(folder), *arguments]) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        assert process.stdout.readline() == "0\n"  # type: ignore[union-attr]
        return json.loads((folder / "answer.json").read_text())

    yield drive
    process.stdin.close()
    assert process.wait() == 0


@pytest.fixture(scope="module")
def drive() -> Iterator[Drive]:
    with a_driver() as drive:
        yield drive


def size(sampler: str) -> int:
    number = SAMPLERS[sampler]().population_size()
    assert number is not None
    return number


def reference(sampler: str, n_trials: int) -> list[dict[str, Any]]:
    """The textbook loop on the driver's objective, whose constraint always holds."""

    def evaluate(params: dict[str, Any]) -> Any:
        return objective_of(sampler)(optuna.trial.FixedTrial(params))

    algorithm = SAMPLERS[sampler]()._algorithm
    return textbook(algorithm, SPACE, evaluate, seed=1, n_trials=n_trials)


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_killed_at_writes_and_started_again(
    sampler: str, storage: str, drive: Drive, tmp_path: Path
) -> None:
    """The trial killed is the last of generation 0: what follows depends on its result."""
    some = ["before claim", "after claim", "after tell"]
    every = [f"{when} {write}" for write in WRITES[storage] for when in ("before", "after")]
    instants = every if sampler == ALL else some
    first = max(size(sampler), 5)
    results = drive("kills", tmp_path, sampler, storage, instants, first - 1, first + 3)
    expected = reference(sampler, first + 3)
    assert len(results) == len(instants)
    for instant, result in results.items():
        finished = first if instant == "after tell" else first - 1
        assert result["kept"] == expected[:finished], instant
        assert result["params"] == expected, instant
        # Only a trial that nobody has signed yet stays behind, as nobody can tell whose it is.
        orphans = 1 if instant in ("after create", f"before {WRITES[storage][1]}") else 0
        assert result["states"].count("RUNNING") == orphans, instant


def test_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    with a_driver(PYTHONHASHSEED="1") as drive:
        for sampler in SAMPLERS:
            expected = reference(sampler, max(20, 3 * size(sampler)))
            assert drive("params", tmp_path, sampler, "memory", len(expected)) == expected


@pytest.mark.parametrize(
    ("sampler", "storage"),
    [*((sampler, "sqlite") for sampler in SAMPLERS), ("cmaes", "journal"), ("de", "journal")],
)
def test_four_workers_and_a_person(
    sampler: str, storage: str, drive: Drive, tmp_path: Path
) -> None:
    assert drive("workers", tmp_path, sampler, storage, 25) == [0, 0, 0, -9]
    study = optuna.load_study(study_name="s", storage=make_storage(storage, tmp_path))
    trials = study.trials
    states = [t.state.name for t in trials]

    # No trial is lost: only the person's is still running, and the total was reached.
    assert [n for n, state in enumerate(states) if state == "RUNNING"] == [0]
    assert 25 <= states.count("COMPLETE") + states.count("PRUNED") <= 28
    unclaimed = [states[n] for n in range(1, len(trials)) if n not in replay.claims_of(trials)]
    assert unclaimed in ([], ["FAIL"])  # the worker killed, if that was before its claim

    assert replay.doubly_assigned(trials) == []
    assert replay.wrong_values(trials, Box(SPACE)) == []
    assert replay.contradictions(trials, SAMPLERS[sampler]()) == []
    assert max(claim.generation for claim in replay.claims_of(trials).values()) >= 2
