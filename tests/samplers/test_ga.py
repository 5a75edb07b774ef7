"""The genetic algorithm against Deb's code, transcribed for plain arrays."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from scipy.stats import kstest

from merge_optuna.errors import StudyError
from merge_optuna.samplers import (
    GA,
    SBX,
    Box,
    Descriptor,
    FitnessProportional,
    GASampler,
    Gaussian,
    Generational,
    Genetic,
    IsoLine,
    MAPElites,
    Member,
    NaturalNiches,
    Niches,
    PolynomialMutation,
    Tournament,
    Truncation,
)
from merge_optuna.samplers._variation import blend, roulette
from merge_optuna.samplers.algorithm import Rank
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.testing import AlgorithmSuite
from tests.samplers.storages import make_storage
from tests.samplers.test_de import SPACE, N, objective, to_params, value

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestDefaults(AlgorithmSuite):
    def algorithm(self) -> Any:
        return GA(size=6)


class TestGenerational(AlgorithmSuite):
    def algorithm(self) -> Any:
        return GA(FitnessProportional(), SBX(2, 1.0), survival=Generational(2), size=7)


class TestOtherOperators(AlgorithmSuite):
    def algorithm(self) -> Any:
        return GA(Tournament(3), IsoLine(), Gaussian(0.05), Generational(0), size=5)


# -- Deb's code, on plain arrays --------------------------------------------------------------


def power(x: float, y: float) -> float:
    """As numpy's arrays do; that of the C library differs in the last bit."""
    return float((np.array([x]) ** y)[0])


def deb_crossover(p1: float, p2: float, rand: float, eta: float) -> tuple[float, float]:
    """One variable of realcross() of NSGA-II 1.1.6, in [0, 1]: the lower and the upper child."""
    y1, y2 = min(p1, p2), max(p1, p2)
    if not abs(p1 - p2) > 1.0e-14:
        return y1, y2
    children = []
    for room, side in ((y1 - 0.0, -1), (1.0 - y2, 1)):
        beta = 1.0 + (2.0 * room / (y2 - y1))
        alpha = 2.0 - power(beta, -(eta + 1.0))
        if rand <= 1.0 / alpha:
            betaq = power(rand * alpha, 1.0 / (eta + 1.0))
        else:
            betaq = power(1.0 / (2.0 - rand * alpha), 1.0 / (eta + 1.0))
        c = 0.5 * ((y1 + y2) + side * betaq * (y2 - y1))
        children.append(min(max(c, 0.0), 1.0))
    return children[0], children[1]


def deb_mutation(y: float, rnd: float, eta: float) -> float:
    """One variable of real_mutate_ind(), in [0, 1]."""
    delta1, mut_pow = y, 1.0 / (eta + 1.0)
    if rnd <= 0.5:
        val = 2.0 * rnd + (1.0 - 2.0 * rnd) * power(1.0 - delta1, eta + 1.0)
        deltaq = power(val, mut_pow) - 1.0
    else:
        val = 2.0 * (1.0 - rnd) + 2.0 * (rnd - 0.5) * power(y, eta + 1.0)  # y: 1 - delta2
        deltaq = 1.0 - power(val, mut_pow)
    return min(max(y + deltaq, 0.0), 1.0)


class Setting(NamedTuple):
    selection: str = "tournament"
    elites: int | None = None  # None: (μ+λ)
    size: int = 8
    eta_c: float = 15
    p_c: float = 0.9
    eta_m: float = 20
    p_m: float | None = None
    q: int = 2  # size of a tournament


