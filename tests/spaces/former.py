"""Searches as commit 7574745 ran them, when genealogies had algorithms of their own.

``python -m tests.spaces.former`` with that commit made ``tests/data/families.json``: parameters
and claim of every trial. No model is scored, so they are the same everywhere.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

import merge_optuna as mo
from merge_optuna._schema import CLAIM, SCORES
from merge_optuna._scores import pack
from merge_optuna.samplers import StoredSampler
from tests.spaces.models import nets

DATA = Path(__file__).parents[1] / "data/families.json"
TRIALS, BEFORE = 14, 8
FAILED = 5
"""A trial that fails."""

BOX = {
    "a": FloatDistribution(0, 1),
    "b": FloatDistribution(1e-3, 10, log=True),
    "c": IntDistribution(0, 6),
    "d": CategoricalDistribution(["x", "y", "z"]),
}
RAW = {name: FloatDistribution(-4, 4) for name in "abc"}
s = mo.samplers


def _slerp(noise: float = 0.0) -> Any:
    return mo.spaces.SplitSlerp(nets(), mutation_std=noise)


def _crossover(**options: Any) -> Any:
    return mo.spaces.DifferentialCrossover(nets(), **options)


def _swarm() -> Any:
    a, *experts = nets()
    return mo.spaces.ParticleSwarm(a, experts, sparsified=False)


def _elites(space: Any, **options: Any) -> StoredSampler:
    return s.MAPElitesSampler(space, descriptors={"size": (0, 1, 4)}, seed=3, **options)


SEARCHES: dict[str, Callable[[], Any]] = {
    "niches": lambda: _slerp().sampler(seed=3, archive_size=4),
    "niches with noise": lambda: _slerp(0.1).sampler(seed=3, split_point=False, alpha=0.5),
    "niches without crossover": lambda: _slerp(0.1).sampler(seed=3, crossover=False),
    "niches without attraction": lambda: _slerp().sampler(seed=3, alpha=0, attraction=False),
    "elites": lambda: _elites(_slerp().distributions()),
    "elites with options": lambda: _elites(_slerp(0.1).distributions(), initial=7),
    "evolver": lambda: _crossover().sampler(seed=3),
    "evolver toward": lambda: _crossover(mutation="toward").sampler(seed=3, F=0.7),
    "evolver adapting": lambda: _crossover().sampler(seed=3, adaptation=s.SHADE(memory=3)),
    "evolver merged": lambda: _crossover(merger=mo.recipes.linear(nets())).sampler(
        seed=3, adaptation=s.JDE()
    ),
    "swarm": lambda: _swarm().sampler(seed=3),
    "swarm in a ring": lambda: _swarm().sampler(seed=3, topology=s.Ring(1)),
    "niches of points": lambda: s.NichesSampler(BOX, archive_size=4, initial=5, seed=3),
    "niches of points, no crossover": lambda: s.NichesSampler(
        BOX, initial=3, crossover=False, mutation=s.PolynomialMutation(), seed=3
    ),
    "niches of points, no mutation": lambda: s.NichesSampler(
        BOX, initial=3, split_point=False, mutation=None, initial_population=[{"a": 1}], seed=3
    ),
    "elites of points": lambda: _elites(BOX, initial=5),
    "elites on a line": lambda: _elites(BOX, initial=5, variation=s.IsoLine()),
    "particles": lambda: s.PSOSampler(
        BOX, population_size=4, initial_velocity=0.5, max_velocity=0.3, bounds=s.Bounce(), seed=3
    ),
    "raw particles": lambda: s.PSOSampler(
        RAW, random="scalar", population_size=4, raw=True, topology=s.Ring(1), seed=3
    ),
}


def outcome(params: dict[str, Any]) -> tuple[float, float, list[int]]:
    """Value, descriptor and scores, made of the parameters alone."""
    content = zlib.crc32(json.dumps(params, sort_keys=True).encode())
    return content % 997 / 997, content % 1000 / 1000, [(content >> i) % 2 for i in range(12)]


def score(trial: optuna.Trial, space: dict[str, Any]) -> float:
    """As a space of individuals suggests: a source has an origin only."""
    params: dict[str, Any] = {}
    for name in ("origin", *space) if "origin" in space else space:
        if params.get("origin", "child") == "child":
            params[name] = trial._suggest(name, space[name])
    if trial.number == FAILED:
        raise OSError
    value, size, scores = outcome(params)
    mo.set_scores(trial, scores)
    trial.set_user_attr("size", size)
    return value


def search(sampler: StoredSampler, before: list[FrozenTrial] | None = None) -> optuna.Study:
    """Starts or goes on, up to a total."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(before or [])
    space = sampler.search_space
    assert space is not None
    left = TRIALS - len(study.trials)
    study.optimize(lambda trial: score(trial, space), n_trials=left, catch=OSError)
    return study


def trials(study: optuna.Study) -> list[Any]:
    """Parameters, and claims but for who ran the trial, in the form of JSON."""
    told = [
        [trial.params, {k: v for k, v in trial.system_attrs[CLAIM].items() if k != "owner"}]
        for trial in study.trials
    ]
    return json.loads(json.dumps(told))


def stored(number: int, told: list[Any], space: dict[str, Any]) -> FrozenTrial:
    """A trial of the database."""
    params, claim = told
    value, size, scores = outcome(params)
    failed = number == FAILED
    return create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        value=None if failed else value,
        params=params,
        distributions={name: space[name] for name in params},
        user_attrs={"size": size},
        system_attrs={CLAIM: claim, SCORES: pack(np.array(scores, np.float32))},
    )


def main() -> None:
    lines = []
    for name, make in SEARCHES.items():
        told = json.dumps(trials(search(make())), separators=(",", ":"))
        lines.append(f"{json.dumps(name)}: {told}")
    DATA.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
