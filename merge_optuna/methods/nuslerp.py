"""Spherical interpolation of two models or of their task vectors, as a whole or row by row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.methods._affine import Matrix, combine, gram
from merge_optuna.methods._rows import combine_rows, row_grams
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods._sphere import OPPOSITE, Array, around_base, lengths_and_cosines

_NO_SUM = 1e-6  # as in mergekit
_MOST = 10.0  # a model, times
_PARALLEL = 1 - 1e-12  # beyond it sin ω is noise, and linear and spherical are the same


def _shares(products: Matrix, *, t: float) -> Array:
    """sin((1−t)·ω)/sin ω and sin(t·ω)/sin ω; 1 − t and t where there is no great circle."""
    _, cosines = lengths_and_cosines(products)
    cos = cosines[..., 0, 1]
    linear = (cos > _PARALLEL) | (cos < OPPOSITE)
    angle = np.arccos(np.where(linear, 0, cos))
    shares = [np.where(linear, part, np.sin(part * angle) / np.sin(angle)) for part in (1 - t, t)]
    return np.stack(shares, axis=-1)


def _t(weight: Sequence[float]) -> float:
    """The second one's share of the sum, of any sign; the middle where there is no sum.

    Raises:
        InfeasibleRecipe: If it leads so far beyond a model that parallel ones would be amplified
            more than tenfold.
    """
    total = sum(weight)
    t = weight[1] / total if abs(total) > _NO_SUM else 0.5
    if max(abs(t), abs(1 - t)) > _MOST * (1 + 1e-9):
        raise InfeasibleRecipe(
            f"The weights {[round(w, 6) for w in weight]} nearly cancel: they lead {t:.3g} times "
            "the way from the first model to the second. Use weights of one sign."
        )
    return t


def coefficients(
    products: Matrix, *, weight: Sequence[float], row_wise: bool, flatten: bool
) -> list[float] | None:
    """Those of the base, if there is one, and the two models; None where each row has its own."""
    if not flatten:
        return None
    found: list[float] = around_base(partial(_shares, t=_t(weight)), products, 2).tolist()
    return found


def nuslerp(
    base: Tensor | None,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    row_wise: bool,
    flatten: bool,
) -> Tensor:
    """Spherical interpolation of two models, or of their task vectors if there is a base.

    A tensor of zeros counts as at right angles to the other; opposite ones are interpolated
    linearly. Weights of both signs lead beyond one of the models; if they cancel, half of each is
    taken.
    """
    shares = partial(_shares, t=_t(weight))
    tensors = [*models] if base is None else [base, *models]
    if flatten or tensors[0].dim() < 2:
        return combine(tensors, around_base(shares, gram(tensors), 2).tolist())
    if row_wise:
        tensors = [tensor.transpose(0, -1) for tensor in tensors]
    merged = combine_rows(tensors, around_base(shares, row_grams(tensors), 2))
    return merged.transpose(0, -1).contiguous() if row_wise else merged


METHOD = Method(
    name="nuslerp",
    kernel=nuslerp,
    parameters=(
        Parameter(
            "weight",
            1.0,
            "of each model; the share of the second is the interpolation parameter",
            per_model=True,
            search=(0, 1),
            details="Only proportions matter, so of free weights one share is searched.",
        ),
        # mergekit: nuslerp_row_wise, nuslerp_flatten
        Parameter(
            "row_wise",
            False,
            "without flatten: interpolate vectors along the first axis, not the last",
        ),
        Parameter("flatten", True, "interpolate whole tensors, not each vector of them"),
    ),
    base=None,
    models=(2, 2),
    coefficients=coefficients,
    promises=frozenset({"proportional", "idempotent", "selective", "symmetric"}),
    source="Shoemake 1985, Animating rotation with quaternion curves; NuSLERP of mergekit, 2024",
)
