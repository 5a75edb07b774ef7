"""Which layers a trial puts on its path: the layouts of the data-flow space.

Akiba et al.: Evolutionary Optimization of Model Merging Recipes, arXiv 2403.13187, §3.2.
"""

from __future__ import annotations

import math
import string
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Hop
from merge_optuna.spaces._prior import LayerPrior

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
class Odds:
    """How probable the choices of a slot are in the first generation.

    Attributes:
        keep: The layer that the path a search begins with has there.
        drop: None where it has one.
        insert: Any layer where it has none.
        prior: What is known of the layers: one that changes little is dropped more easily, and
            the layers of a model whose stream is like that of the first are taken more easily.
    """

    keep: float = 0.6
    drop: float = 0.05
    insert: float = 0.08
    prior: LayerPrior | None = None

    def __post_init__(self) -> None:
        for name in ("keep", "drop", "insert"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value < 1:
                raise RecipeError(f"{name} must be a probability between 0 and 1, not {value!r}.")
            object.__setattr__(self, name, float(value))
        if self.keep + self.drop >= 1:
            raise RecipeError(
                f"keep={self.keep} and drop={self.drop} leave nothing to the layers of the other "
                "models: their sum must be below 1."
            )

    def row(self, slot: Slot, kept: Hop | None) -> tuple[float, ...]:
        """The probability of each layer of a slot and of none, with what the path has there."""
        models = [model for model, _ in slot.layers]
        if kept is None:
            return (*[self.insert / len(models)] * len(models), 1 - self.insert)
        others = len(models) - 1
        keep = self.keep if others else 1 - self.drop
        switch = (1 - keep - self.drop) / max(others, 1)
        row = [keep if model == kept.model else switch for model in models]
        return tuple(self._informed([*row, self.drop], slot, kept))

    def _informed(self, row: list[float], slot: Slot, kept: Hop) -> list[float]:
        """With what is known of the layers."""
        if self.prior is None:
            return row
        weights = [
            p * (1.0 if model == kept.model else self.prior.likeness(model, layer))
            for p, (model, layer) in zip(row, slot.layers, strict=False)
        ]
        weights.append(row[-1] * self.prior.idleness(kept.model, kept.layer))
        return [weight / sum(weights) for weight in weights]


@dataclass(frozen=True)
class Layout(ABC):
    """Parameters that say which layers are on the path.

    Attributes:
        depths: How many layers each model has.
        repeats: How often all layers are laid out.
        begin: The layers of the path that a search begins with.
        odds: First probabilities of choices.
        sigma: Standard deviation of a number among them in the first generation.
        absent_scales: Whether layers that are not on the path have scales, too.
    """

    depths: tuple[int, ...]
    repeats: int
    begin: tuple[Hop, ...]
    odds: Odds

    sigma: ClassVar[float] = 1.0
    absent_scales: ClassVar[bool] = False

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """All places in their order."""

    @abstractmethod
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every parameter."""

    @abstractmethod
    def start(self) -> dict[str, Any]:
        """The parameters of the path that a search begins with."""

    @abstractmethod
    def visits(self, params: Mapping[str, Any]) -> list[Visit]:
        """The layers that a trial has chosen, in order."""

    def probabilities(self) -> dict[str, tuple[float, ...]]:
        """The first probabilities of every categorical parameter."""
        return {}

    def scale_sigmas(self, prior: LayerPrior, sigmas: Mapping[str, float]) -> dict[str, float]:
        """Spreads of the scales by hop: the wider, the less the layer of the path changes."""
        return {
            name: sigmas[name] * math.sqrt(prior.idleness(*hop[:2]))
            for label, hop in self.taken.items()
            if (name := f"scale/{label}") in sigmas
        }

    @cached_property
    def taken(self) -> dict[str, Hop]:
        """The slots that the first path goes through, each the first possible one, by label.

        Raises:
            RecipeError: If it needs more repetitions.
        """
        found: dict[str, Hop] = {}
        rest = iter(self.slots)
        for hop in self.begin:
            slot = next((slot for slot in rest if hop[:2] in slot.layers), None)
            if slot is None:
                raise RecipeError(
                    f"The path that a search begins with needs more than repeats={self.repeats} "
                    f"rounds through all layers: at its layer {len(found)} none is left."
                )
            found[slot.label] = hop
        return found


class DepthLayout(Layout):
    """A choice for every depth and repetition: the layer there of one of the models, or none."""

    prefix: ClassVar[str] = "on"

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
            self._name(slot): CategoricalDistribution(
                [*(letter(model) for model, _ in slot.layers), SKIP]
            )
            for slot in self.slots
        }

    def start(self) -> dict[str, Any]:
        taken = self.taken
        return {
            self._name(slot): letter(taken[slot.label].model) if slot.label in taken else SKIP
            for slot in self.slots
        }

    def visits(self, params: Mapping[str, Any]) -> list[Visit]:
        chosen = ((slot, params[self._name(slot)]) for slot in self.slots)
        return [
            Visit(slot.label, string.ascii_uppercase.index(choice), slot.layers[0][1])
            for slot, choice in chosen
            if choice != SKIP
        ]

    def probabilities(self) -> dict[str, tuple[float, ...]]:
        return {self._name(s): self.odds.row(s, self.taken.get(s.label)) for s in self.slots}

    def _name(self, slot: Slot) -> str:
        return f"{self.prefix}/{slot.label}"


class FormerDepthLayout(DepthLayout):
    """As the choices were stored before they were the default."""

    prefix = "layer"
    absent_scales = True


class PaperLayout(Layout):
    """A number for every layer and repetition: the layer is on the path if it is above 0.

    In a repetition the layers of the first model come first, then those of the second.
    """

    absent_scales = True

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

    def start(self) -> dict[str, Any]:
        taken = self.taken
        return {f"on/{s.label}": START if s.label in taken else -START for s in self.slots}

    def visits(self, params: Mapping[str, Any]) -> list[Visit]:
        return [
            Visit(slot.label, *slot.layers[0])
            for slot in self.slots
            if params[f"on/{slot.label}"] > 0
        ]


class FixedLayout(Layout):
    """The path that a search begins with stays: blocks are put into it."""

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(Slot(f"1/{i}", (hop[:2],)) for i, hop in enumerate(self.begin))

    def distributions(self) -> dict[str, BaseDistribution]:
        return {}

    def start(self) -> dict[str, Any]:
        return {}

    def visits(self, params: Mapping[str, Any]) -> list[Visit]:
        return [Visit(slot.label, *slot.layers[0]) for slot in self.slots]


LAYOUTS: dict[str, type[Layout]] = {
    "depth": DepthLayout,
    "paper": PaperLayout,
    "blocks": FixedLayout,
    "former": FormerDepthLayout,
}
"""By the word for them; the last is not for new searches."""


def renewed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a declaration that was stored when indicators were one of them."""
    former = dict(options)
    words = {"real": "paper", "categorical": "former"}
    if (word := words.get(former.pop("indicators", ""))) is None:
        return dict(options)
    odds = Odds()
    probabilities = {"keep": odds.keep, "drop": odds.drop, "insert": odds.insert}
    return {**former, "layout": word, "blocks": 0, **probabilities, "prior": None}


def letter(model: int) -> str:
    """What a model is called in paths."""
    return string.ascii_uppercase[model]
