"""Arcee Fusion: take from another model only the changes that stand out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merge_optuna.methods._rows import row_blocks, row_sums
from merge_optuna.methods._spec import Method

_EPS = 1e-8


def importance(base: Tensor, theta: Tensor) -> Tensor:
    """|θ − θ₀| times the divergence of its row (vector along the last axis) from the base's.

    The divergence of a row is the Kullback–Leibler divergence KL(softmax θ ‖ softmax θ₀).
    Added to all probabilities, 1e-8 keeps the logarithms finite. The divergence is computed in
    float64: in float32 it would drown in rounding, since it is quadratic in the change.
    """
    divergences = []
    for block, origin in row_blocks(theta, base):
        p, q = (torch.softmax(x.double(), dim=-1) + _EPS for x in (block, origin))
        divergences.append(row_sums(p * torch.log(p / q)))
    divergence = torch.cat(divergences).clamp(min=0).reshape(*base.shape[:-1], 1)
    return (theta - base).abs() * divergence.to(base.dtype)


def threshold(values: Tensor) -> Tensor:
    """Median plus one and a half times the interquartile range, each the lower order statistic."""
    flat = values.reshape(-1)
    low, median, high = (
        torch.kthvalue(flat, int(share * (flat.numel() - 1)) + 1).values
        for share in (0.25, 0.5, 0.75)
    )
    return median + 1.5 * (high - low)


def arcee_fusion(base: Tensor, models: Sequence[Tensor]) -> Tensor:
    """Arcee Fusion: elements of the expert whose change stands out, all others of the base.

    A change counts by its size times the divergence of its row's softmax from the base's. Taken is
    what lies at or above the tensor's median plus one and a half interquartile ranges.
    """
    theta = models[0]
    if base.numel() <= 1:  # one element is not unusual, but all there is
        return theta.clone()
    found = importance(base, theta)
    return torch.where(found >= threshold(found), theta, base)


METHOD = Method(
    name="arcee_fusion",
    kernel=arcee_fusion,
    parameters=(),
    models=(1, 1),
    source="Arcee Fusion of mergekit, arcee.ai",
)
