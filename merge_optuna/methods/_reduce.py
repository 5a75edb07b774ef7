"""Sums that do not depend on the number of threads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHUNK = 1 << 14


def stable_sum(values: Tensor) -> float:
    """Sum of all elements in float64: fixed chunks, then an exactly rounded sum of those."""
    flat = values.reshape(-1)
    whole = flat.numel() // _CHUNK * _CHUNK
    parts = flat[:whole].reshape(-1, _CHUNK).sum(dim=1, dtype=torch.float64).tolist()
    parts.append(float(flat[whole:].sum(dtype=torch.float64)))
    return math.fsum(parts)
