"""CatCmaEsSampler against a loop that uses the cmaes package and nothing of ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from merge_optuna.errors import StudyError
from merge_optuna.samplers import CatCmaEs, CatCmaEsSampler, DistributionAlgorithm
from merge_optuna.testing import AlgorithmSuite
from tests.samplers.storages import make_storage

optuna.logging.set_verbosity(optuna.logging.WARNING)

CHOICES = {"b": ["p", "q", "r"], "d": [False, True]}
SPACE: dict[str, BaseDistribution] = {
    **{name: CategoricalDistribution(choices) for name, choices in CHOICES.items()},
    "k": IntDistribution(2, 8, step=3),
    "x": FloatDistribution(-2, 3),
    "y": FloatDistribution(0, 1),
}
FIRST = {"b": (0.6, 0.3, 0.1)}


def to_params(x: np.ndarray, z: np.ndarray, c: np.ndarray) -> dict[str, Any]:
    """The engine's sample by hand."""
    return {
        "b": CHOICES["b"][int(c[0].argmax())],
        "d": CHOICES["d"][int(c[1].argmax())],
        "k": 2 + 3 * int(z[0] * 3),
        "x": -2.0 + x[0] * 5.0,
        "y": x[1],
    }


def value(params: dict[str, Any]) -> float:
    near = (params["x"] + 1.9) ** 2 if params["b"] == "q" else 3.0
    return float(near + abs(params["k"] - 8) + (params["y"] - 0.9) ** 2 + params["d"])


def objective(trial: optuna.Trial) -> float:
    params = {
        "b": trial.suggest_categorical("b", CHOICES["b"]),
        "d": trial.suggest_categorical("d", CHOICES["d"]),
        "k": trial.suggest_int("k", 2, 8, step=3),
        "x": trial.suggest_float("x", -2, 3),
        "y": trial.suggest_float("y", 0, 1),
    }
    assert params == trial.params
    return value(params)


def an_engine() -> Any:
    return cmaes.CatCMAwM(
        x_space=[[0, 1], [0, 1]],
        z_space=[[1 / 6, 3 / 6, 5 / 6]],
        c_space=[3, 2],
        mean=np.full(3, 0.5),
        sigma=1 / 6,
        cov=np.eye(3),
        cat_param=np.array([FIRST["b"], [0.5, 0.5, 0.0]]),
        population_size=8,
    )


def plain_loop(sign: int, generations: int, seed: int) -> list[dict[str, Any]]:
    """CatCMA as in the README of cmaes; each sample has its own seed, each value is a rank."""
    engine, history = an_engine(), []
    for g in range(generations):
        samples, values = [], []
        for k in range(8):
            engine.reseed_rng(int(np.random.default_rng([seed, 0, g, k, 0]).integers(2**32)))
            samples.append(engine.ask())
            history.append(to_params(samples[-1].x, samples[-1].z, samples[-1].c))
            values.append(sign * value(history[-1]))
        order = np.argsort(values, kind="stable")
        engine.tell([(samples[i], float(rank)) for rank, i in enumerate(order)])
    return history


class TestMixed(AlgorithmSuite):
    def algorithm(self) -> DistributionAlgorithm:
        return CatCmaEs()


class TestNarrow(AlgorithmSuite):
    def algorithm(self) -> DistributionAlgorithm:
        return CatCmaEs(sigma0={"a": 0.1, "c": 0.3}, x0={"a": 0.0}, size=5)


@pytest.mark.parametrize("storage", ["memory", "sqlite", "journal"])
def test_one_worker_equals_a_plain_cmaes_loop(storage: str, tmp_path: Path) -> None:
    for sign, direction in ((1, "minimize"), (-1, "maximize")):
        (tmp_path / direction).mkdir()
        study = optuna.create_study(
            storage=make_storage(storage, tmp_path / direction),
            sampler=CatCmaEsSampler(SPACE, probabilities=FIRST, population_size=8, seed=3),
            direction=direction,
        )
        generations = 20 if storage == "memory" else 3
        study.optimize(objective, n_trials=8 * generations)
        assert [t.params for t in study.trials] == plain_loop(sign, generations, seed=3)


