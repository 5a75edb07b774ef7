"""RAM: average what several models have changed, keep in full what only one has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter

_EPSILON = Parameter("epsilon", 1e-5, "changes up to this size count as none", low=0.0)
_SOURCE = (
    "Yuan et al. 2026, Behavior knowledge merge in reinforced agentic models, arXiv 2601.13572"
)


def ram(base: Tensor, models: Sequence[Tensor], *, epsilon: float) -> Tensor:
    """RAM, for experts that change few entries: mean over those experts that change an entry."""
    deltas = [theta - base for theta in models]
    return base + _mean_of_changed(deltas, _changed(deltas, epsilon), [1.0] * len(deltas))


def ramplus_tl(
    base: Tensor, models: Sequence[Tensor], *, r: float, alpha: float, epsilon: float
) -> Tensor:
    """RAM+, counted in each tensor: RAM with what only one expert changes scaled up.

    The factor is 1 + r·min(ρ, alpha), with ρ the number of entries that the expert changes
    together with others over the number that it changes alone. mergekit counts so, too; the paper
    counts in the whole model.
    """
    deltas = [theta - base for theta in models]
    changed = _changed(deltas, epsilon)
    alone = sum(changed) == 1
    factors = []
    for mine in changed:
        unique = int((mine & alone).sum())
        shared = int(mine.sum()) - unique
        factors.append(1 + r * min(shared / unique, alpha) if unique else 1.0)
    return base + _mean_of_changed(deltas, changed, factors)


def _changed(deltas: Sequence[Tensor], epsilon: float) -> list[Tensor]:
    return [(delta.abs() > epsilon).to(torch.int32) for delta in deltas]


def _mean_of_changed(
    deltas: Sequence[Tensor], changed: Sequence[Tensor], factors: Sequence[float]
) -> Tensor:
    """Mean over the models that changed an entry; lone changes grow by their model's factor."""
    count = sum(changed[1:], changed[0])
    merged = torch.zeros_like(deltas[0])
    for delta, mine, factor in zip(deltas, changed, factors, strict=True):
        scaled = torch.where(count == 1, delta * factor, delta)
        merged += torch.where(mine > 0, scaled, 0)
    return merged / count.clamp(min=1)


METHODS = (
    Method(
        name="ram",
        kernel=ram,
        parameters=(_EPSILON,),
        elementwise=True,
        promises=frozenset({"symmetric"}),
        source=_SOURCE,
    ),
    Method(
        name="ramplus_tl",
        kernel=ramplus_tl,
        parameters=(
            Parameter("r", 0.1, "how much lone changes grow with ρ", low=0.0, search=(0, 1)),
            Parameter("alpha", 0.2, "largest ρ that counts", low=0.0, search=(0, 1)),
            _EPSILON,
        ),
        promises=frozenset({"symmetric"}),
        source=_SOURCE,
    ),
)
