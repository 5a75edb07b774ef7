"""RankMean: weights of each module from its rank among the modules of its model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.linear import linear


def rankmean(
    base: Tensor, models: Sequence[Tensor], *, rank_over: str, ranks: Sequence[int] | None = None
) -> Tensor:
    """Average of models, each weighted by how far fine-tuning moved this module among its own.

    In every model the modules are ranked by the sum of |τ|, 1 for the smallest; the weights in a
    module are the models' ranks over their sum. ``ranks`` has one rank per model, that of the
    tensor's module; without them all weights are equal.
    """
    return linear(None, models, weight=ranks or [1] * len(models), normalize=True)


def module_ranks(changes: Mapping[str, float], module_of: Mapping[str, str]) -> dict[str, int]:
    """Rank of each module of one model by how much it has changed, 1 for the least.

    Args:
        changes: Sum of |τ| of each tensor.
        module_of: Module of each tensor. Of equal modules the first has the lower rank.
    """
    parts: dict[str, list[float]] = defaultdict(list)
    for name, module in module_of.items():
        parts[module].append(changes[name])
    totals = {module: math.fsum(part) for module, part in parts.items()}
    return {module: rank for rank, module in enumerate(sorted(totals, key=totals.__getitem__), 1)}


RANKMEAN = Method(
    name="rankmean",
    kernel=rankmean,
    parameters=(
        Parameter(
            "rank_over",
            "layer",
            "rank the blocks (embedding and head are averaged), or all tensors",
            choices=("layer", "tensor"),
            grouped=False,
        ),
    ),
    ranked=True,
    promises=frozenset({"idempotent", "symmetric"}),
    source="Perin et al. 2024, RankMean, Findings of ACL, doi 10.18653/v1/2024.findings-acl.104",
)
