"""Model Stock: between the base and the average of its experts, by the angle between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from merge_optuna.methods._affine import Matrix, combine, gram
from merge_optuna.methods._rows import combine_rows, row_grams
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods._sphere import Array, around_base, lengths_and_cosines

_SINGULAR = 1e-6


def _shares(products: Matrix) -> Array:
    """Each task vector's t / n, where t = n·cos θ / (1 + (n − 1)·cos θ).

    The angle θ is the one with the mean cosine over all pairs. The denominator is the squared
    length of the sum of the unit task vectors, divided by n: where they cancel, t is 0.
    """
    _, cosines = lengths_and_cosines(products)
    n = cosines.shape[-1]
    cos = cosines[..., *np.triu_indices(n, 1)].mean(axis=-1, keepdims=True)
    denominator = 1 + (n - 1) * cos
    cancels = denominator < _SINGULAR
    share = np.where(cancels, 0, cos / np.where(cancels, 1, denominator))
    return np.repeat(share, n, axis=-1)


def coefficients(products: Matrix, *, filter_wise: bool) -> list[float] | None:
    """Those of base and experts; None where each row has its own."""
    if filter_wise:
        return None
    found: list[float] = around_base(_shares, products, len(products) - 1).tolist()
    return found


def model_stock(base: Tensor, models: Sequence[Tensor], *, filter_wise: bool) -> Tensor:
    """Model Stock: between the base and the average of its experts, by the angle between them.

    Right angles give the base, no angle gives the average. A task vector of zeros counts as at
    right angles to the others. Obtuse angles lead away from the experts, as the formula says;
    experts that cancel give the base.
    """
    tensors = [base, *models]
    if filter_wise and base.dim() > 1:
        found = around_base(_shares, row_grams(tensors), len(models))
        return combine_rows(tensors, found)
    return combine(tensors, around_base(_shares, gram(tensors), len(models)).tolist())


METHOD = Method(
    name="model_stock",
    kernel=model_stock,
    parameters=(
        Parameter(
            "filter_wise",
            False,
            "an angle for each row (vector along the last axis) instead of each tensor",
            grouped=False,
        ),
    ),
    models=(2, float("inf")),
    coefficients=coefficients,
    promises=frozenset({"idempotent", "symmetric"}),
    source="Jang et al. 2024, Model Stock, arXiv 2403.19522",
)
