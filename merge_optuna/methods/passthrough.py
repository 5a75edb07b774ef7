"""One model's tensor as it is: what layers that are stacked are made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter


def passthrough(base: None, models: Sequence[Tensor], *, scale: Sequence[float]) -> Tensor:
    """The layers of the models one after the other, each tensor times its scale."""
    return models[0] * scale[0]


METHOD = Method(
    name="passthrough",
    kernel=passthrough,
    parameters=(Parameter("scale", 1.0, "factor of each model's tensors", per_model=True),),
    base=False,
    elementwise=True,
    structure="stack",
    source="Kim et al. 2023, SOLAR 10.7B: depth up-scaling, arXiv 2312.15166",
)
