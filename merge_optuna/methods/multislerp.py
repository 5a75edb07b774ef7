"""Many models, or their task vectors, averaged by direction and by length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from merge_optuna.methods._affine import Matrix, combine, gram
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods._sphere import Array, around_base, lengths_and_cosines, or_infinite
from merge_optuna.methods.linear import total_weight


def _shares(products: Matrix, *, weight: Array, eps: float) -> Array:
    """Those of ℓ·s / |s|, with s = Σ w·u of the unit tensors u and the mean length ℓ = Σ w·|θ|.

    The published algorithm then averages in the tangent space at s / |s|. But the mean of what it
    averages there, Σ w·(u − (u·s)·s / |s|²), is zero: it stays at s / |s|.
    """
    lengths, cosines = lengths_and_cosines(products)
    squared = float(weight @ cosines @ weight)
    if squared <= eps:
        return weight
    shares: Array = (weight @ lengths / np.sqrt(squared)) * weight / or_infinite(lengths)
    return shares


def coefficients(
    products: Matrix, *, weight: Sequence[float], normalize: bool, eps: float
) -> list[float]:
    """Those of the base, if there is one, and the models."""
    weights = np.array(weight) / (total_weight(weight) if normalize else 1.0)
    shares = partial(_shares, weight=weights, eps=eps)
    found: list[float] = around_base(shares, products, len(weight)).tolist()
    return found


def multislerp(
    base: Tensor | None,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    normalize: bool,
    eps: float,
) -> Tensor:
    """Mean direction with mean length, of models or of their task vectors if there is a base.

    Directions that cancel leave no mean direction; then it is the weighted sum as it is.
    """
    tensors = [*models] if base is None else [base, *models]
    return combine(
        tensors, coefficients(gram(tensors), weight=weight, normalize=normalize, eps=eps)
    )


METHOD = Method(
    name="multislerp",
    kernel=multislerp,
    parameters=(
        Parameter("weight", 1.0, "of each model, in both means", per_model=True, search=(0, 1)),
        # mergekit: normalize_weights
        Parameter("normalize", True, "divide by the sum of the weights", grouped=False),
        Parameter(
            "eps",
            1e-8,
            "directions cancel if the squared length of their mean is not larger",
            low=0.0,
            high=1.0,
            grouped=False,
            details="Then the tensors are averaged linearly.",
        ),
    ),
    base=None,
    coefficients=coefficients,
    promises=frozenset({"idempotent", "selective", "symmetric"}),
    source="Goddard 2025, Multi-SLERP, goddard.blog/posts/multislerp-wow-what-a-cool-idea",
)
