"""The operations of a descent on float32 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_optuna.engine.kernels.draws import draw
from merge_optuna.engine.kernels.element import BLOCK, U, jit, where


@jit
def crossover(
    out: Any, target: Any, a: Any, b: Any, F: Any, key: Any, first: Any, last: Any
) -> None:
    """Where a draw is at most ``last`` target + (a − b)·F, else target; all float32."""
    pairs = np.empty(BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    for at in range(0, out.size, BLOCK):
        size, start = min(BLOCK, out.size - at), U(at)
        draw(pairs, key, U((first + at) // 2), (size + 1) // 2)
        for i in range(size):
            j = start + U(i)
            mutant = target[j] + (a[j] - b[j]) * F
            out[j] = where(drawn[U(i)] <= last, mutant, target[j])


@jit
def particle(
    out: Any,
    x: Any,
    before: Any,
    pbest: Any,
    gbest: Any,
    w: Any,
    c1: Any,
    c2: Any,
    key1: Any,
    key2: Any,
    first: Any,
) -> None:
    """X + (w·(x − before) + c1·r1·(pbest − x) + c2·r2·(gbest − x)); all float32."""
    r1, r2 = np.empty(BLOCK), np.empty(BLOCK)
    for at in range(0, out.size, BLOCK):
        size, start = min(BLOCK, out.size - at), U(at)
        _uniforms(r1, key1, first + at, size)
        _uniforms(r2, key2, first + at, size)
        for i in range(size):
            j = start + U(i)
            own = (pbest[j] - x[j]) * c1 * np.float32(r1[U(i)])
            best = (gbest[j] - x[j]) * c2 * np.float32(r2[U(i)])
            out[j] = x[j] + (((x[j] - before[j]) * w + own) + best)


@jit
def _uniforms(out: Any, key: Any, first: Any, size: Any) -> None:
    """The random integers from the even index ``first`` on, divided by 2^32."""
    pairs = np.empty(BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    draw(pairs, key, U(first // 2), (size + 1) // 2)
    for i in range(size):
        out[U(i)] = np.float64(drawn[U(i)]) / 4294967296.0


@jit
def blend(out: Any, a: Any, b: Any, split: Any, coefficients: Any) -> None:
    """c₀·a + c₁·b before the split, c₂·a + c₃·b from it on; all float32."""
    for i in range(split):
        out[U(i)] = a[U(i)] * coefficients[0] + b[U(i)] * coefficients[1]
    for i in range(split, out.size):
        out[U(i)] = a[U(i)] * coefficients[2] + b[U(i)] * coefficients[3]


@jit
def uniform(out: Any, key: Any, first: Any) -> None:
    """(u + 1/2) / 2^32 of the random integers from the even index ``first`` on; float64."""
    pairs = np.empty(BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    for at in range(0, out.size, BLOCK):
        size, start = min(BLOCK, out.size - at), U(at)
        draw(pairs, key, U((first + at) // 2), (size + 1) // 2)
        for i in range(size):
            out[start + U(i)] = (np.float64(drawn[U(i)]) + 0.5) / 4294967296.0


@jit
def add_noise(out: Any, noise: Any, std: Any) -> None:
    """Add the float64 noise, rounded to float32, times ``std``."""
    for i in range(out.size):
        out[U(i)] += np.float32(noise[U(i)]) * std


# numba: draws 29725c8e, element 3c671136
