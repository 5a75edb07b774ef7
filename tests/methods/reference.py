"""The merge methods in float64 numpy, written from the formulas of the papers.

Arrays may have any shape; a task vector is the difference in float32, which is what the trimming
ranks, and everything behind it is float64. Nothing here is shared with the package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear(models: Sequence[Array], weight: Sequence[float], normalize: bool) -> Array:
    total = sum(w * np.float64(m) for w, m in zip(weight, models, strict=True))
    return total / sum(weight) if normalize else total


def slerp(a: Array, b: Array, t: float) -> Array:
    a, b = np.float64(a), np.float64(b)
    cos = np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    if abs(cos) > 0.9995:
        return (1 - t) * a + t * b
    angle = np.arccos(cos)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def task_vectors(base: Array, models: Sequence[Array]) -> list[Array]:
    return [np.float64(np.float32(m) - np.float32(base)) for m in models]


def task_arithmetic(
    base: Array, deltas: Sequence[Array], weight: Sequence[float], lambda_: float, normalize: bool
) -> Array:
    return np.float64(base) + lambda_ * linear(deltas, weight, normalize)


def trimmed(delta: Array, density: float) -> Array:
    """Largest magnitudes, of equal ones those at the lowest flat index."""
    flat = delta.ravel()
    k = max(1, int(density * flat.size)) if density else 0
    kept = np.argsort(-np.abs(flat), kind="stable")[:k]
    result = np.zeros_like(flat)
    result[kept] = flat[kept]
    return result.reshape(delta.shape)


def middle(delta: Array, density: float, gamma: float) -> Array:
    """All but the largest share gamma and the smallest, as long as the density is reached."""
    flat = delta.ravel()
    k = max(1, int(density * flat.size)) if density else 0
    outliers = min(int(gamma * flat.size), flat.size - k)
    kept = np.argsort(-np.abs(flat), kind="stable")[outliers : outliers + k]
    result = np.zeros_like(flat)
    result[kept] = flat[kept]
    return result.reshape(delta.shape)


def with_l1_of(delta: Array, kept: Array) -> Array:
    return kept * np.abs(delta).sum() / np.abs(kept).sum() if kept.any() else kept


def elected(deltas: Sequence[Array], weight: Sequence[float], elect: str) -> Array:
    """What the vote sums to; its sign is elected, and zero elects +."""
    votes = [w * d for w, d in zip(weight, deltas, strict=True)]
    return np.sum([np.sign(v) for v in votes] if elect == "count" else votes, axis=0)


def disjoint(
    deltas: Sequence[Array], weight: Sequence[float], elect: str, normalize: bool
) -> Array:
    sign = np.where(elected(deltas, weight, elect) >= 0, 1, -1)
    agrees = [np.sign(w * d) == sign for w, d in zip(weight, deltas, strict=True)]
    total = sum(w * d * yes for w, d, yes in zip(weight, deltas, agrees, strict=True))
    mass = sum(w * yes for w, yes in zip(weight, agrees, strict=True))
    return total / np.where(mass == 0, 1, mass) if normalize else total


def ties(
    base: Array,
    deltas: Sequence[Array],
    weight: Sequence[float],
    density: Sequence[float],
    lambda_: float,
    elect: str,
    normalize: bool,
) -> Array:
    kept = [trimmed(d, share) for d, share in zip(deltas, density, strict=True)]
    return np.float64(base) + lambda_ * disjoint(kept, weight, elect, normalize)


def dropped(delta: Array, mask: NDArray[np.bool_], rescale: str) -> Array:
    kept = delta * mask
    if rescale == "density":
        return kept / mask.mean() if mask.any() else kept
    if rescale == "l1":
        return with_l1_of(delta, kept)
    return kept


def chances(delta: Array, density: float, epsilon: float) -> Array:
    """Row by row from density - epsilon for the smallest to density + epsilon for the largest."""
    epsilon = min(epsilon, density, 1 - density)
    rows = np.abs(delta).reshape(delta.shape[0] if delta.ndim > 1 else 1, -1)
    result = np.full(rows.shape, density)
    for row, chance in zip(rows, result, strict=True):
        if len(row) > 1:
            order = np.argsort(-row, kind="stable")
            chance[order] = np.linspace(density + epsilon, density - epsilon, len(row))
    return result.reshape(delta.shape)


def magpruned(delta: Array, chance: Array, mask: NDArray[np.bool_], rescale: str) -> Array:
    """With the paper's 1/p, made to sum to the number of elements over what is kept."""
    if rescale != "density" or not mask.any():
        return dropped(delta, mask, rescale)
    factor = np.divide(1, chance, where=mask, out=np.zeros(delta.shape))
    return delta * factor * delta.size / factor.sum()


