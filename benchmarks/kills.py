"""Searches that are killed over and over: do they end where an undisturbed one does?

    python benchmarks/kills.py
    python benchmarks/kills.py --samplers de --postgres postgresql+psycopg://me@localhost/test

For every sampler and storage one search is killed (SIGKILL) before and after each write of a
trial, then at random instants, and started again each time with the same command. At the end its
parameters must be those of the textbook loop. Then four workers share a search in which each is
killed every few seconds; there no place may be held twice, no result be missing, and every claim
be what the rules imply. Prints a table, writes everything to --json; exits with 1 on any fault.

PostgreSQL needs an empty database of its own: studies are added to it and stay there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage

sys.path.insert(0, str(Path(__file__).parents[1]))

from merge_optuna.samplers import Box
from merge_optuna.samplers._protocol import waiting
from merge_optuna.samplers.plumbing import owner_alive
from merge_optuna.testing import kill_at, on_write, textbook
from tests.samplers import replay
from tests.samplers.driver import (
    SAMPLERS,
    SPACE,
    WRITES,
    create,
    done,
    fork,
    objective_of,
    search,
    wait,
)
from tests.samplers.storages import make_storage

WORKERS = 4


def main() -> None:
    """Kills what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--storages", nargs="*", default=["sqlite", "journal"])
    parser.add_argument("--postgres", help="URL of a database; left out if omitted")
    parser.add_argument("--folder", type=Path, default=Path("runs/kills"))
    parser.add_argument("--json", type=Path, default=Path("runs/kills/result.json"))
    parser.add_argument("--timed", type=int, default=10, help="kills at random instants")
    parser.add_argument("--seconds", type=float, default=20, help="for the four workers")
    parser.add_argument("--lifetime", type=float, default=3, help="mean seconds of a worker")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    options = parser.parse_args()
    options.folder = options.folder.absolute()  # a journal's lock may be a link to it
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    for sampler in SAMPLERS:  # the forks inherit what these have imported
        search(sampler, make_storage("memory", options.folder), 1)
    kinds = [*options.storages, *([options.postgres] if options.postgres else [])]
    rows = []
    for sampler in options.samplers:
        for kind in kinds:
            for mode in (_alone, _together):
                rows.append(_run(mode, sampler, kind, options))
                print(_line(rows[-1]), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=2))
    sys.exit(any(row["faults"] for row in rows))


def _run(mode: Callable[..., Any], sampler: str, kind: str, options: Any) -> dict[str, Any]:
    way = mode.__name__[1:]
    where = "postgresql" if "://" in kind else kind
    name = f"{sampler}-{way}-{where}-{time.time():.0f}"
    folder = options.folder / name
    folder.mkdir()
    if "://" in kind:
        RDBStorage(kind)  # makes the tables
    started = time.monotonic()
    kills = mode(sampler, name, lambda: _open(kind, folder), random.Random(options.seed), options)
    study = optuna.load_study(study_name=name, storage=_open(kind, folder))
    row = {
        "sampler": sampler,
        "storage": where,
        "way": way,
        "kills": kills,
        "seconds": time.monotonic() - started,
        **_found(study, sampler, alone=way == "alone"),
    }
    faults = ("doubly_assigned", "lost", "unread", "wrong_values", "contradictions", "different")
    return row | {"faults": sum(len(row.get(fault, ())) for fault in faults)}


def _open(kind: str, folder: Path) -> BaseStorage:
    if "://" not in kind:
        return make_storage(kind, folder)
    database = RDBStorage(kind, skip_compatibility_check=True, skip_table_creation=True)
    return optuna.storages.get_storage(database)


# -- kills ------------------------------------------------------------------------------------


def _alone(
    sampler: str, name: str, make: Callable[[], BaseStorage], rng: random.Random, options: Any
) -> dict[str, int]:
    """One worker, killed in its second trial at every write, then by a timer."""
    kills: dict[str, int] = {}

    def work(wrap: Callable[[BaseStorage], BaseStorage], total: int) -> None:
        waiting._PATIENCE_UNOWNED = 0.3  # nobody else is there
        if "journal" in name:
            waiting._FEW = 0  # as if there were a long log to fold: sign first
        search(sampler, wrap(make()), total, name=name)

    names = WRITES["journal" if "journal" in name else "sqlite"]
    for write in range(1, len(names) + 1):
        for after in (False, True):
            kill = kill_at(write, after=after, trial=2)
            pid = fork(lambda k=kill: work(lambda storage: on_write(storage, k), 10**6))
            _reap(pid, f"{'after' if after else 'before'} {names[write - 1]}", kills)
    for _ in range(options.timed):
        pid = fork(lambda: work(lambda storage: storage, 10**6))
        time.sleep(rng.uniform(0.1, 1.5))
        os.kill(pid, signal.SIGKILL)
        _reap(pid, "at a random instant", kills)
    total = len(done(optuna.load_study(study_name=name, storage=make()))) + 20
    assert wait(fork(lambda: work(lambda storage: storage, total))) == 0
    return kills


