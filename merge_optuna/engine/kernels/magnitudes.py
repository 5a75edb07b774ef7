"""Where to trim: counting and finding the magnitudes of a task vector."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_optuna.engine.kernels.element import BLOCK, U, bits_of, jit, widen

BIN = 13
"""Bits of a magnitude below those that the histogram distinguishes."""

_NONE = np.uint32(0)
_SCAN = 64
_EVEN = np.uint32(0xFFFFFFFE)
_BELOW = np.uint32((1 << BIN) - 1)


@jit
def histogram(base: Any, model: Any, table: Any) -> None:
    """Counts the magnitudes of a task vector by the upper 18 bits of their float32.

    Each bin has two places in ``table``: of the number that ends in zeros, and of all others. The
    differences of bfloat16 numbers are on such a grid for the most part: three per cent of them
    may be one and the same number, which is thus told from its neighbours.
    """
    magnitude = np.empty(BLOCK, np.uint32)
    for at in range(0, model.size, BLOCK):
        size = min(BLOCK, model.size - at)
        _magnitudes(magnitude, base, model, U(at), size)
        for i in range(size):
            bits = magnitude[U(i)]
            others = ((bits & _BELOW) + _BELOW) >> np.uint32(BIN)  # 0 on the grid, else 1
            magnitude[U(i)] = (bits >> np.uint32(BIN - 1) & _EVEN) | others
        for i in range(size):
            table[magnitude[U(i)]] += np.uint32(1)


@jit
def used(table: Any, bins: Any, counts: Any) -> Any:
    """Lists the places of a table that are not zero, and what is there; returns how many."""
    total = 0
    for begin in range(0, table.size, _SCAN):
        some = np.uint32(0)
        for i in range(_SCAN):
            some |= table[U(begin + i)]
        if some != _NONE:
            for i in range(begin, begin + _SCAN):
                if table[U(i)] != _NONE and total < bins.size:
                    bins[total], counts[total] = i, table[U(i)]
                    total += 1
    return total


@jit
def _magnitudes(magnitude: Any, base: Any, model: Any, start: Any, size: Any) -> None:
    for i in range(size):
        place = start + U(i)
        magnitude[U(i)] = bits_of(abs(widen(model[place]) - widen(base[place])))


@jit
def inside(base: Any, model: Any, low: Any, width: Any, found: Any) -> None:
    """Collects, in their order, the magnitudes whose bits are in [low, low + width).

    ``found`` must have room for one more than there are.
    """
    magnitude = np.empty(BLOCK, np.uint32)
    total = np.int64(0)
    for at in range(0, model.size, BLOCK):
        size = min(BLOCK, model.size - at)
        _magnitudes(magnitude, base, model, U(at), size)
        for begin in range(0, size, _SCAN):
            end = min(begin + _SCAN, size)
            if end - begin < _SCAN or _any_inside(magnitude, U(begin), low, width):
                for i in range(begin, end):
                    found[total] = magnitude[U(i)]
                    total += np.int64(magnitude[U(i)] - low < width)


@jit
def _any_inside(magnitude: Any, begin: Any, low: Any, width: Any) -> Any:
    found = np.uint32(0)
    for i in range(_SCAN):
        found += np.uint32(magnitude[begin + U(i)] - low < width)
    return found > _NONE


@jit
def place_of(base: Any, model: Any, value: Any, nth: Any) -> Any:
    """Flat index of the ``nth`` element (from 0) whose magnitude has the bits ``value``."""
    magnitude = np.empty(BLOCK, np.uint32)
    left = nth
    for at in range(0, model.size, BLOCK):
        size = min(BLOCK, model.size - at)
        _magnitudes(magnitude, base, model, U(at), size)
        here = _equal(magnitude, size, value)
        if left < here:
            for i in range(size):
                if magnitude[U(i)] == value:
                    if left == 0:
                        return at + i
                    left -= 1
        left -= here
    return model.size


@jit
def _equal(magnitude: Any, size: Any, value: Any) -> Any:
    found = np.uint32(0)
    for i in range(size):
        found += np.uint32(magnitude[U(i)] == value)
    return np.int64(found)


# numba: element 3c671136
