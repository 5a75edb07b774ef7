"""Counter-based random numbers: the value at an index is a function of (key, index) alone.

SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", with the
constants of Vigna's reference code) is counter-based as it stands: its n-th output is a mix of
``key + (n + 1) * golden``. So a mask is the same on any device, with any number of threads, and
for any part of a tensor on its own.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_CHUNK = 1 << 16  # elements whose 64-bit temporaries stay in the processor's cache
_GPU_CHUNK = 1 << 24


def mask_key(seed: int, model: str, tensor: str) -> int:
    """64-bit key of the random mask of one tensor of one model."""
    text = f"{seed}\0{model}\0{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def random_bits(key: int, n: int, device: torch.device | str = "cpu", *, start: int = 0) -> Tensor:
    """Returns ``n`` uniform integers in [0, 2^32), int64, those from the even index ``start`` on.

    Each 64-bit output gives two values: its low half at the even index, its high half at the odd.
    """
    z = torch.arange(1, (n + 1) // 2 + 1, dtype=torch.int64, device=device) + start // 2
    z = z * _signed(_GOLDEN) + _signed(key)  # int64 products wrap, as the algorithm wants
    z = (z ^ _shift(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX2)
    z = z ^ _shift(z, 31)
    low, high = z & 0xFFFFFFFF, _shift(z, 32)
    return torch.stack((low, high), dim=1).reshape(-1)[:n]


def keep_mask(key: int, shape: torch.Size, density: float, device: torch.device) -> Tensor:
    """Boolean mask that is true with probability ``density`` (a 32-bit compare)."""
    return below(key, torch.tensor(round(density * 2**32), device=device).expand(shape))


def below(key: int, thresholds: Tensor, *, start: int = 0) -> Tensor:
    """Boolean mask that is true where the random 32-bit number is below the int64 threshold.

    Of elements from the even index ``start`` on.
    """
    mask = torch.empty(thresholds.numel(), dtype=torch.bool, device=thresholds.device)
    size = _CHUNK if mask.device.type == "cpu" else _GPU_CHUNK
    parts = zip(torch.split(mask, size), torch.split(thresholds.reshape(-1), size), strict=True)
    for i, (part, limits) in enumerate(parts):
        bits = random_bits(key, part.numel(), mask.device, start=start + i * size)
        torch.lt(bits, limits, out=part)
    return mask.reshape(thresholds.shape)


def normal(key: int, n: int, *, start: int = 0) -> Tensor:
    """``n`` standard normal numbers, float64, those from the even index ``start`` on.

    The quantiles of the uniform numbers (u + 1/2) / 2^32, so none is beyond ±6.3. On the CPU, so
    that they are the same wherever the rest is computed.
    """
    uniform = random_bits(key, n, start=start).double().add_(0.5).div_(1 << 32)
    numbers: Tensor = torch.special.ndtri(uniform)
    return numbers


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that has it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own copies the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
