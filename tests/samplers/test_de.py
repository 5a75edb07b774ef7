"""Differential evolution against loops on plain arrays that know nothing of this package."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.optimize import differential_evolution

from merge_optuna.errors import StudyError
from merge_optuna.samplers import (
    DE,
    JDE,
    SHADE,
    Best,
    Box,
    Clip,
    CurrentToBest,
    CurrentToPBest,
    DESampler,
    Dither,
    Fixed,
    LinearReduction,
    Member,
    Midpoint,
    Population,
    Rand,
    Reflect,
    Resample,
)
from merge_optuna.samplers.adaptation import _gains
from merge_optuna.samplers.algorithm import Rank
from merge_optuna.samplers.de import _Memory
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.testing import AlgorithmSuite, textbook
from tests.samplers.storages import make_storage

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestRand(AlgorithmSuite):
    def algorithm(self) -> Any:
        return DE(Rand(), Fixed(), size=5)


class TestSHADE(AlgorithmSuite):
    def algorithm(self) -> Any:
        return DE(CurrentToPBest(), SHADE(5), size=6)


class TestLSHADE(AlgorithmSuite):
    def algorithm(self) -> Any:
        return DE(CurrentToPBest(0.11, 2.6), SHADE(6, True), 12, LinearReduction(35))


class TestJDE(AlgorithmSuite):
    def algorithm(self) -> Any:
        return DE(CurrentToBest(), JDE(), size=6)


# -- The papers, on plain arrays --------------------------------------------------------------

SPACE = {
    "x": FloatDistribution(-2, 3),
    "y": FloatDistribution(1e-4, 10, log=True),
    "k": IntDistribution(2, 8, step=3),
    "m": IntDistribution(1, 64, log=True),
    "s": FloatDistribution(0, 1, step=0.25),
    "c": CategoricalDistribution(["a", "b", "d"]),
    "one": FloatDistribution(4, 4),
}
N = 6


def to_params(u: np.ndarray) -> dict[str, Any]:
    """The unit box by hand, dimensions sorted by name: c, k, m, s, x, y."""
    log_m = math.log(0.5) + u[2] * (math.log(64.5) - math.log(0.5))
    log_y = math.log(1e-4) + u[5] * (math.log(10) - math.log(1e-4))
    return {
        "c": "abd"[min(int(u[0] * 3), 2)],
        "k": 2 + 3 * min(int(u[1] * 3), 2),
        "m": min(max(round(math.exp(log_m)), 1), 64),
        "s": 0.25 * min(int(u[3] * 5), 4),
        "x": -2.0 + u[4] * 5.0,
        "y": min(max(math.exp(log_y), 1e-4), 10.0),
        "one": 4.0,
    }


def value(params: dict[str, Any]) -> float:
    """Its optimum lies on two bounds; rounded, so that there are ties."""
    exact = (
        (params["x"] + 2) ** 2
        + abs(math.log10(params["y"]) - 1)
        + abs(params["k"] - 5)
        + abs(math.log2(params["m"]) - 3)
        + 4 * (params["s"] - 0.75) ** 2
        + (params["c"] != "b")
    )
    return round(exact, 2)


def objective(trial: optuna.Trial) -> float:
    params = {
        "x": trial.suggest_float("x", -2, 3),
        "y": trial.suggest_float("y", 1e-4, 10, log=True),
        "k": trial.suggest_int("k", 2, 8, step=3),
        "m": trial.suggest_int("m", 1, 64, log=True),
        "s": trial.suggest_float("s", 0, 1, step=0.25),
        "c": trial.suggest_categorical("c", ["a", "b", "d"]),
        "one": trial.suggest_float("one", 4, 4),
    }
    assert params == trial.params
    return value(params)


class Setting(NamedTuple):
    """What both the plain loop and the sampler understand."""

    mutation: str
    adaptation: str
    bounds: str = "midpoint"
    size: int = 8
    budget: int = 10**9  # that the population shrinks over, to 4
    p: tuple[float | None, float] = (0.3, 0.3)
    archive: float = 0.5
    H: int = 3
    tau: float = 0.3


class PlainDE:
    """DE as in the papers, for minimisation. The random numbers of a candidate are drawn in the
    documented order: F and CR, mutation, bounds, crossover."""

    def __init__(self, s: Setting, sign: int, seed: int) -> None:
        self.s, self.sign, self.seed = s, sign, seed
        self.history: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.outside = self.trimmed = 0
        self.M_F, self.M_CR, self.k = [0.5] * s.H, [0.5] * s.H, 0
        self.archive: list[np.ndarray] = []

    def run(self, n: int) -> list[dict[str, Any]]:
        s, slots = self.s, list(range(self.s.size))
        X, f, born = np.empty((s.size, N)), np.empty(s.size), np.zeros(s.size, int)
        F_CR = np.tile([0.5, 0.9], (s.size, 1))  # jDE starts with these
        for g in count():
            self.sizes.append(len(slots))
            U, F_CR_U, fu, first = np.empty_like(X), F_CR.copy(), np.empty(len(slots)), 0
            first = len(self.history)
            for i, slot in enumerate(slots):
                rng = np.random.default_rng([self.seed, 0, g, slot, 0])
                if g == 0:
                    U[i] = rng.random(N)
                else:
                    F_CR_U[i] = F, CR = self.F_and_CR(*F_CR[i], rng)
                    order = np.lexsort((born, f))  # the earlier first among equals
                    v = self.repair(self.mutant(X, i, order, F, rng), X[i], rng)
                    mask = rng.random(N) < CR  # binomial crossover
                    mask[rng.integers(N)] = True
                    U[i] = np.where(mask, v, X[i])
                self.history.append(to_params(U[i]))
                fu[i] = self.sign * value(self.history[-1])
                if len(self.history) == n:
                    return self.history
            if g == 0:
                X, f, born = U, fu, np.arange(len(slots))
            else:
                won = np.flatnonzero(fu < f)
                self.archive += list(X[won].copy())
                if len(won):
                    self.remember(F_CR_U[won], (f - fu)[won])
                X[won], f[won], F_CR[won], born[won] = U[won], fu[won], F_CR_U[won], first + won
            # L-SHADE, eq. 10
            used = min(len(self.history), s.budget)
            planned = math.floor(Fraction((4 - s.size) * used, s.budget) + s.size + Fraction(1, 2))
            keep = np.sort(np.lexsort((born, f))[: max(planned, 4)])
            slots = [slots[i] for i in keep]
            X, f, born, F_CR = X[keep], f[keep], born[keep], F_CR[keep]
            self.trim(len(slots), np.random.default_rng([self.seed, 3, g, 0, 0]))
        raise AssertionError

    def F_and_CR(self, F: float, CR: float, rng: np.random.Generator) -> tuple[float, float]:
        kind = self.s.adaptation
        if kind == "fixed":
            return 0.8, 0.7
        if kind == "dither":
            return 0.4 + 0.5 * rng.random(), 0.7
        if kind == "jde":
            r1, r2, r3, r4 = rng.random(4)
            F_l, F_u = 0.1, 0.9
            return (F_l + r1 * F_u if r2 < self.s.tau else F), (r3 if r4 < self.s.tau else CR)
        r = rng.integers(self.s.H)
        CR = 0.0 if self.M_CR[r] == -1 else min(max(rng.normal(self.M_CR[r], 0.1), 0.0), 1.0)
        F = self.M_F[r] + 0.1 * rng.standard_cauchy()
        while F <= 0:
            F = self.M_F[r] + 0.1 * rng.standard_cauchy()
        return min(F, 1.0), CR

    def mutant(
        self, X: np.ndarray, i: int, order: np.ndarray, F: float, rng: np.random.Generator
    ) -> np.ndarray:
        others = np.delete(np.arange(len(X)), i)
        if self.s.mutation == "rand":
            r1, r2, r3 = rng.choice(others, 3, replace=False)
            return X[r1] + F * (X[r2] - X[r3])
        if self.s.mutation == "best":
            r1, r2 = rng.choice(others, 2, replace=False)
            return X[order[0]] + F * (X[r1] - X[r2])
        if self.s.mutation == "current-to-best":
            r1, r2 = rng.choice(others, 2, replace=False)
            return X[i] + F * (X[order[0]] - X[i]) + F * (X[r1] - X[r2])
        low, high = self.s.p
        p = high
        if low != high:  # SHADE: rand[2 / N, 0.2]
            p_min = 2 / len(X) if low is None else low
            p = p_min + (high - p_min) * rng.random()
        pbest = X[order[rng.integers(max(2, math.floor(p * len(X) + 0.5)))]]
        (r1,) = rng.choice(others, 1, replace=False)
        union = [*X[[j for j in others if j != r1]], *self.archive]
        x2 = union[rng.integers(len(union))]
        return X[i] + F * (pbest - X[i]) + F * (X[r1] - x2)

    def repair(self, v: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.outside += int(((v < 0) | (v > 1)).sum())
        fresh = rng.random(N) if self.s.bounds == "resample" else None
        for j in range(N):
            while not 0 <= v[j] <= 1:
                bound = 0.0 if v[j] < 0 else 1.0
                if fresh is not None:
                    v[j] = fresh[j]
                elif self.s.bounds == "midpoint":
                    v[j] = (bound + x[j]) / 2
                elif self.s.bounds == "clip":
                    v[j] = bound
                else:
                    v[j] = 2 * bound - v[j]
        return v

    def remember(self, F_CR: np.ndarray, delta: np.ndarray) -> None:
        if self.s.adaptation not in ("shade", "l-shade"):
            return
        F, CR = F_CR.T
        w = delta / np.sum(delta)
        self.M_F[self.k] = np.sum(w * F**2) / np.sum(w * F)
        if self.s.adaptation == "shade":
            self.M_CR[self.k] = np.sum(w * CR)
        elif self.M_CR[self.k] == -1 or CR.max() == 0:
            self.M_CR[self.k] = -1
        else:
            self.M_CR[self.k] = np.sum(w * CR**2) / np.sum(w * CR)
        self.k = (self.k + 1) % self.s.H

    def trim(self, size: int, rng: np.random.Generator) -> None:
        most = math.floor(self.s.archive * size + 0.5)
        if self.s.mutation == "current-to-pbest" and len(self.archive) > most:
            stays = np.sort(rng.choice(len(self.archive), most, replace=False))
            self.archive = [self.archive[j] for j in stays]
            self.trimmed += 1


def make_sampler(s: Setting, seed: int) -> DESampler:
    p = s.p[0] if s.p[0] is not None and s.p[0] == s.p[1] else s.p
    mutations = {
        "rand": Rand(),
        "best": Best(),
        "current-to-best": CurrentToBest(),
        "current-to-pbest": CurrentToPBest(p, s.archive),
    }
    adaptations = {
        "fixed": Fixed(0.8, 0.7),
        "dither": Dither(0.4, 0.9, 0.7),
        "jde": JDE(s.tau),
        "shade": SHADE(s.H),
        "l-shade": SHADE(s.H, terminal=True),
    }
    return DESampler(
        SPACE,
        mutation=mutations[s.mutation],
        adaptation=adaptations[s.adaptation],
        population_size=s.size,
        reduction=LinearReduction(s.budget),
        bounds=BOUNDS[s.bounds],
        seed=seed,
    )


BOUNDS = {"midpoint": Midpoint(), "clip": Clip(), "reflect": Reflect(), "resample": Resample()}
MUTATIONS = ["rand", "best", "current-to-best", "current-to-pbest"]
ADAPTATIONS = ["fixed", "dither", "jde", "shade", "l-shade"]


def compare(s: Setting, n: int, direction: str, storage: Any = None, seed: int = 3) -> PlainDE:
    study = optuna.create_study(
        storage=storage, sampler=make_sampler(s, seed), direction=direction
    )
    study.optimize(objective, n_trials=n)
    plain = PlainDE(s, 1 if direction == "minimize" else -1, seed)
    assert [t.params for t in study.trials] == plain.run(n)
    return plain


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("a", range(len(ADAPTATIONS)), ids=ADAPTATIONS)
@pytest.mark.parametrize("m", range(len(MUTATIONS)), ids=MUTATIONS)
def test_one_worker_equals_the_papers(m: int, a: int, direction: str) -> None:
    bounds = list(BOUNDS)[(m + a) % 4]
    s = Setting(MUTATIONS[m], ADAPTATIONS[a], bounds)
    if ADAPTATIONS[a] == "l-shade":
        s = s._replace(size=11, budget=90)
    plain = compare(s, 90, direction)
    assert plain.outside > 5
    assert plain.trimmed > 3 or MUTATIONS[m] != "current-to-pbest"
    if ADAPTATIONS[a] in ("shade", "l-shade"):
        assert 0.5 not in plain.M_F


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("p", [(None, 0.9), (0.05, 0.7)])
def test_a_range_of_p_in_any_bounds(p: tuple[float | None, float], bounds: str) -> None:
    s = Setting("current-to-pbest", "shade", bounds, p=p, archive=2.0)
    assert compare(s, 70, "minimize").outside > 10


@pytest.mark.parametrize(
    ("storage", "s"),
    [
        ("sqlite", Setting("rand", "jde", "reflect", size=5)),
        ("sqlite", Setting("current-to-pbest", "l-shade", size=9, budget=35, archive=2.6)),
        ("journal", Setting("current-to-pbest", "l-shade", size=9, budget=35, archive=2.6)),
    ],
    ids=["sqlite-jde", "sqlite-l-shade", "journal-l-shade"],
)
def test_persistent_storages_change_no_bit(s: Setting, storage: str, tmp_path: Path) -> None:
    compare(s, 35, "maximize", make_storage(storage, tmp_path))


@pytest.mark.parametrize("seed", [0, 1])
def test_lshade_over_its_whole_budget(seed: int) -> None:
    budget = 420
    sampler = DESampler.lshade(budget, SPACE, population_size=40, seed=seed)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=budget)
    s = Setting("current-to-pbest", "l-shade", "midpoint", 40, budget, (0.11, 0.11), 2.6, 6)
    plain = PlainDE(s, 1, seed)
    assert [t.params for t in study.trials] == plain.run(budget)
    assert plain.sizes[0] == 40
    assert plain.sizes[-1] == 4
    assert sorted(plain.sizes, reverse=True) == plain.sizes
    claims = [claim for t in study.trials if (claim := own_claim(t)) is not None]
    slots = [{c.slot for c in claims if c.generation == g} for g in range(len(plain.sizes))]
    assert [len(taken) for taken in slots][:-1] == plain.sizes[:-1]


def test_as_precise_as_scipy() -> None:
    """rand/1/bin set alike: the medians of the final precision lie close together."""
    seeds, size, generations = 15, 15, 25

    def sphere(x: np.ndarray) -> float:
        return float(np.sum((x - 0.3) ** 2))

    def rosenbrock(x: np.ndarray) -> float:
        return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))

    for f, n in ((sphere, 5), (rosenbrock, 5), (sphere, 10), (rosenbrock, 10)):
        space = {f"x{i}": FloatDistribution(-2, 2) for i in range(n)}
        algorithm = DE(Rand(), Fixed(0.5, 0.9), size, bounds=Resample())
        ours, theirs = [], []
        for seed in range(seeds):
            values: list[float] = []

            def evaluate(params: dict[str, Any], f: Any = f, values: Any = values) -> float:
                values.append(f(np.array(list(params.values()))))
                return values[-1]  # type: ignore[no-any-return]

            textbook(algorithm, space, evaluate, seed=seed, n_trials=size * (generations + 1))
            ours.append(math.log10(min(values)))
            start = 4 * np.random.default_rng(seed).random((size, n)) - 2
            result = differential_evolution(
                f,
                [(-2, 2)] * n,
                strategy="rand1bin",
                mutation=0.5,
                recombination=0.9,
                init=start,
                maxiter=generations,
                updating="deferred",
                polish=False,
                tol=0,
                seed=seed,  # not yet called rng in scipy 1.13
            )
            assert result.nfev == size * (generations + 1)
            theirs.append(math.log10(result.fun))
        # Standard error of the difference of two medians, about.
        error = 1.25 * math.hypot(np.std(ours), np.std(theirs)) / math.sqrt(seeds)
        assert abs(np.median(ours) - np.median(theirs)) < 4 * error


# -- Bounds -----------------------------------------------------------------------------------

coordinates = st.floats(-1e6, 1e6) | st.floats(-1, 2) | st.sampled_from([0.0, 1.0, -5e-324])
points = st.lists(st.tuples(coordinates, st.floats(0, 1)), min_size=1, max_size=8)


@pytest.mark.parametrize("bounds", BOUNDS.values())
@given(points=points, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_points_come_back_inside_and_stay_if_they_are(
    bounds: Any, points: list[tuple[float, float]], seed: int
) -> None:
    x, parent = np.array(points).T
    before = x.copy(), parent.copy()
    back = bounds(x, parent, np.random.default_rng(seed))
    assert np.all((back >= 0) & (back <= 1))
    inside = (x >= 0) & (x <= 1)
    assert np.array_equal(back[inside], x[inside])
    assert np.array_equal(x, before[0])
    assert np.array_equal(parent, before[1])


def test_bounds_by_value() -> None:
    x, parent = np.array([-0.2, 0.4, 1.3, 2.5, -3.25]), np.array([0.5, 0.1, 0.6, 0.0, 1.0])
    rng = np.random.default_rng(0)
    assert Clip()(x, parent, rng).tolist() == [0, 0.4, 1, 1, 0]
    assert Midpoint()(x, parent, rng).tolist() == [0.25, 0.4, 0.8, 0.5, 0.5]
    assert Reflect()(x, parent, rng) == pytest.approx([0.2, 0.4, 0.7, 0.5, 0.75])
    draws = np.random.default_rng(0).random(5)
    assert Resample()(x, parent, rng).tolist() == [draws[0], 0.4, *draws[2:]]


# -- Adaptation and reduction, by hand --------------------------------------------------------


def member(loss: float, F: float = 0.5, CR: float = 0.9, **what: Any) -> Member:
    rank = Rank(what.get("state", 0), what.get("violation", 0.0), loss)
    return Member(np.full(2, what.get("x", 0.5)), rank, {"F_CR": np.array([F, CR])})


def test_shade_remembers_weighted_means() -> None:
    # Improved by 3 and by 1: weights 3/4 and 1/4.
    won = [(member(10), member(7, F=0.4, CR=0.2)), (member(6), member(5, F=0.8, CR=1.0))]
    F = (0.75 * 0.16 + 0.25 * 0.64) / (0.75 * 0.4 + 0.25 * 0.8)
    shade = SHADE(memory=2)
    once = shade.learn(shade.start(), won)
    assert list(once.F) == pytest.approx([F, 0.5])
    assert list(once.CR) == pytest.approx([0.75 * 0.2 + 0.25 * 1.0, 0.5])
    assert once.next == 1
    assert shade.learn(once, []) is once
    twice = shade.learn(once, won[:1])
    assert list(twice.F) == pytest.approx([F, 0.4])
    assert list(twice.CR) == pytest.approx([0.4, 0.2])
    assert twice.next == 0
    assert list(once.F) == pytest.approx([F, 0.5])  # nothing is changed in place

    lshade = SHADE(memory=2, terminal=True)
    CR = (0.75 * 0.04 + 0.25 * 1.0) / (0.75 * 0.2 + 0.25 * 1.0)
    assert list(lshade.learn(lshade.start(), won).CR) == pytest.approx([CR, 0.5])


def test_terminal_value() -> None:
    """Once only CR = 0 has worked, an entry means CR = 0 for ever; the other goes on."""
    shade = SHADE(memory=2, terminal=True)
    zero, half = [(member(2), member(1, CR=0.0))], [(member(2), member(1, CR=0.5))]
    learned = shade.start()
    for won in (zero, half, half, half):
        learned = shade.learn(learned, won)
        assert math.isnan(learned.CR[0])
        assert learned.CR[1] == 0.5
    drawn = {shade.draw(learned, member(0), np.random.default_rng(i))[1] for i in range(60)}
    assert 0.0 in drawn
    assert 20 < len(drawn) < 45  # 0 half of the time
    plain = SHADE(memory=1)
    assert plain.learn(plain.start(), zero).CR == [0.0]


def test_shade_draws() -> None:
    """F around its mean in (0, 1], CR in [0, 1]; with the quartiles of the distributions."""
    shade = SHADE(memory=1)
    learned = shade.learn(shade.start(), [(member(2), member(1, F=0.6, CR=0.3))])
    rng = np.random.default_rng(0)
    F, CR = np.array([shade.draw(learned, member(0), rng) for _ in range(4000)]).T
    assert F.min() > 0
    assert F.max() == 1
    assert np.mean(F == 1) == pytest.approx(0.078 / 0.947, abs=0.02)  # Cauchy beyond 4 and -6
    assert CR.min() == 0
    assert np.quantile(CR, [0.25, 0.5, 0.75]) == pytest.approx([0.2326, 0.3, 0.3674], abs=0.01)
    assert np.quantile(F, 0.5) == pytest.approx(0.6 + 0.1 * math.tan(math.pi * 0.0263), abs=0.01)


def test_weights_of_winners_that_cannot_be_compared() -> None:
    complete = [(member(5), member(2)), (member(5), member(4))]  # by 3 and 1
    pruned = (member(-9, state=1), member(7))
    failed = (member(math.inf, state=2), member(7))
    infeasible = (member(1, violation=0.5), member(7, violation=0.2))
    assert _gains(complete).tolist() == [0.75, 0.25]
    mixed = [*complete, pruned, failed, infeasible]
    assert _gains(mixed) == pytest.approx(np.array([3, 1, 3, 3, 3]) / 13)
    assert _gains([pruned, failed]).tolist() == [0.5, 0.5]
    both = [(member(5, state=1), member(2, state=1)), (member(math.inf, state=1), member(0))]
    assert _gains(both).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("scale", [1e308, 1e-308, 5e-324])
def test_weights_neither_overflow_nor_vanish(scale: float) -> None:
    won = [(member(scale), member(0.0))] * 4 + [(member(math.inf), member(0.0))] * 4
    assert _gains(won) == pytest.approx([1 / 8] * 8)


def test_jde_inherits_what_has_won() -> None:
    never, always = JDE(tau=0.0), JDE(tau=1.0, low=0.2, high=0.6)
    rng = np.random.default_rng(0)
    assert never.draw(None, member(0, F=0.3, CR=0.4), rng) == (0.3, 0.4)
    assert never.draw(None, Member(np.zeros(2), Rank(0, 0, 0)), rng) == (0.5, 0.9)
    drawn = np.array([always.draw(None, member(0), rng) for _ in range(500)])
    assert drawn.min(axis=0) == pytest.approx([0.2, 0.0], abs=0.02)
    assert drawn.max(axis=0) == pytest.approx([0.6, 1.0], abs=0.02)
    both = JDE()
    new = np.array([both.draw(None, member(0, 0.3, 0.4), rng) for _ in range(2000)])
    assert np.mean(new != [0.3, 0.4], axis=0) == pytest.approx([0.1, 0.1], abs=0.03)

    # In a study: every member has the F and CR that it was made with, the losers' are lost.
    sampler = DESampler(SPACE, mutation=Rand(), adaptation=JDE(tau=0.5), population_size=5, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=60)
    made = {t.number: own_claim(t).candidate.hidden for t in study.trials}  # type: ignore[union-attr]
    assert all(("F_CR" in hidden) == (number >= 5) for number, hidden in made.items())
    values = [t.value for t in study.trials]
    for slot in range(5):
        F_CR, best = [0.5, 0.9], values[slot]
        for number in range(slot + 5, 60, 5):
            changed = made[number]["F_CR"] != F_CR
            r = np.random.default_rng([0, 0, number // 5, slot, 0]).random(4)
            assert changed.tolist() == [r[1] < 0.5, r[3] < 0.5]
            if values[number] < best:  # type: ignore[operator]
                F_CR, best = made[number]["F_CR"], values[number]


def test_linear_reduction_by_hand() -> None:
    """N = round((4 − 18) / 100 · evaluations + 18)."""
    sizes = [LinearReduction(100)(18, used) for used in (0, 3, 4, 18, 50, 75, 96, 97, 100, 500)]
    assert sizes == [18, 18, 17, 15, 11, 8, 5, 4, 4, 4]  # 7.5 is rounded up
    assert LinearReduction(100, to=10)(20, 100) == 10
    assert LinearReduction(10**6)(4, 10**5) == 4
    assert LinearReduction(100, to=50)(20, 60) == 20  # never grows


def test_archive_keeps_a_random_part_of_the_beaten() -> None:
    algorithm = DE(CurrentToPBest(0.2, archive=1.5), Fixed(), size=4)
    pairs = [(member(2, x=i / 8), member(1)) for i in range(8)]
    pairs[3] = (member(1, x=9), member(1))  # a tie: not beaten

    def after(memory: _Memory, won: Any, slots: int, seed: int = 0) -> list[float]:
        population = Population({}, range(slots), memory)
        learned = algorithm.learn(population, won, np.random.default_rng(seed))
        return [float(x[0]) for x in learned.beaten]

    assert after(_Memory(None), pairs, slots=5) == [i / 8 for i in (0, 1, 2, 4, 5, 6, 7)]
    counts = {i / 8: 0 for i in range(8)}
    for seed in range(300):
        kept = after(_Memory(None), pairs, slots=3, seed=seed)  # 4.5 is rounded up
        assert len(kept) == 5
        assert kept == sorted(kept)  # in the order they came
        for x in kept:
            counts[x] += 1
    assert counts.pop(3 / 8) == 0
    assert all(abs(n - 300 * 5 / 7) < 40 for n in counts.values())
    old = _Memory(None, [np.full(2, 7.0)] * 6)
    assert after(old, [], slots=2) == [7.0] * 3  # the population has shrunk
    for mutation in (Rand(), Best(), CurrentToBest(), CurrentToPBest(archive=0)):
        algorithm = DE(mutation, Fixed(), size=4)
        assert after(_Memory(None), pairs, slots=4) == []


# -- Selection --------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_who_survives(direction: str) -> None:
    """Complete before pruned before failed, feasible before infeasible, ties to the older."""
    sign = 1 if direction == "minimize" else -1
    space = {"x": FloatDistribution(0, 1)}
    sampler = DESampler(
        space,
        mutation=Rand(),
        adaptation=SHADE(2),
        population_size=4,
        seed=0,
        max_attempts=1,
    )
    study = optuna.create_study(sampler=sampler, direction=direction)

    def generation(*outcomes: tuple[str, float]) -> list[int]:
        for kind, number in outcomes:
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            if kind == "infeasible":
                trial.set_constraint("c", 1.0)
            if kind == "pruned" and number == number:
                trial.report(sign * number, 0)
            states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
            state = states.get(kind, TrialState.COMPLETE)
            study.tell(trial, sign * number if state == TrialState.COMPLETE else None, state=state)
        (book,) = fold(study, space)
        return [m.trial for m in book.memory.after.values()]

    nan = math.nan
    first = [("pruned", 5.0), ("failed", nan), ("infeasible", -9.0), ("complete", 2.0)]
    assert generation(*first) == [0, 1, 2, 3]
    second = [("complete", 99.0), ("pruned", nan), ("complete", 50.0), ("complete", 2.0)]
    assert generation(*second) == [4, 5, 6, 3]
    third = [("pruned", -99.0), ("pruned", 3.0), ("infeasible", -99.0), ("failed", nan)]
    assert generation(*third) == [4, 9, 6, 3]
    fourth = [("complete", 98.0), ("pruned", 3.0), ("complete", 49.5), ("complete", 1.5)]
    assert generation(*fourth) == [12, 9, 14, 15]


def fold(study: optuna.Study, space: Any) -> Any:
    """The books as a new process folds them."""
    sampler = DESampler(
        space,
        mutation=Rand(),
        adaptation=SHADE(2),
        population_size=4,
        seed=0,
        max_attempts=1,
    )
    name, storage = study.study_name, study._storage
    log = sampler._notes_of(optuna.load_study(study_name=name, storage=storage)).log
    log.know(sampler._digest(sampler._box(space)), sampler._box(space))
    trials = study.trials
    assert log.follow(trials, len(trials))
    log.see(trials, log.unread(trials, len(trials)))
    for book in log.books.values():
        sampler._places.catch_up(book, sampler._box(space))
    return log.books.values()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("flying", [2, 7, 30])
@pytest.mark.parametrize(
    "options",
    [
        {"population_size": 6},
        {"mutation": Best(), "adaptation": JDE(), "population_size": 6},
        {"mutation": CurrentToPBest(), "adaptation": SHADE(3), "population_size": 6},
        {
            "mutation": CurrentToPBest(0.11, 2.6),
            "adaptation": SHADE(3, True),
            "population_size": 20,
            "reduction": LinearReduction(60),
        },
    ],
)
def test_many_workers_with_every_outcome(options: Any, flying: int, seed: int) -> None:
    """Candidates of generation 0 meet members, populations of one are asked, slots go away."""
    rng = np.random.default_rng(seed)
    sampler = DESampler(SPACE, seed=seed, max_attempts=2, **options)
    study = optuna.create_study(sampler=sampler)
    running: list[optuna.Trial] = []
    for _ in range(110):
        trial = study.ask(SPACE)
        running.append(trial)
        if len(running) < flying:
            continue
        trial = running.pop(rng.integers(len(running)))
        if rng.random() < 0.15:
            study.tell(trial, state=TrialState.FAIL)
        elif rng.random() < 0.15:
            trial.report(1.0, 0)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_constraint("c", float(rng.integers(-1, 2)))
            study.tell(trial, value(trial.params))
    claims = [claim for t in study.trials if (claim := own_claim(t)) is not None]
    assert len({(c.place, c.attempt) for c in claims}) == len(claims) == 110


# -- The interface ----------------------------------------------------------------------------


def test_default_sizes() -> None:
    for n, size in ((1, 20), (20, 20), (30, 30), (100, 100), (300, 100)):
        space = {f"p{i:03}": FloatDistribution(0, 1) for i in range(n)}
        assert DESampler(space).population_size() == size
    assert DESampler().population_size() is None
    assert DESampler(SPACE, population_size=7).population_size() == 7


def test_lshade_starts_smaller_with_a_small_budget() -> None:
    for budget, size in ((20, 10), (1000, 25), (4320, 108), (10**6, 108)):
        assert DESampler.lshade(budget, SPACE).population_size() == size


def test_lshade_is_the_papers() -> None:
    sampler = DESampler.lshade(10_000, SPACE, seed=3, bounds=Clip(), max_attempts=5)
    expected = DESampler(
        SPACE,
        mutation=CurrentToPBest(p=0.11, archive=2.6),
        adaptation=SHADE(memory=6, terminal=True),
        population_size=18 * 6,  # one of the seven parameters has a single value
        reduction=LinearReduction(10_000, to=4),
        bounds=Clip(),
        seed=3,
        max_attempts=5,
    )
    assert repr(sampler._algorithm) == repr(expected._algorithm)
    assert (sampler._seed, sampler._max_attempts) == (3, 5)
    initial = [{"x": 0.5}, {"k": 8}]
    sampler = DESampler.lshade(50, SPACE, population_size=10, initial_population=initial)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=2)
    assert study.trials[0].params["x"] == 0.5
    assert study.trials[1].params["k"] == 8
    with pytest.raises(StudyError, match=r"budget of 10 evaluations ends with .* of 10"):
        DESampler.lshade(10, SPACE)
    fixed = optuna.create_study(sampler=DESampler.lshade(9, {"one": FloatDistribution(4, 4)}))
    assert fixed.ask({"one": FloatDistribution(4, 4)}).params == {"one": 4}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DESampler(SPACE, population_size=3), "population_size must be at least 4, got 3"),
        (lambda: DESampler(SPACE, population_size=0), "population_size must be at least 4"),
        (lambda: DE(size=3), "population_size must be at least 4"),
        (lambda: DESampler.lshade(100, SPACE, population_size=0), "population_size must be"),
        (lambda: DESampler(SPACE, seed=-1), "seed must be a non-negative integer, got -1"),
        (lambda: DESampler(SPACE, max_attempts=0), "max_attempts"),
        (
            lambda: DESampler(SPACE, population_size=4, initial_population=[{}] * 5),
            "initial_population has 5 candidates, but the population only 4 slots",
        ),
        (
            lambda: DESampler(SPACE, initial_population=[{}, {"z": 1, "one": 4.0}]),
            r"initial_population\[1\] has 'one', 'z', but the search space has 'c', 'k'",
        ),
        (
            lambda: DESampler(SPACE, initial_population=[{"x": 3.5}]),
            r"initial_population\[0\] has x = 3.5, which is not in",
        ),
        (
            lambda: DESampler(SPACE, initial_population=[{"c": "e"}]),
            r"initial_population\[0\] has c = 'e', which is not in Categorical",
        ),
        (
            lambda: DESampler(SPACE, initial_population=[{"x": "far"}]),
            r"initial_population\[0\] has x = 'far'",
        ),
        (lambda: DESampler(initial_population=[{"x": 1}]), "needs search_space"),
        (lambda: Fixed(F=0.0), r"F must be in \(0, 2\], the lower bound first, got 0.0"),
        (lambda: Fixed(F=2.5), "F must be"),
        (lambda: Fixed(F=math.nan), "F must be"),
        (lambda: Fixed(CR=1.1), r"CR must be in \[0, 1\], got 1.1"),
        (lambda: Fixed(CR=-0.1), "CR must be"),
        (lambda: Dither(0.9, 0.5), r"F must be .* got \[0.9, 0.5\]"),
        (lambda: Dither(CR=2.0), "CR must be"),
        (lambda: JDE(tau=1.5), r"tau must be in \[0, 1\], got 1.5"),
        (lambda: JDE(low=-0.1), "F must be"),
        (lambda: SHADE(memory=0), "memory must be at least 1, got 0"),
        (lambda: CurrentToPBest(p=0.0), r"p must be in \(0, 1\]"),
        (lambda: CurrentToPBest(p=1.5), "p must be"),
        (lambda: CurrentToPBest(p=(0.3, 0.1)), r"p must be .* got \(0.3, 0.1\)"),
        (lambda: CurrentToPBest(p=(None, 0.0)), "p must be"),
        (lambda: CurrentToPBest(archive=-1.0), "archive must not be negative, got -1.0"),
        (lambda: LinearReduction(0), "budget must be at least 1, got 0"),
        (lambda: LinearReduction(100, to=3), "to must be at least 4, got 3"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make()


def test_a_population_has_the_same_name_in_every_process() -> None:
    """Even with another hash seed; and another one for every option."""
    made = [
        DE(),
        DE(size=4),
        *(DE(bounds=bounds) for bounds in (Clip(), Reflect(), Resample())),
        *(DE(m) for m in (Best(), CurrentToBest(), Rand(), CurrentToPBest((None, 0.2)))),
        *(DE(adaptation=a) for a in (Fixed(0.6), Dither(), JDE(), SHADE(), SHADE(6, True))),
        *(DE(size=9, reduction=LinearReduction(99, to)) for to in (4, 5)),
    ]
    names = [repr(algorithm) for algorithm in made]
    assert len(set(names)) == len(names)
    script = (
        "from merge_optuna.samplers import *\n"
        "from tests.samplers.test_de import SPACE\n"
        f"for name in {names!r}: print(Box(SPACE, categorical=True).digest(repr(eval(name))))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    there = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    box = Box(SPACE, categorical=True)
    assert there.stdout.split() == [box.digest(name) for name in names]
    assert DESampler(SPACE)._digest(box) == box.digest(names[0])
