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
    model) what the config says, as transformers reads it, else that of most numbers. None if
    there are no float tensors.
    """
    numbers: Counter[torch.dtype] = Counter()
    for dtype, shape in specs.values():
        if dtype.is_floating_point:
            numbers[dtype] += prod(shape)
    if len(numbers) > 1 and (said := _said(config)) is not None:
        return said
    return max(numbers, key=lambda dtype: numbers[dtype], default=None)


def _said(config: Mapping[str, Any] | None) -> torch.dtype | None:
    config = config or {}
    name = config.get("dtype") or config.get("torch_dtype")
    found = getattr(torch, name, None) if isinstance(name, str) else None
    return found if isinstance(found, torch.dtype) else None
