"""A bounded cache of the weights of individuals that are parents."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import Merger
from merge_optuna.errors import RecipeError, StorageError
from merge_optuna.methods.descent import Ancestor, Descent, Operation
from merge_optuna.recipes import Recipe

_SUFFIX = ".individual"


def evolving(
    models: Sequence[Checkpoint | Recipe],
    exclude: Sequence[str],
    config: str | None,
    *,
    coefficients: bool = False,
) -> Recipe:
    """The recipe of models of which evolution makes individuals: that of the first of them.

    Args:
        models: What it starts from.
        exclude: See :class:`Recipe`.
        config: See there.
        coefficients: Whether individuals are combinations of the models, by segments; else they
            are known by their ancestors.
    """
    combination = [0, 1.0, *[0.0] * (len(models) - 1)]
    return Recipe(
        method="splice" if coefficients else "descent",
        models=tuple(models),
        individual=[combination if coefficients else {"model": 0}],
        exclude=tuple([exclude] if isinstance(exclude, str) else exclude),
        config=config,
    )


class Ancestors:
    """The individuals of some models: each is one object, and the last parents keep their weights.

    Weights are kept in float32, and not at all if a model has float64. Nothing depends on what is
    kept: what is not is computed again from what is, and in the end from the models.

    Args:
        recipe: Of the models that they descend from.
        cache_bytes: How many bytes of weights to keep.
        folder: Where to keep them; in memory when omitted.

    Raises:
        RecipeError: If the number of bytes is negative.
        StorageError: If the folder cannot be written to.

    Attributes:
        models: The individuals that are models, by their names.
    """

    def __init__(self, recipe: Recipe, cache_bytes: int, folder: str | Path | None) -> None:
        if cache_bytes < 0:
            raise RecipeError(f"cache_bytes must not be negative, but is {cache_bytes}.")
        self._recipe = recipe
        self._budget = 0 if _has_float64(recipe) else cache_bytes
        self._folder = None if folder is None else _writable(Path(folder))
        self._merger = Merger()
        self._alive: WeakValueDictionary[bytes, Ancestor] = WeakValueDictionary()
        self._kept: OrderedDict[Ancestor, None] = OrderedDict()
        self.models = {
            name: self._one(Ancestor(None, model=i)) for i, name in enumerate(recipe.model_names)
        }

    @property
    def nbytes(self) -> int:
        """Bytes of weights that are kept."""
        return len(self._kept) * self._bytes_of_one

    def child(self, operation: Operation, parents: Sequence[Ancestor]) -> Ancestor:
        """The child of some individuals, whose weights are kept from now on if there is room."""
        for parent in parents:
            self._keep(parent)
        return self._one(Ancestor(operation, parents))

    def recipe(self, one: Ancestor) -> Recipe:
        """The recipe of an individual."""
        return self._recipe.with_individual(Descent(one))

    def tensor(self, one: Ancestor, name: str) -> Tensor:
        """A tensor of an individual, float32 (or as stored for a model)."""
        if one.weights is not None:
            return one.weights[name]
        if one.operation is None:
            return self._merger.exact(*self._recipe.inputs_at(name)[one.model])
        return self._merger.exact(self.recipe(one), name)

    def keep(self, ones: Iterable[Ancestor]) -> None:
        """Keep the weights of these as long as there is room, in place of older ones."""
        for one in ones:
            self._keep(one)

    def _one(self, made: Ancestor) -> Ancestor:
        return self._alive.setdefault(made.digest, made)

    @property
    def _bytes_of_one(self) -> int:
        return 4 * self._recipe.flat_size

    def _keep(self, one: Ancestor) -> None:
        if one.operation is None or self._bytes_of_one > self._budget:
            return
        if one.weights is None:
            while self.nbytes + self._bytes_of_one > self._budget:
                self._forget_oldest()
            one.weights = self._weights(one)
            if one.weights is None:
                return
        self._kept[one] = None
        self._kept.move_to_end(one)

    def _forget_oldest(self) -> None:
        oldest, _ = self._kept.popitem(last=False)
        if isinstance(oldest.weights, _Stored):
            oldest.weights.forget()
        oldest.weights = None

    def _weights(self, one: Ancestor) -> Mapping[str, Tensor] | None:
        path = None if self._folder is None else self._folder / f"{self._name(one)}{_SUFFIX}"
        if path is not None and path.is_file():
            return _Stored(path)
        recipe = self.recipe(one)
        found = {name: self._whole(recipe, name) for name in self._recipe.parts}
        if path is None:
            return found
        try:
            return _Stored.write(path, found)
        except (OSError, SafetensorError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC or "space" in str(error)
            warnings.warn(
                f"The weights of parents cannot be kept in {str(self._folder)!r} any more: "
                f"{'it is full' if full else error}. The search goes on and computes them anew "
                "for each child, which is slower. Make room, or choose another cache_folder or a "
                "smaller cache_bytes, and start it again.",
                stacklevel=2,
            )
            self._budget = self.nbytes
            return None

    def _whole(self, recipe: Recipe, name: str) -> Tensor:
        whole = torch.empty(self._recipe.frame.shape(name), dtype=torch.float32)
        self._merger.write_into(whole, recipe, name, torch.float32)
        return whole

    def _name(self, one: Ancestor) -> str:
        """Of a file: the individual and the models that it descends from."""
        models = "".join(model.digest for model in self._recipe.models)
        models += "".join(self._recipe.exclude)
        return hashlib.blake2b(one.digest + models.encode(), digest_size=16).hexdigest()


class _Stored(Mapping[str, Tensor]):
    """Weights in a file, mapped when they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = safe_open(path, "pt")

    @classmethod
    def write(cls, path: Path, weights: Mapping[str, Tensor]) -> _Stored:
        """Writes the file at once or not at all."""
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".")
        os.close(handle)
        try:
            save_file(dict(weights), unfinished)
            Path(unfinished).replace(path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        return cls(path)

    def forget(self) -> None:
        """Removes the file; other processes that have it open keep it."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())


def _has_float64(recipe: Recipe) -> bool:
    """Whether individuals are computed in float64."""
    return any(
        leaf.dtype(name) == torch.float64 for leaf in recipe.leaves() for name in leaf.names()
    )


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise StorageError(
            f"cache_folder {str(folder)!r} cannot be written to: {error.strerror}. Choose another "
            "one, or leave it out to keep the weights of parents in memory."
        ) from error
