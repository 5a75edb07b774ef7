"""Sums of task vectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.linear import total_weight

WEIGHT = Parameter("weight", 1.0, "coefficient of each task vector", per_model=True, search=(0, 1))
LAMBDA = Parameter("lambda_", 1.0, "scale of the merged task vector", search=(0, 2))
NORMALIZE = Parameter("normalize", False, "divide by the sum of the weights", grouped=False)


def weighted_sum(deltas: Sequence[Tensor], weight: Sequence[float], *, normalize: bool) -> Tensor:
    """Σ w·τ, divided by Σ w when normalised."""
    total = total_weight(weight) if normalize else 1.0
    merged = deltas[0] * (weight[0] / total)
    for delta, w in zip(deltas[1:], weight[1:], strict=True):
        merged += delta * (w / total)
    return merged


def task_arithmetic(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    lambda_: float,
    normalize: bool,
) -> Tensor:
    """Base plus the weighted sum of task vectors: θ₀ + λ Σ w·(θ − θ₀)."""
    deltas = [theta - base for theta in models]
    return base + weighted_sum(deltas, weight, normalize=normalize) * lambda_


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    kernel=task_arithmetic,
    parameters=(WEIGHT, LAMBDA, NORMALIZE),
    elementwise=True,
    promises=frozenset({"idempotent", "selective", "symmetric"}),
    source="Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089",
)
