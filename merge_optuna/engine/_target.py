"""One tensor of a merged model, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from merge_optuna.engine._arrays import Inputs, widened
from merge_optuna.engine._frame import Source
from merge_optuna.engine._known import Known, key_of
from merge_optuna.engine._plan import Plan
from merge_optuna.errors import RecipeError
from merge_optuna.methods import Individual, Part
from merge_optuna.recipes import Recipe

T = TypeVar("T")


class Reader(Protocol):
    """What gives tensors of sources.

    Attributes:
        compute: Data type of the computation.
        known: What is known of the sources.
    """

    compute: torch.dtype
    known: Known

    @property
    def plain(self) -> Reader:
        """The same by the plain path, for what is asked about whole models."""

    def plan(self, source: Source, name: str) -> Plan:
        """How to get a tensor of a source."""

    def inputs(self, recipe: Recipe, name: str) -> Inputs:
        """That tensor of every source from which one of the recipe is merged."""


class Target:
    """One tensor to be merged.

    Attributes:
        recipe: A recipe without free numbers.
        name: Of a merged tensor.
        reader: What gives tensors of the sources.
    """

    def __init__(self, recipe: Recipe, name: str, reader: Reader) -> None:
        self.recipe = recipe
        self.name = name
        self.reader = reader

    @cached_property
    def inputs(self) -> Inputs:
        """The whole tensors that it is merged from, base first, as stored or computed."""
        return self.reader.inputs(self.recipe, self.name)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The values of the method's parameters for it."""
        return self.recipe.values_at(self.name)

    def readable(self, sources: Iterable[tuple[Source, str]]) -> list[Plan] | None:
        """How to read tensors part by part; None if the kernels do not know the type of one."""
        plans = []
        for source, name in sources:
            plan = self.reader.plan(source, name)
            if not plan.readable:
                return None
            plans.append(plan)
        return plans

    def merged(self) -> Tensor:
        """What the method's own kernel makes of it.

        Raises:
            RecipeError: If the kernel returns something else than such a tensor.
        """
        merged = self.recipe.spec.kernel(self.base, self.models, **self.arguments())
        if not isinstance(merged, torch.Tensor) or merged.shape != self.models[0].shape:
            found = f"{tuple(merged.shape)}" if isinstance(merged, torch.Tensor) else repr(merged)
            raise RecipeError(
                f"The kernel of {self.recipe.method} must return a tensor of the shape of its "
                f"models, {tuple(self.models[0].shape)}, for {self.name!r}, not {found}."
            )
        return merged

    def arguments(self) -> dict[str, Any]:
        """All keyword arguments of the method's kernel."""
        found = dict(self.values)
        for need in self.recipe.spec.needs:
            found |= need.arguments(self)
        return found

    # -- what needs see: methods.Context ------------------------------------------------------

    @cached_property
    def exact(self) -> list[Tensor]:
        """The inputs in the data type of the computation."""
        return widened(self.inputs, self.reader.compute)

    @property
    def base(self) -> Tensor | None:
        return None if self.recipe.base is None else self.exact[0]

    @property
    def models(self) -> list[Tensor]:
        return self.exact if self.recipe.base is None else self.exact[1:]

    @property
    def model_names(self) -> tuple[str, ...]:
        return self.recipe.model_names

    @property
    def layers(self) -> Mapping[str, str]:
        return self.recipe.alignment.layout.layers

    @cached_property
    def statistics(self) -> list[Tensor | None]:
        device = self.inputs[0].device
        found = self.recipe.statistics_at(self.name)
        return [None if one is None else one.to(device) for one in found]

    @property
    def individual(self) -> Individual | None:
        return self.recipe.individual

    @property
    def part(self) -> Part:
        return self.recipe.parts[self.name]

    def once(self, key: Hashable, compute: Callable[[], T], *, model: int | None = None) -> T:
        return self.reader.known.once(key_of(key, self.name, *self._sources(model)), compute)

    def once_per_model(self, key: Hashable, model: int, compute: Callable[[], T]) -> T:
        layout = self.recipe.alignment.layout
        return self.reader.known.whole((key, layout, *self._sources(model)), compute)

    def deltas(self, model: int) -> Iterator[tuple[str, Tensor]]:
        base, theta = self._sources(model)
        plain = self.reader.plain
        for name in self.recipe.alignment.layout.names:
            tensors = [plain.plan(source, name).exact() for source in (theta, base)]
            yield name, torch.sub(*widened(tensors))

    def _sources(self, model: int | None) -> tuple[Source, ...]:
        """The base, if there is one, and a model or all."""
        recipe = self.recipe
        if model is None:
            return recipe.seen
        base = () if recipe.base is None else recipe.seen[:1]
        return (*base, recipe.seen[len(base) + model])
