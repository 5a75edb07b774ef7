"""Individuals: what evolution makes of models, element by element.

An individual is a symbol: how to compute its weights from those of the models that it descends
from. It never holds weights itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A range of elements of one tensor of a model.

    The flat model is the vector of all merged elements: the tensors from input to output, each
    row by row.

    Attributes:
        name: The tensor.
        layer: Label of its layer group.
        offset: Place of its first element in the flat model.
        size: Number of its elements.
        row: Elements in a row: what belongs to one index of the first dimension; all of them for
            a vector.
        first: First element of the range, an even index in the tensor.
    """

    name: str
    layer: str
    offset: int
    size: int
    row: int
    first: int = 0


class Individual(ABC):
    """How to compute weights from those of other models, element by element."""

    @abstractmethod
    def check(self, models: int) -> None:
        """Checks that it descends from so many models.

        Raises:
            RecipeError: If it names others.
        """

    @abstractmethod
    def evaluate(self, models: Sequence[Tensor], part: Part) -> Tensor:
        """The elements of a range.

        Args:
            models: That range of each model, flat, all in the data type of the computation.
            part: Which range it is.
        """

    @classmethod
    @abstractmethod
    def from_rows(cls, rows: Any) -> Self:
        """Inverse of :meth:`rows`.

        Raises:
            RecipeError: If they are none of its kind.
        """

    @abstractmethod
    def rows(self) -> list[Any]:
        """The individual as plain lists and numbers."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """32 hexadecimal digits."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.digest == getattr(other, "digest", None)

    def __hash__(self) -> int:
        return hash(self.digest)


def evolved(base: None, models: Sequence[Tensor], *, individual: Individual, part: Part) -> Tensor:
    """What evolution made of the models: the kernel of every kind of individual."""
    flat = [theta.reshape(-1) for theta in models]
    return individual.evaluate(flat, part).reshape(models[0].shape)
