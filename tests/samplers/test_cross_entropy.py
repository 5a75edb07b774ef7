"""The cross-entropy method beside a loop on plain arrays, and in the suites of all samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from merge_optuna.errors import StudyError
from merge_optuna.samplers import CrossEntropy, CrossEntropySampler
from merge_optuna.samplers.plumbing import CANDIDATE, keyed_rng
from merge_optuna.testing import AlgorithmSuite

optuna.logging.set_verbosity(optuna.logging.WARNING)
_SPACE = {name: FloatDistribution(0.0, 1.0) for name in "abcd"}


class TestAlgorithm(AlgorithmSuite):
    def algorithm(self) -> Any:
        return CrossEntropy(size=6, elites=2)


class TestOptuna(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: CrossEntropySampler(population_size=4, elites=2, seed=0)


def loss(x: Any) -> float:
    return float(((x - [0.2, 0.4, 0.6, 0.9]) ** 2 * [1, 2, 3, 4]).sum())


@pytest.mark.parametrize("smoothing", [1.0, 0.6])
def test_a_loop_on_arrays(smoothing: float) -> None:
    mean, sigma, points = np.full(4, 0.5), np.full(4, 0.25), []
    for generation in range(5):
        drawn = []
        for slot in range(8):
            z = keyed_rng(3, CANDIDATE, generation, slot).standard_normal(4)
            drawn.append(np.clip(mean + sigma * z, 0, 1))
        points += drawn
        best = np.array(sorted(drawn, key=loss)[:3])
        mean = smoothing * best.mean(0) + (1 - smoothing) * mean
        sigma = smoothing * best.std(0) + (1 - smoothing) * sigma

    def objective(trial: optuna.Trial) -> float:
        return loss(np.array([trial.suggest_float(name, 0, 1) for name in _SPACE]))

    options = {"population_size": 8, "elites": 3, "smoothing": smoothing, "sigma": 0.25}
    study = optuna.create_study(sampler=CrossEntropySampler(_SPACE, seed=3, **options))
    study.optimize(objective, n_trials=40)
    found = [list(trial.params.values()) for trial in study.trials]
    np.testing.assert_array_equal(np.array(found), np.array(points))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"elites": 0}, "elites must be"),
        ({"elites": 9, "population_size": 8}, "elites must be at most population_size, 8, got 9"),
        ({"smoothing": 0.0}, r"smoothing must be in \(0, 1\], got 0.0"),
        ({"sigma": 2.0}, r"sigma must be in \(0, 1\], got 2.0"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        CrossEntropySampler(_SPACE, **options)
