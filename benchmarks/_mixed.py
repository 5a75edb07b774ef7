"""CatCMA beside others on functions of choices, integers and numbers, at equal evaluations.

What is compared is log10 of f - f_opt, not below 1e-8: the mean over the seeds of ours minus the
other's, a paired difference of geometric means, with a 95 % bootstrap interval over the seeds.
Seed s meets instance s of a function, the same for all. OptunaHub's ``CatCmawmSampler``, by the
same engine, takes part where ``--hub`` is a copy of its registry's ``package/samplers``, with its
names and numbers put right.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from _search import in_processes, interval
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

import merge_optuna as mo

LETTERS = "ABCDE"
_FLOOR = 1e-8
_HUB, OURS = "OptunaHub's CatCmawmSampler", "CatCmaEsSampler"


@dataclass(frozen=True)
class Function(ABC):
    """A function whose least value is 0, of one instance."""

    seed: int

    @cached_property
    def rng(self) -> np.random.Generator:
        """Of the instance."""
        return np.random.default_rng([self.seed, 7])

    @cached_property
    @abstractmethod
    def space(self) -> dict[str, BaseDistribution]:
        """Every parameter that a trial may have."""

    @abstractmethod
    def __call__(self, trial: optuna.Trial) -> float:
        """Suggests what it needs."""

    def all_of(self, trial: optuna.Trial) -> dict[str, Any]:
        """Every parameter, suggested."""
        return {name: suggested(trial, name, one) for name, one in self.space.items()}


def suggested(trial: optuna.Trial, name: str, one: Any) -> Any:
    """A parameter of a distribution."""
    if isinstance(one, CategoricalDistribution):
        return trial.suggest_categorical(name, one.choices)
    if isinstance(one, IntDistribution):
        return trial.suggest_int(name, one.low, one.high)
    return trial.suggest_float(name, one.low, one.high)


def numbers(prefix: str, n: int, low: float, high: float) -> dict[str, BaseDistribution]:
    """Some floats."""
    return {f"{prefix}{i}": FloatDistribution(low, high) for i in range(n)}


def integers(prefix: str, n: int) -> dict[str, BaseDistribution]:
    """Some integers from -10 to 10."""
    return {f"{prefix}{i}": IntDistribution(-10, 10) for i in range(n)}


def choices(prefix: str, n: int, count: int = 5) -> dict[str, BaseDistribution]:
    """Some choices among the first letters."""
    return {f"{prefix}{i}": CategoricalDistribution(list(LETTERS[:count])) for i in range(n)}


@dataclass(frozen=True)
class Sphere(Function):
    """Five of each kind, each by itself."""

    scales: tuple[float, ...] = (1.0,) * 5

    @cached_property
    def space(self) -> dict[str, BaseDistribution]:
        return {**numbers("x", 5, -5, 5), **integers("z", 5), **choices("c", 5)}

    @cached_property
    def optimum(self) -> dict[str, Any]:
        """Where it is 0."""
        draws = self.rng
        return {
            **{f"x{i}": draws.uniform(-4, 4) for i in range(5)},
            **{f"z{i}": int(draws.integers(-8, 9)) for i in range(5)},
            **{f"c{i}": LETTERS[draws.integers(5)] for i in range(5)},
        }

    def __call__(self, trial: optuna.Trial) -> float:
        params, best = self.all_of(trial), self.optimum
        terms = (
            scale * (params[f"{kind}{i}"] - best[f"{kind}{i}"]) ** 2
            for kind in "xz"
            for i, scale in enumerate(self.scales)
        )
        return float(sum(terms)) + self.wrong(params)

    def wrong(self, params: Mapping[str, Any]) -> float:
        """What choices cost."""
        return sum(params[f"c{i}"] != self.optimum[f"c{i}"] for i in range(5))


@dataclass(frozen=True)
class Ellipsoid(Sphere):
    """Axes from 1 to 1000; a choice counts only if all before it are right (leading ones)."""

    scales: tuple[float, ...] = tuple(1000 ** (i / 4) for i in range(5))

    def wrong(self, params: Mapping[str, Any]) -> float:
        right = [params[f"c{i}"] == self.optimum[f"c{i}"] for i in range(5)]
        return float(5 - (right.index(False) if False in right else 5))


@dataclass(frozen=True)
class Coupled(Function):
    """Where the numbers have to be depends on the choices; one set of choices is the best."""

    @cached_property
    def space(self) -> dict[str, BaseDistribution]:
        return {**numbers("x", 6, -5, 5), **choices("c", 6, 3)}

    @cached_property
    def tables(self) -> tuple[Any, Any]:
        """By choice: where its number has to be, and what it costs."""
        costs = self.rng.uniform(0.2, 1, (6, 3))
        costs[np.arange(6), self.rng.integers(3, size=6)] = 0
        return self.rng.uniform(-4, 4, (6, 3)), costs

    def __call__(self, trial: optuna.Trial) -> float:
        params, (places, costs) = self.all_of(trial), self.tables
        total = 0.0
        for i in range(6):
            choice = LETTERS.index(params[f"c{i}"])
            total += (params[f"x{i}"] - places[i, choice]) ** 2 + costs[i, choice]
        return total


@dataclass(frozen=True)
class Path(Function):
    """Like layer paths: A, B or none in each of twelve slots, neighbours matter, with scales.

    A scale is there only if a layer is.
    """

    slots: int = 12

    @cached_property
    def space(self) -> dict[str, BaseDistribution]:
        return {**choices("c", self.slots, 3), **numbers("x", self.slots, 0.4, 1.5)}

    @cached_property
    def tables(self) -> tuple[Any, Any, Any]:
        """Costs of choices (12, 3), of neighbours (11, 3, 3), and places of scales (12, 3)."""
        own = self.rng.uniform(0, 1, (self.slots, 3))
        pairs = self.rng.uniform(0, 1, (self.slots - 1, 3, 3))
        return own, pairs, self.rng.uniform(0.7, 1.3, (self.slots, 3))

    @cached_property
    def least(self) -> float:
        """The least cost of choices, by dynamic programming along the slots."""
        own, pairs, _ = self.tables
        costs = own[0]
        for i in range(1, self.slots):
            costs = own[i] + np.min(costs[:, None] + pairs[i - 1], axis=0)
        return float(costs.min())

    def __call__(self, trial: optuna.Trial) -> float:
        own, pairs, places = self.tables
        chosen = [
            LETTERS.index(suggested(trial, f"c{i}", self.space[f"c{i}"]))
            for i in range(self.slots)
        ]
        total = sum(own[i, choice] for i, choice in enumerate(chosen))
        total += sum(pairs[i, a, b] for i, (a, b) in enumerate(itertools.pairwise(chosen)))
        for i, choice in enumerate(chosen):
            if choice < 2:
                x = suggested(trial, f"x{i}", self.space[f"x{i}"])
                total += 10 * (x - places[i, choice]) ** 2
        return float(total - self.least)


FUNCTIONS: dict[str, Callable[[int], Function]] = {
    "sphere": Sphere,
    "ellipsoid, leading ones": Ellipsoid,
    "coupled": Coupled,
    "path, conditional": Path,
}


def _hub(space: dict[str, BaseDistribution], seed: int) -> Any:
    """OptunaHub's, mended: at ee68019 it hands Optuna numbers as names, so they are uniform."""
    kind: Any = importlib.import_module("catcmawm").CatCmawmSampler

    class Mended(kind):  # type: ignore[misc]
        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            found = super().sample_relative(study, trial, search_space)
            params = {name: value for name, value in found.items() if name in search_space}
            for key, of in (("x", FloatDistribution), ("z", IntDistribution)):
                names = [name for name, one in search_space.items() if isinstance(one, of)]
                values = trial.user_attrs[key] if names else ()
                params |= {n: v.item() for n, v in zip(names, values, strict=True)}
            return params

    return Mended(space, seed=seed)


