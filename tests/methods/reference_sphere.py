"""The spherical methods and their relatives in float64 numpy, written from the formulas.

Arrays may have any shape. Nothing here is shared with the package, which computes most of this
from dot products alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def by_row(function: Callable[..., Array], *arrays: Array, axis: int = -1) -> Array:
    """Applies a function of vectors to the vectors along an axis, one by one."""
    moved = [np.moveaxis(np.float64(a), axis, -1) for a in arrays]
    result = np.empty_like(moved[0])
    for place in np.ndindex(result.shape[:-1]):
        result[place] = function(*(m[place] for m in moved))
    return np.moveaxis(result, -1, axis)


def cosine(a: Array, b: Array) -> float:
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(np.vdot(a, b) / norms, -1, 1)) if norms else 0.0


def model_stock(base: Array, *models: Array) -> Array:
    """Jang et al. 2024: the average, pulled to the base by t = n·cos / (1 + (n − 1)·cos)."""
    base = np.float64(base)
    tasks = [m - base for m in models]
    n = len(tasks)
    cos = np.mean([cosine(tasks[i], tasks[j]) for i in range(n) for j in range(i)])
    t = n * cos / (1 + (n - 1) * cos)
    return t * np.mean(models, axis=0) + (1 - t) * base


def nuslerp(a: Array, b: Array, t: float) -> Array:
    """Shoemake's formula, without the threshold of slerp."""
    a, b = np.float64(a), np.float64(b)
    angle = np.arccos(cosine(a, b))
    if np.sin(angle) < 1e-9:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
