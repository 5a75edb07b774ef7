"""Linear combinations of models, and their dot products."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_optuna.engine.kernels.element import BLOCK, U, jit, store_block, widen


@jit
def combine(out: Any, models: Any, coefficients: Any) -> None:
    """Σ c·θ, in the order of the models."""
    total = np.empty(BLOCK, np.float32)
    for at in range(0, out.size, BLOCK):
        size, start = min(BLOCK, out.size - at), U(at)
        for k in range(len(models)):
            _add_scaled(total, models[k], start, size, coefficients[k], k == 0)
        store_block(out, start, size, total)


@jit
def splice(out: Any, models: Any, starts: Any, coefficients: Any) -> None:
    """Σ c·θ on each segment; the first one may begin before the elements."""
    total = np.empty(BLOCK, np.float32)
    for s in range(len(starts)):
        begin = max(starts[s], 0)
        end = min(starts[s + 1], out.size) if s + 1 < len(starts) else out.size
        for at in range(begin, end, BLOCK):
            size, start = min(BLOCK, end - at), U(at)
            for k in range(len(models)):
                _add_scaled(total, models[k], start, size, coefficients[s, k], k == 0)
            store_block(out, start, size, total)


@jit
def add_scaled(total: Any, model: Any, c: Any, first: Any) -> None:
    """Adds c·θ to the beginning of ``total``, or begins with it."""
    _add_scaled(total, model, U(0), model.size, c, first)


@jit
def store(out: Any, values: Any) -> None:
    """Rounds as many values as there is room for."""
    store_block(out, U(0), out.size, values)


@jit
def _add_scaled(total: Any, model: Any, start: Any, size: Any, c: Any, first: Any) -> None:
    if first:
        for i in range(size):
            total[U(i)] = widen(model[start + U(i)]) * c
    else:
        for i in range(size):
            total[U(i)] += widen(model[start + U(i)]) * c


@jit
def gram(models: Any) -> Any:
    """Dot products of the models with each other, summed in float64.

    Every lane sums the elements of one place in all blocks, so the order of the sums, and with it
    their last bit, is the same on every machine.
    """
    n = len(models)
    values, lanes = np.empty((n, BLOCK)), np.zeros((n, n, BLOCK))
    for at in range(0, models[0].size, BLOCK):
        size, start = min(BLOCK, models[0].size - at), U(at)
        for i in range(n):
            _load_wide(models[i], start, size, values[i])
            for j in range(i + 1):
                _add_products(lanes[i, j], values[i], values[j], size)
    products = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            products[i, j] = products[j, i] = lanes[i, j].sum()
    return products


@jit
def _load_wide(model: Any, start: Any, size: Any, values: Any) -> None:
    for i in range(size):
        values[U(i)] = np.float64(widen(model[start + U(i)]))


@jit
def _add_products(lanes: Any, a: Any, b: Any, size: Any) -> None:
    for i in range(size):
        lanes[U(i)] += a[U(i)] * b[U(i)]


# numba: element 3c671136
