"""PSOSampler against the textbook on plain arrays, which knows nothing of this package."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from merge_optuna.errors import StudyError
from merge_optuna.samplers import (
    PSO,
    Absorb,
    Bounce,
    ClipPosition,
    Constriction,
    GlobalBest,
    Inertia,
    Member,
    Midpoint,
    Population,
    PSOSampler,
    Reflect,
    Ring,
)
from merge_optuna.samplers.algorithm import Rank
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.testing import AlgorithmSuite
from tests.samplers.storages import make_storage

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestDefaults(AlgorithmSuite):
    def algorithm(self) -> PSO:
        return PSO(size=5)


class TestRingConstrictionBounce(AlgorithmSuite):
    def algorithm(self) -> PSO:
        return PSO(Constriction(), Ring(), "scalar", 6, 0.5, None, Bounce())


class TestClampedAndClipped(AlgorithmSuite):
    def algorithm(self) -> PSO:
        return PSO(size=4, initial_velocity=1.0, max_velocity=0.3, bounds=ClipPosition())


# -- The textbook -----------------------------------------------------------------------------

SPACE = {
    "x": FloatDistribution(-2, 3),
    "y": FloatDistribution(1e-4, 10, log=True),
    "k": IntDistribution(2, 8, step=3),
    "s": FloatDistribution(0, 1, step=0.25),
    "c": CategoricalDistribution(["one", "two"]),
}
COMPLETE, PRUNED, FAILED = range(3)


def to_params(u: np.ndarray) -> dict[str, Any]:
    """The unit box by hand: c, k, s, x, y."""
    return {
        "c": ["one", "two"][min(int(u[0] * 2), 1)],
        "k": 2 + 3 * min(int(u[1] * 3), 2),
        "s": 0.25 * min(int(u[2] * 5), 4),
        "x": -2.0 + u[3] * 5.0,
        "y": min(math.exp(math.log(1e-4) + u[4] * (math.log(10) - math.log(1e-4))), 10.0),
    }


def value(params: dict[str, Any]) -> float:
    """Has its minimum in a corner, and many ties."""
    bowl = (params["x"] + 2) ** 2 + abs(math.log10(params["y"]) - 1) + params["k"] - params["s"]
    return round(bowl, 1) + (params["c"] == "two")


def no_faults(trial: int) -> int:
    return COMPLETE


def faults(trial: int) -> int:
    return {3: PRUNED, 4: FAILED}.get(trial % 7, COMPLETE)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    params = {
        "x": trial.suggest_float("x", -2, 3),
        "y": trial.suggest_float("y", 1e-4, 10, log=True),
        "k": trial.suggest_int("k", 2, 8, step=3),
        "s": trial.suggest_float("s", 0, 1, step=0.25),
        "c": trial.suggest_categorical("c", ["one", "two"]),
    }
    assert params == trial.params
    return params


def wall(kind: str, x: float, v: float) -> tuple[float, float]:
    """One coordinate of a particle that has moved to x."""
    while not 0 <= x <= 1:
        if kind == "bounce":
            x, v = (-x if x < 0 else 2 - x), -v
        else:
            x, v = (0.0 if x < 0 else 1.0), (0.0 if kind == "absorb" else v)
    return x, v


def textbook(
    *,
    sign: int,
    n_trials: int,
    seed: int,
    size: int = 6,
    chi: float = 1.0,
    w: float = 0.7298,
    c1: float = 1.49618,
    c2: float = 1.49618,
    neighbours: int | None = None,
    scalar: bool = False,
    v0: float = 0.0,
    vmax: float = math.inf,
    walls: str = "absorb",
    fault: Callable[[int], int] = no_faults,
    initial: np.ndarray | None = None,
) -> tuple[list[dict[str, Any]], list[list[float]], int]:
    """Parameters and velocities of a synchronous swarm, and how often a wall was hit.

    Every candidate has its own numbers, drawn in this order: x, then (for an initial velocity) the
    point it leads to; later r1, then r2.
    """
    n = 5
    x, v = np.empty((size, n)), np.zeros((size, n))
    best_x = np.empty((size, n))
    best: list[tuple[Any, ...]] = [()] * size  # (state, loss, evaluation)
    history, velocities = [], []
    hits = 0
    for generation in range(math.ceil(n_trials / size)):
        previous, previous_x = list(best), best_x.copy()
        for i in range(size):
            rng = np.random.default_rng([seed, 0, generation, i, 0])
            if generation == 0:
                given = initial is not None and i < len(initial)
                x[i] = initial[i] if given else rng.random(n)
                if v0:
                    v[i] = v0 * (rng.random(n) - x[i])
                v[i] = np.maximum(np.minimum(v[i], vmax), -vmax)
            else:
                around = range(size)
                if neighbours is not None:
                    around = [(i + d) % size for d in range(-neighbours, neighbours + 1)]
                g = min(around, key=lambda j: previous[j])
                r1 = rng.random() if scalar else rng.random(n)
                r2 = rng.random() if scalar else rng.random(n)
                own, swarm = previous_x[i] - x[i], previous_x[g] - x[i]
                v[i] = chi * (w * v[i] + (c1 * r1 * own + c2 * r2 * swarm))
                v[i] = np.maximum(np.minimum(v[i], vmax), -vmax)
                for d, moved in enumerate(x[i] + v[i]):
                    hits += not 0 <= moved <= 1
                    x[i, d], v[i, d] = wall(walls, moved, v[i, d])
            evaluation = len(history)
            history.append(to_params(x[i]))
            velocities.append(v[i].tolist())
            state = fault(evaluation)
            loss = math.inf if state == FAILED else sign * value(history[-1])
            if generation == 0 or (state, loss) < best[i][:2]:
                best[i], best_x[i] = (state, loss, evaluation), x[i]
    return history[:n_trials], velocities[:n_trials], hits


CHI = 2 / abs(2 - 4.1 - math.sqrt(4.1**2 - 4 * 4.1))
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "inertia": (
        {"coefficients": Inertia(0.4, 2.0, 1.0)},
        {"w": 0.4, "c1": 2.0, "c2": 1.0},
    ),
    "constriction": (
        {"coefficients": Constriction()},
        {"chi": CHI, "w": 1, "c1": 2.05, "c2": 2.05},
    ),
    "ring": ({"topology": Ring()}, {"neighbours": 1}),
    "wider ring": ({"topology": Ring(2)}, {"neighbours": 2}),
    "ring of all": ({"topology": Ring(3)}, {"neighbours": 3}),
    "scalar": ({"random": "scalar"}, {"scalar": True}),
    "SPSO 2007 velocity": ({"initial_velocity": 0.5}, {"v0": 0.5}),
    "SPSO 2011 velocity": (
        {"initial_velocity": 1.0, "random": "scalar"},
        {"v0": 1.0, "scalar": True},
    ),
    "clamp": ({"max_velocity": 0.2, "initial_velocity": 0.5}, {"vmax": 0.2, "v0": 0.5}),
    "1995": (
        {"coefficients": Inertia(1.0, 2.0, 2.0), "max_velocity": 0.5, "bounds": ClipPosition()},
        {"w": 1.0, "c1": 2.0, "c2": 2.0, "vmax": 0.5, "walls": "clip"},
    ),
    "bounce": ({"bounds": Bounce()}, {"walls": "bounce"}),
    "bounce often": (
        {"bounds": Bounce(), "coefficients": Inertia(1.0, 3.0, 3.0)},
        {"walls": "bounce", "w": 1.0, "c1": 3.0, "c2": 3.0},
    ),
    "clip": ({"bounds": ClipPosition()}, {"walls": "clip"}),
    "everything": (
        {
            "coefficients": Constriction(2.5, 1.8),
            "topology": Ring(),
            "random": "scalar",
            "initial_velocity": 0.5,
            "max_velocity": 0.4,
            "bounds": Bounce(),
        },
        {
            "chi": 2 / abs(2 - 4.3 - math.sqrt(4.3**2 - 4 * 4.3)),
            "w": 1,
            "c1": 2.5,
            "c2": 1.8,
            "neighbours": 1,
            "scalar": True,
            "v0": 0.5,
            "vmax": 0.4,
            "walls": "bounce",
        },
    ),
}


def check(
    case: str,
    folder: Path,
    storage: str,
    n_trials: int,
    fault: Callable[[int], int] = no_faults,
    initial: list[dict[str, Any]] | None = None,
    initial_points: np.ndarray | None = None,
) -> int:
    """In both directions, parameters and velocities; returns how often a wall was hit."""
    hits = 0

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial)
        if fault(trial.number) == FAILED:
            raise OSError
        if fault(trial.number) == PRUNED:
            trial.report(value(params), 0)
            raise optuna.TrialPruned
        return value(params)

    options, plain = CASES[case]
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        (folder / direction).mkdir()
        sampler = PSOSampler(
            SPACE,
            population_size=6,
            seed=3,
            max_attempts=1,
            initial_population=initial or (),
            **options,
        )
        study = optuna.create_study(
            storage=make_storage(storage, folder / direction), sampler=sampler, direction=direction
        )
        study.optimize(objective, n_trials=n_trials, catch=OSError)
        params, velocities, more = textbook(
            sign=sign, n_trials=n_trials, seed=3, fault=fault, initial=initial_points, **plain
        )
        claims = [own_claim(t) for t in study.trials]
        assert [t.params for t in study.trials] == params
        assert [c.candidate.hidden["velocity"].tolist() for c in claims if c] == velocities
        hits += more
    return hits


@pytest.mark.parametrize("case", CASES)
def test_one_worker_equals_the_textbook(case: str, tmp_path: Path) -> None:
    assert check(case, tmp_path, "memory", 50) > 5  # or the walls are not tested


@pytest.mark.parametrize("case", ["defaults", "everything"])
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_also_in_a_storage(storage: str, case: str, tmp_path: Path) -> None:
    check(case, tmp_path, storage, 20)


@pytest.mark.parametrize("case", ["defaults", "everything"])
def test_pruned_and_failed_candidates_move_their_particle(case: str, tmp_path: Path) -> None:
    check(case, tmp_path, "memory", 50, faults)


def test_an_initial_population_is_where_the_textbook_starts(tmp_path: Path) -> None:
    initial = [
        {"c": "two", "k": 8, "s": 0.5, "x": 0.5, "y": 10.0},
        {"x": -2.0, "k": 2},
    ]
    points = np.array([[0.75, 5 / 6, 0.5, 0.5, 1.0], [0.5, 1 / 6, 0.5, 0.0, 0.5]])
    check("SPSO 2007 velocity", tmp_path, "memory", 30, no_faults, initial, points)


# -- By hand ----------------------------------------------------------------------------------


def member(
    loss: float, x: float = 0.5, v: float = 0.0, *, id: int = 0, k: int = 0, state: int = COMPLETE
) -> Member:
    return Member(np.array([x]), Rank(state, 0.0, loss), {"velocity": np.array([v])}, id, k)


def test_the_particle_moves_and_keeps_its_best() -> None:
    pso, first = PSO(), member(1.0, 0.1, id=0)
    worse = pso.survive(first, member(2.0, 0.2, 0.1, id=1))
    assert (worse.id, worse.best) == (1, first)
    equal = pso.survive(worse, member(1.0, 0.3, 0.1, id=2))
    assert (equal.id, equal.best) == (2, first)
    better = member(0.5, 0.4, 0.1, id=3)
    moved = pso.survive(equal, better)
    assert (moved.id, moved.best, moved.hidden) == (3, better, better.hidden)
    assert moved.best.best is None  # no chain that grows with the generations


def test_failed_and_pruned_are_the_best_of_nothing_better() -> None:
    pso = PSO()
    failed = member(math.inf, state=FAILED, id=0)
    pruned = pso.survive(failed, member(-9.0, state=PRUNED, id=1))
    assert (pruned.id, pruned.best.id) == (1, 1)
    again = pso.survive(pruned, member(math.inf, state=FAILED, id=2))
    assert (again.id, again.best.id) == (2, 1)
    complete = pso.survive(again, member(9.0, id=3))
    assert (complete.id, complete.best.id) == (3, 3)
    assert pso.survive(complete, member(-99.0, state=PRUNED, id=4)).best.id == 3


def test_a_further_candidate_updates_the_best_only() -> None:
    pso, own = PSO(), member(1.0, 0.2, 0.1, id=0)
    extra = member(0.5, 0.9, 0.7, id=1, k=1)
    told = pso.survive(own, extra)
    assert (told.x, told.hidden, told.id, told.rank) == (own.x, own.hidden, 0, own.rank)
    assert told.best is extra
    assert pso.survive(own, member(1.0, 0.9, id=1, k=2)).best is own


def test_the_swarm_hears_of_a_further_candidate() -> None:
    space = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}
    for value_of_extra in (0.0, 9.0):
        study = optuna.create_study(sampler=PSOSampler(space, population_size=2, seed=5))
        asked = [study.ask(space) for _ in range(3)]  # the third is a further one of slot 0
        for trial, loss in zip(asked, (2.0, 1.0, value_of_extra), strict=True):
            study.tell(trial, loss)
        moved = [study.ask(space) for _ in range(2)]
        assert [own_claim(t).place for t in study.trials] == [
            (0, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
            (1, 0, 0),
            (1, 1, 0),
        ]

        x = [np.random.default_rng([5, 0, *place]).random(2) for place in np.ndindex(1, 2, 1)]
        extra = np.random.default_rng([5, 0, 0, 0, 1]).random(2)
        bests = [extra, x[1]] if value_of_extra == 0 else x
        swarm = extra if value_of_extra == 0 else x[1]
        for i, trial in enumerate(moved):
            r1, r2 = np.random.default_rng([5, 0, 1, i, 0]).random((2, 2))
            step = 1.49618 * r1 * (bests[i] - x[i]) + 1.49618 * r2 * (swarm - x[i])
            assert list(trial.params.values()) == np.clip(x[i] + step, 0, 1).tolist()


def test_ties_of_the_swarm_go_to_the_earliest() -> None:
    slots = {0: member(1.0, 0.5, id=7), 1: member(1.0, 0.9, id=3), 2: member(1.0, 0.1, id=4)}
    population = Population(slots, range(3), None)
    r2 = np.random.default_rng(0).random(2)[1]
    candidate = PSO(Inertia(0.0, 1.0, 1.0)).ask(population, 0, np.random.default_rng(0))
    assert candidate.x[0] == 0.5 + r2 * (0.9 - 0.5)


def test_the_swarm_knows_all_personal_bests() -> None:
    """Also those whose particles have moved to worse places."""
    pso = PSO(Inertia(0.0, 0.0, 1.0))
    gone = pso.survive(member(0.0, 0.9, id=0), member(5.0, 0.2, id=2))
    population = Population({0: gone, 1: member(1.0, 0.5, id=1)}, range(2), None)
    r2 = np.random.default_rng(0).random(2)[1]
    assert pso.ask(population, 1, np.random.default_rng(0)).x[0] == 0.5 + r2 * (0.9 - 0.5)


def test_neighbourhoods_by_hand() -> None:
    def informants(topology: Any, slot: int, absent: tuple[int, ...] = ()) -> list[int]:
        members = {s: member(0.0, id=s) for s in range(6) if s not in absent}
        return sorted({m.id for m in topology(Population(members, range(6), None), slot)})

    assert informants(Ring(), 0) == [0, 1, 5]
    assert informants(Ring(), 3) == [2, 3, 4]
    assert informants(Ring(), 5) == [0, 4, 5]
    assert informants(Ring(2), 4) == [0, 2, 3, 4, 5]
    assert informants(Ring(), 0, absent=(5,)) == [0, 1]
    assert informants(Ring(), 3, absent=(2, 4)) == [3]
    assert informants(Ring(7), 2) == informants(GlobalBest(), 2) == [0, 1, 2, 3, 4, 5]
    assert informants(GlobalBest(), 2, absent=(0, 3)) == [1, 2, 4, 5]


def test_constriction_factor_by_hand() -> None:
    # Clerc & Kennedy's standard value; for φ = 4.5, √(φ² − 4φ) = 1.5.
    assert Constriction().chi == pytest.approx(0.7298437881283576, rel=1e-14)
    assert Constriction(2.25, 2.25).chi == pytest.approx(2 / (2.5 + 1.5), rel=1e-14)
    assert Constriction().chi * 2.05 == pytest.approx(Inertia().c1, abs=1e-5)
    assert Constriction().chi == pytest.approx(Inertia().w, abs=1e-4)


# -- Bounds and velocities --------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.floats(-20, 20), st.floats(-5, 5)), min_size=1, max_size=6
) | st.lists(
    st.tuples(st.sampled_from([-1e-300, 0.0, 1.0, -1.0, 2.0, 3.0, np.nextafter(1, 2)]), st.just(1))
)


@pytest.mark.parametrize(
    ("bounds", "kind"), [(Absorb(), "absorb"), (Bounce(), "bounce"), (ClipPosition(), "clip")]
)
@given(steps=steps)
def test_bounds(bounds: Any, kind: str, steps: list[tuple[float, float]]) -> None:
    x, v = np.array(steps, dtype=float).reshape(-1, 2).T
    to, velocity = bounds(x, v)
    inside = (x >= 0) & (x <= 1)
    assert np.all((to >= 0) & (to <= 1))
    assert np.array_equal(to[inside], x[inside])
    assert np.array_equal(velocity[inside], v[inside])
    for d in range(len(x)):
        expected = wall(kind, x[d], v[d])
        assert to[d] == expected[0]
        if kind != "bounce" or x[d] != 2 * round(x[d] / 2):  # there both directions are right
            assert velocity[d] == expected[1]


def trajectories(study: optuna.Study, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(generation, slot, n) points and velocities."""
    claims = [own_claim(t) for t in study.trials]
    candidates = [c.candidate for c in claims if c is not None]
    x = np.array([c.x for c in candidates])
    v = np.array([c.hidden["velocity"] for c in candidates])
    return x.reshape(-1, size, x.shape[1]), v.reshape(-1, size, x.shape[1])


