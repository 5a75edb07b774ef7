"""Random masks: the draws that ``methods._random`` defines, and what they keep."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_optuna.engine.kernels.element import BLOCK, ZERO, U, jit, where, widen

_GOLDEN = U(0x9E3779B97F4A7C15)
_MIX1 = U(0xBF58476D1CE4E5B9)
_MIX2 = U(0x94D049BB133111EB)


@jit
def draw(pairs: Any, key: Any, start: Any, size: Any) -> None:
    """SplitMix64's outputs from ``start`` on; each is two 32-bit draws (see ``_random``)."""
    for i in range(size):
        z = key + (start + U(i) + U(1)) * _GOLDEN
        z = (z ^ (z >> U(30))) * _MIX1
        z = (z ^ (z >> U(27))) * _MIX2
        pairs[U(i)] = z ^ (z >> U(31))


@jit
def kept(key: Any, n: Any, largest: Any) -> Any:
    """How many of the first ``n`` draws are at most ``largest``."""
    pairs = np.empty(BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    total = np.int64(0)
    for at in range(0, n, BLOCK):
        size = min(BLOCK, n - at)
        draw(pairs, key, U(at // 2), (size + 1) // 2)
        total += _at_most(drawn, size, largest)
    return total


@jit
def norm(base: Any, model: Any, key: Any, largest: Any) -> Any:
    """L1 norm of what draws at most ``largest`` in a task vector, summed as in ``gram``."""
    pairs = np.empty(BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    lanes = np.zeros(BLOCK)
    for at in range(0, model.size, BLOCK):
        size = min(BLOCK, model.size - at)
        draw(pairs, key, U(at // 2), (size + 1) // 2)
        _add_kept(lanes, base, model, U(at), size, drawn, largest)
    return lanes.sum()


@jit
def _add_kept(
    lanes: Any, base: Any, model: Any, start: Any, size: Any, drawn: Any, largest: Any
) -> None:
    for i in range(size):
        place = start + U(i)
        delta = abs(widen(model[place]) - widen(base[place]))
        lanes[U(i)] += np.float64(where(drawn[U(i)] <= largest, delta, ZERO))


@jit
def _at_most(drawn: Any, size: Any, largest: Any) -> Any:
    found = np.uint32(0)
    for i in range(size):
        found += np.uint32(drawn[U(i)] <= largest)
    return np.int64(found)


# numba: element 3c671136
