"""Linear combinations whose coefficients differ from row to row (vector along the last axis)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    """Dot product of each row of ``a`` with that of ``b``, (...) for tensors (..., d)."""
    sums = [row_sums(x.double() * y.double()) for x, y in row_blocks(a, b)]
    return torch.cat(sums).reshape(a.shape[:-1])


def row_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Corresponding blocks of whole rows, (rows, d), small enough to be widened to float64."""
    shape = (a.shape[:-1].numel(), a.shape[-1])
    step = max(1, _BLOCK // max(1, shape[1]))
    blocks = (torch.split(tensor.reshape(shape), step) for tensor in (a, b))
    return zip(*blocks, strict=True)


def row_sums(values: Tensor) -> Tensor:
    """Sums of the rows of a float64 matrix, whatever the number of threads."""
    if values.shape[1] <= _LONG:
        return values.sum(dim=1)
    sums = [stable_sum(row) for row in values]
    return torch.tensor(sums, dtype=torch.float64, device=values.device)


def combine_rows(tensors: Sequence[Tensor], coefficients: NDArray[np.float64]) -> Tensor:
    """Σ c·θ in the order of the tensors, with ``coefficients`` (..., n) for tensors (..., d)."""
    columns = torch.from_numpy(np.moveaxis(coefficients, -1, 0)[..., None]).to(tensors[0])
    merged = tensors[0] * columns[0]
    for theta, c in zip(tensors[1:], columns[1:], strict=True):
        merged += theta * c
    return merged
