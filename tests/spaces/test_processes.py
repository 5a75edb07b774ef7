"""Searches among individuals in real processes: killed at writes, and several at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from merge_optuna.samplers._protocol import waiting
from merge_optuna.spaces import parents_of
from merge_optuna.testing import kill_at, on_write
from tests import processes
from tests.samplers import replay
from tests.samplers.driver import fork, wait
from tests.samplers.storages import make_storage
from tests.spaces.searches import (
    KINDS,
    PARAMETERS,
    WEIGHTS,
    Objective,
    done,
    finished,
    make_space,
    search,
)

KILLED = 6  # the trial: a child, and what follows descends from it or not
TOTAL = 10
MIDDLE = 4  # a write at which some of the parents are stored


def writes_of(kind: str, storage: str, folder: Path, trial: int = KILLED) -> list[str]:
    """What is stored in the life of a trial, in that order.

    What a journal gets in one write with others is not told: before it is after the last
    parameter, after it is before the trial is finished.
    """
    written: list[str] = []

    def note(k: int, method: str, after: bool) -> None:
        if not after:
            written.append(method)

    search(kind, on_write(make_storage(storage, folder), note), trial + 1)
    created = [i for i, method in enumerate(written) if method == "create_new_trial"]
    return written[created[trial] :]


def kills(
    kind: str, storage: str, folder: Path, instants: Sequence[tuple[int, bool]], **options: Any
) -> None:
    """Kills a search in one of its trials, each time at another write, and starts it again."""
    signal.alarm(900)
    search(kind, None, TOTAL)  # the forks inherit what this has compiled
    waiting._PATIENCE_UNOWNED = 600.0  # the writes are the same on a busy machine
    template = folder / "template"
    template.mkdir(parents=True)
    assert not wait(fork(lambda: search(kind, make_storage(storage, template), KILLED, **options)))

    def restart(own: Path) -> None:
        waiting._PATIENCE_UNOWNED = 1.0  # nobody else is there
        opened = make_storage(storage, own)
        kept = done(optuna.load_study(study_name="s", storage=opened))
        study = search(kind, opened, TOTAL, **options)
        states = [t.state.name for t in study.trials]
        result = {"kept": kept, "done": done(study), "states": states}
        (own / "result.json").write_text(json.dumps(result))

    def case(write: int, after: bool) -> None:
        own = folder / name_of(write, after)
        shutil.copytree(template, own)
        storage_ = on_write(make_storage(storage, own), kill_at(write, after=after))
        assert wait(fork(lambda: search(kind, storage_, TOTAL, **options))) == -signal.SIGKILL
        assert not wait(fork(lambda: restart(own)))

    pids = [fork(lambda at=at: case(*at)) for at in instants]
    codes = [wait(pid) for pid in pids]
    assert not any(codes), codes


def name_of(write: int, after: bool) -> str:
    return f"{'after' if after else 'before'} {write}"


# The plumbing is one: those that differ most from each other, the others by hand.
SOME = ("niches-noise", "evolver-merged", "swarm")
EVERY = [kind if kind in SOME else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", EVERY)
def test_killed_at_writes_and_started_again(kind: str, tmp_path: Path) -> None:
    expected = done(search(kind, None, TOTAL))
    (alone := tmp_path / "alone").mkdir()
    last = {name: len(writes_of(kind, name, alone)) for name in ("sqlite", "journal")}
    # Before the claim, between the parents, before and after the trial is finished.
    instants = {
        "sqlite": [(2, False), (MIDDLE, True), (last["sqlite"], True)],
        "journal": [(MIDDLE, False), (last["journal"], False)],
    }
    running = {
        storage: processes.call(kills, kind, storage, tmp_path / storage, some, cwd=tmp_path)
        for storage, some in instants.items()
    }
    for storage, some in instants.items():
        result = running[storage].wait()
        assert result.code == 0, result.err
        for at in some:
            found = json.loads((tmp_path / storage / name_of(*at) / "result.json").read_text())
            assert found["kept"] == expected[: KILLED + (at == (last[storage], True))], at
            assert found["done"] == expected, at
            # Only a trial that nobody has claimed yet stays behind.
            assert found["states"].count("RUNNING") == (at == (2, False)), at


# -- several at once --------------------------------------------------------------------------


def workers(kind: str, storage: str, folder: Path, total: int) -> None:
    """Four workers: one hesitates before it claims, one is slow, one is killed in its third."""
    signal.alarm(900)
    search(kind, None, TOTAL)  # the forks inherit what this has compiled
    waiting._PATIENCE_UNOWNED = 1.0  # of the worker that is killed

    def hesitate(k: int, method: str, after: bool) -> None:
        if after and method == "create_new_trial":
            time.sleep(0.1)  # others claim meanwhile

    def worker(i: int) -> None:
        opened = make_storage(storage, folder)
        if i == 1:
            opened = on_write(opened, hesitate)

        scored = 0

        def after(number: int) -> bool:
            nonlocal scored
            scored += 1
            if i == 3 and scored == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.2 if i == 2 else 0.02)  # one is ten times slower
            return number % 7 != 4

        search(kind, opened, total, after)

    make_storage(storage, folder)  # the tables
    (folder / "codes").write_text(
        json.dumps([wait(pid) for pid in [fork(lambda i=i: worker(i)) for i in range(4)]])
    )


@pytest.mark.parametrize(
    ("kind", "storage"),
    [
        ("evolver", "sqlite"),
        ("evolver-merged", "sqlite"),
        ("swarm", "sqlite"),
        ("niches", "journal"),
        *(
            pytest.param(kind, "sqlite", marks=pytest.mark.slow)
            for kind in ("niches", "niches-noise", "map-elites")
        ),
    ],
)
def test_four_workers(kind: str, storage: str, tmp_path: Path) -> None:
    result = processes.call(workers, kind, storage, tmp_path, 30, cwd=tmp_path).wait()
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "codes").read_text()) == [0, 0, 0, -9], result.err
    study = optuna.load_study(study_name="s", storage=make_storage(storage, tmp_path))
    trials = study.trials
    states = [t.state.name for t in trials]
    assert "RUNNING" not in states, "no trial is lost"
    assert 30 <= states.count("COMPLETE") <= 33

    space, sampler = make_space(kind)
    assert replay.doubly_assigned(trials) == []
    assert replay.contradictions(trials, sampler, sign=-1) == []
    individuals = replay.individuals(trials, sampler, sign=-1)
    claims = replay.claims_of(trials)
    children = [t for t in finished(study) if parents_of(t)]
    assert len(children) > 20
    read: set[int] = set()
    before: dict[int, set[int]] = {}
    for number, claim in claims.items():
        read |= {*claim.seen}
        before[number] = set(read)
    for child in children:
        for name, number in parents_of(child).items():
            assert individuals[child.params[name]] == number, "its place in the log"
            assert number in before[child.number], "finished before it was claimed"
            assert states[number] == "COMPLETE"

    objective = Objective(space)
    for trial in finished(study):
        assert objective.weights_of(space.rebuild(study, trial)) == trial.user_attrs[WEIGHTS]
        assert objective.probe.value(objective.probe.scores) == trial.value


# -- what is kept of parents ------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [kind for kind, (make, _) in KINDS.items() if kind not in ("niches", "map-elites")]
)
def test_what_is_kept_of_parents_changes_nothing(kind: str, tmp_path: Path) -> None:
    expected = done(search(kind, None, 25))
    two = 2 * 4 * PARAMETERS
    for options in (
        {"cache_bytes": 0},
        {"cache_bytes": two},
        {"cache_folder": tmp_path / "all"},
        {"cache_bytes": two, "cache_folder": tmp_path / "two"},
    ):
        assert done(search(kind, None, 25, **options)) == expected, options
    assert len(list((tmp_path / "all").iterdir())) >= 4
    assert len(list((tmp_path / "two").iterdir())) <= 2
    # a later search finds what was kept
    assert done(search(kind, None, 25, cache_folder=tmp_path / "all")) == expected
