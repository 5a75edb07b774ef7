"""Model breadcrumbs: drop the largest and the smallest entries of the task vectors, then merge."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._sparsify import Band, band_at, trim_band, with_l1_of
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.task_arithmetic import LAMBDA, NORMALIZE, WEIGHT, weighted_sum
from merge_optuna.methods.ties import DENSITY, ELECT, disjoint_merge

_GAMMA = Parameter(
    "gamma",
    0.01,
    "share of each task vector that is dropped as too large",
    low=0.0,
    high=1.0,
    per_model=True,
    search=(0, 0.1),
)
_RESCALE = Parameter(
    "rescale",
    "none",
    "what is kept: leave, or restore the L1 norm",
    choices=("none", "l1"),
    grouped=False,
)
_SOURCE = "Davari & Belilovsky 2023, Model breadcrumbs, arXiv 2312.06795"
_PROMISES = frozenset({"idempotent", "selective", "symmetric", "vanishing"})


def _middle(
    base: Tensor,
    models: Sequence[Tensor],
    density: Sequence[float],
    gamma: Sequence[float],
    rescale: str,
    bands: Sequence[Band] | None,
) -> list[Tensor]:
    """The task vectors without their largest and smallest entries (the paper's eq. 2)."""
    deltas = [theta - base for theta in models]
    if bands is None:
        bands = [band_at(tau, d, g) for tau, d, g in zip(deltas, density, gamma, strict=True)]
    kept = [trim_band(tau, band) for tau, band in zip(deltas, bands, strict=True)]
    if rescale == "none":
        return kept
    return [with_l1_of(tau, rest) for tau, rest in zip(deltas, kept, strict=True)]


def breadcrumbs(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    lambda_: float,
    rescale: str,
    normalize: bool,
    bands: Sequence[Band] | None = None,
) -> Tensor:
    """Drop the largest and the smallest entries, then the weighted sum of task vectors.

    ``bands`` are what is kept of each task vector where that is known already.
    """
    deltas = _middle(base, models, density, gamma, rescale, bands)
    return base + weighted_sum(deltas, weight, normalize=normalize) * lambda_


def breadcrumbs_ties(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    lambda_: float,
    rescale: str,
    normalize: bool,
    elect: str,
    bands: Sequence[Band] | None = None,
) -> Tensor:
    """Drop the largest and the smallest entries, then TIES sign election and the sum."""
    deltas = _middle(base, models, density, gamma, rescale, bands)
    return base + disjoint_merge(deltas, weight, elect=elect, normalize=normalize) * lambda_


BREADCRUMBS = Method(
    name="breadcrumbs",
    kernel=breadcrumbs,
    parameters=(WEIGHT, DENSITY, _GAMMA, LAMBDA, _RESCALE, NORMALIZE),
    promises=_PROMISES,
    source=_SOURCE,
)
BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    kernel=breadcrumbs_ties,
    parameters=(WEIGHT, DENSITY, _GAMMA, LAMBDA, _RESCALE, NORMALIZE, ELECT),
    promises=_PROMISES,
    source=_SOURCE,
)
