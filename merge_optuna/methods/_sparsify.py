"""What of a task vector is large: cuts, ranks and the chances that follow from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
    return cut_of(delta, kept_count(delta.numel(), density))


def band_counts(n: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest of ``n`` elements are skipped, and how many then kept."""
    keep = kept_count(n, density)
    return min(int(gamma * n), n - keep), keep


def kept_count(n: int, density: float) -> int:
    """How many of ``n`` elements are kept: ``max(1, ⌊density · n⌋)``, but none at density 0."""
    return min(n, max(1, int(density * n))) if density > 0 else 0


def cut_of(delta: Tensor, keep: int) -> Cut:
    """The cut that keeps the ``keep`` largest magnitudes."""
    if keep == 0:
        return Cut(float("inf"), 0)
    magnitude = delta.abs().float().reshape(-1)
    threshold = torch.kthvalue(magnitude, magnitude.numel() - keep + 1).values
    return Cut(float(threshold), keep - int((magnitude > threshold).sum()))


def trim(delta: Tensor, cut: Cut) -> Tensor:
    """Zeroes everything below the cut; among equals the lowest flat indices stay."""
    return torch.where(kept_by(delta, cut), delta, 0)


def kept_by(delta: Tensor, cut: Cut) -> Tensor:
    """Boolean mask of what a cut keeps."""
    magnitude = delta.abs().float().reshape(-1)
    keep = magnitude > cut.threshold
    equal = (magnitude == cut.threshold).nonzero().squeeze(1)
    keep[equal[: cut.ties]] = True
    return keep.reshape(delta.shape)


def row_ranks(delta: Tensor) -> Tensor:
    """Rank of each magnitude in its row, int64: 0 is the largest, the first among equals.

    A row is what belongs to one index of the first dimension, in a linear layer the weights of
    one output; a vector is one row.
    """
    rows = delta.abs().float()
    rows = rows.flatten(1) if delta.dim() > 1 else rows.reshape(1, -1)
    order = rows.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(rows.shape[1], device=delta.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(delta.shape)


def keep_chances(density: float, epsilon: float, n: int) -> Tensor:
    """Probability with which each rank of a row of ``n`` is kept, (n,) float64.

    It falls from density + epsilon for the largest to density − epsilon for the smallest. Where
    that would leave [0, 1], epsilon is made smaller, so that the mean stays the density.
    """
    spread = min(epsilon, density, 1 - density)
    places = torch.arange(n, dtype=torch.float64)
    return density + spread * (1 - 2 * places / (n - 1) if n > 1 else 0 * places)


def with_l1_of(delta: Tensor, kept: Tensor) -> Tensor:
    """``kept`` with the L1 norm of ``delta``; as it is if its own norm is below 1e-7."""
    norm = stable_sum(kept.abs())
    return kept * (stable_sum(delta.abs()) / norm) if norm >= MIN_NORM else kept