@pytest.mark.parametrize("kept", [("b", "d"), ("k",), ("x", "y"), ("b", "x"), ("d", "k")])
def test_any_mixture_of_kinds_finds_the_best(kept: tuple[str, ...]) -> None:
    best = {"b": "q", "d": False, "k": 8, "x": -1.9, "y": 0.9}

    def rest(trial: optuna.Trial) -> float:
        suggested = {name: trial._suggest(name, SPACE[name]) for name in kept}
        return value(best | suggested)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = {name: SPACE[name] for name in kept}
        study = optuna.create_study(sampler=CatCmaEsSampler(space, seed=0))
        study.optimize(rest, n_trials=300)
    assert study.best_value < 1e-3
    assert study.best_params == pytest.approx({name: best[name] for name in kept}, abs=0.05)


def test_first_probabilities_are_those_given() -> None:
    sampler = CatCmaEsSampler(SPACE, probabilities=FIRST, population_size=600, seed=0)
    study = optuna.create_study(sampler=sampler)
    drawn = [study.ask(SPACE).params for _ in range(600)]
    for choice, p in zip(CHOICES["b"], FIRST["b"], strict=True):
        share = np.mean([params["b"] == choice for params in drawn])
        assert share == pytest.approx(p, abs=4 * (p * (1 - p) / 600) ** 0.5)
    assert np.mean([params["d"] for params in drawn]) == pytest.approx(0.5, abs=0.09)


def conditional(trial: optuna.Trial) -> float:
    """x is suggested beside q alone, e never."""
    b = trial.suggest_categorical("b", CHOICES["b"])
    return (trial.suggest_float("x", -2, 3) - 2.5) ** 2 if b == "q" else 0.0


def test_what_is_not_suggested_teaches_nothing() -> None:
    space = {
        "b": SPACE["b"],
        "e": CategoricalDistribution(["u", "v", "w"]),
        "x": SPACE["x"],
        "z": FloatDistribution(0, 1),
    }
    probabilities = {"b": (0.45, 0.1, 0.45), "e": (0.5, 0.3, 0.2)}
    algorithm = CatCmaEs(probabilities=probabilities, size=8)
    spreads = []
    for seed in range(8):
        sampler = CatCmaEsSampler(space, probabilities=probabilities, population_size=8, seed=seed)
        study = optuna.create_study(sampler=sampler)
        study.optimize(conditional, n_trials=8 * 12)
        study.ask()  # folds the last generation
        engine = sampler._notes.log.books[next(iter(sampler._notes.log.books))].memory.engine
        assert engine._q[1] == pytest.approx(probabilities["e"], abs=1e-6)
        assert engine._mean[1] == pytest.approx(0.5, abs=1e-9)  # z
        spreads.append(engine._sigma * engine._C[1, 1] ** 0.5)
    # As wide as under a ranking by chance: no narrower than at the start.
    assert np.exp(np.mean(np.log(spreads))) == pytest.approx(1 / 6, rel=0.5)
    assert algorithm.population_size(4) == 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"probabilities": {"x": [1.0]}}, "probabilities names 1 of 1 .* not categorical .* b, d"),
        ({"probabilities": {"b": [0.5, 0.5]}}, "2 numbers for 'b', which has 3 choices"),
        ({"probabilities": {"b": [0.5, 0.5, 0.0]}}, "'b' must lie above 0 and have sum 1"),
        ({"probabilities": {"b": [0.5, 0.4, 0.2]}}, "'b' must lie above 0 and have sum 1"),
        ({"x0": {"b": 1}}, "x0 names 1 of 1 parameters that are not numeric"),
        ({"sigma0": 0}, "sigma0 must be positive"),
        ({"population_size": 3}, "population_size must be at least 4"),
    ],
)
def test_clear_errors(options: dict[str, Any], match: str) -> None:
    with pytest.raises(StudyError, match=match):
        CatCmaEsSampler(SPACE, **options)
