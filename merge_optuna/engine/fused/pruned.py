"""DELLA in one pass: magnitudes are ranked row by row in the cache, never for a whole tensor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge_optuna.engine._arrays import Array, floats, part
from merge_optuna.engine.kernels import ranks as kernels
from merge_optuna.engine.kernels.task_vectors import merge_entries
from merge_optuna.methods._sparsify import MIN_NORM, keep_chances

_BLOCK = 1 << 16  # elements


class Pruning(NamedTuple):
    """How one model's task vector is pruned.

    Attributes:
        key: Of the random draws.
        limits: For each rank in a row, below which draw an element is kept, uint64.
        factors: For each rank in a row, what a kept element is multiplied by, float32.
    """

    key: np.uint64
    limits: NDArray[np.uint64]
    factors: NDArray[np.float32]


def pruning(
    base: Array, model: Array, row: int, density: float, epsilon: float, key: int, rescale: str
) -> Pruning:
    """Finds the factors of ``methods.sparse.MagPrune``, which depend on all that is kept."""
    chances = keep_chances(density, epsilon, row).numpy()
    limits = (chances * 2**32).round().astype(np.uint64)
    ones = np.ones(row)
    made = Pruning(np.uint64(key), limits, floats(ones))
    if rescale == "none" or density in (0, 1):
        return made
    inverse = np.divide(1, chances, out=np.zeros(row), where=chances > 0)
    count, norm, whole = np.zeros(row, np.int64), 0.0, 0.0
    for at in range(0, base.size, _whole_rows(row)):
        origin, theta = part((base, model), at, _whole_rows(row))
        ranked = _ranked(origin, theta, row)
        kept = kernels.kept_by_rank(ranked, origin, theta, at, made.key, limits, count)
        norm, whole = norm + kept[0], whole + kept[1]
    if rescale == "l1":
        return made._replace(factors=floats(ones * (whole / norm if norm >= MIN_NORM else 1)))
    total = float((count * inverse).sum())
    return made._replace(factors=floats(inverse * (base.size / total) if total else ones))


def merge(
    out: Array,
    first: int,
    base: Array,
    models: tuple[Array, ...],
    row: int,
    prunings: list[Pruning],
    weight: NDArray[np.float32],
    scale: np.float32,
    mode: int,
    count: bool,
) -> None:
    """Writes the merged elements from the flat index ``first`` on to ``out``."""
    end = first + out.size
    for at in range(first - first % row, end, _whole_rows(row)):
        size = min(_whole_rows(row), base.size - at)
        origin, *experts = part((base, *models), at, size)
        entries = np.empty((len(models), size), np.float32)
        for entry, expert, how, w in zip(entries, experts, prunings, weight, strict=True):
            kernels.pruned(entry, _ranked(origin, expert, row), origin, expert, at, *how, w)
        merged = np.empty(size, out.dtype)
        merge_entries(merged, origin, entries, tuple(experts), weight, scale, mode, count)
        low, high = max(at, first), min(at + size, end)
        out[low - first : high - first] = merged[low - at : high - at]


def _ranked(base: Array, model: Array, row: int) -> NDArray[np.uint64]:
    """Keys (rows, row) whose lower half is a column: in each row from the largest magnitude down.

    Of equal ones the first column comes first. numpy sorts such numbers many at a time.
    """
    ranked: NDArray[np.uint64] = kernels.row_keys(base, model, row).reshape(-1, row)
    ranked.sort(axis=1)
    return ranked


def _whole_rows(row: int) -> int:
    """Elements in a block of whole rows."""
    return row * max(1, _BLOCK // row)
