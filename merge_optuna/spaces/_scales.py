"""How strongly a layer hands on to the next: the scales of the data-flow space.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Hop
from merge_optuna.spaces._layouts import Slot, Visit, letter

LOW, HIGH = 0.4, 1.5
_MATRIX = 12  # layers, so 144 scales


@dataclass(frozen=True)
class Scales(ABC):
    """Parameters that say what the scale of each hop is.

    Attributes:
        depths: How many layers each model has.
        slots: The places on the longest path.
        sigma: Standard deviation of each parameter in the first generation.
    """

    depths: tuple[int, ...]
    slots: tuple[Slot, ...]

    sigma = 1 / 8  # the nearer bound is four of it away from 1

    @abstractmethod
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter."""

    def needed(self, visits: Sequence[Visit]) -> list[str]:
        """Names of the parameters that a path depends on."""
        return list(self.distributions())

    def start(self, taken: Mapping[str, Hop]) -> dict[str, float]:
        """The parameters with which all scales are 1.

        Raises:
            RecipeError: If those of the hops are others.
        """
        if any(hop.scale != 1 for hop in taken.values()):
            raise RecipeError("A search begins with scales other than 1 only with scales='hop'.")
        return dict.fromkeys(self.distributions(), 1.0)

    @abstractmethod
    def values(self, params: Mapping[str, Any], visits: Sequence[Visit]) -> list[float]:
        """The scale of each layer on the path."""

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Every layer of every model, ``A0`` the first."""
        return tuple(
            f"{letter(m)}{layer}" for m, depth in enumerate(self.depths) for layer in range(depth)
        )


class NoScales(Scales):
    """All scales are 1."""

    def distributions(self) -> dict[str, BaseDistribution]:
        return {}

    def values(self, params: Mapping[str, Any], visits: Sequence[Visit]) -> list[float]:
        return [1.0] * len(visits)


class HopScales(Scales):
    """One for every slot."""

    def distributions(self) -> dict[str, BaseDistribution]:
        return {f"scale/{slot.label}": FloatDistribution(LOW, HIGH) for slot in self.slots}

    def needed(self, visits: Sequence[Visit]) -> list[str]:
        return [f"scale/{visit.label}" for visit in visits]

    def start(self, taken: Mapping[str, Hop]) -> dict[str, float]:
        scales = {label: hop.scale for label, hop in taken.items()}
        if any(not LOW <= scale <= HIGH for scale in scales.values()):
            raise RecipeError(f"The scales that a search begins with are in [{LOW}, {HIGH}].")
        return {f"scale/{slot.label}": scales.get(slot.label, 1.0) for slot in self.slots}

    def values(self, params: Mapping[str, Any], visits: Sequence[Visit]) -> list[float]:
        return [params[f"scale/{visit.label}"] for visit in visits]


@dataclass(frozen=True)
class MatrixScales(Scales):
    """One for every pair of layers, of which one follows the other; 1 for the first layer."""

    def __post_init__(self) -> None:
        if len(self.layers) > _MATRIX:
            raise RecipeError(
                f"scales='matrix' is for {_MATRIX} layers in all, and these models have "
                f"{len(self.layers)}: {len(self.layers) ** 2} scales. Use scales='hop', "
                "or 'network', whose number of parameters does not depend on the layers."
            )

    def distributions(self) -> dict[str, BaseDistribution]:
        return {
            f"scale/{one}/{other}": FloatDistribution(LOW, HIGH)
            for one in self.layers
            for other in self.layers
        }

    def values(self, params: Mapping[str, Any], visits: Sequence[Visit]) -> list[float]:
        return [1.0, *(params[name] for name in self._pairs(visits))][: len(visits)]

    def needed(self, visits: Sequence[Visit]) -> list[str]:
        return list(dict.fromkeys(self._pairs(visits)))

    def _pairs(self, visits: Sequence[Visit]) -> list[str]:
        names = [f"{letter(visit.model)}{visit.layer}" for visit in visits]
        return [f"scale/{one}/{other}" for one, other in itertools.pairwise(names)]


class NetworkScales(Scales):
    """A small network's: of the layer before, the layer, and the number of the hop.

    Its 41 weights are the parameters: three inputs in [-1, 1], eight hidden units (tanh), and an
    output that is squeezed into [0.4, 1.5], at 0 to 1.
    """

    sigma = 1.0
    _hidden = 8

    def distributions(self) -> dict[str, BaseDistribution]:
        count = 5 * self._hidden + 1
        return {f"network/{i}": FloatDistribution(-6.0, 6.0) for i in range(count)}

    def start(self, taken: Mapping[str, Hop]) -> dict[str, float]:
        return dict.fromkeys(super().start(taken), 0.0)

    def values(self, params: Mapping[str, Any], visits: Sequence[Visit]) -> list[float]:
        weights = np.array([params[name] for name in self.distributions()])
        inputs = np.reshape(weights[: 3 * self._hidden], (3, self._hidden))
        bias, outputs = np.reshape(weights[3 * self._hidden : -1], (2, self._hidden))
        numbers = [sum(self.depths[: visit.model]) + visit.layer for visit in visits]
        before = [0, *(number + 1 for number in numbers[:-1])]  # 0 is the embedding
        x = np.stack([before, numbers, np.arange(len(visits))], axis=1)
        x = 2 * x / [len(self.layers), len(self.layers), len(self.slots)] - 1
        z = np.tanh(x @ inputs + bias) @ outputs + weights[-1]
        share = 1 / (1 + np.exp(-z - math.log((1 - LOW) / (HIGH - 1))))
        return [float(w) for w in LOW + (HIGH - LOW) * share]


SCALES: dict[str, type[Scales]] = {
    "hop": HopScales,
    "matrix": MatrixScales,
    "network": NetworkScales,
    "none": NoScales,
}
"""By the word for them."""
