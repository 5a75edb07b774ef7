"""TIES: trim, elect a sign, average what agrees with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.methods._sparsify import Cut, cut_at, trim
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.task_arithmetic import LAMBDA, WEIGHT

DENSITY = Parameter(
    "density",
    0.5,
    "share of each task vector that is kept",
    low=0.0,
    high=1.0,
    per_model=True,
    search=(0, 1),
)
MEAN = Parameter("normalize", True, "mean of the agreeing entries, not sum", grouped=False)
ELECT = Parameter(
    "elect",
    "mass",
    "sign by the weighted sum, or by the number of models",
    choices=("mass", "count"),
    grouped=False,
)


def check_mean(weight: Sequence[float]) -> None:
    """Checks that the mean of any of the models is defined.

    Raises:
        InfeasibleRecipe: If a weight is negative.
    """
    if min(weight) < 0:
        raise InfeasibleRecipe(
            f"normalize=True needs weights of at least 0, not {[round(w, 6) for w in weight]}. "
            "Use normalize=False."
        )


def disjoint_merge(
    deltas: Sequence[Tensor], weight: Sequence[float], *, elect: str, normalize: bool
) -> Tensor:
    """Sum of the weighted entries whose sign is the elected one; their mean when normalised.

    A tie elects +. Zeros agree with neither sign.

    Raises:
        InfeasibleRecipe: If weights are negative and to be normalised, because the sum over the
            agreeing models may then vanish anywhere.
    """
    if normalize:
        check_mean(weight)
    weighted = [delta * w for delta, w in zip(deltas, weight, strict=True)]
    votes = weighted if elect == "mass" else [torch.sign(entry) for entry in weighted]
    return merge_agreeing(weighted, weight, elects_plus(votes), normalize=normalize)


def elects_plus(votes: Sequence[Tensor]) -> Tensor:
    """Where the votes sum to 0 or more."""
    return sum(votes[1:], votes[0]) >= 0


def merge_agreeing(
    weighted: Sequence[Tensor], weight: Sequence[float], positive: Tensor, *, normalize: bool
) -> Tensor:
    """Sum of the weighted entries that have the elected sign, by their weights when normalised."""
    merged, mass = torch.zeros_like(weighted[0]), torch.zeros_like(weighted[0])
    for entry, w in zip(weighted, weight, strict=True):
        agrees = torch.where(positive, entry > 0, entry < 0)
        merged += torch.where(agrees, entry, 0)
        mass += agrees * w
    return torch.where(mass > 0, merged / mass, 0) if normalize else merged


def ties(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    density: Sequence[float],
    lambda_: float,
    elect: str,
    normalize: bool,
    trim_over: str = "tensor",
    cuts: Sequence[Cut] | None = None,
) -> Tensor:
    """Trim by magnitude, elect signs, merge what agrees: θ₀ + λ·mean.

    ``cuts`` are the cuts of the whole models with ``trim_over="model"``; otherwise each tensor is
    trimmed on its own.
    """
    deltas = [theta - base for theta in models]
    if cuts is None:
        cuts = [cut_at(delta, d) for delta, d in zip(deltas, density, strict=True)]
    trimmed = [trim(delta, cut) for delta, cut in zip(deltas, cuts, strict=True)]
    return base + disjoint_merge(trimmed, weight, elect=elect, normalize=normalize) * lambda_


TIES = Method(
    name="ties",
    kernel=ties,
    parameters=(
        WEIGHT,
        DENSITY,
        LAMBDA,
        MEAN,
        ELECT,
        Parameter(
            "trim_over",
            "tensor",
            "find the largest entries of each tensor, or of the whole model",
            choices=("tensor", "model"),
            grouped=False,
        ),
    ),
    promises=frozenset({"idempotent", "selective", "symmetric", "vanishing"}),
    source="Yadav et al. 2023, TIES-Merging, arXiv 2306.01708",
)
