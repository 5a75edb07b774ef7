"""What a sampler adds to one ask and tell, beside ``RandomSampler`` on the same storage.

Each sampler has a study of its own, all in one storage; a round is one trial of each, in another
order every time. The studies are run in memory up to the trials that are measured; for the other
storages those trials are copied, claims and all, so that the sampler goes on from them.
"""

from __future__ import annotations

import functools
import gc
import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from _search import interval, space, suggest
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial

import merge_optuna as mo

STORAGES = ("memory", "journal", "sqlite")
_ENGINE = ("start", "ask", "first", "survive", "learn")


def measure(options: Any) -> Iterator[list[dict[str, Any]]]:
    """One row for each number of parameters, storage, trial number and sampler, so far."""
    rows: list[dict[str, Any]] = []
    for n in options.parameters:
        # Everything is run in memory first: there the trials to be copied come from.
        trials: dict[str, list[FrozenTrial]] = {}
        for kind in STORAGES:
            if kind == "memory" or kind in options.storages:
                found = _measure(n, kind, trials, options)
                rows += found
                print("\n".join(map(_line, found)), flush=True)
                yield rows


def _samplers(n: int, budget: int) -> dict[str, optuna.samplers.BaseSampler]:
    return {
        "Random": optuna.samplers.RandomSampler(seed=0),
        "DE": mo.samplers.DESampler(space(n), seed=0),
        "L-SHADE": mo.samplers.DESampler.lshade(budget, space(n), seed=0),
        "CMA-ES": mo.samplers.CmaEsSampler(space(n), seed=0),
        "CMA-ES separable": mo.samplers.CmaEsSampler(space(n), variant="separable", seed=0),
        "PSO": mo.samplers.PSOSampler(space(n), seed=0),
        "GA": mo.samplers.GASampler(space(n), seed=0),
    }


def _measure(
    n: int, kind: str, trials: dict[str, list[FrozenTrial]], options: Any
) -> list[dict[str, Any]]:
    folder: Path = options.folder / f"{kind}-{n}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    urls = {"journal": f"journal:///{folder}/log", "sqlite": f"sqlite:///{folder}/db"}
    storage = optuna.storages.InMemoryStorage() if kind == "memory" else mo.storage(urls[kind])
    studies = {
        name: optuna.create_study(study_name=name, storage=storage, sampler=sampler)
        for name, sampler in _samplers(n, 10 * max(options.at)).items()
    }
    rows, done = [], 0
    for at in options.at:
        first = at - options.rounds // 2
        for name, study in studies.items():
            _fill(study, done, first, n, trials.get(name))
        done = first + options.rounds
        times = _rounds(studies, n, options.rounds)
        for name in studies:
            row = {"parameters": n, "storage": kind, "trial": at, "sampler": name}
            rows.append(row | _summary(times[name], times["Random"]))
    if kind == "memory":
        for name, study in studies.items():
            trials[name] = study.get_trials(deepcopy=False)
            for trial in trials[name]:
                trial.distributions = dict(space(n))
    shutil.rmtree(folder)
    return rows


def _fill(
    study: optuna.Study, begin: int, end: int, n: int, trials: list[FrozenTrial] | None
) -> None:
    """Trials ``begin`` to ``end`` of a study: run, or copied from ``trials``."""
    began, storage = time.perf_counter(), study._storage
    if trials is None:
        for _ in range(begin, end):
            _one(study, n)
    elif hasattr(storage, "_backend") and hasattr(storage._backend, "engine"):
        _insert(storage._backend.engine, study._study_id, trials[begin:end])
    else:
        for trial in trials[begin:end]:
            storage.create_new_trial(study._study_id, template_trial=trial)
    took = time.perf_counter() - began
    print(f"  {study.study_name}: filled to {end} in {took:.0f} s", flush=True)


def _insert(engine: sqlalchemy.Engine, study_id: int, trials: list[FrozenTrial]) -> None:
    """Write finished trials to a database; Optuna's own way takes seconds for each."""
    rows: dict[Any, list[dict[str, Any]]] = {
        models.TrialModel: [],
        models.TrialValueModel: [],
        models.TrialParamModel: [],
        models.TrialSystemAttributeModel: [],
    }
    encoded = functools.cache(distribution_to_json)
    with engine.begin() as connection:
        last = connection.scalar(
            sqlalchemy.select(sqlalchemy.func.max(models.TrialModel.trial_id))
        )
        for trial_id, trial in enumerate(trials, start=(last or 0) + 1):
            of = {"trial_id": trial_id}
            rows[models.TrialModel].append(
                {**of, "study_id": study_id, "number": trial.number, "state": trial.state}
                | {"datetime_start": trial.datetime_start}
                | {"datetime_complete": trial.datetime_complete}
            )
            finite = models.TrialValueModel.TrialValueType.FINITE
            rows[models.TrialValueModel].append(
                {**of, "objective": 0, "value": trial.value, "value_type": finite}
            )
            rows[models.TrialParamModel] += [
                {**of, "param_name": name, "param_value": value}
                | {"distribution_json": encoded(trial.distributions[name])}
                for name, value in trial.params.items()
            ]
            rows[models.TrialSystemAttributeModel] += [
                {**of, "key": key, "value_json": json.dumps(value)}
                for key, value in trial.system_attrs.items()
            ]
        for model, values in rows.items():
            if values:
                connection.execute(sqlalchemy.insert(model.__table__), values)