def sce(base: Array, deltas: Sequence[Array], select_topk: float) -> Array:
    """Select, calculate, erase."""
    stack = np.stack([np.float64(d) for d in deltas])
    variance = stack.var(axis=0).ravel()
    if select_topk < 1:
        varying = np.count_nonzero(variance)
        k = min(varying, max(1, int(select_topk * varying))) if select_topk else 0
        chosen = np.zeros(variance.size, dtype=bool)
        chosen[np.argsort(-variance, kind="stable")[:k]] = True
        stack = stack * chosen.reshape(stack.shape[1:])
    energy = (stack**2).reshape(len(stack), -1).sum(axis=1)
    eta = (energy / energy.sum()).reshape(-1, *[1] * base.ndim) if energy.sum() else 1.0
    agrees = np.sign(stack) == np.where(stack.sum(axis=0) >= 0, 1, -1)
    mass = (eta * agrees).sum(axis=0)
    return np.float64(base) + (eta * stack * agrees).sum(axis=0) / np.where(mass == 0, 1, mass)


def ram(
    base: Array, deltas: Sequence[Array], epsilon: float, r: float = 0, alpha: float = 0
) -> Array:
    """Mean over who changed an entry; RAM+ scales what one alone changed."""
    stack = np.stack([np.float64(d) for d in deltas])
    changed = np.abs(stack) > epsilon
    count = changed.sum(axis=0)
    total = np.zeros(base.shape)
    for delta, mine in zip(stack, changed, strict=True):
        alone, shared = mine & (count == 1), mine & (count > 1)
        rho = shared.sum() / alone.sum() if alone.any() else 0
        total[alone] += (1 + r * np.clip(rho, 0, alpha)) * delta[alone]
        total[shared] += delta[shared] / count[shared]
    return np.float64(base) + total


def rankmean(models: Sequence[Array], ranks: Sequence[int]) -> Array:
    return linear(models, ranks, normalize=True)


def consensus_ta(
    base: Array, deltas: Sequence[Array], tall: Sequence[float], agree: int, lambda_: float
) -> Array:
    total = np.sum(deltas, axis=0, dtype=np.float64)
    masks = [np.abs(d) >= t * np.abs(total - d) for d, t in zip(deltas, tall, strict=True)]
    return np.float64(base) + lambda_ * total * (np.sum(masks, axis=0) >= agree)


def splitmix64(seed: int, n: int) -> NDArray[np.uint64]:
    """The first ``n`` outputs, as in Vigna's splitmix64.c; uint64 arrays wrap as C does."""
    state = np.full(n, 0x9E3779B97F4A7C15, dtype=np.uint64)
    state[:1] += np.uint64(seed)
    z = np.cumsum(state, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(seed: int, model: str, tensor: str) -> int:
    digest = hashlib.blake2b(f"{seed}\0{model}\0{tensor}".encode(), digest_size=8).digest()
    return sum(byte << 8 * i for i, byte in enumerate(digest))


def uniforms(key: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """In [0, 1) with 32 bits; each output serves two elements, its low half the first."""
    n = int(np.prod(shape))
    halves = splitmix64(key, (n + 1) // 2).view("<u4")[:n]
    return halves.reshape(shape) / 2**32


def mask(key: int, shape: Sequence[int], density: float | Array) -> NDArray[np.bool_]:
    return uniforms(key, shape) < np.round(np.float64(density) * 2**32) / 2**32
