"""Spherical interpolation of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._affine import Matrix, combine, gram
from merge_optuna.methods._spec import Method, Parameter

_PARALLEL = 0.9995


def coefficients(products: Matrix, *, t: float) -> tuple[float, float]:
    """sin((1−t)·ω)/sin ω and sin(t·ω)/sin ω; linear where the tensors are nearly parallel."""
    norms = math.sqrt(products[0, 0]) * math.sqrt(products[1, 1])
    cos = products[0, 1] / norms if norms else 1.0
    if abs(cos) > _PARALLEL:
        return 1 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def slerp(base: None, models: Sequence[Tensor], *, t: float) -> Tensor:
    """Spherical interpolation of two models, tensor by tensor; linear where nearly parallel."""
    return combine(models, coefficients(gram(models), t=t))


METHOD = Method(
    name="slerp",
    kernel=slerp,
    parameters=(
        Parameter(
            "t", 0.5, "0 gives the first model, 1 the second", low=0.0, high=1.0, search=(0, 1)
        ),
    ),
    base=False,
    models=(2, 2),
    coefficients=coefficients,
    promises=frozenset({"idempotent"}),
    source="Shoemake 1985, Animating rotation with quaternion curves",
)
