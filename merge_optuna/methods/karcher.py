"""The Karcher mean: the point of the sphere with the least sum of squared angles to the models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from merge_optuna.methods._affine import Matrix, combine, gram
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods._sphere import OPPOSITE, Array, lengths_and_cosines, or_infinite
from merge_optuna.methods.linear import total_weight

_CANCELS = 1e-8


def coefficients(
    products: Matrix, *, weight: Sequence[float], max_iter: int, tol: float
) -> list[float]:
    """Those of the models: the mean's on the unit sphere, scaled to the mean length."""
    total = total_weight(weight, remedy="Give a model a positive weight.")
    weights = np.array(weight) / total
    lengths, cosines = lengths_and_cosines(products)
    present = np.where(lengths > 0, weights, 0)
    if present @ cosines @ present <= _CANCELS * present.sum() ** 2:
        return list(weights.tolist())
    mean = _mean(cosines, present / present.sum(), max_iter, tol)
    return list((weights @ lengths * mean / or_infinite(lengths)).tolist())


def _mean(cosines: Matrix, weights: Array, max_iter: int, tol: float) -> Array:
    """The mean direction as coefficients of the unit tensors, by steepest descent.

    Everything happens in the span of the unit tensors u, so a direction is its coefficients. From
    the normalised weighted sum, each step follows the weighted mean of the logarithms
    ω / sin ω · (u − cos ω·mean), along a great circle.
    """
    mean = weights / np.sqrt(weights @ cosines @ weights)
    for _ in range(max_iter):
        cos = np.clip(cosines @ mean, -1, 1)
        pulls = np.where(cos > OPPOSITE, weights / np.sinc(np.arccos(cos) / np.pi), 0)
        step = pulls - (pulls @ cos) * mean
        length = math.sqrt(max(float(step @ cosines @ step), 0.0))
        if length < tol:
            break
        mean = math.cos(length) * mean + np.sinc(length / np.pi) * step
        mean /= np.sqrt(mean @ cosines @ mean)
    return mean


def karcher(
    base: None, models: Sequence[Tensor], *, weight: Sequence[float], max_iter: int, tol: float
) -> Tensor:
    """Karcher mean: the direction with the least squared angles to the models, in mean length.

    A tensor of zeros has no direction and counts only in the length; one that is opposite to the
    mean does not pull it. Directions that cancel leave no mean; then it is the weighted average.
    """
    found = coefficients(gram(models), weight=weight, max_iter=max_iter, tol=tol)
    return combine(models, found)


METHOD = Method(
    name="karcher",
    kernel=karcher,
    parameters=(
        # mergekit has no weights here: all models count the same.
        Parameter(
            "weight",
            1.0,
            "of each model",
            low=0.0,
            per_model=True,
            search=(0, 1),
            details="Only proportions matter, so n − 1 shares are searched.",
        ),
        Parameter("max_iter", 10, "most steps", low=0, high=100_000, grouped=False),
        Parameter(
            "tol", 1e-5, "angle in radians below which steps end", low=0.0, high=1.0, grouped=False
        ),
    ),
    base=False,
    coefficients=coefficients,
    proportional=True,
    promises=frozenset({"idempotent", "selective", "symmetric"}),
    source="Karcher 1977, Riemannian center of mass; of models: arXiv 2603.04972",
)
