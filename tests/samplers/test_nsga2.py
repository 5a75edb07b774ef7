"""NSGA-II against a plain one on arrays; its sorting against Optuna's and all pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers.nsgaii._elite_population_selection_strategy import _calc_crowding_distance
from optuna.study._multi_objective import _fast_non_domination_rank
from optuna.trial import FrozenTrial, TrialState, create_trial

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.samplers import (
    NSGA2,
    SBX,
    CmaEsSampler,
    Gaussian,
    IsoLine,
    Member,
    NSGA2Sampler,
    PolynomialMutation,
    UniformSBX,
)
from merge_optuna.samplers.algorithm import Rank
from merge_optuna.samplers.nsga2 import crowding_distance, dominance, fronts
from merge_optuna.testing import AlgorithmSuite
from tests.samplers.storages import make_storage
from tests.samplers.test_ga import deb_crossover, deb_mutation

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestOneObjective(AlgorithmSuite):
    def algorithm(self) -> Any:
        return NSGA2(6)


class TestTwoObjectives(TestOneObjective):
    objectives = 2


class TestThreeObjectives(AlgorithmSuite):
    objectives = 3

    def algorithm(self) -> Any:
        return NSGA2(5, IsoLine(), Gaussian(0.05))


# -- Plain NSGA-II, on arrays -----------------------------------------------------------------

N = 4
SPACE = {f"x{i}": FloatDistribution(0, 1) for i in range(N)}


def functions(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Two or three objectives to be minimised, with ties, and a constraint (≤ 0 holds)."""
    f = np.array([x[0], (1 + 9 * x[1:].mean()) * (1.2 - math.sqrt(x[0])), x[2] + 1 - x[0]])
    return np.round(f, 2), round(float(np.abs(x - 0.5)[:3].sum() - 0.3), 2)


def dominates(f: np.ndarray, g: np.ndarray, v: float, w: float) -> bool:
    """Definition 1 of the paper; equal violations are compared by their objectives."""
    if v != w:
        return v < w
    return bool(np.all(f <= g) and np.any(f < g))


