"""TSV-Merge: the leading directions of every task matrix, made orthogonal to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merge_optuna.methods._needs import Context
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.linear import linear
from merge_optuna.methods.sparse import LAMBDA

_NOTHING = 1e-6  # of the largest singular value: what float32 cannot tell from zero


class Directions(NamedTuple):
    """Singular directions of n task matrices (rows, columns), k of each.

    Attributes:
        left: (rows, n·k), orthonormal.
        values: (n, k) singular values.
        right: (n·k, columns), orthonormal.
    """

    left: Tensor
    values: Tensor
    right: Tensor


def tsv_m(
    base: Tensor,
    models: Sequence[Tensor],
    *,
    weight: Sequence[float],
    lambda_: float,
    directions: Directions | None = None,
) -> Tensor:
    """TSV-Merge: experts share the rank of each layer's matrices without disturbing each other.

    Of every task matrix the k largest singular values are kept, k being the rank divided by the
    number of experts, at least 1. Their left directions together are replaced by the nearest
    orthonormal ones, so are the right ones. Embedding, head and whatever is no matrix get the
    mean of the weighted task vectors.

    Args:
        base: The base's tensor.
        models: The experts'.
        weight: Of each expert.
        lambda_: Scale of the merged task vector.
        directions: What :class:`Orthogonal` computes; the mean is taken without.
    """
    if directions is None:
        deltas = [theta - base for theta in models]
        mean = [w / len(models) for w in weight]
        return base + linear(None, deltas, weight=mean, normalize=False) * lambda_
    left, values, right = directions
    scaled = values * values.new_tensor(weight).unsqueeze(1)
    return base + (left * scaled.flatten()) @ right * lambda_


class Orthogonal:
    """``directions``, which depend on no parameter; nothing where tensors are averaged."""

    def arguments(self, context: Context) -> dict[str, Any]:
        """Of the task matrices of a layer, computed once per study."""
        base, layer = context.base, context.layers[context.name]
        if base is None or base.dim() != 2 or layer in ("embed", "head"):
            return {}
        deltas = [theta - base for theta in context.models]
        return {"directions": context.once("tsv_m", lambda: _directions(deltas))}


def _directions(deltas: Sequence[Tensor]) -> Directions:
    k = max(1, min(deltas[0].shape) // len(deltas))
    lefts, values, rights = [], [], []
    for delta in deltas:
        left, value, right = torch.linalg.svd(delta, full_matrices=False)
        known = value[:k] > _NOTHING * value[0]  # LoRAs have less rank: no direction is made up
        lefts.append(left[:, :k] * known)
        values.append(value[:k])
        rights.append(right[:k] * known.unsqueeze(1))
    return Directions(
        _nearest(torch.cat(lefts, 1)), torch.stack(values), _nearest(torch.cat(rights))
    )


def _nearest(matrix: Tensor) -> Tensor:
    """The nearest matrix whose singular values are 1, or 0 where they are 0 (Procrustes)."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = (left * (values > _NOTHING * values[0])) @ right
    return nearest


METHOD = Method(
    name="tsv_m",
    kernel=tsv_m,
    parameters=(
        Parameter(
            "weight",
            1.0,
            "coefficient of each expert's singular values",
            per_model=True,
            search=(0, 2),
        ),
        LAMBDA,
    ),
    needs=(Orthogonal(),),
    promises=frozenset({"symmetric"}),
    source="Gargiulo et al. 2025, Task singular vectors, arXiv 2412.00081",
)
