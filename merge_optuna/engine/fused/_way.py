"""What merges tensors in one pass."""

from __future__ import annotations

from collections.abc import Callable

from merge_optuna.engine._plan import Fill
from merge_optuna.engine._target import Target

Way = Callable[[Target], Fill | None]
"""From a tensor to how to fill it; None if a source is of a type that kernels do not compute.

What must be known of whole tensors – thresholds, kept counts, Gram matrices – is found there.

Raises:
    InfeasibleRecipe: If the values have no well-defined result.
"""