SAMPLERS: dict[str, Callable[[dict[str, BaseDistribution], int], Any]] = {
    OURS: lambda space, seed: mo.samplers.CatCmaEsSampler(space, seed=seed),
    _HUB: _hub,
    "Optuna's TPESampler": lambda space, seed: optuna.samplers.TPESampler(seed=seed),
    "GASampler": lambda space, seed: mo.samplers.GASampler(space, seed=seed),
    "RandomSampler": lambda space, seed: optuna.samplers.RandomSampler(seed=seed),
}


def measure(options: Any) -> Iterator[dict[str, Any]]:
    """Each sampler on each function; yields what there is so far."""
    at = sorted(options.mixed_at)
    found: dict[str, Any] = {"at": at, "seeds": options.seeds, "precisions": {}, "compared": {}}
    for name in SAMPLERS:
        if name == _HUB and options.hub is None:
            continue
        began = time.perf_counter()
        jobs = [(name, function, at, options.seeds, str(options.hub)) for function in FUNCTIONS]
        runs = in_processes(_runs, jobs, options.jobs)
        found["precisions"][name] = dict(zip(FUNCTIONS, runs, strict=True))
        ours = found["precisions"][OURS]
        found["compared"][name] = {
            function: [
                _compared(np.array(ours[function])[:, i] - np.array(run)[:, i])
                for i in range(len(at))
            ]
            for function, run in found["precisions"][name].items()
            if run is not None and name != OURS
        }
        _print(name, found, round(time.perf_counter() - began))
        yield found


def _runs(job: tuple[str, str, list[int], int, str]) -> list[list[float]] | None:
    """(seeds, evaluations) log10 of the best value; None if the sampler cannot search it."""
    name, function, at, seeds, hub = job
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if name == _HUB and hub not in sys.path:
        sys.path.insert(0, hub)
    rows = []
    for seed in range(seeds):
        one = FUNCTIONS[function](seed)
        study = optuna.create_study(sampler=SAMPLERS[name](one.space, seed))
        try:
            study.optimize(one, n_trials=at[-1])
        except (KeyError, ValueError, RuntimeError):
            return None
        values = [trial.value if trial.value is not None else np.inf for trial in study.trials]
        rows.append([float(np.log10(max(min(values[:n]), _FLOOR))) for n in at])
    return rows


def _compared(differences: Any) -> dict[str, Any]:
    return {"mean": float(differences.mean()), "interval": interval(differences)}


def _print(name: str, found: dict[str, Any], seconds: int) -> None:
    for function, run in found["precisions"][name].items():
        if run is None:
            print(f"{name}, {function}: cannot search it")
            continue
        means = " ".join(f"{value:+.2f}" for value in np.mean(run, axis=0))
        compared = found["compared"][name].get(function, ())
        told = "".join(map(_told, compared))
        print(f"{name}, {function}: log10 {means} after {found['at']}{told}", flush=True)
    print(f"({seconds} s)", flush=True)


def _told(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    return f"; ours minus it {one['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"