class PlainGA:
    """For minimisation; dimension 0 is categorical."""

    def __init__(self, s: Setting, sign: int, seed: int) -> None:
        self.s, self.sign, self.seed = s, sign, seed
        self.history: list[dict[str, Any]] = []
        self.crossed = self.mutated = 0

    def run(self, n: int) -> list[dict[str, Any]]:
        s = self.s
        X, f = np.empty((0, N)), np.empty(0)
        for g in count():
            U, fu = np.empty((s.size, N)), np.empty(s.size)
            for i in range(s.size):
                rng = np.random.default_rng([self.seed, 0, g, i, 0])
                U[i] = self.child(X, f, rng) if g else rng.random(N)
                self.history.append(to_params(U[i]))
                fu[i] = self.sign * value(self.history[-1])
                if len(self.history) == n:
                    return self.history
            if s.elites is not None and g > 0:
                keep, young = np.arange(s.elites), np.argsort(fu, kind="stable")
                U, fu = U[young[: s.size - s.elites]], fu[young[: s.size - s.elites]]
                X, f = X[keep], f[keep]
            X, f = np.concatenate([X, U]), np.concatenate([f, fu])
            best = np.argsort(f, kind="stable")[: s.size]
            X, f = X[best], f[best]
        raise AssertionError

    def child(self, X: np.ndarray, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        a, b = (X[self.select(f, rng)] for _ in range(2))
        child = a.copy()
        if rng.random() < self.s.p_c:
            crossed, u, upper = rng.random((3, N))
            for j in range(N):
                if crossed[j] < 0.5:
                    pair = deb_crossover(a[j], b[j], u[j], self.s.eta_c)
                    child[j] = b[0] if j == 0 else pair[int(upper[j] < 0.5)]
                    self.crossed += 1
        mutated, u = rng.random((2, N))
        for j in range(N):
            if mutated[j] < (1 / N if self.s.p_m is None else self.s.p_m):
                child[j] = u[0] if j == 0 else deb_mutation(child[j], u[j], self.s.eta_m)
                self.mutated += 1
        return child

    def select(self, f: np.ndarray, rng: np.random.Generator) -> int:
        if self.s.selection == "tournament":
            return int(min(rng.integers(len(f), size=self.s.q)))  # X is sorted
        w = max(f) - f
        p = w / w.sum() if w.any() else np.full(len(f), 1 / len(f))
        return int(rng.choice(len(f), p=p))


def compare(s: Setting, n: int, direction: str, storage: Any = None, seed: int = 5) -> PlainGA:
    sampler = GASampler(
        SPACE,
        selection=Tournament(s.q) if s.selection == "tournament" else FitnessProportional(),
        crossover=SBX(s.eta_c, s.p_c),
        mutation=PolynomialMutation(s.eta_m, s.p_m),
        survival=Truncation() if s.elites is None else Generational(s.elites),
        population_size=s.size,
        seed=seed,
    )
    study = optuna.create_study(storage=storage, sampler=sampler, direction=direction)
    study.optimize(objective, n_trials=n)
    plain = PlainGA(s, 1 if direction == "minimize" else -1, seed)
    assert [t.params for t in study.trials] == plain.run(n)
    return plain


SETTINGS = [
    Setting(),
    Setting(elites=1, q=4),
    Setting("roulette"),
    Setting("roulette", elites=0, eta_c=2, p_c=1.0, eta_m=5, p_m=0.5),
    Setting(elites=3, size=5, eta_c=0, eta_m=0, p_m=1.0),
    Setting(q=1, size=2, p_c=0.5),
]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("s", SETTINGS, ids=range(len(SETTINGS)))
def test_one_worker_equals_debs_code(s: Setting, direction: str) -> None:
    plain = compare(s, 100, direction)
    assert plain.crossed > 50
    assert plain.mutated > 50


@pytest.mark.parametrize(("storage", "s"), [("sqlite", SETTINGS[0]), ("journal", SETTINGS[3])])
def test_persistent_storages_change_no_bit(s: Setting, storage: str, tmp_path: Path) -> None:
    compare(s, 22, "maximize", make_storage(storage, tmp_path))


def test_it_optimises() -> None:
    space = {f"x{i}": FloatDistribution(-5, 5) for i in range(5)}

    def sphere(trial: optuna.Trial) -> float:
        return sum((trial.suggest_float(name, -5, 5) - 1) ** 2 for name in space)

    for options in ({}, {"selection": FitnessProportional(), "survival": Generational()}):
        study = optuna.create_study(
            sampler=GASampler(space, population_size=20, seed=0, **options)
        )
        study.optimize(sphere, n_trials=500)
        assert study.best_value < 0.5  # the best of 500 uniform points has about 5


# -- Operators --------------------------------------------------------------------------------

unit = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 5e-324, 1 - 2**-53])
below_one = st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53)
etas = st.sampled_from([0.0, 1.0, 15.0, 200.0])


@given(st.lists(st.tuples(unit, unit, below_one), min_size=1, max_size=9), etas)
@settings(max_examples=100, deadline=None)
def test_sbx_is_debs_and_stays_inside(rows: list[Any], eta: float) -> None:
    a, b, u = np.array(rows).T
    low, high = SBX(eta).children(a, b, u)
    expected = [deb_crossover(x, y, r, eta) for x, y, r in rows]
    assert [(x, y) for x, y in zip(low, high, strict=True)] == expected
    assert np.all((low >= 0) & (high <= 1))
    assert np.all(low <= high)


