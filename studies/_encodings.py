"""Paths in other encodings than those of the package, to compare with; and a greedy exchange."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

import merge_optuna as mo
from merge_optuna.recipes import Hop, Route

LOW, HIGH, SIGMA = 0.4, 1.5, 1 / 8  # of scales
LIMIT, START = 6.0, 2.0  # of indicators, whose sigma is 1
Space = Callable[[optuna.Trial], mo.Recipe]


def by_depth(models: Sequence[mo.Checkpoint], repeats: int) -> tuple[Space, Any]:
    """The paper's numbers, A0 B0 A1 B1 … instead of A0 A1 … B0 B1 …; with CMA-ES as sampler."""
    slots = [
        f"{r}/{'AB'[m]}{depth}"
        for r, depth, m in itertools.product(range(repeats), range(models[0].depth), (0, 1))
    ]

    def space(trial: optuna.Trial) -> mo.Recipe:
        hops = []
        for slot in slots:
            on = trial.suggest_float(f"on/{slot}", -LIMIT, LIMIT) > 0
            scale = trial.suggest_float(f"scale/{slot}", LOW, HIGH)
            if on:
                name = slot.partition("/")[2]
                hops.append(Hop("AB".index(name[0]), int(name[1:]), scale))
        return through(hops, models)

    first = {f"on/{slot}": START if slot.startswith("0/A") else -START for slot in slots}
    return space, cma_es(first, [f"scale/{slot}" for slot in slots])


def largest(models: Sequence[mo.Checkpoint], repeats: int) -> tuple[Space, Any]:
    """Three numbers per depth and repetition, for A, B and none: the largest counts; CMA-ES."""
    slots = list(itertools.product(range(repeats), range(models[0].depth)))

    def space(trial: optuna.Trial) -> mo.Recipe:
        hops = []
        for r, depth in slots:
            votes = [trial.suggest_float(f"{c}/{r}/{depth}", -LIMIT, LIMIT) for c in "AB-"]
            scale = trial.suggest_float(f"scale/{r}/{depth}", LOW, HIGH)
            if (choice := int(np.argmax(votes))) < 2:
                hops.append(Hop(choice, depth, scale))
        return through(hops, models)

    first = {}
    for (r, depth), choice in itertools.product(slots, "AB-"):
        wanted = "A" if r == 0 else "-"
        first[f"{choice}/{r}/{depth}"] = START / 2 if choice == wanted else -START / 2
    return space, cma_es(first, [f"scale/{r}/{depth}" for r, depth in slots])


def through(hops: Sequence[Hop], models: Sequence[mo.Checkpoint]) -> mo.Recipe:
    """The recipe; a trial without any layer is pruned."""
    if not hops:
        raise optuna.TrialPruned("The path is empty.")
    return mo.recipes.path(Route(tuple(hops)), models)


def cma_es(first: dict[str, float], scales: Sequence[str]) -> Callable[[int], Any]:
    """From these numbers and all scales 1: a function of the seed."""
    space: dict[str, BaseDistribution] = {
        **{name: FloatDistribution(-LIMIT, LIMIT) for name in first},
        **{name: FloatDistribution(LOW, HIGH) for name in scales},
    }
    sigma0 = {
        **dict.fromkeys(first, 1 / (2 * LIMIT)),
        **dict.fromkeys(scales, SIGMA / (HIGH - LOW)),
    }
    x0 = {**first, **dict.fromkeys(scales, 1.0)}
    return lambda seed: mo.samplers.CmaEsSampler(space, x0=x0, sigma0=sigma0, seed=seed)


def one_plus_one(
    space: mo.spaces.LayerPath, value: Callable[[mo.Recipe], float], seed: int, n: int
) -> tuple[mo.Recipe, list[float]]:
    """The (1+1)-EA on choices and scales: one of n in the mean is drawn anew, the better stays.

    Returns:
        The best recipe, and the value of every evaluation.
    """
    rng = np.random.default_rng(seed)
    distributions = space.distributions()
    parent = space.start()
    best, values = space.bind(parent), list[float]()
    values.append(value(best))
    least = values[0]
    while len(values) < n:
        child = dict(parent)
        for name, one in distributions.items():
            if rng.random() < 1 / len(distributions):
                child[name] = drawn_anew(one, child[name], rng)
        try:
            recipe = space.bind(child)
        except mo.errors.InfeasibleRecipe:
            continue
        values.append(value(recipe))
        if values[-1] <= least:
            parent, best, least = child, recipe, values[-1]
    return best, values


def drawn_anew(distribution: Any, value: Any, rng: np.random.Generator) -> Any:
    """Another choice, or a number nearby."""
    if isinstance(distribution, FloatDistribution):
        return float(np.clip(value + SIGMA * rng.standard_normal(), LOW, HIGH))
    others = [choice for choice in distribution.choices if choice != value]
    return others[rng.integers(len(others))]
