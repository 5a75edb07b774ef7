"""DARE: drop entries of the task vectors at random, rescale the rest, then merge."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._sparsify import drop
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.task_arithmetic import LAMBDA, NORMALIZE, WEIGHT, weighted_sum
from merge_optuna.methods.ties import DENSITY, ELECT, disjoint_merge

RESCALE = Parameter(
    "rescale",
    "density",
    "what is kept: divide by the density, restore the L1 norm, or leave",
    choices=("density", "l1", "none"),
    grouped=False,
)
SEED = Parameter("seed", 0, "of the random masks", low=0, high=2**63 - 1, grouped=False)
_SOURCE = "Yu et al. 2024, Language models are super Mario, arXiv 2311.03099"


def _dropped(
    base: Tensor,
    models: Sequence[Tensor],
    density: Sequence[float],
    keys: Sequence[int],
    rescale: str,
) -> list[Tensor]:
    return [
        drop(theta - base, d, key, rescale)
        for theta, d, key in zip(models, density, keys, strict=True)
    ]


def dare_linear(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    lambda_: float,
    rescale: str,
    normalize: bool,
    seed: int,
    keys: Sequence[int],
) -> Tensor:
    """Random dropping, then the weighted sum of task vectors."""
    deltas = _dropped(base, models, density, keys, rescale)
    return base + weighted_sum(deltas, weight, normalize=normalize) * lambda_


def dare_ties(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    lambda_: float,
    rescale: str,
    normalize: bool,
    elect: str,
    seed: int,
    keys: Sequence[int],
) -> Tensor:
    """Random dropping, then TIES sign election and the sum of what agrees."""
    deltas = _dropped(base, models, density, keys, rescale)
    return base + disjoint_merge(deltas, weight, elect=elect, normalize=normalize) * lambda_


DARE_LINEAR = Method(
    name="dare_linear",
    kernel=dare_linear,
    parameters=(WEIGHT, DENSITY, LAMBDA, RESCALE, NORMALIZE, SEED),
    random=True,
    promises=frozenset({"idempotent", "selective", "symmetric", "vanishing"}),
    source=_SOURCE,
)
DARE_TIES = Method(
    name="dare_ties",
    kernel=dare_ties,
    parameters=(WEIGHT, DENSITY, LAMBDA, RESCALE, NORMALIZE, ELECT, SEED),
    random=True,
    promises=frozenset({"idempotent", "selective", "symmetric", "vanishing"}),
    source=_SOURCE,
)
