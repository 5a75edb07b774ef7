"""Two ways to make a task vector sparse: trimming by magnitude and random dropping."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from merge_optuna.methods._random import keep_mask
from merge_optuna.methods._reduce import stable_sum

MIN_NORM = 1e-7  # mergekit's bound; far below, the factor would leave float32


class Cut(NamedTuple):
    """What is larger than ``threshold`` stays, and of its equals the first ``ties``.

    Magnitudes are compared in float32, also for float64 sources.
    """

    threshold: float
    ties: int


def cut_at(delta: Tensor, density: float) -> Cut:
    """The cut that keeps the ``max(1, ⌊density · n⌋)`` largest magnitudes (none at density 0)."""
    if density == 0 or delta.numel() == 0:
        return Cut(float("inf"), 0)
    magnitude = delta.abs().float().reshape(-1)
    keep = max(1, int(density * magnitude.numel()))
    threshold = torch.kthvalue(magnitude, magnitude.numel() - keep + 1).values
    return Cut(float(threshold), keep - int((magnitude > threshold).sum()))


def trim(delta: Tensor, cut: Cut) -> Tensor:
    """Zeroes everything below the cut; among equals the lowest flat indices stay."""
    magnitude = delta.abs().float().reshape(-1)
    keep = magnitude > cut.threshold
    equal = (magnitude == cut.threshold).nonzero().squeeze(1)
    keep[equal[: cut.ties]] = True
    return torch.where(keep.reshape(delta.shape), delta, 0)


def drop(delta: Tensor, density: float, key: int, rescale: str) -> Tensor:
    """Keeps each element with probability ``density`` and rescales the rest (DARE, eq. 1–3).

    ``rescale="density"`` divides by the realised density, which keeps the sum unbiased and cannot
    blow up when a small tensor keeps few elements; ``"l1"`` restores the tensor's L1 norm, unless
    what is kept has a norm below 1e-7; ``"none"`` leaves the values. Density 0 and an empty mask
    give zeros.
    """
    if density == 1:
        return delta
    mask = keep_mask(key, delta.shape, density, delta.device)
    kept = torch.where(mask, delta, 0)
    if rescale == "none":
        return kept
    if rescale == "density":
        count = int(mask.sum())
        return kept * (delta.numel() / count) if count else kept
    norm = stable_sum(kept.abs())
    return kept * (stable_sum(delta.abs()) / norm) if norm >= MIN_NORM else kept