def bowl(names: list[str]) -> Callable[[optuna.Trial], float]:
    def objective(trial: optuna.Trial) -> float:
        return sum((trial.suggest_float(name, 0, 1) - 0.45) ** 2 for name in names)

    return objective


def test_no_step_is_longer_than_the_maximal_velocity() -> None:
    names = [f"p{i}" for i in range(3)]
    sampler = PSOSampler(
        {name: FloatDistribution(0, 1) for name in names},
        population_size=5,
        initial_velocity=1.0,
        max_velocity=0.05,
        seed=0,
    )
    study = optuna.create_study(sampler=sampler)
    study.optimize(bowl(names), n_trials=100)
    x, v = trajectories(study, 5)
    assert np.abs(v).max() == 0.05
    assert np.abs(np.diff(x, axis=0)).max() <= 0.05 + 1e-15
    assert np.mean(np.abs(v) == 0.05) > 0.1


@pytest.mark.parametrize("random", ["scalar", "dimension"])
def test_with_scalars_particles_are_affine_combinations_of_the_first(random: Any) -> None:
    """What PSO-Merging builds on; with numbers per dimension they leave the affine hull."""
    names = [f"p{i:02}" for i in range(12)]
    start = np.random.default_rng(0).uniform(0.4, 0.6, (4, 12))
    study = optuna.create_study(
        sampler=PSOSampler(
            {name: FloatDistribution(0, 1) for name in names},
            random=random,
            population_size=4,
            initial_population=[dict(zip(names, x.tolist(), strict=True)) for x in start],
            seed=1,
        )
    )
    study.optimize(bowl(names), n_trials=80)
    x, _ = trajectories(study, 4)
    assert np.all((x > 0) & (x < 1))
    assert np.abs(x[1:] - x[:-1]).max() > 0.01
    # Σ a_i = 1 is one more equation; 13 equations for 4 coefficients.
    targets = np.vstack([x.reshape(-1, 12).T, np.ones(80)])
    hull = np.vstack([x[0].T, np.ones(4)])
    coefficients = np.linalg.lstsq(hull, targets)[0]
    residual = np.abs(hull @ coefficients - targets).max()
    if random == "scalar":
        assert residual < 1e-13
        assert coefficients.max() > 1.05  # not a convex one
    else:
        assert residual > 0.01


