"""Merges in one pass over the sources, by kernels for the CPU that give the plain path's bits."""

from __future__ import annotations

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._frame import Source
from merge_optuna.engine.fused._way import Way
from merge_optuna.engine.fused.combination import by_coefficients, chunked, linear
from merge_optuna.engine.fused.evolved import descended, spliced
from merge_optuna.engine.fused.task_vectors import TASK_VECTORS
from merge_optuna.methods.descent import Descent
from merge_optuna.methods.splice import Segments
from merge_optuna.recipes import Recipe

_INDIVIDUALS: dict[type, Way] = {Segments: spliced, Descent: descended}
_METHODS: dict[str, Way] = {"linear": linear, **TASK_VECTORS}


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
