"""Averages weighted by Fisher information."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.linear import linear, total_weight

_FLOOR = 1e-10  # section 3.2 of the paper: what no gradient reaches is averaged


def fisher(
    base: None,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    statistics: Sequence[Tensor | None] = (),
) -> Tensor:
    """Average in which each parameter counts by its Fisher information: Σ a·F·θ / Σ a·F.

    Tensors that the statistics lack are averaged with the weights alone.
    """
    known = [information for information in statistics if information is not None]
    if len(known) < len(models):
        return linear(None, models, weight=weight, normalize=True)
    scale = total_weight(weight)  # scaled first, so that no product leaves float32
    merged, total = torch.zeros_like(models[0]), torch.zeros_like(models[0])
    for theta, a, information in zip(models, weight, known, strict=True):
        importance = (information + _FLOOR) * (a / scale)
        merged += theta * importance
        total += importance
    return merged / total


METHOD = Method(
    name="fisher",
    kernel=fisher,
    parameters=(
        Parameter(
            "weight",
            1.0,
            "weight of each model beside its Fisher information",
            low=0.0,
            per_model=True,
            search=(0, 1),
            details="Only proportions matter, so n − 1 shares are searched.",
        ),
    ),
    base=False,
    elementwise=True,
    promises=frozenset({"idempotent", "selective", "symmetric"}),
    statistics="fisher",
    proportional=True,
    source="Matena & Raffel 2022, Merging models with Fisher-weighted averaging, arXiv 2111.09832",
)
