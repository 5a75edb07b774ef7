"""Splice: along the flat model, one linear combination of the models after the other.

What M2N2 (Abrantes, Lange & Tang 2025, arXiv 2508.16204) makes of pre-trained models: every child
is, between two split points, a linear combination of its parents, so of the models that all of
them descend from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from merge_optuna.errors import RecipeError
from merge_optuna.methods._affine import combine
from merge_optuna.methods._individual import Individual, Part, evolved
from merge_optuna.methods._spec import Method


class Segments(Individual):
    """An individual that is a linear combination of the models on each of its segments.

    Attributes:
        starts: (S,) int64, where each segment begins in the flat model, ascending from 0.
        coefficients: (S, n) float64, the factor of each model.
    """

    def __init__(self, starts: ArrayLike, coefficients: ArrayLike) -> None:
        """Takes the arrays as they are.

        Raises:
            RecipeError: If they are no segments.
        """
        self.starts: NDArray[np.int64] = np.asarray(starts, dtype=np.int64)
        self.coefficients: NDArray[np.float64] = np.asarray(coefficients, dtype=np.float64)
        ascending = self.starts.ndim == 1 and self.starts.size and not self.starts[0]
        if not ascending or bool((self.starts[1:] <= self.starts[:-1]).any()):
            raise RecipeError("The starts of segments must ascend from 0.")
        if self.coefficients.ndim != 2 or len(self.coefficients) != len(self.starts):
            raise RecipeError("Every segment needs one coefficient per model.")
        if not np.isfinite(self.coefficients).all():
            raise RecipeError("The coefficients of segments must be finite.")

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[float]]) -> Self:
        """From rows of start and coefficients."""
        table = [tuple(row) for row in rows]
        return cls([int(row[0]) for row in table], [row[1:] for row in table])

    def rows(self) -> list[list[float]]:
        """A row of start and coefficients for each segment."""
        return [
            [int(start), *map(float, row)]
            for start, row in zip(self.starts, self.coefficients, strict=True)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.starts.nbytes + self.coefficients.nbytes

    @property
    def digest(self) -> str:
        """Over all numbers."""
        content = self.starts.astype("<i8").tobytes() + self.coefficients.astype("<f8").tobytes()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def check(self, models: int) -> None:
        """See :meth:`Individual.check`."""
        if self.coefficients.shape[1] != models:
            raise RecipeError(
                f"The segments have {self.coefficients.shape[1]} coefficients each for {models} "
                "models."
            )

    def within(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The segments of a range of the flat model, their starts counted from its first element.

        The first one may begin before the range.
        """
        if len(self.starts) == 1:
            return self.starts - start, self.coefficients
        first = int(self.starts.searchsorted(start, "right")) - 1
        last = int(self.starts.searchsorted(stop, "left"))
        return self.starts[first:last] - start, self.coefficients[first:last]

    def evaluate(self, models: Sequence[Tensor], part: Part) -> Tensor:
        """Σ c·θ on each segment, in the order of the models."""
        size = models[0].numel()
        begin = part.offset + part.first
        starts, coefficients = self.within(begin, begin + size)
        edges = [0, *map(int, starts[1:]), size]
        merged = models[0].new_empty(size)
        for low, high, row in zip(edges, edges[1:], coefficients.tolist(), strict=False):
            merged[low:high] = combine([theta[low:high] for theta in models], row)
        return merged


SPLICE = Method(
    name="splice",
    kernel=evolved,
    parameters=(),
    base=False,
    individual=Segments,
    source="Abrantes, Lange & Tang 2025, Competition and attraction, arXiv 2508.16204",
)
