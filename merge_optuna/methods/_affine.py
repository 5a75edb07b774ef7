"""Methods whose result is a linear combination of the tensors.

Their coefficients depend on the tensors only through the matrix of dot products, so an engine
computes that once per study and then merges in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from merge_optuna.methods._reduce import stable_sum

Matrix = NDArray[np.float64]


def gram(tensors: Sequence[Tensor]) -> Matrix:
    """Dot products of the flattened tensors with each other, (n, n), summed in float64."""
    wide = [tensor.double() for tensor in tensors]
    products = np.empty((len(wide), len(wide)))
    for i, a in enumerate(wide):
        for j, b in enumerate(wide[: i + 1]):
            products[i, j] = products[j, i] = stable_sum(a * b)
    return products


def combine(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Σ c·θ, in the order of the tensors."""
    merged = tensors[0] * coefficients[0]
    for theta, c in zip(tensors[1:], coefficients[1:], strict=True):
        merged += theta * c
    return merged
