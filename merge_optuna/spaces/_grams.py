"""Dot products of models over ranges of the flat model, which angles are computed from."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from merge_optuna._bar import ProgressBar
from merge_optuna.engine import Merger, gram
from merge_optuna.recipes import Recipe

_BLOCK = 1 << 16  # elements that are read to know the products up to a split exactly


class Grams:
    """Dot products of the models of a recipe, summed from the beginning of the flat model.

    Every block is read once; what remains between the last block and a split is read exactly.

    Args:
        recipe: What the flat model is made of.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._merger = Merger()

    def up_to(self, split: int) -> NDArray[np.float64]:
        """(n, n) dot products of the elements before a place in the flat model."""
        block, rest = divmod(split, _BLOCK)
        before: NDArray[np.float64] = self._blocks[block]
        return before + self._products(block * _BLOCK, split) if rest else before

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """(n, n) dot products of all elements."""
        return self.up_to(self._recipe.flat_size)

    @cached_property
    def _blocks(self) -> NDArray[np.float64]:
        """(blocks + 1, n, n), the products before each block."""
        starts = range(0, self._recipe.flat_size, _BLOCK)
        n = len(self._recipe.models)
        found = np.zeros((len(starts) + 1, n, n))
        for i, start in enumerate(
            ProgressBar(starts, "Angles", delay=2, leave=False, unit="block")
        ):
            stop = min(start + _BLOCK, self._recipe.flat_size)
            found[i + 1] = found[i] + self._products(start, stop)
        return found

    def _products(self, start: int, stop: int) -> NDArray[np.float64]:
        n = len(self._recipe.models)
        total = np.zeros((n, n))
        for name, part in self._recipe.parts.items():
            first, last = max(start - part.offset, 0), min(stop - part.offset, part.size)
            if first < last:
                total += gram(self._merger.inputs(self._recipe, name), first, last)
        return total
