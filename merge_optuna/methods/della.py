"""DELLA: DARE whose probability to keep an entry grows with its magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from merge_optuna.methods._sparsify import magprune
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.dare import RESCALE, SEED
from merge_optuna.methods.task_arithmetic import LAMBDA, NORMALIZE, WEIGHT, weighted_sum
from merge_optuna.methods.ties import DENSITY, ELECT, MEAN, disjoint_merge

_EPSILON = Parameter(
    "epsilon",
    0.15,
    "from density + epsilon for the largest entry of a row to density − epsilon for the smallest",
    low=0.0,
    high=0.5,
    per_model=True,
    search=(0, 0.3),
)
_RESCALE = replace(
    RESCALE, summary="what is kept: divide by the keep probability, restore the L1 norm, or leave"
)
_SOURCE = "Deep et al. 2024, DELLA-Merging, arXiv 2406.11617"
_PROMISES = frozenset({"idempotent", "selective", "symmetric", "vanishing"})


def _pruned(
    base: Tensor,
    models: Sequence[Tensor],
    density: Sequence[float],
    epsilon: Sequence[float],
    keys: Sequence[int],
    rescale: str,
) -> list[Tensor]:
    return [
        magprune(theta - base, d, e, key, rescale)
        for theta, d, e, key in zip(models, density, epsilon, keys, strict=True)
    ]


def della_linear(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    lambda_: float,
    rescale: str,
    normalize: bool,
    seed: int,
    keys: Sequence[int],
) -> Tensor:
    """Random dropping of mostly small entries, then the weighted sum of task vectors."""
    deltas = _pruned(base, models, density, epsilon, keys, rescale)
    return base + weighted_sum(deltas, weight, normalize=normalize) * lambda_


def della(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    lambda_: float,
    rescale: str,
    normalize: bool,
    elect: str,
    seed: int,
    keys: Sequence[int],
) -> Tensor:
    """Random dropping of mostly small entries, then TIES election and mean of what agrees."""
    deltas = _pruned(base, models, density, epsilon, keys, rescale)
    return base + disjoint_merge(deltas, weight, elect=elect, normalize=normalize) * lambda_


DELLA_LINEAR = Method(
    name="della_linear",
    kernel=della_linear,
    parameters=(WEIGHT, DENSITY, _EPSILON, LAMBDA, _RESCALE, NORMALIZE, SEED),
    random=True,
    promises=_PROMISES,
    source=_SOURCE,
)
DELLA = Method(
    name="della",
    kernel=della,
    parameters=(WEIGHT, DENSITY, _EPSILON, LAMBDA, _RESCALE, MEAN, ELECT, SEED),
    random=True,
    promises=_PROMISES,
    source=_SOURCE,
)
