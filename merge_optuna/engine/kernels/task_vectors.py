"""Merges of task vectors, dense or sparse, by their sum or by TIES' disjoint merge."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_optuna.engine.kernels.draws import draw
from merge_optuna.engine.kernels.element import (
    BLOCK,
    ZERO,
    U,
    jit,
    load,
    narrow,
    store_block,
    where,
    widen,
)

SUM, AGREEING, MEAN = 0, 1, 2
"""What is added up: all entries, those of the elected sign, or the mean of the latter."""


@jit
def task_vectors(out: Any, base: Any, models: Any, weight: Any, scale: Any) -> None:
    """θ₀ + λ Σ w·τ."""
    origin, total = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for at in range(0, out.size, BLOCK):
        size, start = min(BLOCK, out.size - at), U(at)
        load(base, start, size, origin)
        for k in range(len(models)):
            _add_delta(total, models[k], start, size, origin, weight[k], k == 0)
        for i in range(size):
            total[U(i)] = origin[U(i)] + total[U(i)] * scale
        store_block(out, start, size, total)


@jit
def _add_delta(
    total: Any, model: Any, start: Any, size: Any, origin: Any, weight: Any, first: Any
) -> None:
    if first:
        for i in range(size):
            total[U(i)] = (widen(model[start + U(i)]) - origin[U(i)]) * weight
    else:
        for i in range(size):
            total[U(i)] += (widen(model[start + U(i)]) - origin[U(i)]) * weight


@jit
def trimmed(
    out: Any,
    base: Any,
    models: Any,
    weight: Any,
    scale: Any,
    first: Any,
    mode: Any,
    count: Any,
    threshold: Any,
    below: Any,
    last: Any,
) -> None:
    """Merges task vectors of which model k keeps what one cut keeps and another does not.

    ``threshold``, ``below`` and ``last`` are (2, models): row 0 of the cut that keeps, row 1 of
    the one that takes away. A cut keeps what is larger than ``threshold``; at flat indices before
    ``last`` also what equals it, so there ``below``, the next smaller number, is the threshold.
    ``first`` is the flat index of ``out[0]`` in its tensor.
    """
    entries = np.empty((len(models), BLOCK), np.float32)
    origin = np.empty(BLOCK, np.float32)
    for at in range(0, out.size, BLOCK):
        size, start = min(BLOCK, out.size - at), U(at)
        load(base, start, size, origin)
        for k in range(len(models)):
            begin = np.int64(0)
            while begin < size:  # one turn, unless a ``last`` is in this block
                end = np.int64(size)
                bounds = (ZERO, ZERO)
                for cut in range(2):
                    turn = last[cut, k] - (first + at)
                    bound = threshold[cut, k] if begin >= turn else below[cut, k]
                    bounds = (bound, bounds[1]) if cut == 0 else (bounds[0], bound)
                    if begin < turn < end:
                        end = turn
                _trim(entries[k], models[k], start, begin, end, origin, bounds, weight[k])
                begin = end
        _consensus(out, start, size, origin, entries, models, weight, scale, mode, count)


@jit
def _trim(
    entry: Any,
    model: Any,
    start: Any,
    begin: Any,
    end: Any,
    origin: Any,
    bounds: Any,
    weight: Any,
) -> None:
    low, high = bounds
    for i in range(begin, end):
        delta = widen(model[start + U(i)]) - origin[U(i)]
        inside = (abs(delta) > low) & (abs(delta) <= high)
        entry[U(i)] = where(inside, delta, ZERO) * weight


@jit
def dropped(
    out: Any,
    base: Any,
    models: Any,
    weight: Any,
    scale: Any,
    first: Any,
    mode: Any,
    count: Any,
    keys: Any,
    largest: Any,
    rescale: Any,
) -> None:
    """Merges task vectors of which model k keeps what draws at most ``largest[k]``.

    ``first``, the flat index of ``out[0]`` in its tensor, must be even.
    """
    entries = np.empty((len(models), BLOCK), np.float32)
    origin = np.empty(BLOCK, np.float32)
    pairs = np.empty(BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)  # the low half is the first: little endian
    for at in range(0, out.size, BLOCK):
        size, start = min(BLOCK, out.size - at), U(at)
        load(base, start, size, origin)
        for k in range(len(models)):
            draw(pairs, keys[k], U((first + at) // 2), (size + 1) // 2)
            _drop(
                entries[k],
                models[k],
                start,
                size,
                origin,
                drawn,
                largest[k],
                rescale[k],
                weight[k],
            )
        _consensus(out, start, size, origin, entries, models, weight, scale, mode, count)


@jit
def _drop(
    entry: Any,
    model: Any,
    start: Any,
    size: Any,
    origin: Any,
    drawn: Any,
    largest: Any,
    rescale: Any,
    weight: Any,
) -> None:
    for i in range(size):
        delta = widen(model[start + U(i)]) - origin[U(i)]
        kept = where(drawn[U(i)] <= largest, delta, ZERO) * rescale
        entry[U(i)] = kept * weight


@jit
def _consensus(
    out: Any,
    start: Any,
    size: Any,
    origin: Any,
    entries: Any,
    models: Any,
    weight: Any,
    scale: Any,
    mode: Any,
    count: Any,
) -> None:
    """θ₀ + λ times the sum, or TIES' disjoint merge, of the entries of one block."""
    like, n = out[0], len(models)  # the length of a tuple is a constant: inner loops unroll
    if mode == SUM:
        for i in range(size):
            total = entries[U(0), U(i)]
            for k in range(1, n):
                total += entries[U(k), U(i)]
            out[start + U(i)] = narrow(origin[U(i)] + total * scale, like)
    elif count:
        for i in range(size):
            vote = _sign(entries[U(0), U(i)])
            for k in range(1, n):
                vote += _sign(entries[U(k), U(i)])
            total = mass = ZERO
            for k in range(n):
                entry = entries[U(k), U(i)]
                agrees = where(vote >= ZERO, entry, -entry) > ZERO
                total += where(agrees, entry, ZERO)
                mass += where(agrees, weight[U(k)], ZERO)
            if mode == MEAN:
                total = where(mass > ZERO, total / mass, ZERO)
            out[start + U(i)] = narrow(origin[U(i)] + total * scale, like)
    elif mode == MEAN:
        for i in range(size):
            vote = entries[U(0), U(i)]
            for k in range(1, n):
                vote += entries[U(k), U(i)]
            total = mass = ZERO
            for k in range(n):
                entry = entries[U(k), U(i)]
                agrees = where(vote >= ZERO, entry, -entry) > ZERO
                total += where(agrees, entry, ZERO)
                mass += where(agrees, weight[U(k)], ZERO)
            total = where(mass > ZERO, total / mass, ZERO)
            out[start + U(i)] = narrow(origin[U(i)] + total * scale, like)
    else:
        for i in range(size):
            vote = entries[U(0), U(i)]
            for k in range(1, n):
                vote += entries[U(k), U(i)]
            total = ZERO
            for k in range(n):
                entry = entries[U(k), U(i)]
                agrees = where(vote >= ZERO, entry, -entry) > ZERO
                total += where(agrees, entry, ZERO)
            out[start + U(i)] = narrow(origin[U(i)] + total * scale, like)


@jit
def _sign(x: Any) -> Any:
    return where(x > ZERO, np.float32(1), where(x < ZERO, np.float32(-1), ZERO))


@jit
def merge_entries(
    out: Any,
    base: Any,
    entries: Any,
    models: Any,
    weight: Any,
    scale: Any,
    mode: Any,
    count: Any,
) -> None:
    """Merges sparse task vectors that are there already, weighted."""
    origin = np.empty(out.size, np.float32)
    load(base, U(0), out.size, origin)
    _consensus(out, U(0), out.size, origin, entries, models, weight, scale, mode, count)


# numba: draws 29725c8e, element 3c671136
