"""The spherical methods and their relatives in float64 numpy, written from the formulas.

Arrays may have any shape. Nothing here is shared with the package, which computes most of this
from dot products alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def multislerp(models: Sequence[Array], weight: Sequence[float]) -> Array:
    """The published algorithm, with its step in the tangent space at the mean."""
    models = [np.float64(m) for m in models]
    lengths = [np.linalg.norm(m) for m in models]
    units = [m / length for m, length in zip(models, lengths, strict=True)]
    mean = sum(w * u for w, u in zip(weight, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    tangent = sum(w * (u - np.vdot(u, mean) * mean) for w, u in zip(weight, units, strict=True))
    angle = np.linalg.norm(tangent)
    point = np.cos(angle) * mean + np.sinc(angle / np.pi) * tangent
    return point * np.dot(weight, lengths)


def logarithm(at: Array, to: Array) -> Array:
    """The tangent at a point of the sphere that leads to another, as long as their angle."""
    angle = np.arccos(np.clip(np.vdot(at, to), -1, 1))
    across = to - np.vdot(at, to) * at
    norm = np.linalg.norm(across)
    return across * (angle / norm) if norm else across


def karcher(models: Sequence[Array], weight: Sequence[float]) -> Array:
    """Steepest descent along great circles until nothing moves; weights sum to 1."""
    models = [np.float64(m) for m in models]
    lengths = [np.linalg.norm(m) for m in models]
    units = [m / length for m, length in zip(models, lengths, strict=True)]
    point = units[int(np.argmax(weight))]
    for _ in range(3000):
        step = sum(w * logarithm(point, u) for w, u in zip(weight, units, strict=True))
        angle = np.linalg.norm(step)
        point = np.cos(angle) * point + np.sinc(angle / np.pi) * step
        point = point / np.linalg.norm(point)
        if angle < 1e-14:
            break
    return point * np.dot(weight, lengths)


def nearswap(base: Array, model: Array, t: float) -> Array:
    """Interpolation with the weight min(1, t / distance), as its author wrote it."""
    base, model = np.float64(base), np.float64(model)
    distance = np.abs(model - base)
    weight = np.minimum(1, t / np.where(distance, distance, 1))
    return weight * model + (1 - weight) * base


def importance(base: Array, model: Array) -> Array:
    """Size of the change times the divergence of the row from the base's."""

    def row(a: Array, b: Array) -> Array:
        p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() + 1e-8 for x in (b, a))
        return np.abs(b - a) * np.sum(p * np.log(p / q))

    return by_row(row, base, model)


def unusual(values: Array) -> float:
    """Median plus 1.5 times the interquartile range; quantiles are the lower neighbours."""
    ranked = np.sort(values, axis=None)
    low, median, high = (ranked[int(q * (ranked.size - 1))] for q in (0.25, 0.5, 0.75))
    return float(median + 1.5 * (high - low))
