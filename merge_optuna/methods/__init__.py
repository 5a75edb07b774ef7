"""How tensors merge: for each method a frozen spec of its parameters and a pure kernel.

A kernel takes the base tensor (or None), the tensors of the merged models and the values of the
method's parameters – a list with one number per model where the parameter is ``per_model`` – and
returns the merged tensor. Kernels compute in the data type they are given (the engine gives
float32) and know nothing of checkpoints, recipes or names.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator

from merge_optuna.errors import RecipeError
from merge_optuna.methods import descent, path, splice
from merge_optuna.methods._individual import Individual, Part
from merge_optuna.methods._markdown import markdown
from merge_optuna.methods._random import mask_key
from merge_optuna.methods._sparsify import Cut
from merge_optuna.methods._spec import PROMISES, Method, Parameter


def _ours() -> Iterator[Method]:
    """The methods of the files beside this one: each has a ``METHOD``, or several ``METHODS``."""
    for file in pkgutil.iter_modules(__path__):
        names = vars(importlib.import_module(f"{__name__}.{file.name}"))
        yield from names.get("METHODS", ())
        if "METHOD" in names:
            yield names["METHOD"]


METHODS: dict[str, Method] = {
    method.name: method for method in sorted(_ours(), key=lambda method: method.name)
}
"""Every method by name."""

EVOLVED: dict[str, Method] = {
    method.name: method for method in (splice.SPLICE, descent.DESCENT, path.PATH)
}
"""By name, the methods that take more than models and numbers: an individual or a layer path."""


def get(name: str) -> Method:
    """Returns a method by name.

    Raises:
        RecipeError: If there is none of that name.
    """
    found = METHODS.get(name) or EVOLVED.get(name)
    if found is not None:
        return found
    close = difflib.get_close_matches(name, METHODS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise RecipeError(f"Unknown method {name!r}.{hint} Methods: {', '.join(METHODS)}.")


__all__ = [
    "EVOLVED",
    "METHODS",
    "PROMISES",
    "Cut",
    "Individual",
    "Method",
    "Parameter",
    "Part",
    "get",
    "markdown",
    "mask_key",
]