@pytest.mark.parametrize("eta", [2.0, 15.0])
@pytest.mark.parametrize(("a", "b"), [(0.45, 0.55), (0.1, 0.3), (0.9, 0.3)])
def test_spread_factors_of_sbx(a: float, b: float, eta: float) -> None:
    """Deb & Agrawal's density c(β), truncated where the bound is."""
    u = np.random.default_rng(0).random(4000)
    low, high = SBX(eta).children(np.full(4000, a), np.full(4000, b), u)
    mean, half = (a + b) / 2, abs(a - b) / 2

    def cdf(beta: np.ndarray, widest: float) -> np.ndarray:
        def untruncated(x: Any) -> Any:
            return np.where(x <= 1, x ** (eta + 1) / 2, 1 - x ** -(eta + 1) / 2)

        return np.asarray(untruncated(beta) / untruncated(widest))

    for beta, widest in (
        ((mean - low) / half, mean / half),
        ((high - mean) / half, (1 - mean) / half),
    ):
        assert beta.max() <= widest * (1 + 1e-12)
        assert kstest(beta, lambda x, w=widest: cdf(x, w)).pvalue > 0.01


def test_sbx_keeps_the_mean_of_its_parents() -> None:
    """Exactly where both bounds are equally far, else as far as the bounds do not matter."""
    u = np.random.default_rng(1).random(1000)
    for a, b in ((0.3, 0.7), (0.0, 1.0), (0.48, 0.52)):
        low, high = SBX(15).children(np.full(1000, a), np.full(1000, b), u)
        assert low + high == pytest.approx(np.full(1000, a + b), abs=1e-15)
    low, high = SBX(15).children(np.full(1000, 0.4), np.full(1000, 0.42), u)
    assert low + high == pytest.approx(np.full(1000, 0.82), abs=1e-9)

    rng, nobody = np.random.default_rng(2), np.zeros(3, dtype=bool)
    a, b = np.array([0.3, 0.5, 0.45]), np.array([0.7, 0.5, 0.55])
    children = np.array([SBX(5, 1.0)([a, b], nobody, rng) for _ in range(4000)])
    untouched = np.mean(children == a, axis=0)
    assert untouched == pytest.approx([0.5, 1.0, 0.5], abs=0.04)
    moved = children[children[:, 0] != a[0], 0]
    assert moved.mean() == pytest.approx(0.5, abs=0.02)
    never = [SBX(5, 0.3)([a, b], nobody, rng)[0] == a[0] for _ in range(2000)]
    assert np.mean(never) == pytest.approx(1 - 0.3 / 2, abs=0.03)


def test_sbx_exchanges_categories() -> None:
    rng, mask = np.random.default_rng(0), np.array([True, False])
    a, b = np.array([0.2, 0.2]), np.array([0.7, 0.7])
    children = np.array([SBX(15, 1.0)([a, b], mask, rng) for _ in range(1000)])
    assert set(children[:, 0]) == {0.2, 0.7}
    assert np.mean(children[:, 0] == 0.7) == pytest.approx(0.5, abs=0.05)
    assert len(set(children[:, 1])) > 400


@given(st.lists(st.tuples(unit, below_one), min_size=1, max_size=9), etas)
@settings(max_examples=100, deadline=None)
def test_polynomial_mutation_is_debs_and_stays_inside(rows: list[Any], eta: float) -> None:
    x, u = np.array(rows).T
    moved = PolynomialMutation(eta).moved(x, u)
    assert moved.tolist() == [deb_mutation(*row, eta) for row in rows]
    assert np.all((moved >= 0) & (moved <= 1))


@pytest.mark.parametrize("eta", [5.0, 20.0])
@pytest.mark.parametrize("x", [0.02, 0.5, 0.9])
def test_steps_of_polynomial_mutation(x: float, eta: float) -> None:
    """Density ∝ (1 − |δ|)^η on either side, half of the mass each, truncated at the bounds."""
    u = np.random.default_rng(0).random(4000)
    steps = PolynomialMutation(eta).moved(np.full(4000, x), u) - x

    def cdf(delta: np.ndarray) -> np.ndarray:
        down = ((1 + delta) ** (eta + 1) - (1 - x) ** (eta + 1)) / (1 - (1 - x) ** (eta + 1))
        up = (1 - (1 - delta) ** (eta + 1)) / (1 - x ** (eta + 1))
        return np.where(delta <= 0, down / 2, 0.5 + up / 2)

    assert kstest(steps, cdf).pvalue > 0.01


