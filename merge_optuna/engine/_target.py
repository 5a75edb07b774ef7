"""One tensor of a merged model, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import cached_property
from typing import Any, Protocol

import torch

from merge_optuna.engine._arrays import Inputs
from merge_optuna.engine._frame import Source
from merge_optuna.engine._known import Known
from merge_optuna.engine._plan import Plan
from merge_optuna.recipes import Recipe


class Reader(Protocol):
    """What gives tensors of sources.

    Attributes:
        device: Where to compute.
        known: What is known of the sources.
    """

    device: torch.device
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

    def of_model(self, what: str, model: int, asked: Hashable, compute: Callable[[], Any]) -> Any:
        """What is asked about the task vectors of a whole model, computed once per study."""
        key = what, self.recipe.sources[0], self.recipe.models[model], asked
        return self.reader.known.whole(key, compute)
