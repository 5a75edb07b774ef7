"""Lengths of tensors and angles between them, from their dot products alone.

Every function takes one matrix of dot products, or one for each row of the tensors, (..., n, n).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from merge_optuna.methods._affine import Matrix

Array = NDArray[np.float64]

OPPOSITE = -0.9995
"""Cosine below which two tensors count as opposite: no great circle between them is preferred, and
the nearest to one would amplify what little they differ in."""

_NOTHING = 1e-30
"""Norm up to which a tensor counts as zeros: what would lengthen it to 1 leaves float32."""


def lengths_and_cosines(products: Matrix) -> tuple[Array, Matrix]:
    """Norms, (..., n), and cosines in [−1, 1], (..., n, n).

    A tensor of zeros has no direction; its cosines are 0, also with itself.
    """
    lengths = np.sqrt(np.maximum(np.diagonal(products, axis1=-2, axis2=-1), 0))
    lengths = np.where(lengths > _NOTHING, lengths, 0)
    divisors = or_infinite(lengths)
    cosines = products / (divisors[..., :, None] * divisors[..., None, :])
    return lengths, np.clip(cosines, -1, 1)


def or_infinite(lengths: Array) -> Array:
    """Lengths to divide by: infinite instead of zero, so that zero tensors have no share."""
    return np.where(lengths > 0, lengths, np.inf)


def around_base(combination: Callable[[Matrix], Array], products: Matrix, models: int) -> Array:
    """Coefficients of a linear combination of models, or of task vectors if there is a base.

    Args:
        combination: Coefficients, (..., n), from the dot products of what is combined.
        products: Of the models, with one row and column before them if there is a base.
        models: Their number n.

    Returns:
        One coefficient per tensor, that of the base first: θ₀ + Σ c·(θ − θ₀) is
        (1 − Σ c)·θ₀ + Σ c·θ.
    """
    if products.shape[-1] == models:
        return combination(products)
    crossed = products[..., 1:, :1]
    tasks = products[..., 1:, 1:] - crossed - np.swapaxes(crossed, -1, -2) + products[..., :1, :1]
    coefficients = combination(tasks)
    rest = 1 - coefficients.sum(axis=-1, keepdims=True)
    return np.concatenate([rest, coefficients], axis=-1)