def test_how_many_coordinates_are_mutated() -> None:
    rng, x = np.random.default_rng(0), np.full(10, 0.5)
    mask = np.arange(10) == 3
    for operator, rate in ((PolynomialMutation(), 0.1), (PolynomialMutation(5, 0.4), 0.4)):
        children = np.array([operator([x], mask, rng) for _ in range(3000)])
        assert np.mean(children != x, axis=0) == pytest.approx(np.full(10, rate), abs=0.03)
        new = children[children[:, 3] != 0.5, 3]
        assert kstest(new, "uniform").pvalue > 0.01  # any category
        assert np.abs(children[:, 4] - 0.5).max() < 0.5
    assert np.all(PolynomialMutation(20, 0.0)([x], mask, rng) == x)


def test_gaussian_and_iso_line_have_their_covariance() -> None:
    rng = np.random.default_rng(0)
    a, b = np.array([0.5, 0.4, 0.1]), np.array([0.6, 0.7, 0.9])
    mask = np.array([False, False, True])
    children = np.array([Gaussian(0.05)([a], mask, rng) for _ in range(6000)])
    assert np.cov(children[:, :2].T) == pytest.approx(0.0025 * np.eye(2), abs=1.5e-4)
    assert np.mean(children[:, 2] != 0.1) == pytest.approx(1 / 3, abs=0.03)
    assert kstest(children[children[:, 2] != 0.1, 2], "uniform").pvalue > 0.01

    children = np.array([IsoLine(0.03, 0.4)([a, b], mask, rng) for _ in range(6000)])
    line = np.outer(b - a, b - a)[:2, :2]
    expected = 0.0009 * np.eye(2) + 0.16 * line
    assert np.cov(children[:, :2].T) == pytest.approx(expected, rel=0.1, abs=1e-4)
    # b's with the mean length of a step, σ2 √(2/π), unless drawn anew.
    share = 0.4 * math.sqrt(2 / math.pi) * 2 / 3
    assert np.mean(children[:, 2] == 0.9) == pytest.approx(share, abs=0.02)

    far = np.array([Gaussian(1.0)([a], mask, rng) for _ in range(300)])
    assert (far.min(), far.max()) == (0.0, 1.0)
    far = np.array([IsoLine(0.0, 9.0)([a, b], mask, rng) for _ in range(300)])
    assert (far[:, :2].min(), far[:, :2].max()) == (0.0, 1.0)


