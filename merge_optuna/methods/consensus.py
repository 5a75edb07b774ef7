"""Consensus task arithmetic: only entries that several models need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.sparse import LAMBDA


def consensus_ta(
    base: Tensor, models: Sequence[Tensor], *, tall: Sequence[float], agree: int, lambda_: float
) -> Tensor:
    """Consensus task arithmetic: the sum of task vectors where several experts need it.

    An expert needs an entry where its own change is at least ``tall`` times that of all others
    together, |τ| ≥ tall·|sum − τ| (its TALL mask).
    """
    deltas = [theta - base for theta in models]
    total = sum(deltas[1:], deltas[0])
    need = [
        (delta.abs() >= (total - delta).abs() * t).to(torch.int32)
        for delta, t in zip(deltas, tall, strict=True)
    ]
    return base + torch.where(sum(need[1:], need[0]) >= agree, total, 0) * lambda_


METHOD = Method(
    name="consensus_ta",
    kernel=consensus_ta,
    parameters=(
        Parameter(
            "tall",
            0.4,
            "a model needs an entry where its own change is this share of the others'",
            low=0.0,
            per_model=True,
            search=(0.2, 0.6),
            details="The paper chooses among 0.2 ... 0.6.",
        ),
        Parameter(
            "agree",
            2,
            "how many models must need an entry",
            low=1,
            grouped=False,
            details="Other entries stay as in the base.",
        ),
        LAMBDA,
    ),
    models=(2, float("inf")),
    elementwise=True,
    promises=frozenset({"symmetric"}),
    source="Wang et al. 2024, Localizing task information, arXiv 2405.07813",
)