def plain_ranks(F: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Front after front, each found by looking at all pairs that are left."""
    rank, left = np.full(len(F), -1), set(range(len(F)))
    for number in count():
        if not left:
            return rank
        front = [
            i for i in left if not any(dominates(F[j], F[i], V[j], V[i]) for j in left if j != i)
        ]
        rank[front] = number
        left -= set(front)
    raise AssertionError


def plain_crowding(F: np.ndarray) -> np.ndarray:
    """``crowding-distance-assignment`` of the paper, where something differs."""
    distance, order = np.zeros(len(F)), list(range(len(F)))
    for m in range(F.shape[1]):
        order.sort(key=lambda i: F[i, m])
        low, high = F[order[0], m], F[order[-1], m]
        if low == high:
            continue
        distance[order[0]] = distance[order[-1]] = math.inf
        for k in range(1, len(F) - 1):
            gap = F[order[k + 1], m] / 2 - F[order[k - 1], m] / 2
            distance[order[k]] += gap / (high / 2 - low / 2)
    return distance


def plain_nsga2(
    size: int, m: int, n: int, seed: int, *, constrained: bool
) -> list[dict[str, float]]:
    """The main loop of the paper (III-C)."""
    history: list[dict[str, float]] = []
    X, F, V = np.empty((0, N)), np.empty((0, m)), np.empty(0)
    rank, room = np.empty(0), np.empty(0)
    for generation in count():
        Q, FQ, VQ = np.empty((size, N)), np.empty((size, m)), np.empty(size)
        for i in range(size):
            rng = np.random.default_rng([seed, 0, generation, i, 0])
            Q[i] = child(X, rank, room, rng) if generation else rng.random(N)
            history.append(dict(zip(SPACE, Q[i].tolist(), strict=True)))
            f, c = functions(Q[i])
            FQ[i], VQ[i] = f[:m], max(0.0, c) if constrained else 0.0
            if len(history) == n:
                return history
        X, F, V = np.vstack([X, Q]), np.vstack([F, FQ]), np.concatenate([V, VQ])
        ranks, kept, rooms = plain_ranks(F, V), [], []
        for number in range(int(ranks.max()) + 1):
            front = np.flatnonzero(ranks == number)
            distance = plain_crowding(F[front])
            by = sorted(range(len(front)), key=lambda k, d=distance: -d[k])
            chosen = range(len(front)) if len(kept) + len(front) <= size else by
            kept += [front[k] for k in chosen]
            rooms += [distance[k] for k in chosen]
        keep = kept[:size]
        X, F, V, rank, room = X[keep], F[keep], V[keep], ranks[keep], np.array(rooms[:size])
    raise AssertionError


def child(
    X: np.ndarray, rank: np.ndarray, room: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """By Deb's code; what it does not cross is either parent's."""
    parents = []
    for _ in range(2):
        i, j = rng.integers(len(X), size=2)
        crowded = (rank[j], -room[j]) < (rank[i], -room[i])
        parents.append(X[j if crowded else i])
    a, b = parents
    made = a.copy()
    if rng.random() < 0.9:
        crossed, u, upper, exchanged = rng.random((4, N))
        for k in range(N):
            if crossed[k] < 0.5:
                made[k] = deb_crossover(a[k], b[k], u[k], 20)[int(upper[k] < 0.5)]
            elif exchanged[k] < 0.5:
                made[k] = b[k]
    mutated, u = rng.random((2, N))
    for k in range(N):
        if mutated[k] < 1 / N:
            made[k] = deb_mutation(made[k], u[k], 20)
    return made


def search(
    size: int,
    n: int,
    directions: Sequence[str],
    *,
    constrained: bool,
    storage: Any = None,
    seed: int = 3,
) -> optuna.Study:
    def objective(trial: optuna.Trial) -> list[float]:
        f, c = functions(np.array([trial.suggest_float(name, 0, 1) for name in SPACE]))
        if constrained:
            trial.set_constraint("c", c)
        signs = [1 if one == "minimize" else -1 for one in directions]
        return [s * v for s, v in zip(signs, f.tolist(), strict=False)]

    sampler = NSGA2Sampler(SPACE, population_size=size, seed=seed)
    study = optuna.create_study(storage=storage, directions=directions, sampler=sampler)
    study.optimize(objective, n_trials=n)
    return study


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize(
    "directions", [["minimize"] * 2, ["maximize", "minimize", "maximize"], ["maximize"]], ids=len
)
def test_one_worker_equals_a_plain_nsga2(directions: list[str], constrained: bool) -> None:
    study = search(8, 120, directions, constrained=constrained)
    m = len(directions)
    expected = plain_nsga2(8, m, 120, 3, constrained=constrained)
    assert [t.params for t in study.trials] == expected
    violated = [t for t in study.trials if any(c > 0 for c in t.constraints.values())]
    assert (30 < len(violated) < 100) == constrained


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_persistent_storages_change_no_bit(storage: str, tmp_path: Path) -> None:
    directions = ["minimize", "maximize"]
    study = search(
        6, 15, directions, constrained=True, storage=make_storage(storage, tmp_path), seed=1
    )
    expected = plain_nsga2(6, 2, 15, 1, constrained=True)
    assert [t.params for t in study.trials] == expected


# -- Sorting and crowding ---------------------------------------------------------------------

losses = st.sampled_from([0.0, 1.0, 2.0, 2.5, -1e308, 1e308, -math.inf, math.inf])
rows = st.integers(1, 3).flatmap(
    lambda m: st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.5, 2.0]), *[losses] * m), min_size=1, max_size=25
    )
)


def members(F: np.ndarray, V: np.ndarray) -> list[Member]:
    return [
        Member(np.zeros(1), Rank(0, float(v), float(f[0]), tuple(map(float, f[1:]))))
        for f, v in zip(F, V, strict=True)
    ]


def found_ranks(people: list[Member]) -> np.ndarray:
    ranks = np.full(len(people), -1)
    for number, front in enumerate(fronts(dominance(people))):
        ranks[front] = number
    return ranks


@given(rows)
@settings(max_examples=50, deadline=None)
def test_fronts_are_those_of_all_pairs(rows: list[tuple[float, ...]]) -> None:
    data = np.array(rows)
    V, F = data[:, 0], data[:, 1:]
    assert found_ranks(members(F, V)).tolist() == plain_ranks(F, V).tolist()


@given(rows, st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_fronts_and_room_are_optunas(rows: list[tuple[float, ...]], seed: int) -> None:
    """Of infeasible ones it compares no objectives: here their violations differ."""
    data = np.array(rows)
    V = np.where(data[:, 0] > 0, np.random.default_rng(seed).random(len(data)) + 0.1, 0.0)
    F = data[:, 1:]
    ranks = found_ranks(members(F, V))
    assert ranks.tolist() == _fast_non_domination_rank(F, penalty=V).tolist()
    for number in set(ranks):
        front = F[ranks == number]
        with np.errstate(over="ignore"):
            distance = _calc_crowding_distance(
                trials := [_trial(i, f) for i, f in enumerate(front)]
            )
        expected = np.array([distance[i] for i in range(len(trials))])
        mine = crowding_distance(front)
        exist = ~np.isnan(expected) & (np.abs(front) < 1e300).all()  # its differences may not
        assert mine[exist] == pytest.approx(expected[exist], rel=1e-12)
        assert not np.isnan(mine).any()


def _trial(number: int, values: np.ndarray) -> FrozenTrial:
    trial = create_trial(values=values.tolist())
    trial.number = number
    return trial


def test_room_of_ties_and_infinities() -> None:
    inf = math.inf
    for column, room in (
        ([0, 1, 4, 10], [inf, 0.4, 0.9, inf]),
        ([3, 3, 3], [0, 0, 0]),
        ([5], [0]),
        ([1, 1, 2], [inf, 1, inf]),
        ([-inf, 0, 1, 2, inf], [inf, inf, 1, inf, inf]),
        ([-inf, -inf, 1, 1, inf, inf], [0, inf, inf, inf, inf, 0]),
        ([-1e308, 0, 1e308], [inf, 1, inf]),
    ):
        assert crowding_distance(np.array([column], dtype=float).T).tolist() == room


# -- Who is a parent --------------------------------------------------------------------------


def test_complete_before_pruned_and_failed_never() -> None:
    """Without mutation the categories of children are those of their parents."""
    space = {"c": CategoricalDistribution(list(range(2000))), "d": CategoricalDistribution([0, 1])}
    never = PolynomialMutation(20, 0.0)
    sampler = NSGA2Sampler(space, population_size=4, mutation=never, seed=0, max_attempts=1)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)

    def generation(
        *outcomes: tuple[float, float] | TrialState, violated: float = -1.0
    ) -> list[int]:
        cs = []
        for outcome in outcomes:
            trial = study.ask(space)
            cs.append(trial.params["c"])
            if isinstance(outcome, TrialState):
                study.tell(trial, state=outcome)
            else:
                trial.set_constraint("c", violated)
                study.tell(trial, outcome)
        return cs

    failed, pruned = TrialState.FAIL, TrialState.PRUNED
    first = generation(failed, failed, failed, failed)
    second = generation(failed, pruned, pruned, failed)
    assert len({*first, *second}) == 8  # nobody is a parent: uniform points
    third = generation(failed, (9.0, 9.0), (-9.0, 9.0), failed, violated=2.0)
    assert set(third) <= set(second[1:3])
    generation((1.0, 1.0), (2.0, 2.0), (3.0, 0.0), failed)
    generation(failed, failed, failed, failed)
    memory = sampler._memory_of(study)
    assert [m.trial for m in memory.population] == [12, 13, 14, 10]
    assert [s.front for s in memory.standings] == [0, 0, 1, 2]


@pytest.mark.parametrize("flying", [3, 20])
def test_many_workers_with_every_outcome(flying: int) -> None:
    rng = np.random.default_rng(flying)
    sampler = NSGA2Sampler(SPACE, population_size=6, seed=flying, max_attempts=2)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    running: list[optuna.Trial] = []
    for _ in range(60):
        running.append(study.ask(SPACE))
        if len(running) < flying:
            continue
        trial = running.pop(rng.integers(len(running)))
        if rng.random() < 0.3:
            study.tell(trial, state=TrialState.FAIL if rng.random() < 0.5 else TrialState.PRUNED)
        else:
            trial.set_constraint("c", float(rng.integers(-1, 2)))
            study.tell(trial, rng.choice([0, 1, 2, math.inf, -math.inf], 2).tolist())
    places = {claim.place for claim in _claims(study)}
    assert len({(c.place, c.attempt) for c in _claims(study)}) == 60
    assert max(place.generation for place in places) > 3


def _claims(study: optuna.Study) -> list[Any]:
    claims = [mo.samplers.plumbing.own_claim(trial) for trial in study.trials]
    return [claim for claim in claims if claim is not None]


def test_a_child_of_uniform_sbx_has_half_of_either_parent() -> None:
    """Of SBX a quarter: it is what the paper's code does to one of a pair."""
    rng, mask = np.random.default_rng(0), np.array([False, False, True, True])
    a, b = np.array([0.2, 0.7, 0.1, 0.9]), np.array([0.7, 0.2, 0.9, 0.1])
    for crossover, share, category in (
        (UniformSBX(1000.0, 1.0), 0.5, 0.5),
        (SBX(1000.0, 1.0), 0.25, 0.5),
    ):
        children = np.array([crossover([a, b], mask, rng) for _ in range(3000)])
        near = np.mean(np.abs(children - b) < 0.05, axis=0)
        assert near[:2] == pytest.approx([share] * 2, abs=0.03)
        assert near[2:] == pytest.approx([category] * 2, abs=0.03)
        assert set(np.unique(children[:, 2:])) == {0.1, 0.9}
    assert np.mean(children[:, 0] == 0.2) == pytest.approx(0.5, abs=0.03)
    never = [UniformSBX(20, 0.3)([a, b], mask, rng)[0] == a[0] for _ in range(2000)]
    assert np.mean(never) == pytest.approx(1 - 0.3 * 0.75, abs=0.03)


# -- The interface ----------------------------------------------------------------------------


def test_the_front_is_spread_over_the_whole_of_it() -> None:
    """ZDT1, whose front is f2 = 1 − √f1."""

    def zdt1(trial: optuna.Trial) -> tuple[float, float]:
        x = np.array([trial.suggest_float(f"x{i}", 0, 1) for i in range(5)])
        g = 1 + 9 * x[1:].mean()
        return float(x[0]), float(g * (1 - math.sqrt(x[0] / g)))

    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=NSGA2Sampler(population_size=20, seed=0)
    )
    study.optimize(zdt1, n_trials=400)
    points = sorted(t.values for t in study.best_trials)
    above = [f2 - 1 + math.sqrt(f1) for f1, f2 in points]
    assert np.mean(above) < 0.5  # of the front of 400 uniform points it is 2
    assert max(b[0] - a[0] for a, b in pairwise(points)) < 0.4


def test_other_samplers_name_it() -> None:
    study = optuna.create_study(directions=["minimize"] * 2, sampler=CmaEsSampler(SPACE))
    with pytest.raises(StudyError, match=r"CmaEsSampler needs one objective.*NSGA2Sampler"):
        study.ask()
    assert not CmaEsSampler(SPACE).multi_objective
    assert NSGA2Sampler(SPACE).multi_objective


def test_nonsense_is_refused() -> None:
    with pytest.raises(StudyError, match="population_size must be at least 2, got 1"):
        NSGA2Sampler(SPACE, population_size=1)
    with pytest.raises(StudyError, match="crossover must be an object such as"):
        NSGA2Sampler(SPACE, crossover="sbx")  # type: ignore[arg-type]
    hyperband = optuna.pruners.HyperbandPruner()
    study = optuna.create_study(sampler=NSGA2Sampler(SPACE), pruner=hyperband)
    with pytest.raises(StudyError, match="HyperbandPruner"):
        study.ask()
