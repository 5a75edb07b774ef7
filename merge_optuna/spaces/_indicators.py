"""Which layers a trial puts on its path: the indicators of the data-flow space.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2.
"""

from __future__ import annotations

import string
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Hop

LIMIT, START = 6.0, 2.0  # in units of sigma: nearly all first samples are inside of ± LIMIT
SKIP = "skip"


class Slot(NamedTuple):
    """A place on the longest path that there is.

    Attributes:
        label: What the parameters of the slot end in.
        layers: What can be there: (model, layer), one or several of different models.
    """

    label: str
    layers: tuple[tuple[int, int], ...]


class Visit(NamedTuple):
    """A layer that is on the path.

    Attributes:
        label: Of its slot.
        model: Number of the model.
        layer: Number of the layer in it.
    """

    label: str
    model: int
    layer: int


@dataclass(frozen=True)
class Indicators(ABC):
    """Parameters that say which layers are on the path.

    Attributes:
        depths: How many layers each model has.
        repeats: How often all layers are laid out.
        sigma: Standard deviation of a number among them in the first generation.
    """

    depths: tuple[int, ...]
    repeats: int

    sigma = 1.0

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """All places in their order."""

    @abstractmethod
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter."""

    @abstractmethod
    def start(self, taken: Mapping[str, Hop]) -> dict[str, Any]:
        """The parameters of a path whose hops are in the slots with these labels."""

    @abstractmethod
    def visits(self, params: Mapping[str, Any]) -> list[Visit]:
        """The layers that a trial has chosen, in order."""

    def places(self, hops: Sequence[Hop]) -> dict[str, Hop]:
        """The slots that a path can go through, each the first possible one, by their labels.

        Raises:
            RecipeError: If it needs more repetitions.
        """
        found: dict[str, Hop] = {}
        rest = iter(self.slots)
        for hop in hops:
            slot = next((slot for slot in rest if hop[:2] in slot.layers), None)
            if slot is None:
                raise RecipeError(
                    f"The path that a search begins with needs more than repeats={self.repeats} "
                    f"rounds through all layers: at its layer {len(found)} none is left."
                )
            found[slot.label] = hop
        return found


class Real(Indicators):
    """A number for every layer and repetition: the layer is on the path if it is above 0.

    In a repetition the layers of the first model come first, then those of the second.
    """

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(
            Slot(f"{r + 1}/{letter(model)}{layer}", ((model, layer),))
            for r in range(self.repeats)
            for model, depth in enumerate(self.depths)
            for layer in range(depth)
        )

    def distributions(self) -> dict[str, BaseDistribution]:
        return {f"on/{slot.label}": FloatDistribution(-LIMIT, LIMIT) for slot in self.slots}

    def start(self, taken: Mapping[str, Hop]) -> dict[str, Any]:
        return {
            f"on/{slot.label}": START if slot.label in taken else -START for slot in self.slots
        }

    def visits(self, params: Mapping[str, Any]) -> list[Visit]:
        return [
            Visit(slot.label, *slot.layers[0])
            for slot in self.slots
            if params[f"on/{slot.label}"] > 0
        ]


class Categorical(Indicators):
    """A choice for every depth and repetition: the layer there of one of the models, or none."""

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(
            Slot(
                f"{r + 1}/{layer}",
                tuple((m, layer) for m, depth in enumerate(self.depths) if layer < depth),
            )
            for r in range(self.repeats)
            for layer in range(max(self.depths))
        )

    def distributions(self) -> dict[str, BaseDistribution]:
        return {
            f"layer/{slot.label}": CategoricalDistribution(
                [*(letter(model) for model, _ in slot.layers), SKIP]
            )
            for slot in self.slots
        }

    def start(self, taken: Mapping[str, Hop]) -> dict[str, Any]:
        return {
            f"layer/{slot.label}": letter(taken[slot.label].model) if slot.label in taken else SKIP
            for slot in self.slots
        }

    def visits(self, params: Mapping[str, Any]) -> list[Visit]:
        chosen = ((slot, params[f"layer/{slot.label}"]) for slot in self.slots)
        return [
            Visit(slot.label, string.ascii_uppercase.index(choice), slot.layers[0][1])
            for slot, choice in chosen
            if choice != SKIP
        ]


INDICATORS: dict[str, type[Indicators]] = {"real": Real, "categorical": Categorical}
"""By the word for them."""


def letter(model: int) -> str:
    """What a model is called in paths."""
    return string.ascii_uppercase[model]
