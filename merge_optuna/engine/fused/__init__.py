"""Merges in one pass over the sources, by kernels for the CPU that give the plain path's bits."""

from __future__ import annotations

from collections.abc import Callable

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._frame import Source
from merge_optuna.engine._plan import Fill
from merge_optuna.engine._target import Target
from merge_optuna.engine.fused.combination import by_coefficients, chunked, linear
from merge_optuna.engine.fused.evolved import descended, spliced
from merge_optuna.engine.fused.task_vectors import sparse
from merge_optuna.methods.descent import Descent
from merge_optuna.methods.sparse import METHODS as SPARSE
from merge_optuna.methods.splice import Segments
from merge_optuna.recipes import Recipe

Way = Callable[[Target], Fill | None]
"""From a tensor to how to fill it; None if a source is of a type that kernels do not compute.

What must be known of whole tensors – thresholds, kept counts, Gram matrices – is found there.
"""

_INDIVIDUALS: dict[type, Way] = {Segments: spliced, Descent: descended}
_METHODS: dict[str, Way] = {"linear": linear, **{method.name: sparse for method in SPARSE}}


def way_of(recipe: Recipe) -> Way | None:
    """How the tensors of a recipe are merged in one pass; None if only the plain path can."""
    if recipe.individual is not None:
        return _INDIVIDUALS.get(type(recipe.individual))
    if recipe.method in _METHODS:
        return _METHODS[recipe.method]
    if recipe.spec.coefficients is not None:
        return by_coefficients
    return chunked if recipe.spec.elementwise else None


def is_fused(source: Source) -> bool:
    """Whether a source and all that it is made of is merged in one pass."""
    if isinstance(source, Checkpoint):
        return True
    return way_of(source) is not None and all(map(is_fused, source.sources))


__all__ = ["Way", "is_fused", "way_of"]