def _rounds(
    studies: dict[str, optuna.Study], n: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    order, rng = list(studies), random.Random(0)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in studies}
    gc.collect()
    gc.freeze()  # else a collection goes through all trials of all studies
    with _engine_time() as engine:
        for _ in range(rounds):
            rng.shuffle(order)
            for name in order:
                before = engine["seconds"]
                times[name].append(_one(studies[name], n))
                times[name][-1]["engine"] = engine["seconds"] - before
    gc.unfreeze()
    return times


def _one(study: optuna.Study, n: int) -> dict[str, float]:
    """Milliseconds of each step of a trial."""
    names = list(space(n))
    t0 = time.perf_counter()
    trial = study.ask()
    t1 = time.perf_counter()
    suggest(trial, names[:1])
    t2 = time.perf_counter()
    x = suggest(trial, names)
    t3 = time.perf_counter()
    value = float(np.sum(x**2))
    t4 = time.perf_counter()
    study.tell(trial, value)
    t5 = time.perf_counter()
    steps = {"ask": t1 - t0, "first": t2 - t1, "others": t3 - t2, "tell": t5 - t4}
    return {step: 1e3 * seconds for step, seconds in steps.items()}


def _total(times: dict[str, float], steps: tuple[str, ...]) -> float:
    return sum(times[step] for step in steps) - times["engine"]


def _summary(
    ours: list[dict[str, float]], random_sampler: list[dict[str, float]]
) -> dict[str, Any]:
    """The rounds in pairs; the first ones fold the log and fill caches."""
    cold, warm = ours[0], 5
    pairs = list(zip(ours, random_sampler, strict=True))[warm:]
    found: dict[str, Any] = {
        step: float(np.median([times[step] for times in ours[warm:]])) for step in ours[0]
    }
    # Most parameters are written in the same way by all: "others" is nothing but noise.
    ways = {"extra": ("ask", "first", "others", "tell"), "extra_asking": ("ask", "first", "tell")}
    for name, steps in ways.items():
        extra = [_total(a, steps) - _total(b, steps) for a, b in pairs]
        found[name] = float(np.median(extra))
        found[f"{name}_interval"] = interval(extra, np.median)
    found["engine_mean"] = float(np.mean([times["engine"] for times in ours[warm:]]))
    found["cold"] = sum(cold[step] for step in ways["extra"])
    found["cold_engine"] = cold["engine"]
    return found


@contextmanager
def _engine_time() -> Iterator[dict[str, float]]:
    """Milliseconds spent inside the algorithms, as distinct from the plumbing."""
    spent, inside = {"seconds": 0.0}, [False]

    def timed(method: Any) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if inside[0]:
                return method(*args, **kwargs)
            inside[0], began = True, time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                inside[0] = False
                spent["seconds"] += 1e3 * (time.perf_counter() - began)

        return call

    patched = []
    for algorithm in (mo.samplers.DE, mo.samplers.CmaEs, mo.samplers.PSO, mo.samplers.GA):
        for name in _ENGINE:
            own = algorithm.__dict__.get(name)
            if hasattr(algorithm, name):
                patched.append((algorithm, name, own))
                setattr(algorithm, name, timed(getattr(algorithm, name)))
    try:
        yield spent
    finally:
        for algorithm, name, own in patched:
            if own is None:
                delattr(algorithm, name)
            else:
                setattr(algorithm, name, own)


def _line(row: dict[str, Any]) -> str:
    low, high = row["extra_asking_interval"]
    return (
        f"{row['parameters']:>4} {row['storage']:8}{row['trial']:>6} {row['sampler']:18}"
        f"ask {row['ask']:7.2f}  first {row['first']:6.2f}  others {row['others']:7.2f}"
        f"  tell {row['tell']:6.2f}  engine {row['engine']:6.2f} (mean {row['engine_mean']:6.2f})"
        f"  beyond Random {row['extra']:6.2f}; asking {row['extra_asking']:6.2f}"
        f" [{low:.2f}, {high:.2f}]  cold {row['cold']:.0f} (engine {row['cold_engine']:.0f})"
    )