def _together(
    sampler: str, name: str, make: Callable[[], BaseStorage], rng: random.Random, options: Any
) -> dict[str, int]:
    """Four workers, each killed every few seconds and replaced by a new one."""
    kills: dict[str, int] = {}

    def evaluate(trial: optuna.Trial) -> Any:
        value = objective_of(sampler)(trial)
        time.sleep(0.01 + 0.05 * (trial.number % 4 == 1))
        if trial.number % 7 == 3:
            raise ValueError("injected")
        if trial.number % 5 == 2:
            raise optuna.TrialPruned
        return float("nan") if trial.number % 11 == 5 else value

    def work(extra: int | None = None) -> None:
        waiting._PATIENCE_UNOWNED = 1.5  # for the trial of somebody killed before its first write
        storage = make()
        total = 10**6
        if extra is not None:
            total = extra + len(done(optuna.load_study(study_name=name, storage=storage)))
        search(sampler, storage, total, evaluate, name)

    def life() -> float:
        return time.monotonic() + 1 + rng.expovariate(1 / options.lifetime)

    create(sampler, make(), name)
    end = time.monotonic() + options.seconds
    alive = {fork(work): life() for _ in range(WORKERS)}
    while time.monotonic() < end:
        time.sleep(0.02)
        for pid in [pid for pid, until in alive.items() if time.monotonic() > until]:
            os.kill(pid, signal.SIGKILL)
            _reap(pid, "at a random instant", kills)
            del alive[pid]
            alive[fork(work)] = life()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        _reap(pid, "at a random instant", kills)
    assert wait(fork(lambda: work(5))) == 0
    return kills


def _reap(pid: int, instant: str, kills: dict[str, int]) -> None:
    status = wait(pid)
    if status != -signal.SIGKILL:
        raise RuntimeError(f"A worker to be killed {instant} has ended with {status} before.")
    kills[instant] = kills.get(instant, 0) + 1


# -- what is left -----------------------------------------------------------------------------


def _found(study: optuna.Study, sampler: str, *, alone: bool) -> dict[str, Any]:
    """Trials and everything that is wrong with them."""
    trials = study.trials
    claims = replay.claims_of(trials)
    states = [t.state.name for t in trials]
    running = [t for t in trials if t.state.name == "RUNNING"]
    read = {n for claim in claims.values() for n in claim.seen}
    finished = [n for n in claims if trials[n].state.is_finished() and n not in read]
    found: dict[str, Any] = {
        "trials": len(trials),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "generations": 1 + max(claim.generation for claim in claims.values()),
        # Killed before they had signed: nobody can tell whose they are.
        "orphans": [t.number for t in running if owner_alive(t) is None],
        "lost": [t.number for t in running if owner_alive(t) is not None],
        "unread": finished[:-1],  # nobody has asked after the last one
        "doubly_assigned": replay.doubly_assigned(trials),
        "wrong_values": replay.wrong_values(trials, Box(SPACE)),
        "contradictions": replay.contradictions(trials, SAMPLERS[sampler]()),
    }
    if alone:
        found["different"] = _different(done(study), sampler)
    return found


def _different(mine: list[dict[str, Any]], sampler: str) -> list[int]:
    """Indices of the trials that an undisturbed search would not have made."""

    def evaluate(params: dict[str, Any]) -> Any:
        return objective_of(sampler)(optuna.trial.FixedTrial(params))

    algorithm = SAMPLERS[sampler]()._algorithm
    expected = textbook(algorithm, SPACE, evaluate, seed=1, n_trials=len(mine))
    return [i for i, params in enumerate(mine) if params != expected[i]]


def _line(row: dict[str, Any]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in row["states"].items())
    return (
        f"{row['sampler']:12}{row['storage']:12}{row['way']:10}"
        f"{sum(row['kills'].values()):4} kills at {len(row['kills']):2} instants, "
        f"{row['generations']:3} generations ({states}): {row['faults']} faults "
        f"({row['seconds']:.0f} s)"
    )


if __name__ == "__main__":
    main()
