"""Tensors as the flat arrays that the fused kernels take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merge_optuna.methods._affine import gram as plain_gram

Array = NDArray[Any]

_STORED = {
    torch.float32: torch.float32,
    torch.bfloat16: torch.uint16,  # numpy has no bfloat16,
    torch.float16: torch.int16,  # and numba no float16
}


def flat(tensor: Tensor) -> Array | None:
    """The elements of a CPU tensor as a flat array that shares its memory.

    None if it is on another device, not contiguous, or of a type the kernels do not know.
    """
    stored = _STORED.get(tensor.dtype)
    if stored is None or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    if tensor.requires_grad:
        tensor = tensor.detach()
    array: Array = (tensor if stored == tensor.dtype else tensor.view(stored)).numpy()
    return array.reshape(-1)


def alike(tensors: Sequence[Tensor]) -> tuple[Array, ...] | None:
    """Flat arrays of one type: as stored if all have the same, else converted to float32."""
    if len({tensor.dtype for tensor in tensors}) > 1:
        if not all(tensor.dtype in _STORED for tensor in tensors):
            return None
        tensors = [tensor.float() for tensor in tensors]
    arrays = [flat(tensor) for tensor in tensors]
    return None if any(a is None for a in arrays) else tuple(a for a in arrays if a is not None)


class Inputs(tuple[Tensor, ...]):
    """What one merged tensor is made of: that tensor of every source."""

    @cached_property
    def arrays(self) -> tuple[Array, ...] | None:
        """Flat arrays that share their memory; None where there are no such of one type."""
        return alike(self) if len({tensor.dtype for tensor in self}) == 1 else None


def gram(inputs: Inputs, first: int, last: int) -> NDArray[np.float64]:
    """Dot products of a range of flat tensors with each other, (n, n).

    Summed in float64 in a fixed order.
    """
    from merge_optuna.engine.kernels.combination import gram as fused  # it loads numba

    if inputs.arrays is not None:
        arrays: tuple[Array, ...] | None = part(inputs.arrays, first, last - first)
    else:
        tensors = [tensor.reshape(-1)[first:last].contiguous() for tensor in inputs]
        arrays = alike(tensors)
    products: NDArray[np.float64] = plain_gram(tensors) if arrays is None else fused(arrays)
    return products


def part(arrays: tuple[Array, ...], first: int, size: int) -> tuple[Array, ...]:
    """The same range of every array."""
    return tuple(array[first : first + size] for array in arrays)


def tensor_of(array: Array) -> Tensor:
    """Inverse of :func:`flat`."""
    stored = torch.from_numpy(array)
    return stored.view(next(dtype for dtype, kept in _STORED.items() if kept == stored.dtype))


def floats(values: Any) -> NDArray[np.float32]:
    """Numbers rounded as torch rounds them when it multiplies a float32 tensor."""
    return np.asarray(values, dtype=np.float32)


def widened(inputs: Sequence[Tensor], compute: torch.dtype = torch.float32) -> list[Tensor]:
    """The tensors in the data type of the computation: float64 if one of them has it."""
    wide = any(t.dtype == torch.float64 for t in inputs)
    return [t.to(torch.float64 if wide else compute) for t in inputs]
