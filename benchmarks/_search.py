"""What the parts of the samplers' benchmark share: search spaces, studies, intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution

import merge_optuna as mo

Vector = NDArray[np.float64]
LOW, HIGH = -5.0, 5.0


def space(n: int) -> dict[str, FloatDistribution]:
    """[-5, 5]^n; the names sort as the dimensions do."""
    return {f"x{i:03}": FloatDistribution(LOW, HIGH) for i in range(n)}


def suggest(trial: optuna.Trial, names: Sequence[str]) -> Vector:
    """The point that a trial evaluates."""
    return np.array([trial.suggest_float(name, LOW, HIGH) for name in names])


def optional(name: str) -> Any:
    """A sampler or algorithm of this package; None if this version lacks it."""
    return getattr(mo.samplers, name, None)


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
    return [float(q) for q in np.percentile(statistic(sample[draws], axis=1), tails)]
