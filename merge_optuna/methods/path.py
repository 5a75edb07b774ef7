"""One model's tensor, scaled: what a layer path through several models is made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._spec import Method


def path(base: None, models: Sequence[Tensor], *, factor: float) -> Tensor:
    """A forward pass through chosen layers of several models, with scales folded into them."""
    return models[0] if factor == 1 else models[0] * factor


PATH = Method(
    name="path",
    kernel=path,
    parameters=(),
    base=False,
    models=(1, 26),
    elementwise=True,
    structure="route",
    source="Akiba et al. 2024, Evolutionary model merge, arXiv 2403.13187",
)
