"""Real processes: kills at every write, several workers, another hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from merge_optuna.samplers import Box, CmaEs
from merge_optuna.samplers._log import Claim, Log, own_claim
from merge_optuna.samplers._stored import CANDIDATE, keyed_rng
from merge_optuna.testing import textbook
from tests.samplers.driver import SPACE, objective
from tests.samplers.storages import make_storage

ROOT = Path(__file__).parents[2]
SIZE = 7  # of a population in three dimensions


def drive(*args: object, **env: str) -> Any:
    command = [sys.executable, "-m", "tests.samplers.driver", *map(str, args)]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def reference(generations: int) -> list[dict[str, Any]]:
    """The textbook loop on the driver's objective, whose constraint always holds."""

    def evaluate(params: dict[str, Any]) -> float:
        return objective(optuna.trial.FixedTrial(params))

    return textbook(CmaEs(), SPACE, evaluate, seed=1, n_trials=generations * SIZE)


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_killed_at_every_write_and_started_again(storage: str, tmp_path: Path) -> None:
    """Trial 6 is the last of generation 0: what follows depends on its result."""
    results = drive("kills", tmp_path, storage, SIZE - 1, SIZE + 3)
    assert len(results) == 20
    expected = reference(2)[: SIZE + 3]
    for case, result in results.items():
        finished = SIZE if case == "10-True" else SIZE - 1  # killed after the last write
        assert result["kept"] == expected[:finished], case
        assert result["params"] == expected, case
        # Only a trial that nobody has signed yet stays behind, as nobody can tell whose it is.
        orphans = 1 if case in ("1-True", "2-False") else 0
        assert result["states"].count("RUNNING") == orphans, case


def test_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    expected = reference(3)
    for seed in ("1", "2"):
        assert drive("params", tmp_path, "memory", 3 * SIZE, PYTHONHASHSEED=seed) == expected


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_four_workers_and_a_person(storage: str, tmp_path: Path) -> None:
    assert drive("workers", tmp_path, storage, 30) == [0, 0, 0, -9]
    study = optuna.load_study(study_name="s", storage=make_storage(storage, tmp_path))
    trials = study.trials
    states = [t.state.name for t in trials]

    # No trial is lost: only the person's is still running, and the total was reached.
    assert [n for n, state in enumerate(states) if state == "RUNNING"] == [0]
    assert 30 <= states.count("COMPLETE") + states.count("PRUNED") <= 33
    claims = {t.number: claim for t in trials if (claim := own_claim(t)) is not None}
    unclaimed = [t for t in trials[1:] if t.number not in claims]
    assert [t.state.name for t in unclaimed] == ["FAIL"]  # the worker killed before its claim

    # No place twice, no vector twice; a place is taken again only after its trial has failed.
    attempts: dict[Any, list[int]] = {}
    for number, claim in claims.items():
        attempts.setdefault(claim.place, []).append(number)
    for numbers in attempts.values():
        assert [claims[n].attempt for n in numbers] == list(range(len(numbers)))
        assert all(states[n] == "FAIL" for n in numbers[:-1])
        assert len({str(claims[n].vectors) for n in numbers}) == 1
    assert len({claims[numbers[0]].vectors["x"] for numbers in attempts.values()}) == len(attempts)
    for generation in range(5):
        slots = sorted(place.slot for place in attempts if place.generation == generation)
        assert slots == list(range(len(slots)))

    box = Box(SPACE)
    for number, claim in claims.items():
        params = box.params(claim.candidate.x)
        assert trials[number].params.items() <= params.items()
    reproduce_every_candidate(trials, claims)


def reproduce_every_candidate(
    trials: list[optuna.trial.FrozenTrial], claims: dict[int, Claim]
) -> None:
    """Every worker must have drawn from the distribution that the stored log implies."""
    box, algorithm = Box(SPACE), CmaEs()
    log = Log(sign=1, max_attempts=3)
    memory, told = algorithm.start(box), 0
    for number, claim in claims.items():
        log.know(claim.population, box)
        assert log.follow(trials, number)
        log.see(trials, claim.seen)
        records = log.book(claim.population).records
        while len(records) >= (told + 1) * SIZE:
            block = sorted(
                records[told * SIZE : (told + 1) * SIZE],
                key=lambda r: (r.rank, r.claim.generation, r.claim.slot),
            )
            memory = algorithm.learn(memory, [r.member(0) for r in block])
            told += 1
        if claim.attempt == 0:
            assert claim.generation == told
            rng = keyed_rng(1, CANDIDATE, told, claim.slot)
            np.testing.assert_array_equal(claim.candidate.x, algorithm.ask(memory, rng).x)