def test_blend_takes_a_category_with_the_probability_of_the_step() -> None:
    rng, n = np.random.default_rng(0), 4000
    a, b, mask = np.full(n, 0.25), np.full(n, 0.75), np.arange(n) % 2 == 0
    for t in (0.0, 0.3, -0.3, 1.0):
        x = blend(a, b, np.full(n, t), mask, rng)
        assert x[~mask] == pytest.approx(np.full(n // 2, 0.25 + t / 2))
        assert set(x[mask]) <= {0.25, 0.75}
        assert np.mean(x[mask] == 0.75) == pytest.approx(abs(t), abs=0.03)


def test_genetic_is_crossover_then_mutation() -> None:
    a, b, mask = np.full(4, 0.2), np.full(4, 0.6), np.zeros(4, dtype=bool)
    operator = Genetic(SBX(3), Gaussian(0.2))
    rng = np.random.default_rng(0)
    expected = Gaussian(0.2)([SBX(3)([a, b], mask, rng)], mask, rng)
    assert operator.parents == 2
    assert operator([a, b], mask, np.random.default_rng(0)).tolist() == expected.tolist()


# -- Selection and survival -------------------------------------------------------------------


def test_roulette() -> None:
    rng = np.random.default_rng(0)

    def shares(*weights: float) -> list[float]:
        drawn = [roulette(np.array(weights), rng) for _ in range(3000)]
        return [drawn.count(i) / 3000 for i in range(len(weights))]

    assert shares(1.0, 0.0, 3.0) == [
        pytest.approx(0.25, abs=0.03),
        0,
        pytest.approx(0.75, abs=0.03),
    ]
    assert shares(0.0, 5e-324, 0.0) == [0, 1, 0]
    assert shares(0, 0, 0) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert shares(1e308, 1e308, 1e308, 0) == pytest.approx([1 / 3] * 3 + [0], abs=0.03)
    weights = rng.random(20)
    for seed in range(200):
        index = np.random.default_rng(seed).choice(20, p=weights / weights.sum())
        assert roulette(weights, np.random.default_rng(seed)) == index


def members(*losses: float, state: int = 0, violation: float = 0.0) -> list[Member]:
    return [Member(np.zeros(1), Rank(state, violation, x)) for x in losses]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_chances_in_a_tournament(k: int) -> None:
    rng, people = np.random.default_rng(0), members(1, 2, 3, 4)
    won = [people.index(Tournament(k)(people, rng)) for _ in range(4000)]
    chances = [((4 - i) / 4) ** k - ((3 - i) / 4) ** k for i in range(4)]
    assert [won.count(i) / 4000 for i in range(4)] == pytest.approx(chances, abs=0.03)


@pytest.mark.parametrize(
    ("people", "chances"),
    [
        (members(1, 2, 4), [3 / 5, 2 / 5, 0]),
        (members(-4, -2, -1), [3 / 4, 1 / 4, 0]),
        (members(7, 7), [1 / 2, 1 / 2]),
        (members(7), [1]),
        (members(1, 2, math.inf), [1, 0, 0]),  # counts as 2
        (members(-math.inf, 2, 3, math.inf), [1 / 2, 1 / 2, 0, 0]),  # as 2, 2, 3, 3
        (members(math.inf, math.inf), [1 / 2, 1 / 2]),
        (members(-1e308, 1e308 / 2, 1e308), [0.8, 0.2, 0]),
        (members(1, 3) + members(-9, violation=1) + members(-9, state=1), [1, 0, 0, 0]),
        (members(5, 6, 8, violation=1) + members(0, violation=2), [3 / 5, 2 / 5, 0, 0]),
        (members(1, 2, math.inf, state=1), [1, 0, 0]),
    ],
)
def test_chances_by_fitness(people: list[Member], chances: list[float]) -> None:
    rng, select = np.random.default_rng(0), FitnessProportional()
    assert sorted(people, key=lambda m: m.rank) == people
    drawn = [people.index(select(people, rng)) for _ in range(2000)]
    assert [drawn.count(i) / 2000 for i in range(len(people))] == pytest.approx(chances, abs=0.04)


def test_who_survives() -> None:
    old, young = members(1, 3, 5), members(0, 3, 4)
    names = {id(m): name for m, name in zip(old + young, "abcxyz", strict=True)}

    def survivors(survival: Any, size: int, older: Any = old, younger: Any = young) -> str:
        return "".join(names[id(m)] for m in survival(older, younger, size))

    assert survivors(Truncation(), 3) == "xab"  # the older among equals
    assert survivors(Truncation(), 5) == "xabyz"
    assert survivors(Generational(0), 3) == "xyz"
    assert survivors(Generational(1), 3) == "xay"
    assert survivors(Generational(2), 3) == "xab"
    assert survivors(Truncation(), 3, older=[]) == survivors(Generational(2), 3, []) == "xyz"
    assert survivors(Generational(2), 3, younger=young[:1]) == "xab"
    assert survivors(Generational(1), 3, younger=[]) == "a"


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_complete_before_pruned_and_failed_never(direction: str) -> None:
    """Without mutation and with far parents the coordinates show who they are."""
    sign = 1 if direction == "minimize" else -1
    space = {"c": CategoricalDistribution(list(range(2000))), "d": CategoricalDistribution([0, 1])}
    sampler = GASampler(
        space, population_size=4, mutation=PolynomialMutation(20, 0.0), seed=0, max_attempts=1
    )
    study = optuna.create_study(sampler=sampler, direction=direction)

    def generation(*outcomes: tuple[str, float]) -> list[int]:
        cs = []
        for kind, number in outcomes:
            trial = study.ask(space)
            cs.append(trial.params["c"])
            if kind == "infeasible":
                trial.set_constraint("c", 1.0)
            if kind == "pruned":
                trial.report(sign * number, 0)
            states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
            state = states.get(kind, TrialState.COMPLETE)
            study.tell(trial, sign * number if state == TrialState.COMPLETE else None, state=state)
        return cs

    failed = [("failed", 0.0)] * 4
    first = generation(*failed)
    second = generation(("failed", 0.0), ("pruned", 1.0), ("pruned", -1.0), ("infeasible", -9.0))
    assert len(set(first + second)) == 8  # nobody is a parent: uniform points
    third = generation(("complete", 9.0), ("infeasible", -99.0), ("complete", 5.0), failed[0])
    assert set(third) <= set(second[1:])
    generation(("complete", 7.0), ("complete", 8.0), *failed[:2])
    fifth = generation(*failed)
    memory = sampler._memory_of(study)
    assert [m.trial for m in memory.population] == [10, 12, 13, 8]  # 5, 7, 8, 9
    assert set(fifth) <= {study.trials[i].params["c"] for i in (8, 10, 12, 13)}


@pytest.mark.parametrize("flying", [2, 7, 30])
def test_many_workers_with_every_outcome(flying: int) -> None:
    rng = np.random.default_rng(flying)
    sampler = GASampler(SPACE, population_size=6, seed=flying, max_attempts=2)
    study = optuna.create_study(sampler=sampler)
    running: list[optuna.Trial] = []
    for _ in range(110):
        running.append(study.ask(SPACE))
        if len(running) < flying:
            continue
        trial = running.pop(rng.integers(len(running)))
        if rng.random() < 0.15:
            study.tell(trial, state=TrialState.FAIL)
        elif rng.random() < 0.15:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_constraint("c", float(rng.integers(-1, 2)))
            study.tell(trial, value(trial.params))
    claims = [claim for t in study.trials if (claim := own_claim(t)) is not None]
    assert len({(c.place, c.attempt) for c in claims}) == len(claims) == 110
    assert max(c.generation for c in claims) > 8


# -- The interface ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GASampler(SPACE, population_size=1), "population_size must be at least 2, got 1"),
        (lambda: GASampler(SPACE, population_size=4, survival=Generational(4)), "elites must be"),
        (lambda: GASampler(SPACE, seed=-1), "seed must be a non-negative integer"),
        (lambda: GASampler(SPACE, initial_population=[{"z": 1}]), r"initial_population\[0\] has"),
        (lambda: Generational(-1), "elites must not be negative, got -1"),
        (lambda: Tournament(0), "size of a tournament must be at least 1, got 0"),
        (lambda: SBX(-1), "eta must not be negative, got -1"),
        (lambda: SBX(math.nan), "eta must not be negative, got nan"),
        (lambda: SBX(2, 1.5), r"probability must be in \[0, 1\], got 1.5"),
        (lambda: PolynomialMutation(math.inf), "eta must not be negative, got inf"),
        (lambda: PolynomialMutation(20, -0.1), "probability must be"),
        (lambda: Gaussian(0.0), "sigma must be positive, got 0.0"),
        (lambda: IsoLine(-0.1), "sigma1 must not be negative"),
        (lambda: IsoLine(0.1, math.nan), "sigma2 must not be negative"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make()


def test_sizes() -> None:
    assert GASampler(SPACE).population_size() == 50
    assert GASampler(SPACE, population_size=7).population_size() == 7
    assert GASampler().population_size() is None


def test_a_population_has_the_same_name_in_every_process() -> None:
    """Even with another hash seed; and another one for every option."""
    grid = (Descriptor("x", 0.0, 1.0, 3),)
    made = [
        *(GA(s) for s in (Tournament(), Tournament(3), FitnessProportional())),
        *(GA(crossover=c) for c in (SBX(3), SBX(15, 0.5), IsoLine(), IsoLine(0.1))),
        *(GA(mutation=m) for m in (PolynomialMutation(3), Gaussian(), PolynomialMutation(20, 0))),
        *(GA(survival=s) for s in (Generational(), Generational(2))),
        GA(size=9),
        MAPElites(grid),
        MAPElites(grid, 10),
        *(MAPElites(grid, variation=v) for v in (Genetic(), Genetic(SBX(2)), IsoLine())),
        MAPElites((Descriptor("x", 0.0, 1.0, 4),)),
        NaturalNiches(),
        *(NaturalNiches(n) for n in (Niches(9), Niches(alpha=0.5), Niches(attraction=False))),
        NaturalNiches(crossover=False),
        NaturalNiches(split_point=False),
        NaturalNiches(mutation=None),
        NaturalNiches(initial=3),
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
    assert GASampler(SPACE)._digest(box) == box.digest(names[0])
