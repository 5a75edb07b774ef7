"""Where to trim a whole model: the exact k-th largest magnitude without holding it in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from merge_optuna.methods._sparsify import Cut

Deltas = Callable[[], Iterator[tuple[str, Tensor]]]


def model_cuts(deltas: Deltas, density: float) -> dict[str, Cut]:
    """The cut of each tensor that keeps the largest ``density`` share of all tensors together.

    Radix selection on the bits of the float32 magnitude, whose order is that of the numbers: a
    histogram of the upper 15 bits, then one of the lower 16 inside the bin. Among equals those of
    the first tensors, at the lowest flat indices, stay.
    """
    counts = {name: delta.numel() for name, delta in deltas()}
    if density == 0:
        return {name: Cut(float("inf"), 0) for name in counts}
    keep = max(1, int(density * sum(counts.values())))
    upper, keep_in_bin = _select(_histogram(deltas, 15, None), keep)
    lower, ties = _select(_histogram(deltas, 16, upper), keep_in_bin)
    bits = torch.tensor((upper << 16) | lower, dtype=torch.int32)
    threshold = float(bits.view(torch.float32))
    cuts = {}
    for name, delta in deltas():
        here = min(ties, int((delta.abs() == threshold).sum()))
        cuts[name] = Cut(threshold, here)
        ties -= here
    return cuts


def _histogram(deltas: Deltas, width: int, upper: int | None) -> Tensor:
    total = torch.zeros(1 << width, dtype=torch.int64)
    for _, delta in deltas():
        bits = delta.float().abs().contiguous().view(torch.int32).reshape(-1)
        bits = bits >> 16 if upper is None else bits[(bits >> 16) == upper] & 0xFFFF
        total += torch.bincount(bits, minlength=1 << width)
    return total


def _select(histogram: Tensor, keep: int) -> tuple[int, int]:
    """The bin that holds the ``keep``-th largest element, and how many of that bin are kept."""
    above = torch.cumsum(histogram.flip(0), 0)
    position = int(torch.searchsorted(above, keep))
    before = int(above[position - 1]) if position else 0
    return histogram.numel() - 1 - position, keep - before
