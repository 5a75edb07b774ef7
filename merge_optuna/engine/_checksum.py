"""Whether tensors still hold the numbers that they held."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

_WORDS = 1 << 22  # of 4 bytes, that are multiplied at once


def checksum(tensors: Iterable[Tensor]) -> list[int]:
    """Numbers that change with any bit of any of these tensors.

    Every byte is read once, on the device where it is. The chance that a change goes unnoticed is
    2⁻¹²⁸ on the CPU and 2⁻³³ elsewhere.
    """
    return [
        one
        for tensor in tensors
        for one in (_xxh3 if tensor.device.type == "cpu" else _sums)(_bytes(tensor))
    ]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def _xxh3(content: Tensor) -> list[int]:
    import xxhash

    return [xxhash.xxh3_128_intdigest(content.numpy().data)]


def _sums(content: Tensor) -> list[int]:
    """Of words multiplied by keys of 64 bits, a multilinear hash of each part."""
    whole = content.numel() // 4 * 4
    keys = _keys(content.device)
    sums = [
        (part.long() * keys[: part.numel()]).sum()
        for part in torch.split(content[:whole].view(torch.int32), _WORDS)
    ]
    found: list[int] = torch.stack(sums).tolist() + content[whole:].tolist()
    return found


@lru_cache(maxsize=8)
def _keys(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    low, high = -(2**63), 2**63 - 1
    return torch.randint(low, high, (_WORDS,), dtype=torch.int64, generator=generator).to(device)
