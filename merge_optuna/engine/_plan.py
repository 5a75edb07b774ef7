"""How to get one tensor of a model: it is there already, or it is filled in part by part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._arrays import Array, flat

Fill = Callable[[Array, int], None]
"""``fill(out, first)`` writes the merged elements from the even flat index ``first`` on."""

CHUNK = 1 << 15
"""Elements of all sources that stay in the cache; few enough that torch uses one thread."""

_PART = 1 << 20  # elements: a part stays in the second-level cache until it is written


class Plan(Protocol):
    """How to get one tensor, whole or in parts.

    Attributes:
        array: Its elements as stored, if they are there already and the kernels know their type.
        readable: Whether the kernels can read it part by part.
    """

    @property
    def array(self) -> Array | None: ...

    @property
    def readable(self) -> bool: ...

    def exact(self) -> Tensor:
        """The tensor before the one rounding: as stored, or in the type of the computation."""

    def rounded(self, dtype: torch.dtype) -> Tensor:
        """The tensor in its final data type."""

    def write_into(self, view: Tensor, dtype: torch.dtype) -> None:
        """Overwrites a live tensor with what a checkpoint of ``dtype`` would hold."""

    def parts(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Consecutive flat parts of the tensor in its final type, each overwritten by the next."""

    def read(self, first: int, buffer: Array) -> Array:
        """The elements from ``first`` on, as stored or in the float32 buffer that they fill."""


class Ready:
    """A tensor that is there already.

    Attributes:
        tensor: As stored, or in the data type of the computation.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @cached_property
    def array(self) -> Array | None:
        return flat(self.tensor)

    @property
    def readable(self) -> bool:
        return self.array is not None

    def exact(self) -> Tensor:
        return self.tensor

    def rounded(self, dtype: torch.dtype) -> Tensor:
        return self.tensor.to(dtype)

    def write_into(self, view: Tensor, dtype: torch.dtype) -> None:
        view.copy_(self.tensor.to(dtype))

    def parts(self, dtype: torch.dtype) -> Iterator[Tensor]:
        yield self.tensor.to(dtype)

    def read(self, first: int, buffer: Array) -> Array:
        assert self.array is not None
        return self.array[first : first + buffer.size]


class Filled:
    """A tensor that a fused kernel computes wherever it is wanted.

    Args:
        fill: What does so.
        frame: Of the model.
        name: Of the tensor.
    """

    array = None
    readable = True

    def __init__(self, fill: Fill, frame: Checkpoint, name: str) -> None:
        self._fill = fill
        self._frame = frame
        self._name = name

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._frame.shape(self._name)

    def exact(self) -> Tensor:
        return self.rounded(torch.float32)

    def rounded(self, dtype: torch.dtype) -> Tensor:
        merged = torch.empty(self._shape, dtype=dtype)
        array = flat(merged)
        if array is None:  # the kernels cannot write this type
            return self.exact().to(dtype)
        self._fill(array, 0)
        return merged

    def write_into(self, view: Tensor, dtype: torch.dtype) -> None:
        array = flat(view) if view.dtype == dtype else None
        if array is None:
            view.copy_(self.rounded(dtype))
        else:
            self._fill(array, 0)

    def parts(self, dtype: torch.dtype) -> Iterator[Tensor]:
        size = math.prod(self._shape)
        buffer = torch.empty(min(size, _PART), dtype=dtype)
        array = flat(buffer)
        if array is None:
            yield self.rounded(dtype)
            return
        for first in range(0, size, _PART):
            here = min(_PART, size - first)
            self._fill(array[:here], first)
            yield buffer[:here]

    def read(self, first: int, buffer: Array) -> Array:
        self._fill(buffer, first)
        return buffer
