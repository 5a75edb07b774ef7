"""Spherical interpolation of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._reduce import stable_sum
from merge_optuna.methods._spec import Method, Parameter

_PARALLEL = 0.9995


def slerp(base: None, models: Sequence[Tensor], *, t: float) -> Tensor:
    """Great-circle interpolation of two tensors; linear where they are nearly parallel."""
    a, b = models
    norms = math.sqrt(stable_sum(a.double() ** 2)) * math.sqrt(stable_sum(b.double() ** 2))
    cos = stable_sum(a.double() * b.double()) / norms if norms else 1.0
    if abs(cos) > _PARALLEL:
        return a * (1 - t) + b * t
    angle = math.acos(cos)
    return a * (math.sin((1 - t) * angle) / math.sin(angle)) + b * (
        math.sin(t * angle) / math.sin(angle)
    )


SLERP = Method(
    name="slerp",
    kernel=slerp,
    parameters=(Parameter("t", 0.5, "0 gives the first model, 1 the second", low=0.0, high=1.0),),
    base=False,
    models=(2, 2),
    source="Shoemake 1985, Animating rotation with quaternion curves",
)
