"""Ranks of the magnitudes in a row, and what is kept by them."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_optuna.engine.kernels.draws import draw
from merge_optuna.engine.kernels.element import ZERO, U, bits_of, jit, where, widen

_LOW = U(0xFFFFFFFF)


@jit
def row_keys(base: Any, model: Any, row: Any) -> Any:
    """Numbers that sort from the largest magnitude down, with the column in their lower half."""
    keys = np.empty(model.size, np.uint64)
    for begin in range(0, model.size, row):
        for i in range(row):
            place = U(begin + i)
            bits = bits_of(abs(widen(model[place]) - widen(base[place])))
            keys[place] = (U(~bits) << U(32)) | U(i)
    return keys


@jit
def pruned(
    entry: Any,
    ranked: Any,
    base: Any,
    model: Any,
    first: Any,
    key: Any,
    limits: Any,
    factors: Any,
    weight: Any,
) -> None:
    """Keeps an element if it draws less than its rank's limit; ``first`` is its flat index."""
    drawn, shift = _drawn(key, first, model.size)
    rows, row = ranked.shape
    for r in range(rows):
        for rank in range(row):
            i = r * row + np.int64(ranked[r, rank] & _LOW)
            delta = widen(model[i]) - widen(base[i])
            kept = where(U(drawn[i + shift]) < limits[rank], delta, ZERO)
            entry[i] = (kept * factors[rank]) * weight


@jit
def kept_by_rank(
    ranked: Any, base: Any, model: Any, first: Any, key: Any, limits: Any, count: Any
) -> Any:
    """Adds up how many are kept of each rank; returns the L1 norms of those and of all."""
    drawn, shift = _drawn(key, first, model.size)
    rows, row = ranked.shape
    norm = whole = 0.0
    for r in range(rows):
        for rank in range(row):
            i = r * row + np.int64(ranked[r, rank] & _LOW)
            size = np.float64(abs(widen(model[i]) - widen(base[i])))
            whole += size
            if U(drawn[i + shift]) < limits[rank]:
                count[rank] += 1
                norm += size
    return norm, whole


@jit
def _drawn(key: Any, first: Any, size: Any) -> Any:
    """The draws of a range of elements, and where in them it begins."""
    shift = first % 2
    pairs = np.empty((size + shift + 1) // 2, np.uint64)
    draw(pairs, key, U(first // 2), pairs.size)
    return pairs.view(np.uint32), shift


# numba: draws 29725c8e, element 3c671136
