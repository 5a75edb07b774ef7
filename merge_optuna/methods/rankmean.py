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
    """RankMean: an average in which an expert weighs most in the blocks that it changed most.

    In each expert the blocks are ranked by the sum of absolute changes from the base, 1 for the
    smallest; the base has no part in the average. The weights of a block are the experts' ranks
    divided by their sum; what is in no block (embedding, final norm, head) is averaged with equal
    weights. So the authors' code has it for two experts; that it is the sum over all for more is
    our reading.

    Args:
        base: Not used here.
        models: The experts' tensors.
        rank_over: See the spec.
        ranks: For each model the rank of the tensor's module; all weights are equal without.
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


METHOD = Method(
    name="rankmean",
    kernel=rankmean,
    parameters=(
        Parameter(
            "rank_over",
            "layer",
            "rank the blocks (embedding and head are averaged), or all tensors",
            choices=("layer", "tensor"),
            grouped=False,
            details="Ranking all tensors is the authors' fine-grained variant.",
        ),
    ),
    ranked=True,
    promises=frozenset({"idempotent", "symmetric"}),
    source="Perin et al. 2024, RankMean, Findings of ACL, doi 10.18653/v1/2024.findings-acl.104",
)
