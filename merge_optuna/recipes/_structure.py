"""How the models of a recipe make up one model: laid over each other, stacked, or gone through."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from merge_optuna.checkpoints import Checkpoint, LayerStore, ModuleOfModel, StackStore, model_dtype
from merge_optuna.methods import Part
from merge_optuna.recipes._alignment import Alignment, align
from merge_optuna.recipes._belonging import check_configs, check_vocabularies
from merge_optuna.recipes.groups import Layout
from merge_optuna.recipes.route import Route, check_fit, pieces

if TYPE_CHECKING:
    import torch


class Structure(ABC):
    """Which tensors a merged model has, and of which tensors each is made."""

    @cached_property
    @abstractmethod
    def frame(self) -> Checkpoint:
        """The names, shapes and data types of the tensors, config and folder."""

    @cached_property
    @abstractmethod
    def alignment(self) -> Alignment:
        """Which tensors are merged."""

    @cached_property
    @abstractmethod
    def layouts(self) -> tuple[Layout, ...]:
        """For each model the tensors, by its own names, that a value of it is about."""

    @abstractmethod
    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        """The models that a tensor is made of, each with the tensor's name there."""

    def arguments_at(self, name: str) -> dict[str, Any]:
        """What the kernel is told of a tensor beside the parameters."""
        return {}


class Overlay(Structure):
    """Every tensor is made of those of the same name in all sources."""

    def __init__(self, sources: tuple[Checkpoint, ...], models: int, exclude: tuple[str, ...]):
        self._sources, self._models, self._exclude = sources, range(models), exclude

    @cached_property
    def frame(self) -> Checkpoint:
        """That of the base, or of the first model."""
        return self._sources[0]

    @cached_property
    def alignment(self) -> Alignment:
        return align(self.frame, self._sources[1:], self._exclude)

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        return tuple(self.alignment.layout for _ in self._models)

    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        return tuple((i, name) for i in self._models)


class _Layers(Structure):
    """Layers one after the other; every tensor is made of one."""

    _models: Sequence[Checkpoint]

    @cached_property
    @abstractmethod
    def _store(self) -> StackStore:
        """The layers, with what is before and behind them."""

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        names: list[dict[str, None]] = [{} for _ in self._models]
        for name in self._store.origins:
            [(i, own)] = self.models_at(name)
            names[i][own] = None  # the same layer may come again
        return tuple(Layout(tuple(own)) for own in names)


class Stack(_Layers):
    """The layers of the models one after the other."""

    def __init__(self, models: Sequence[Checkpoint]):
        self._models = models

    @cached_property
    def _store(self) -> StackStore:
        return StackStore([m.store for m in self._models], [m.name for m in self._models])

    @cached_property
    def frame(self) -> Checkpoint:
        """The first model, with the layers of all and the head of the last."""
        digests = "".join(f"{one.digest}{one.layer_range}" for one in self._models)
        return self._models[0].holding(
            self._store,
            name="+".join(one.name for one in self._models),
            digest=hashlib.blake2b(digests.encode(), digest_size=16).hexdigest(),
        )

    @cached_property
    def alignment(self) -> Alignment:
        first, *others = self._models
        check_configs(first, others, stacked=True)
        check_vocabularies(first, others[-1:], first.names())
        return align(self.frame, (), ())

    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        return (self._store.origins[name],)


class Chain(_Layers):
    """The layers of a route between an embedding and a head; every tensor is made of one.

    Attributes:
        pieces: What the route is made of.
    """

    def __init__(
        self, models: Sequence[Checkpoint], names: Sequence[str], route: Route, digest: str
    ):
        self._models, self._names, self._route, self._digest = models, names, route, digest
        route.check(names, [model.depth for model in models])
        check_fit(route, models)
        self.pieces = pieces(route, models)

    @cached_property
    def parts(self) -> tuple[Checkpoint, ...]:
        """The layers of each piece."""
        return tuple(self._models[p.model].layers(p.start, p.stop) for p in self.pieces)

    @cached_property
    def _store(self) -> StackStore:
        names = [part.name for part in self.parts]
        return StackStore([part.store for part in self.parts], names, self._dtype)

    @property
    def _dtype(self) -> torch.dtype | None:
        """That of the first model if others have another: they would be mixed in one file."""
        found = [model_dtype(model.config, model.store.specs()) for model in self._models]
        return found[0] if len(set(found)) > 1 else None

    @cached_property
    def frame(self) -> Checkpoint:
        """The model of the embedding, with the layers of the route and the head of another."""
        first = self._models[self._route.embeddings_from]
        around, store = first.store, self._store
        content = around.holding(store) if isinstance(around, ModuleOfModel) else store
        name = f"path({'+'.join(self._names)})"
        return first.holding(content, name=name, digest=self._digest)

    @cached_property
    def alignment(self) -> Alignment:
        return align(self.frame, (), ())

    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        i, own = self._store.origins[name]
        part = self.parts[i].store
        assert isinstance(part, LayerStore)
        return ((self.pieces[i].model, part.names[own]),)

    def arguments_at(self, name: str) -> dict[str, Any]:
        i, own = self._store.origins[name]
        return {"factor": self.pieces[i].factor(own)}


def parts_of(layout: Layout, frame: Checkpoint) -> dict[str, Part]:
    """Where each merged tensor is in the flat model: all elements that are merged.

    The tensors come from input to output: by layer group, in each as the checkpoint has them.
    """
    place = {label: i for i, label in enumerate(layout.order)}
    found, offset = {}, 0
    for name in sorted(layout.names, key=lambda name: place[layout.layers[name]]):
        shape = frame.shape(name)
        size = math.prod(shape)
        row = size // shape[0] if len(shape) > 1 and size else max(size, 1)
        found[name] = Part(name, layout.layers[name], offset, size, row)
        offset += size
    return found
