"""CmaEsSampler against loops that use the cmaes package and nothing of ours."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, ClassVar

import cmaes
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler

from merge_optuna.errors import StudyError
from merge_optuna.samplers import CmaEs, CmaEsSampler, DistributionAlgorithm
from merge_optuna.testing import AlgorithmSuite
from tests.samplers.storages import make_storage

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE = {
    "x": FloatDistribution(-2, 3),
    "y": FloatDistribution(1e-4, 10, log=True),
    "k": IntDistribution(2, 8, step=3),
    "s": FloatDistribution(0, 1, step=0.25),
}
NAMES = ["k", "s", "x", "y"]


def to_params(u: np.ndarray) -> dict[str, Any]:
    """The unit box by hand: dimensions in the order of NAMES."""
    return {
        "k": 2 + 3 * min(int(u[0] * 3), 2),
        "s": 0.25 * min(int(u[1] * 5), 4),
        "x": -2.0 + u[2] * 5.0,
        "y": min(math.exp(math.log(1e-4) + u[3] * (math.log(10) - math.log(1e-4))), 10.0),
    }


def value(params: dict[str, Any]) -> float:
    return (
        (params["x"] - 1) ** 2
        + abs(math.log10(params["y"]) + 2)
        + abs(params["k"] - 5)
        + 4 * (params["s"] - 0.75) ** 2
    )


def objective(trial: optuna.Trial) -> float:
    params = {
        "x": trial.suggest_float("x", -2, 3),
        "y": trial.suggest_float("y", 1e-4, 10, log=True),
        "k": trial.suggest_int("k", 2, 8, step=3),
        "s": trial.suggest_float("s", 0, 1, step=0.25),
    }
    assert params == trial.params
    return value(params)


def plain_loop(variant: str, sign: int, generations: int, seed: int) -> list[dict[str, Any]]:
    """CMA-ES as in the README of cmaes, but every sample has its own seed."""
    mean, bounds = np.full(4, 0.5), np.array([[0.0, 1.0]] * 4)
    if variant == "margin":
        bounds[0], bounds[1] = [1 / 6, 1 - 1 / 6], [1 / 10, 1 - 1 / 10]
        engine = cmaes.CMAwM(mean, 1 / 6, bounds, steps=np.array([1 / 3, 1 / 5, 0, 0]))
    else:
        engine = {"full": cmaes.CMA, "separable": cmaes.SepCMA}[variant](mean, 1 / 6, bounds)
    history = []
    for g in range(generations):
        solutions = []
        for k in range(engine.population_size):
            engine.reseed_rng(int(np.random.default_rng([seed, 0, g, k, 0]).integers(2**32)))
            x = engine.ask()
            evaluated, raw = x if variant == "margin" else (x, x)
            history.append(to_params(evaluated))
            solutions.append((raw, sign * value(history[-1])))
        engine.tell(solutions)
    return history


class CmaEsSuite(AlgorithmSuite):
    search_space: ClassVar = {k: d for k, d in AlgorithmSuite.search_space.items() if k != "d"}


class TestFull(CmaEsSuite):
    def algorithm(self) -> DistributionAlgorithm:
        return CmaEs()


class TestSeparable(CmaEsSuite):
    def algorithm(self) -> DistributionAlgorithm:
        return CmaEs("separable", x0=(("a", 0.0),), sigma0=(("a", 0.1), ("c", 0.3)))


class TestMargin(CmaEsSuite):
    def algorithm(self) -> DistributionAlgorithm:
        return CmaEs("margin", sigma0=0.3, size=5)


@pytest.mark.parametrize("storage", ["memory", "sqlite", "journal"])
@pytest.mark.parametrize("variant", ["full", "separable", "margin"])
def test_one_worker_equals_a_plain_cmaes_loop(variant: str, storage: str, tmp_path: Path) -> None:
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        (tmp_path / direction).mkdir()
        study = optuna.create_study(
            storage=make_storage(storage, tmp_path / direction),
            sampler=CmaEsSampler(SPACE, variant=variant, seed=3),
            direction=direction,
        )
        generations = 8 if storage == "memory" else 3
        study.optimize(objective, n_trials=8 * generations)
        assert [t.params for t in study.trials] == plain_loop(variant, sign, generations, seed=3)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_default_population_start_and_spread(n: int) -> None:
    space = {f"p{i:02}": FloatDistribution(0, 1) for i in range(n)}
    algorithm = CmaEs()
    assert algorithm.population_size(n) == 4 + math.floor(3 * math.log(n))
    assert CmaEsSampler(space).population_size() == 4 + math.floor(3 * math.log(n))
    assert CmaEsSampler().population_size() is None
    study = optuna.create_study(sampler=CmaEsSampler(space, seed=0, population_size=300))
    asked = [list(study.ask(space).params.values()) for _ in range(300)]
    # A normal distribution cut at ±3σ: mean 0.5, standard deviation 0.9866 σ.
    assert np.mean(asked) == pytest.approx(0.5, abs=3 / 6 / math.sqrt(300 * n))
    assert np.std(asked) == pytest.approx(0.9866 / 6, rel=0.15 / math.sqrt(n))


@pytest.mark.parametrize("variant", ["full", "separable", "margin"])
def test_start_and_sigma_per_name(variant: str) -> None:
    space = {
        "a": FloatDistribution(0, 10),
        "b": FloatDistribution(1, 100, log=True),
        "c": FloatDistribution(0, 1),
    }
    sampler = CmaEsSampler(
        space,
        variant=variant,
        x0={"a": 2.5, "b": 10.0},
        sigma0={"a": 0.01, "b": 0.05},
        population_size=400,
        seed=1,
    )
    study = optuna.create_study(sampler=sampler)
    params = [study.ask(space).params for _ in range(400)]
    a = np.array([p["a"] for p in params])
    b = np.log10([p["b"] for p in params])
    c = np.array([p["c"] for p in params])
    assert np.mean(a) == pytest.approx(2.5, abs=0.02)
    assert np.std(a) == pytest.approx(0.1, rel=0.1)
    assert np.mean(b) == pytest.approx(1.0, abs=0.02)
    assert np.std(b) == pytest.approx(0.1, rel=0.1)
    assert np.std(c) == pytest.approx(1 / 6, rel=0.1)


def test_equal_sigmas_per_name_are_the_number() -> None:
    space = {"a": FloatDistribution(0, 1), "b": FloatDistribution(0, 1)}

    def run(sigma0: Any) -> list[float]:
        study = optuna.create_study(sampler=CmaEsSampler(space, sigma0=sigma0, seed=5))
        study.optimize(
            lambda t: t.suggest_float("a", 0, 1) ** 2 + t.suggest_float("b", 0, 1), n_trials=60
        )
        return [v for t in study.trials for v in t.params.values()]

    assert run({"a": 0.125, "b": 0.125}) == pytest.approx(run(0.125), rel=1e-9)


def test_finds_the_minimum_with_and_without_a_search_space() -> None:
    space = {f"x{i}": FloatDistribution(-5, 5) for i in range(4)}

    def ellipsoid(trial: optuna.Trial) -> float:
        xs = [trial.suggest_float(f"x{i}", -5, 5) for i in range(4)]
        return sum(10**i * (x - 1) ** 2 for i, x in enumerate(xs))

    for search_space in (space, None):
        study = optuna.create_study(sampler=CmaEsSampler(search_space, seed=0))
        study.optimize(ellipsoid, n_trials=600)
        assert study.best_value < 1e-3


def test_margin_keeps_a_step_from_freezing() -> None:
    """Hamano et al. 2022: every value of a discrete parameter keeps probability >= 1/(nλ)."""
    space = {"x": FloatDistribution(0, 1), "k": IntDistribution(0, 1)}

    def last_ks(variant: str) -> set[int]:
        study = optuna.create_study(
            sampler=CmaEsSampler(space, variant=variant, population_size=6, seed=2)
        )
        study.optimize(
            lambda t: (t.suggest_float("x", 0, 1) - 0.5) ** 2 + t.suggest_int("k", 0, 1),
            n_trials=360,
        )
        return {t.params["k"] for t in study.trials[-120:]}

    assert last_ks("margin") == {0, 1}
    assert last_ks("full") == {0}


def test_a_collapsed_distribution_starts_again() -> None:
    space = {"x": FloatDistribution(0, 1)}
    study = optuna.create_study(sampler=CmaEsSampler(space, seed=0))
    study.optimize(lambda t: abs(t.suggest_float("x", 0, 1) - 0.3), n_trials=500)
    xs = [t.params["x"] for t in study.trials]
    spread = [np.ptp(xs[i : i + 8]) for i in range(492)]
    assert min(spread[:400]) < 1e-4
    assert max(spread[int(np.argmin(spread[:400])) :]) > 0.3
    assert len(set(xs)) == 500


def test_bounds_are_reached_and_clipping_is_announced() -> None:
    space = {f"x{i}": FloatDistribution(0, 1) for i in range(12)}
    sampler = CmaEsSampler(space, sigma0=3.0, seed=0)
    study = optuna.create_study(sampler=sampler)
    with pytest.warns(UserWarning, match="clipped to the bounds"):
        asked = [study.ask(space).params for _ in range(11)]
    values = {v for params in asked for v in params.values()}
    assert {0.0, 1.0} <= values

    study = optuna.create_study(sampler=CmaEsSampler(space, seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(11):
            study.ask(space)


def test_categorical_parameters_are_uniform_and_keyed() -> None:
    space = {"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b", "c"])}

    def run() -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=CmaEsSampler(space, seed=0))
        study.optimize(
            lambda t: t.suggest_float("x", 0, 1) + len(t.suggest_categorical("c", "abc")),
            n_trials=150,
        )
        return [t.params for t in study.trials]

    params = run()
    assert params == run()
    counts = np.unique([p["c"] for p in params], return_counts=True)[1]
    assert len(counts) == 3
    assert min(counts) > 30


def test_partial_fixed_sampler_searches_the_rest() -> None:
    rest = {n: d for n, d in SPACE.items() if n != "x"}
    sampler = CmaEsSampler(SPACE, seed=3)
    study = optuna.create_study(sampler=PartialFixedSampler({"x": 0.5}, sampler))
    study.optimize(objective, n_trials=70)
    assert {t.params["x"] for t in study.trials} == {0.5}

    without = optuna.create_study(sampler=CmaEsSampler(rest, seed=3))

    def rest_objective(trial: optuna.Trial) -> float:
        trial.suggest_float("y", 1e-4, 10, log=True)
        trial.suggest_int("k", 2, 8, step=3)
        trial.suggest_float("s", 0, 1, step=0.25)
        return value({**trial.params, "x": 0.5})

    without.optimize(rest_objective, n_trials=70)
    assert [{**t.params, "x": 0.5} for t in without.trials] == [t.params for t in study.trials]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x0": {"z": 1.0}}, "x0 names 1 of 1 parameters that are not numeric ones.*: z"),
        ({"x0": {"c": 1.0}}, "not numeric"),
        ({"sigma0": {"z": 1.0}}, "sigma0 names"),
        ({"x0": {"x": 9.0}}, "x0 has x = 9.0"),
        ({"sigma0": 0.0}, "sigma0 must be positive"),
        ({"sigma0": {"x": -1.0}}, "sigma0 must be positive, got -1.0 for 'x'"),
        ({"population_size": 3}, "at least 4"),
        ({"variant": "bipop"}, "variant must be"),
        ({"seed": -1}, "non-negative"),
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    space = {**SPACE, "c": CategoricalDistribution(["a", "b"])}
    with pytest.raises(StudyError, match=message):
        CmaEsSampler(space, **options)


def test_refusals_leave_no_running_trial() -> None:
    multi = optuna.create_study(directions=["minimize"] * 2, sampler=CmaEsSampler(SPACE))
    hyperband = optuna.create_study(
        sampler=CmaEsSampler(SPACE), pruner=optuna.pruners.HyperbandPruner()
    )
    for study, message in ((multi, "one objective"), (hyperband, "HyperbandPruner")):
        with pytest.raises(StudyError, match=message):
            study.ask()
        assert [t.state.name for t in study.trials] == ["FAIL"]
