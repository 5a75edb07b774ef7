"""The data type of a model whose tensors may have several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

import torch

Specs = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def model_dtype(config: Mapping[str, Any] | None, specs: Specs) -> torch.dtype | None:
    """The data type that the live model of a checkpoint has.

    That of its float tensors; where they differ (a router kept in float32 inside a bfloat16
    model) or are of 8 bits, which nothing computes in, what the config says, as transformers
    reads it, else the one that most numbers have. None if there are no float tensors.
    """
    numbers: Counter[torch.dtype] = Counter()
    for dtype, shape in specs.values():
        if dtype.is_floating_point:
            numbers[dtype] += prod(shape)
    wide = [dtype for dtype in numbers if dtype.itemsize > 1]
    if len(numbers) == len(wide) == 1 or not numbers:
        return next(iter(numbers), None)
    most = max(wide, key=lambda dtype: numbers[dtype], default=torch.float32)
    return _said(config) or most


def _said(config: Mapping[str, Any] | None) -> torch.dtype | None:
    config = config or {}
    name = config.get("dtype") or config.get("torch_dtype")
    found = getattr(torch, name, None) if isinstance(name, str) else None
    return found if isinstance(found, torch.dtype) else None
