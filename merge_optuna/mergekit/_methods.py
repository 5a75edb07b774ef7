"""Which of mergekit's merge methods is which of ours, and under which names.

A method that both have is one line of :data:`TRANSLATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

REQUIRED: Final = object()
"""The default of a parameter that mergekit wants to be given."""

OUR_NAMES = {
    "lambda": "lambda_",
    "normalize_weights": "normalize",
    "nuslerp_flatten": "flatten",
    "nuslerp_row_wise": "row_wise",
}
"""Our names of parameters where they differ."""

OUR_WORDS: dict[str, dict[Any, Any]] = {"rescale": {True: "l1", False: "none"}}
"""Our values of parameters that mergekit says otherwise, by its name and its value."""


@dataclass(frozen=True)
class Translation:
    """One merge method in both languages; it has the same name in both.

    Attributes:
        parameters: Default in mergekit by mergekit's name of each parameter.
        ours: Parameters that mergekit does not have, with the values that do what it does.
        method: Our name of the method where it is another one.
        rescaled: What it is with mergekit's ``rescale``, where we have no parameter for that.
        extra: Our parameters that change nothing that mergekit has; it passes over them.
        base_first: Whether mergekit's base is the first of our models.
        base_alone: Whether mergekit takes a base without models, which gives the base.
        memory: mergekit's parameters that change how much memory it needs, not what it makes.
    """

    parameters: Mapping[str, Any]
    ours: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    base_first: bool = False
    base_alone: bool = False
    memory: tuple[str, ...] = ()
    method: str | None = None
    rescaled: Translation | None = None


def our_name(parameter: str) -> str:
    """Our name of mergekit's parameter."""
    return OUR_NAMES.get(parameter, parameter)


_SUM = {"weight": REQUIRED, "lambda": 1.0}
_SPARSE_SUM = {**_SUM, "density": 1.0}
_ELECT = {"elect": "mass"}


_task_vectors = partial(Translation, base_alone=True, memory=("int8_mask",))

TRANSLATIONS: dict[str, Translation] = {
    "linear": Translation({"weight": REQUIRED, "normalize": True}),
    "slerp": Translation({"t": REQUIRED}, base_first=True),
    "nuslerp": Translation(
        {"weight": REQUIRED, "nuslerp_row_wise": False, "nuslerp_flatten": True}
    ),
    "multislerp": Translation({"weight": REQUIRED, "normalize_weights": True, "eps": 1e-8}),
    "karcher": Translation({"max_iter": 10, "tol": 1e-5}, {"weight": 1.0}),
    "task_arithmetic": _task_vectors({**_SUM, "normalize": False}),
    "ties": _task_vectors(
        {**_SPARSE_SUM, "normalize": True},
        {**_ELECT, "trim_over": "tensor"},
        rescaled=_task_vectors(  # without outliers, so that both trim the same
            {**_SPARSE_SUM, "normalize": True, "rescale": True},
            {**_ELECT, "gamma": 0.0},
            method="breadcrumbs_ties",
        ),
    ),
    "dare_linear": _task_vectors(
        {**_SPARSE_SUM, "normalize": False, "rescale": True}, extra=("seed",)
    ),
    "dare_ties": _task_vectors(
        {**_SPARSE_SUM, "normalize": False, "rescale": True}, _ELECT, extra=("seed",)
    ),
    "della_linear": _task_vectors(
        {**_SPARSE_SUM, "normalize": False, "rescale": True, "epsilon": 0.15}, extra=("seed",)
    ),
    "della": _task_vectors(
        {**_SPARSE_SUM, "normalize": True, "rescale": True, "epsilon": 0.15},
        _ELECT,
        extra=("seed",),
    ),
    "breadcrumbs": _task_vectors(
        {**_SPARSE_SUM, "normalize": False, "rescale": False, "gamma": 0.01}
    ),
    "breadcrumbs_ties": _task_vectors(
        {**_SPARSE_SUM, "normalize": False, "rescale": False, "gamma": 0.01}, _ELECT
    ),
    "sce": _task_vectors({"select_topk": 1.0}),
    "ram": Translation({"epsilon": 1e-5}, base_alone=True),
    "ramplus_tl": Translation({"r": 0.1, "alpha": 0.2, "epsilon": 1e-5}, base_alone=True),
    "model_stock": Translation({"filter_wise": False}),
    "nearswap": Translation({"t": REQUIRED}),
    "arcee_fusion": Translation({}),
    "passthrough": Translation({"scale": 1.0}),
}

KNOWN = {name for t in TRANSLATIONS.values() for name in (*t.parameters, *t.memory)}
"""Parameters of some method of mergekit: where one has no effect, it does no harm."""
