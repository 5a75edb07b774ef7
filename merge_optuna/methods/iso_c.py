"""Iso-C: the sum of task matrices with one singular value for all directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from merge_optuna.methods._needs import Context
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.linear import linear
from merge_optuna.methods.sparse import LAMBDA

_NOTHING = 1e-6  # of the largest singular value: what float32 cannot tell from zero


def iso_c(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    lambda_: float,
    isotropy: float,
    isotropic: Tensor | None = None,
) -> Tensor:
    """Iso-C: the sum of the task vectors, all directions of each layer's matrices equally strong.

    All singular values of the sum are replaced by their mean; those that are zero, of which LoRAs
    have many, are left out. Embedding, head and whatever is no matrix get the mean of the task
    vectors, whatever the isotropy.

    Args:
        base: The base's tensor.
        models: The experts'.
        lambda_: Scale of the merged task vector.
        isotropy: From 0, the sum as it is, to 1.
        isotropic: What :class:`Isotropic` computes; the mean is taken without.
    """
    deltas = [theta - base for theta in models]
    if isotropic is None:
        return base + linear(None, deltas, weight=[1.0] * len(deltas), normalize=True) * lambda_
    total = linear(None, deltas, weight=[1.0] * len(deltas), normalize=False)
    return base + torch.lerp(total, isotropic, isotropy) * lambda_


class Isotropic:
    """``isotropic``: the sum with equal singular values; nothing where tensors are averaged."""

    def arguments(self, context: Context) -> dict[str, Any]:
        """Of the task matrices of a layer, computed once per study."""
        base, layer = context.base, context.layers[context.name]
        if base is None or base.dim() != 2 or layer in ("embed", "head"):
            return {}
        deltas = [theta - base for theta in context.models]
        return {"isotropic": context.once("iso_c", lambda: _isotropic(deltas))}


def _isotropic(deltas: Sequence[Tensor]) -> Tensor:
    left, values, right = torch.linalg.svd(sum(deltas[1:], deltas[0]), full_matrices=False)
    known = values > _NOTHING * values[0]
    mean = values.sum() / known.sum().clamp(min=1)
    isotropic: Tensor = (left * (known * mean)) @ right
    return isotropic


METHOD = Method(
    name="iso_c",
    kernel=iso_c,
    parameters=(
        LAMBDA,
        Parameter(
            "isotropy",
            1.0,
            "from the singular values of the sum to their mean",
            low=0.0,
            high=1.0,
            search=(0, 1),
        ),
    ),
    needs=(Isotropic(),),
    promises=frozenset({"symmetric"}),
    source="Marczak et al. 2025, No task left behind: isotropic model merging, arXiv 2502.04959",
)
