"""How the models of a recipe make up one model: laid over each other, stacked, or gone through."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from merge_optuna.checkpoints import Checkpoint, LayerStore, ModuleOfModel, StackStore, model_dtype
from merge_optuna.errors import RecipeError
from merge_optuna.recipes._alignment import Alignment, align
from merge_optuna.recipes._belonging import check_configs, check_vocabularies
from merge_optuna.recipes.groups import Layout
from merge_optuna.recipes.route import check_fit, pieces

if TYPE_CHECKING:
    import torch

    from merge_optuna.recipes._tree import Recipe


class Structure(Protocol):
    """Which tensors a merged model has, and of which tensors each is made.

    Attributes:
        frame: The names, shapes and data types of the tensors, config and folder.
        alignment: Which tensors are merged.
        layouts: For each model the tensors, by its own names, that a value of it is about.
    """

    @property
    def frame(self) -> Checkpoint: ...

    @property
    def alignment(self) -> Alignment: ...

    @property
    def layouts(self) -> tuple[Layout, ...]: ...

    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        """The models that a tensor is made of, each with the tensor's name there."""

    def arguments_at(self, name: str) -> dict[str, Any]:
        """What the kernel is told of a tensor beside the parameters."""


def frame_of(source: Checkpoint | Recipe) -> Checkpoint:
    """The frame of a source."""
    return source if isinstance(source, Checkpoint) else source.frame


class Overlay:
    """Every tensor is made of those of the same name in all sources."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    @property
    def frame(self) -> Checkpoint:
        """That of the base, or of the first model."""
        return frame_of(self._recipe.sources[0])

    @property
    def alignment(self) -> Alignment:
        first, *others = (frame_of(source) for source in self._recipe.sources)
        return align(first, tuple(others), self._recipe.exclude)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        return (self._recipe.alignment.layout,) * len(self._recipe.models)

    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        return tuple((i, name) for i in range(len(self._recipe.models)))

    def arguments_at(self, name: str) -> dict[str, Any]:
        return {}


class Stack:
    """The layers of the models one after the other; every tensor is made of one."""

    def __init__(self, recipe: Recipe) -> None:
        if recipe.exclude:
            raise RecipeError("passthrough leaves nothing out: exclude= is for merges.")
        self._recipe = recipe
        self._parts = tuple(frame_of(model) for model in recipe.models)

    @cached_property
    def _store(self) -> StackStore:
        return StackStore([p.store for p in self._parts], [p.name for p in self._parts])

    @property
    def frame(self) -> Checkpoint:
        """The first model, with the layers of all and the head of the last."""
        digests = "".join(f"{part.digest}{part.layer_range}" for part in self._parts)
        return self._parts[0].holding(
            self._store,
            name="+".join(part.name for part in self._parts),
            digest=hashlib.blake2b(digests.encode(), digest_size=16).hexdigest(),
        )

    @property
    def alignment(self) -> Alignment:
        first, *others = self._parts
        check_configs(first, others, stacked=True)
        check_vocabularies(first, others[-1:], first.names())
        return align(self._recipe.frame, (), ())

    @property
    def layouts(self) -> tuple[Layout, ...]:
        names: list[list[str]] = [[] for _ in self._parts]
        for i, own in self._store.origins.values():
            names[i].append(own)
        return tuple(Layout(tuple(own)) for own in names)

    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        return (self._store.origins[name],)

    def arguments_at(self, name: str) -> dict[str, Any]:
        return {}


class Chain:
    """The layers of a path between an embedding and a head; every tensor is made of one.

    Attributes:
        pieces: What the path is made of.
    """

    def __init__(self, recipe: Recipe) -> None:
        if recipe.exclude:
            raise RecipeError("path leaves nothing out: exclude= is for merges.")
        assert recipe.path is not None
        self._recipe, self._path = recipe, recipe.path
        self._models = tuple(frame_of(model) for model in recipe.models)
        self._path.check(recipe.model_names, [model.depth for model in self._models])
        check_fit(self._path, self._models)
        self.pieces = pieces(self._path, self._models)

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

    @property
    def frame(self) -> Checkpoint:
        """The model of the embedding, with the layers of the path and the head of another."""
        first = self._models[self._path.embeddings_from]
        around, store = first.store, self._store
        content = around.holding(store) if isinstance(around, ModuleOfModel) else store
        names = "+".join(self._recipe.model_names)
        return first.holding(content, name=f"path({names})", digest=self._recipe.digest)

    @property
    def alignment(self) -> Alignment:
        return align(self._recipe.frame, (), ())

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        names: list[dict[str, None]] = [{} for _ in self._models]
        for name in self._store.origins:
            [(i, own)] = self.models_at(name)
            names[i][own] = None
        return tuple(Layout(tuple(own)) for own in names)

    def models_at(self, name: str) -> tuple[tuple[int, str], ...]:
        i, own = self._store.origins[name]
        part = self.parts[i].store
        assert isinstance(part, LayerStore)
        return ((self.pieces[i].model, part.names[own]),)

    def arguments_at(self, name: str) -> dict[str, Any]:
        i, own = self._store.origins[name]
        return {"factor": self.pieces[i].factor(own)}


def structure_of(recipe: Recipe) -> Structure:
    """How the sources of a recipe make up the merged model."""
    if recipe.path is not None:
        return Chain(recipe)
    return Stack(recipe) if recipe.method == "passthrough" else Overlay(recipe)
