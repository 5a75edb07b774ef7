"""How tensors merge: for each method a frozen spec of its parameters and a pure kernel.

A kernel takes the base tensor (or None), the tensors of the merged models and the values of the
method's parameters – a list with one number per model where the parameter is ``per_model`` – and
returns the merged tensor. Kernels compute in the data type they are given (the engine gives
float32) and know nothing of checkpoints, recipes or names.
"""

from __future__ import annotations

from merge_optuna.methods._individual import Individual, Part
from merge_optuna.methods._markdown import markdown
from merge_optuna.methods._random import mask_key
from merge_optuna.methods._registry import EVOLVED, METHODS, get, load_installed, register
from merge_optuna.methods._sparsify import Cut
from merge_optuna.methods._spec import PROMISES, Method, Parameter

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
    "load_installed",
    "markdown",
    "mask_key",
    "register",
]