def test_finds_the_minimum() -> None:
    names = [f"p{i}" for i in range(4)]
    for topology in (GlobalBest(), Ring()):
        sampler = PSOSampler(
            {name: FloatDistribution(0, 1) for name in names},
            topology=topology,
            population_size=12,
            seed=0,
        )
        study = optuna.create_study(sampler=sampler)
        study.optimize(bowl(names), n_trials=480)
        assert study.best_value < 1e-3  # 480 uniform points: about 2e-2


# -- Options ----------------------------------------------------------------------------------


def test_population_size() -> None:
    assert PSOSampler(SPACE).population_size() == 40
    assert PSOSampler(SPACE, population_size=7).population_size() == 7
    assert PSOSampler().population_size() is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inertia(w=1.5), "w between 0 and 1, got 1.5"),
        (lambda: Inertia(w=math.nan), "w between 0 and 1"),
        (lambda: Inertia(c1=-1.0), "Inertia needs c1 and c2 .* got -1.0 and 1.49618"),
        (lambda: Inertia(c1=0.0, c2=0.0), "nor both zero"),
        (lambda: Inertia(c2=math.inf), "got 1.49618 and inf"),
        (lambda: Constriction(2.0, 2.0), "c1 \\+ c2 > 4, got 2.0 \\+ 2.0: use Inertia"),
        (lambda: Constriction(-1.0, 6.0), "Constriction needs c1 and c2"),
        (lambda: Ring(0), "at least 1 neighbour, got 0"),
        (lambda: PSOSampler(random="particle"), "random must be dimension or scalar"),
        (lambda: PSOSampler(population_size=1), "population_size must be at least 2, got 1"),
        (lambda: PSOSampler(initial_velocity=-0.5), "initial_velocity must be between 0 and 1"),
        (lambda: PSOSampler(max_velocity=0.0), "max_velocity must be positive, got 0.0"),
        (lambda: PSOSampler(max_velocity=math.nan), "max_velocity must be positive"),
        (lambda: PSOSampler(bounds=Reflect()), "Reflect knows nothing of velocities: .*Bounce"),
        (lambda: PSOSampler(bounds=Midpoint()), "Midpoint knows nothing"),
        (lambda: PSOSampler(seed=-1), "non-negative"),
        (lambda: PSOSampler(max_attempts=0), "max_attempts"),
        (lambda: PSOSampler(initial_population=[{}]), "needs search_space"),
        (
            lambda: PSOSampler(SPACE, initial_population=[{"z": 1}]),
            "has 'z', but",
        ),
        (
            lambda: PSOSampler(SPACE, population_size=2, initial_population=[{}] * 3),
            "3 candidates, but the population only 2 slots",
        ),
    ],
)
def test_options_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make()


def test_other_options_are_another_population() -> None:
    """Everything that changes the search is in the repr that names it."""
    options: list[dict[str, Any]] = [case[0] for case in CASES.values()]
    samplers = [PSOSampler(SPACE, seed=0, **o) for o in options]
    study = optuna.create_study()
    for study.sampler in samplers:
        study.ask()
    claims = [own_claim(t) for t in study.trials]
    assert len({c.population for c in claims if c}) == len(CASES)
