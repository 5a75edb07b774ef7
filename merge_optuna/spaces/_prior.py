"""What is known of layers before any search, and what that makes of first probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from merge_optuna.errors import RecipeError, shown

_WIDEST = 4.0  # how much more or less probable anything becomes
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerPrior:
    """What is known of the layers of some models, for ``LayerPath(..., prior=)``.

    Attributes:
        influence: Of each layer of each model 1 − cos(stream before, stream after), the mean over
            tokens; 0 is a layer that does nothing.
        similarity: Of each layer of each model the cosine of the stream that enters it with that
            which enters the layer of the first model at this depth, the mean over tokens.
    """

    influence: Rows
    similarity: Rows

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Inverse of :meth:`to_data`.

        Raises:
            RecipeError: If it is none.
        """
        try:
            rows = (data["influence"], data["similarity"])
            made = (tuple(tuple(map(float, row)) for row in one) for one in rows)
            return cls(*made)
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"Not a prior of layers: {shown(data)}.") from error

    def to_data(self) -> dict[str, list[list[float]]]:
        """As plain numbers."""
        return {
            "influence": [list(row) for row in self.influence],
            "similarity": [list(row) for row in self.similarity],
        }

    def check(self, depths: Sequence[int]) -> None:
        """Checks that it is of models with so many layers.

        Raises:
            RecipeError: If not.
        """
        for rows in (self.influence, self.similarity):
            if [len(row) for row in rows] != list(depths):
                raise RecipeError(
                    f"prior= is of models with {', '.join(str(len(row)) for row in rows)} layers, "
                    f"and these have {', '.join(map(str, depths))}: mo.layer_prior(models, "
                    "evaluator) of these."
                )

    def idleness(self, model: int, layer: int) -> float:
        """The mean influence in the model over that of the layer, between 1/4 and 4."""
        return _relative(self.influence[model], layer)

    def likeness(self, model: int, layer: int) -> float:
        """The mean distance of the model's streams over that at the layer, between 1/4 and 4."""
        return _relative([1 - cosine for cosine in self.similarity[model]], layer)


def _relative(values: Sequence[float], place: int) -> float:
    mean, own = sum(values) / len(values), values[place]
    if mean <= 0 or own <= 0:  # models that are the same, or a layer that does nothing
        return 1.0 if mean <= 0 else _WIDEST
    return min(max(mean / own, 1 / _WIDEST), _WIDEST)
