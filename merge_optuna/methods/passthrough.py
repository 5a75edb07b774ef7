"""One model's tensor as it is: what layers that are stacked are made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from merge_optuna.methods._spec import Method, Parameter


def passthrough(base: None, models: Sequence[Tensor], *, scale: Sequence[float]) -> Tensor:
    """The layers of several models one after the other ("Frankenmerge").

    The sources are models of one architecture, usually some of their layers, or merges of such,
    ``mo.recipes.passthrough([a.layers(0, 24), b.layers(8, 32)])``; they may overlap and repeat.
    Embedding, config and tokenizer are those of the first, final norm and head those of the last.
    """
    return models[0] * scale[0]


METHOD = Method(
    name="passthrough",
    kernel=passthrough,
    parameters=(Parameter("scale", 1.0, "factor of each model's tensors", per_model=True),),
    base=False,
    promises=frozenset({"elementwise"}),
    structure="stack",
    source="Kim et al. 2023, SOLAR 10.7B: depth up-scaling, arXiv 2312.15166",
)
