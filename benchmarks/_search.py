"""What the parts of the samplers' benchmark share: functions, search spaces, intervals."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution

Vector = NDArray[np.float64]
LOW, HIGH = -5.0, 5.0
_FLOOR = 1e-8


class Enough(Exception):
    """An optimiser need not go on."""


class Problem:
    """A function of BBOB that keeps books.

    Args:
        function: its number, 1 to 24.
        n: dimension.
        seed: instance - 1.
        budget: once there have been so many evaluations, the next raises ``Enough``,
        target: and so it does once log10 of the precision has got here.
    """

    def __init__(
        self, function: int, n: int, seed: int, budget: int, target: float = -math.inf
    ) -> None:
        import ioh  # pip install 'merge_optuna[bench]'; not all parts need it

        self._problem = ioh.get_problem(function, seed + 1, n, ioh.ProblemClass.BBOB)
        self._budget, self._target = budget, target
        self._best = math.inf
        self._precisions: list[float] = []

    def __call__(self, x: Vector) -> float:
        if len(self._precisions) == self._budget or self.reached:
            raise Enough
        value: float = self._problem(x)
        self._best = min(self._best, value)
        precision = max(self._best - self._problem.optimum.y, _FLOOR)
        self._precisions.append(math.log10(precision))
        return value

    @property
    def reached(self) -> bool:
        """Whether the target has been reached."""
        return bool(self._precisions) and self._precisions[-1] <= self._target

    @property
    def evaluations(self) -> int | None:
        """How many it took to reach the target; None if that has not happened."""
        return len(self._precisions) if self.reached else None

    def precisions(self, evaluations: Sequence[int]) -> list[float]:
        """log10 of the best precision after so many evaluations."""
        return [self._precisions[min(e, len(self._precisions)) - 1] for e in evaluations]


def in_processes(work: Callable[[Any], Any], jobs: Sequence[Any], processes: int) -> list[Any]:
    """The results of all jobs, in order."""
    if processes == 1:
        return [work(job) for job in jobs]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(work, jobs, chunksize=1)


def space(n: int) -> dict[str, FloatDistribution]:
    """[-5, 5]^n; the names sort as the dimensions do."""
    return {f"x{i:03}": FloatDistribution(LOW, HIGH) for i in range(n)}


def suggest(trial: optuna.Trial, names: Sequence[str]) -> Vector:
    """The point that a trial evaluates."""
    return np.array([trial.suggest_float(name, LOW, HIGH) for name in names])


def interval(
    values: Sequence[float] | Vector,
    statistic: Callable[..., Any] = np.mean,
    *,
    level: float = 0.95,
    repeats: int = 10_000,
) -> list[float]:
    """Percentile bootstrap interval of a statistic of one sample, always the same draws."""
    sample = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(len(sample), size=(repeats, len(sample)))
    tails = 100 * np.array([(1 - level) / 2, (1 + level) / 2])
    found = np.percentile(statistic(sample[draws], axis=1), tails, method="nearest")  # inf - inf
    return [float(q) for q in found]
