"""SCE: select what varies between models, weight models by their energy, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merge_optuna.methods._reduce import stable_sum
from merge_optuna.methods._sparsify import cut_of, kept_by, kept_count
from merge_optuna.methods._spec import Method, Parameter
from merge_optuna.methods.sparse import elects_plus, merge_agreeing


def sce(base: Tensor, models: Sequence[Tensor], *, select_topk: float) -> Tensor:
    """SCE: select varying entries, calculate the experts' weights, erase minority signs.

    Per tensor: the entries whose task vectors vary most between the experts are kept; each expert
    is weighted by Σ τ²; entries against the sign of the sum are left out.
    """
    deltas = [theta - base for theta in models]
    if select_topk < 1:
        keep = _varying(deltas, select_topk)
        deltas = [torch.where(keep, delta, 0) for delta in deltas]
    weight = _energies(deltas)
    weighted = [delta * w for delta, w in zip(deltas, weight, strict=True)]
    return base + merge_agreeing(weighted, weight, elects_plus(deltas), normalize=True)


def _varying(deltas: Sequence[Tensor], share: float) -> Tensor:
    """Where the task vectors vary most, as a share of the entries in which they vary at all."""
    mean = sum(deltas[1:], deltas[0].double()) / len(deltas)
    squares = torch.zeros_like(mean)
    for delta in deltas:
        squares += (delta - mean) ** 2
    deviation = squares.sqrt().float()
    keep = kept_count(int(torch.count_nonzero(deviation)), share)
    return kept_by(deviation, cut_of(deviation, keep))


def _energies(deltas: Sequence[Tensor]) -> list[float]:
    """Σ τ² of each task vector as a share of all; equal shares if there is none."""
    sums = [stable_sum(delta.double() ** 2) for delta in deltas]
    total = sum(sums)
    return [s / total for s in sums] if total else [1 / len(sums)] * len(sums)


METHOD = Method(
    name="sce",
    kernel=sce,
    parameters=(
        Parameter(
            "select_topk",
            1.0,
            "share of the varying entries that is kept, those of largest variance",
            low=0.0,
            high=1.0,
            search=(0, 1),
            details="0 gives the base.",
        ),
    ),
    promises=frozenset({"idempotent", "symmetric", "vanishing"}),
    source="Wan et al. 2024, FuseChat, arXiv 2408.07990",
)
