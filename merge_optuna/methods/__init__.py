"""How tensors merge: for each method a frozen spec of its parameters and a pure kernel.

A kernel takes the base tensor (or None), the tensors of the merged models and the values of the
method's parameters – a list with one number per model where the parameter is ``per_model`` – and
returns the merged tensor. Kernels compute in the data type they are given (the engine gives
float32) and know nothing of checkpoints, recipes or names.
"""

from __future__ import annotations

from merge_optuna.methods._affine import gram
from merge_optuna.methods._individual import Individual, Part
from merge_optuna.methods._markdown import markdown
from merge_optuna.methods._needs import Context, Keys, Need, Statistics
from merge_optuna.methods._random import mask_key, random_bits
from merge_optuna.methods._sparsify import MIN_NORM, Cut, band_counts, keep_chances, kept_count
from merge_optuna.methods._spec import PROMISES, Method, Parameter
from merge_optuna.methods._table import EVOLVED, METHODS, get, load_installed, register

__all__ = [
    "EVOLVED",
    "METHODS",
    "MIN_NORM",
    "PROMISES",
    "Context",
    "Cut",
    "Individual",
    "Keys",
    "Method",
    "Need",
    "Parameter",
    "Part",
    "Statistics",
    "band_counts",
    "get",
    "gram",
    "keep_chances",
    "kept_count",
    "load_installed",
    "markdown",
    "mask_key",
    "random_bits",
    "register",
]
