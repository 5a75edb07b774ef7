"""Linear combinations whose coefficients differ from row to row (vector along the last axis)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merge_optuna.methods._affine import Matrix
from merge_optuna.methods._reduce import stable_sum

_LONG = 1 << 14  # torch may split the sum of one longer row between threads
_BLOCK = 1 << 22  # elements that are widened to float64 at once


def row_grams(tensors: Sequence[Tensor]) -> Matrix:
    """Dot products of corresponding rows, (..., n, n) for tensors (..., d), summed in float64."""
    n = len(tensors)
    products = np.empty((*tensors[0].shape[:-1], n, n))
    for i, a in enumerate(tensors):
        for j, b in enumerate(tensors[: i + 1]):
            products[..., i, j] = products[..., j, i] = row_dots(a, b).cpu().numpy()
    return products


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot product of each row of ``a`` with that of ``b``, whatever the number of threads."""
    *rows, width = a.shape
    step = max(1, _BLOCK // max(1, width))
    pairs = zip(torch.split(_rows(a), step), torch.split(_rows(b), step), strict=True)
    sums = [_row_sums(x.double() * y.double()) for x, y in pairs]
    return torch.cat(sums).reshape(rows)


def combine_rows(tensors: Sequence[Tensor], coefficients: NDArray[np.float64]) -> Tensor:
    """Σ c·θ in the order of the tensors, with ``coefficients`` (..., n) for tensors (..., d)."""
    columns = torch.from_numpy(np.moveaxis(coefficients, -1, 0)[..., None]).to(tensors[0])
    merged = tensors[0] * columns[0]
    for theta, c in zip(tensors[1:], columns[1:], strict=True):
        merged += theta * c
    return merged


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])


def _row_sums(values: Tensor) -> Tensor:
    if values.shape[1] <= _LONG:
        return values.sum(dim=1)
    sums = [stable_sum(row) for row in values]
    return torch.tensor(sums, dtype=torch.float64, device=values.device)
