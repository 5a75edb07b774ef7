"""Niches against the formulas of the M2N2 paper: by hand, by brute force, and as a plain loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

import merge_optuna as mo
from merge_optuna._scores import pack
from merge_optuna.errors import StudyError
from merge_optuna.samplers import (
    Gaussian,
    Member,
    NaturalNiches,
    Niches,
    NichesSampler,
    PolynomialMutation,
)
from merge_optuna.samplers.algorithm import Rank
from merge_optuna.samplers.niches import Room
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.testing import AlgorithmSuite
from tests.samplers.storages import make_storage
from tests.samplers.test_de import SPACE, N, objective, to_params, value
from tests.samplers.test_ga import deb_mutation

optuna.logging.set_verbosity(optuna.logging.WARNING)
pytestmark = pytest.mark.filterwarnings("ignore:Trial .* has no per-example scores")


class TestDefaults(AlgorithmSuite):
    def algorithm(self) -> Any:
        return NaturalNiches(Niches(7))


class TestAblations(AlgorithmSuite):
    def algorithm(self) -> Any:
        return NaturalNiches(
            Niches(5, 0.5, attraction=False), split_point=False, mutation=None, initial=9
        )


class TestNoCrossover(AlgorithmSuite):
    def algorithm(self) -> Any:
        return NaturalNiches(Niches(6, 2.0), crossover=False, mutation=Gaussian(0.1), initial=1)


# -- The formulas -----------------------------------------------------------------------------


def individual(
    scores: Sequence[float] | None,
    *,
    trial: int = 0,
    value: float = 0.0,
    sign: int = -1,
    state: int = 0,
    violation: float = 0.0,
) -> Member:
    packed = None if scores is None else pack(np.array(scores, dtype=np.float32))
    rank = Rank(state, violation, sign * value)
    return Member(np.zeros(2), rank, trial=trial, packed_scores=packed, sign=sign)


def people(*rows: Sequence[float]) -> list[Member]:
    return [individual(row, trial=i) for i, row in enumerate(rows)]


def numbers(archive: Sequence[Member]) -> list[int]:
    return [member.trial for member in archive]


def test_by_hand() -> None:
    archive = people([1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0])  # z = 2, 1, 1, 0
    assert Niches().fitness(archive).tolist() == [1.5, 1.5, 0]
    assert Niches(alpha=0).fitness(archive).tolist() == [2, 2, 0]
    assert Niches(alpha=2).fitness(archive).tolist() == [1.25, 1.25, 0]
    assert Niches(alpha=0.5).fitness(archive) == pytest.approx([1 + 0.5**0.5] * 2 + [0])
    assert Niches().attractions(archive, 0).tolist() == [0, 1, 0]
    assert Niches().attractions(archive, 2).tolist() == [1.5, 1.5, 0]
    assert Niches(alpha=2).attractions(archive, 2).tolist() == [1.25, 1.25, 0]

    archive = people([0.5, 0.25], [1.5, 0.25])  # z = 2, 0.5; c = 1.5, 0.25
    assert Niches().fitness(archive).tolist() == [0.5, 1.25]
    assert Niches().attractions(archive, 0).tolist() == [0, 0.75]
    assert Niches().attractions(archive, 1).tolist() == [0, 0]


def brute_force(s: Sequence[Sequence[float]], alpha: int, a: int | None = None) -> list[Fraction]:
    """ALGORITHMS.md §3, term by term and without rounding; f, or the attractions to ``a``."""
    result = []
    for i in range(len(s)):
        total = Fraction(0)
        for j in range(len(s[0])):
            column = [Fraction(row[j]) for row in s]
            z, c = sum(column), max(column)
            z = Fraction(1) if z == 0 else z
            mine = Fraction(s[i][j])
            share = mine if a is None else max(Fraction(0), mine - Fraction(s[a][j]))
            total += c * share / z**alpha
        result.append(total)
    return result


score = st.sampled_from([0.0, 1.0]) | st.sampled_from([0.0, 0.25, 0.5, 3.0, 1e-3])
tables = st.integers(1, 6).flatmap(
    lambda m: st.lists(st.lists(score, min_size=m, max_size=m), min_size=1, max_size=7)
)


@given(tables, st.sampled_from([0, 1, 2, 3]), st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_by_brute_force(s: list[list[float]], alpha: int, a: int) -> None:
    niches, archive = Niches(alpha=alpha), people(*s)
    s = [m.scores.tolist() for m in archive]  # 32 bits
    expected = [float(f) for f in brute_force(s, alpha)]
    assert niches.fitness(archive).tolist() == pytest.approx(expected, rel=1e-12)
    a %= len(s)
    expected = [float(f) for f in brute_force(s, alpha, a)]
    assert niches.attractions(archive, a).tolist() == pytest.approx(expected, rel=1e-12)


@given(tables, st.sampled_from([0, 1, 2]), st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_insert_by_brute_force(s: list[list[float]], alpha: int, size: int) -> None:
    """The lowest with the newcomer present goes, where the rounding of sums does not decide."""
    niches, archive = Niches(size, alpha), list[Member]()
    plain: list[tuple[int, list[float]]] = []
    for i, member in enumerate(people(*s)):
        archive = niches.insert(archive, member)
        plain.append((i, member.scores.tolist()))
        if len(plain) > size:
            f = brute_force([row for _, row in plain], alpha)
            lowest = [k for k in range(len(f)) if float(f[k]) <= float(min(f)) * (1 + 1e-12)]
            if len({tuple(plain[k][1]) for k in lowest}) == 1:
                plain[lowest[0]] = plain[-1]
                plain.pop()
            else:
                plain = [(m.trial, m.scores.tolist()) for m in archive]
        assert numbers(archive) == [number for number, _ in plain]


def test_the_room_for_scores_changes_nothing() -> None:
    rng, niches, room = np.random.default_rng(3), Niches(5), Room()
    archive: list[Member] = []
    for trial in range(200):
        row = rng.choice([0.0, 0.5, 1.0], size=6)
        if rng.random() < 0.1:
            row[rng.integers(6)] = rng.choice([-1.0, math.nan, math.inf, 1e38])
        pruned = rng.random() < 0.1
        child = individual(row, trial=trial, value=rng.random(), state=int(pruned))
        archive, expected = niches.insert(archive, child, room), niches.insert(archive, child)
        assert archive == expected
        of = [np.random.default_rng(trial) for _ in range(2)]
        assert niches.parents(archive, of[0], room) == niches.parents(archive, of[1])


def test_equal_rows_have_equal_sums() -> None:
    """Or the first of equals would not be found."""
    rng = np.random.default_rng(0)
    for m in (3, 17, 1000):
        row = rng.random(m)
        archive = people(*[row if i % 2 else rng.random(m) for i in range(21)])
        fitness = Niches(alpha=0.7).fitness(archive)
        assert len(set(fitness[1::2])) == 1
        assert len(set(Niches().attractions(archive, 0)[1::2])) == 1


def test_insert_by_hand() -> None:
    niches = Niches(archive_size=2)
    a, b = people([1, 1, 0], [1, 0, 0])
    assert numbers(niches.insert([], a)) == [0]
    full = niches.insert([a], b)
    assert numbers(full) == [0, 1]
    # z = 2, 1, 1: f = 1.5, 0.5, 1
    assert numbers(niches.insert(full, individual([0, 0, 1], trial=2))) == [0, 2]
    # z = 2, 1, 0: the newcomer has nothing
    assert numbers(niches.insert(full, individual([0, 0, 0], trial=2))) == [0, 1]
    assert numbers(full) == [0, 1]  # not changed in place

    a, b = people([1, 0], [0, 1])
    # z = 2, 1: f = 0.5, 1, 0.5: the newcomer wins against its equal
    assert numbers(niches.insert([a, b], individual([1, 0], trial=2))) == [2, 1]
    a, b = people([0, 0], [0, 0])
    assert numbers(niches.insert([a, b], individual([0, 0], trial=2))) == [2, 1]


def test_competition_keeps_a_specialist() -> None:
    """Without competition it goes: α = 0 is a plain genetic algorithm."""
    generalists = [[1, 1, 1, 0]] * 4
    specialist = individual([0, 0, 0, 1], trial=9)
    for alpha, stays in ((1.0, True), (0.0, False)):
        archive = Niches(4, alpha).insert(
            [*people(*generalists[:3]), specialist], people(generalists[0])[0]
        )
        assert (9 in numbers(archive)) == stays


# -- What is no score -------------------------------------------------------------------------


def test_negative_scores_are_shifted() -> None:
    archive = people([-3, 1], [-5, 3], [-4, 2])  # as 2, 0, 1 and 1, 3, 2
    shifted = people([2, 1], [0, 3], [1, 2])
    assert Niches().fitness(archive).tolist() == Niches().fitness(shifted).tolist()
    assert Niches().attractions(archive, 1).tolist() == Niches().attractions(shifted, 1).tolist()
    losses = [individual([3.0, 1.0], sign=1), individual([5.0, 0.0], sign=1)]  # 2, 0; 0, 1
    assert Niches().fitness(losses).tolist() == [2, 1]


def test_the_value_alone_is_one_score() -> None:
    for values, sign, shifted in (
        ([0.5, 0.25, 0.75], -1, [0.5, 0.25, 0.75]),
        ([-1.0, 2.0, 1.0], -1, [0, 3, 2]),
        ([3.0, 5.0, 4.0], 1, [2, 0, 1]),
        ([2.0, 2.0], 1, [0, 0]),
    ):
        archive = [individual(None, value=v, sign=sign) for v in values]
        expected = brute_force([[x] for x in shifted], 1)
        assert Niches().fitness(archive).tolist() == pytest.approx([float(f) for f in expected])


def test_not_evaluated_examples_count_as_zero() -> None:
    nan = math.nan
    archive = people([nan, 1, nan], [1, nan, nan])
    assert Niches().fitness(archive).tolist() == [1, 1]
    assert Niches().attractions(archive, 0).tolist() == [0, 1]
    archive = people([nan, 1], [-1, 2], [-3, 5])  # 0 after the shift: as the worst
    assert (
        Niches().fitness(archive).tolist()
        == Niches().fitness(people([0, 1], [2, 2], [0, 5])).tolist()
    )
    archive = people([math.inf, 1], [1, -math.inf])
    assert Niches().fitness(archive).tolist() == [1, 1]


@pytest.mark.parametrize("alpha", [0, 1, 3])
@given(
    st.lists(
        st.floats(allow_nan=False) | st.sampled_from([1e308, -1e308, 5e-324]),
        min_size=2,
        max_size=6,
    ),
    st.sampled_from([1, -1]),
)
@settings(max_examples=80, deadline=None)
def test_any_value_gives_chances(alpha: float, values: list[float], sign: int) -> None:
    archive = [individual(None, value=v, sign=sign) for v in values]
    niches, rng = Niches(2, alpha), np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fitness = niches.fitness(archive)
        assert np.all((fitness >= 0) & np.isfinite(fitness))
        a, b = niches.parents(archive, rng)
        assert a is not b
        assert len(niches.insert(archive[:2], archive[-1])) == 2
    finite = [
        (f, -m.rank.loss)
        for f, m in zip(fitness, archive, strict=True)
        if math.isfinite(m.rank.loss)
    ]
    assert sorted(finite) == sorted(finite, key=lambda pair: (pair[1], pair[0]))


def test_pruned_and_infeasible_members_go_first() -> None:
    niches = Niches(4)
    archive = [
        individual([0, 0], trial=0),
        individual([1, 1], trial=1, state=1, value=0.5),
        individual([1, 1], trial=2, violation=1.0),
        individual(None, trial=3, state=1, value=0.2),  # pruned before any score
    ]
    assert niches.fitness(archive).tolist() == [0, 0, 0, 0]
    order = []
    for i in range(4):
        before = set(numbers(archive))
        archive = niches.insert(archive, individual([1, 0], trial=4 + i))
        order.extend(before - set(numbers(archive)))
    assert order == [3, 1, 2, 0]
    # They take no resources, and one that is worse than all does not come in.
    archive = [*people([1, 0], [0, 1]), individual([1, 1], trial=7, state=1)]
    assert niches.fitness(archive).tolist() == [1, 1, 0]
    full = people([0, 0], [0, 0])
    assert numbers(Niches(2).insert(full, individual([1, 1], trial=7, state=1))) == [0, 1]
    assert numbers(niches.insert([], individual(None, state=2))) == []


def test_scores_of_other_examples_are_left_out() -> None:
    niches, archive = Niches(3), people([1, 0])
    message = (
        "Trial 8 is left out of the archive .* 3 per-example scores, trial 0 has 2 per-example"
    )
    with pytest.warns(UserWarning, match=message):
        assert niches.insert(archive, individual([1, 0, 0], trial=8)) == archive
    message = "Trial 8 is left out .* has no per-example scores, trial 0 has 2 .*mo.set_scores"
    with pytest.warns(UserWarning, match=message):
        assert niches.insert(archive, individual(None, trial=8)) == archive
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        archive = niches.insert(archive, individual([1, 0, 0], trial=8, state=1))
        assert numbers(archive) == [0, 8]
        assert niches.fitness(archive).tolist() == [1, 0]


def test_a_single_niche_is_announced_once() -> None:
    space = {"x": FloatDistribution(0, 1)}
    study = optuna.create_study(sampler=NichesSampler(space, seed=0))
    with pytest.warns(UserWarning, match="Trial 0 has no per-example scores: niches take") as seen:
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=30)
    assert len(seen) == 1


# -- Parents ----------------------------------------------------------------------------------


def shares(niches: Niches, archive: list[Member], n: int = 2000) -> dict[tuple[int, int], float]:
    rng = np.random.default_rng(0)
    pairs = [tuple(numbers(niches.parents(archive, rng))) for _ in range(n)]
    return {pair: pairs.count(pair) / n for pair in sorted(set(pairs))}  # type: ignore[misc]


def test_chances_of_the_parents() -> None:
    archive = people([1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1])
    # f = 1.5, 1.5, 0, 1; attraction of 0 to 1 and 3: 1, 1; of 3 to 0 and 1: 1.5, 1.5
    f = [1.5 / 4, 1.5 / 4, 1 / 4]
    expected = {
        (0, 1): f[0] / 2,
        (0, 3): f[0] / 2,
        (1, 0): f[1] / 2,
        (1, 3): f[1] / 2,
        (3, 0): f[2] / 2,
        (3, 1): f[2] / 2,
    }
    assert shares(Niches(), archive) == pytest.approx(expected, abs=0.03)
    pairs = {(a, b): f[i] * f[j] for i, a in enumerate((0, 1, 3)) for j, b in enumerate((0, 1, 3))}
    assert shares(Niches(attraction=False), archive) == pytest.approx(pairs, abs=0.03)


def test_all_weights_zero_are_uniform() -> None:
    nobody = people([0, 0], [0, 0], [0, 0])
    pairs = {(a, b): 1 / 6 for a in range(3) for b in range(3) if a != b}
    assert shares(Niches(), nobody) == pytest.approx(pairs, abs=0.03)
    best = people([1, 1], [0, 1], [1, 0])  # nothing attracts the first
    drawn = shares(Niches(), best)
    assert drawn[0, 1] == pytest.approx(drawn[0, 2], abs=0.03)
    assert (0, 0) not in drawn
    alone = people([1, 0])
    assert shares(Niches(), alone) == shares(Niches(attraction=False), alone) == {(0, 0): 1.0}


# -- The paper, on plain arrays ---------------------------------------------------------------

M = 12  # examples


def example_scores(params: dict[str, Any], kind: str) -> np.ndarray:
    """Each example has a region that solves it; as 32-bit floats."""
    margin = []
    for j in range(M):
        near = abs(params["x"] - (j % 5 - 1.5)) / 2 + abs(params["s"] - (j % 3) / 2)
        margin.append(1.2 - near - 0.2 * ("abd"[j % 3] != params["c"]))
    if kind == "binary":
        return np.array(margin) > 0.3
    return np.array(margin if kind == "signed" else np.maximum(margin, 0), dtype=np.float32)


class Setting(NamedTuple):
    scores: str = "binary"  # "real", "signed", "none"
    size: int = 8
    alpha: float = 1.0
    attraction: bool = True
    crossover: bool = True
    split: bool = True
    mutation: str | None = "gaussian"
    initial: int | None = None


class PlainM2N2:
    """Larger is better; dimension 0 is categorical."""

    def __init__(self, s: Setting, sign: int, seed: int) -> None:
        self.s, self.sign, self.seed = s, sign, seed
        self.history: list[dict[str, Any]] = []
        self.X, self.S = np.empty((0, N)), np.empty((0, 1 if s.scores == "none" else M))
        self.who: list[int] = []
        self.removed = 0

    def run(self, n: int) -> list[dict[str, Any]]:
        initial = self.s.size if self.s.initial is None else self.s.initial
        for i in range(n):
            rng = np.random.default_rng([self.seed, 0, i, 0, 0])
            x = rng.random(N) if i < max(initial, 2) else self.child(rng)
            params = to_params(x)
            self.history.append(params)
            score = (
                [value(params)]
                if self.s.scores == "none"
                else example_scores(params, self.s.scores)
            )
            self.insert(x, -self.sign * np.array(score, dtype=float), i)
        return self.history

    def resources(self, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        S = S - np.minimum(S.min(axis=0), 0)
        z = S.sum(axis=0)
        z = np.where(z == 0, 1, z)
        return S, S.max(axis=0) / z**self.s.alpha

    def insert(self, x: np.ndarray, score: np.ndarray, i: int) -> None:
        X, S, who = np.vstack([self.X, x]), np.vstack([self.S, score]), [*self.who, i]
        if len(X) > self.s.size:
            shifted, weight = self.resources(S)
            worst = np.argmin((shifted * weight).sum(axis=1))
            X[worst], S[worst], who[worst] = x, score, i
            X, S = X[:-1], S[:-1]
            who.pop()
            self.removed += worst < self.s.size
        self.X, self.S, self.who = X, S, who

    def child(self, rng: np.random.Generator) -> np.ndarray:
        S, weight = self.resources(self.S)
        f = (S * weight).sum(axis=1)
        a = b = rng.choice(len(f), p=f / f.sum())
        if self.s.attraction:
            pull = (np.maximum(0, S - S[a]) * weight).sum(axis=1)
            if not pull.any():
                pull = (np.arange(len(f)) != a).astype(float)
            b = rng.choice(len(f), p=pull / pull.sum())
        else:
            b = rng.choice(len(f), p=f / f.sum())
        A, B = self.X[a], self.X[b]
        x = A.copy()
        if self.s.crossover:
            p = rng.integers(0, N) if self.s.split else N
            w = rng.uniform()
            from_b = rng.random() < (w if p > 0 else 1 - w)
            x[:p] = A[:p] + w * (B[:p] - A[:p])
            x[p:] = A[p:] + (1 - w) * (B[p:] - A[p:])
            x[0] = B[0] if from_b else A[0]
        if self.s.mutation == "gaussian":
            category = x[0]
            x = np.clip(x + 0.03 * rng.normal(size=N), 0, 1)
            drawn, new = rng.random(), rng.random()
            x[0] = new if drawn < 1 / N else category
        elif self.s.mutation == "polynomial":
            mutated, u = rng.random((2, N))
            for j in np.flatnonzero(mutated < 1 / N):
                x[j] = deb_mutation(x[j], u[j], 5.0) if j else u[0]
        return x


MUTATIONS = {"gaussian": Gaussian(0.03), "polynomial": PolynomialMutation(5), None: None}


def compare(s: Setting, n: int, direction: str, storage: Any = None, seed: int = 6) -> PlainM2N2:
    sampler = NichesSampler(
        SPACE,
        archive_size=s.size,
        alpha=s.alpha,
        attraction=s.attraction,
        crossover=s.crossover,
        split_point=s.split,
        mutation=MUTATIONS[s.mutation],
        initial=s.initial,
        seed=seed,
    )
    study = optuna.create_study(storage=storage, sampler=sampler, direction=direction)

    def scored(trial: optuna.Trial) -> float:
        result = objective(trial)
        if s.scores != "none":
            mo.set_scores(trial, example_scores(trial.params, s.scores))
        return result

    study.optimize(scored, n_trials=n)
    plain = PlainM2N2(s, 1 if direction == "minimize" else -1, seed)
    assert [t.params for t in study.trials] == plain.run(n)
    assert [t.number for t in sampler.archive(study)] == plain.who
    return plain


SETTINGS = [
    Setting(),
    Setting("real", mutation="polynomial"),
    Setting("signed", alpha=2.0, mutation=None, initial=20),
    Setting("none"),
    Setting(attraction=False, alpha=0.0, size=5),
    Setting("real", split=False, alpha=0.5),
    Setting(crossover=False, mutation="polynomial", initial=1),
]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("s", SETTINGS, ids=range(len(SETTINGS)))
def test_one_worker_equals_the_paper(s: Setting, direction: str) -> None:
    assert compare(s, 110, direction).removed > 5


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_persistent_storages_change_no_bit(storage: str, tmp_path: Path) -> None:
    s = SETTINGS[0] if storage == "sqlite" else SETTINGS[2]._replace(initial=None)
    compare(s, 22, "maximize", make_storage(storage, tmp_path))


def test_it_optimises_without_scores_too() -> None:
    space = {f"x{i}": FloatDistribution(-5, 5) for i in range(5)}

    def sphere(trial: optuna.Trial) -> float:
        return sum((trial.suggest_float(name, -5, 5) - 1) ** 2 for name in space)

    study = optuna.create_study(sampler=NichesSampler(space, seed=0))
    study.optimize(sphere, n_trials=500)
    assert study.best_value < 0.2  # the best of 500 uniform points has about 5


def test_niches_keep_what_the_average_would_lose() -> None:
    """Eight examples close together and two far away, which few points solve."""
    centers = np.array([*np.linspace(0.2, 0.34, 8), 0.85, 0.9])
    space = {"x": FloatDistribution(0, 1)}

    def scored(trial: optuna.Trial) -> float:
        solved = np.abs(trial.suggest_float("x", 0, 1) - centers) < 0.06
        mo.set_scores(trial, solved)
        return float(np.mean(solved))

    def solved_by_somebody(seed: int, **options: Any) -> int:
        sampler = NichesSampler(space, seed=seed, **options)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(scored, n_trials=100)
        scores = [mo.scores(study, t) for t in sampler.archive(study)]
        return int(np.max(scores, axis=0).sum())

    assert [solved_by_somebody(seed) for seed in range(3)] == [10] * 3
    plain = [solved_by_somebody(seed, alpha=0, attraction=False) for seed in range(3)]
    assert max(plain) <= 8


# -- Children ---------------------------------------------------------------------------------


def ask(algorithm: NaturalNiches, space: Any, a: list[float], b: list[float], n: int) -> Any:
    """Children of two parents, a being the only possible first one."""
    archive = algorithm.start(mo.samplers.Box(space, categorical=True))
    for x, scores in ((a, [1, 1]), (b, [0, 0])):
        member = individual(scores)
        archive.members.append(
            Member(np.array(x), member.rank, packed_scores=member.packed_scores)
        )
    archive.results = 99
    rng = np.random.default_rng(0)
    return np.array([algorithm.ask(archive, rng).x for _ in range(n)])


def test_a_child_lies_between_its_parents() -> None:
    space = {f"p{i}": FloatDistribution(0, 1) for i in range(4)}
    a, b = [0.0, 0.0, 0.0, 0.5], [1.0, 1.0, 1.0, 0.5]
    x = ask(NaturalNiches(mutation=None), space, a, b, 2500)
    assert np.all(x[:, 3] == 0.5)
    splits = [np.flatnonzero(row[:3] != row[0]) for row in x]
    where = [int(s[0]) if len(s) else None for s in splits]
    # p = 0 and p = 3 leave the first three alike.
    assert where.count(1) / 2500 == pytest.approx(1 / 4, abs=0.03)
    assert where.count(2) / 2500 == pytest.approx(1 / 4, abs=0.03)
    for row, first in zip(x, where, strict=True):
        if first:
            assert row[first] == pytest.approx(1 - row[0])
    assert np.mean(x[:, 0] < 0.3) == pytest.approx(0.3, abs=0.03)
    x = ask(NaturalNiches(mutation=None, split_point=False), space, a, b, 100)
    assert np.all(x[:, 0] == x[:, 2])
    x = ask(NaturalNiches(crossover=False, mutation=Gaussian(0.01)), space, [0.5] * 4, b, 500)
    assert np.std(x) == pytest.approx(0.01, rel=0.1)


def test_categories_come_from_either_parent() -> None:
    space = {"c": CategoricalDistribution(["a", "b", "c"]), "z": FloatDistribution(0, 1)}
    x = ask(NaturalNiches(mutation=None), space, [0.1, 0.0], [0.9, 1.0], 1000)
    assert set(x[:, 0]) == {0.1, 0.9}
    assert np.mean(x[:, 0] == 0.9) == pytest.approx(0.5, abs=0.05)
    x = ask(NaturalNiches(mutation=None, split_point=False), space, [0.1, 0.0], [0.9, 1.0], 2500)
    for low, high in ((0.0, 0.3), (0.7, 1.0)):
        near = x[(x[:, 1] >= low) & (x[:, 1] <= high)]
        assert np.mean(near[:, 0] == 0.9) == pytest.approx((low + high) / 2, abs=0.05)
    x = ask(NaturalNiches(), space, [0.1, 0.0], [0.1, 1.0], 1000)
    assert np.mean(x[:, 0] != 0.1) == pytest.approx(1 / 2, abs=0.05)  # drawn anew


# -- The interface ----------------------------------------------------------------------------


@pytest.mark.parametrize("flying", [2, 7, 30])
def test_many_workers_with_every_outcome(flying: int) -> None:
    rng = np.random.default_rng(flying)
    sampler = NichesSampler(SPACE, archive_size=6, seed=flying, max_attempts=2)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    running: list[optuna.Trial] = []
    for _ in range(110):
        running.append(study.ask(SPACE))
        if len(running) < flying:
            continue
        trial = running.pop(rng.integers(len(running)))
        if rng.random() < 0.15:
            study.tell(trial, state=TrialState.FAIL)
            continue
        scores = example_scores(trial.params, "real")
        scores[rng.integers(M)] = math.nan
        pruned = rng.random() < 0.15
        if not pruned or rng.random() < 0.5:
            mo.set_scores(trial, scores)
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_constraint("c", float(rng.integers(-3, 2)))
            study.tell(trial, float(np.nanmean(scores)))
    claims = [claim for t in study.trials if (claim := own_claim(t)) is not None]
    assert len({(c.place, c.attempt) for c in claims}) == len(claims) == 110
    archive = sampler.archive(study)
    assert len(archive) == 6
    assert all(t.state == TrialState.COMPLETE and t.constraints["c"] <= 0 for t in archive)


def test_the_archive_of_an_empty_study() -> None:
    assert NichesSampler(SPACE).archive(optuna.create_study()) == []
    assert NichesSampler().archive(optuna.create_study()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NichesSampler(SPACE, archive_size=1), "archive_size must be at least 2, got 1"),
        (lambda: NichesSampler(SPACE, alpha=-0.5), r"alpha must be in \[0, 3\], got -0.5"),
        (lambda: NichesSampler(SPACE, alpha=math.nan), "alpha must be"),
        (
            lambda: NichesSampler(SPACE, crossover=False, mutation=None),
            "Without crossover and",
        ),
        (lambda: NichesSampler(SPACE, initial=0), "initial must be at least 1, got 0"),
        (lambda: NichesSampler(SPACE, seed=-1), "seed must be a non-negative integer"),
        (lambda: NichesSampler(SPACE, initial_population=[{"z": 1}]), r"initial_population\[0\]"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make()
