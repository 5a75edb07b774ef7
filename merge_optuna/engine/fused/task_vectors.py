"""Merges of task vectors: how they are made sparse, and by which consensus they are added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._arrays import Array, alike, flat, floats, part
from merge_optuna.engine._plan import Fill
from merge_optuna.engine._target import Target
from merge_optuna.engine.fused.magnitudes import (
    NOTHING,
    Bound,
    TaskVector,
    bounds,
    bounds_of_model,
    histogram_of,
)
from merge_optuna.engine.fused.pruned import Added, pruning
from merge_optuna.engine.fused.pruned import merge as merge_pruned
from merge_optuna.engine.kernels import draws
from merge_optuna.engine.kernels import task_vectors as kernels
from merge_optuna.methods import MIN_NORM, Keys, band_counts, kept_count
from merge_optuna.methods.linear import total_weight
from merge_optuna.methods.sparse import (
    Agreeing,
    Band,
    Consensus,
    Drop,
    MagPrune,
    Mean,
    Sparsifier,
    Sum,
    Trim,
    Whole,
    check_mean,
)

_FULL = 1 << 32


class TaskVectors:
    """The task vectors of one tensor to be merged.

    Attributes:
        target: The tensor.
        base: The base's, as a flat array.
        models: Those of the models, all in one data type.
        values: Of the parameters.
    """

    def __init__(self, target: Target, base: Array, models: tuple[Array, ...]) -> None:
        self.target = target
        self.base = base
        self.models = models
        self.values = target.values
        self.known = target.reader.known

    @classmethod
    def of(cls, target: Target) -> Self | None:
        """None if there are no elements, or of a type that the kernels do not know."""
        base, models = flat(target.inputs[0]), alike(target.inputs[1:])
        if base is None or models is None or not base.size:
            return None
        return cls(target, base, models)

    def vector(self, model: int) -> TaskVector:
        """The task vector of one model, with its histogram."""
        base, theta = self.base, self.models[model]
        found = self.target.once("histogram", lambda: histogram_of(base, theta), model=model)
        return TaskVector(base, theta, found)

    def mask_keys(self) -> list[int]:
        """Keys of the random masks of every model."""
        keys: list[int] = Keys().arguments(self.target)["keys"]
        return keys


# -- consensus ----------------------------------------------------------------------------------


def summed(values: Mapping[str, Any]) -> Added:
    """All entries, by weights that are divided by their sum where they are normalised."""
    total = total_weight(values["weight"]) if values["normalize"] else 1.0
    weight = floats([w / total for w in values["weight"]])
    return weight, np.float32(values["lambda_"]), kernels.SUM, False


def agreeing(values: Mapping[str, Any]) -> Added:
    """The entries of the elected sign; their mean where normalised."""
    if values["normalize"]:
        check_mean(values["weight"])
    mode = kernels.MEAN if values["normalize"] else kernels.AGREEING
    weight, scale = floats(values["weight"]), np.float32(values["lambda_"])
    return weight, scale, mode, values["elect"] == "count"


# -- what is kept -------------------------------------------------------------------------------


def dense(vectors: TaskVectors, added: Added) -> Fill:
    """All entries, for a sum."""
    base, models, (weight, scale, *_) = vectors.base, vectors.models, added

    def fill(out: Array, first: int) -> None:
        inputs = part((base, *models), first, out.size)
        kernels.task_vectors(out, inputs[0], inputs[1:], weight, scale)

    return fill


def trimmed(vectors: TaskVectors, added: Added) -> Fill | None:
    """The largest of each model, in the tensor or in the whole model."""
    bound = _in_tensor if vectors.values["trim_over"] == "tensor" else _in_model
    found = [bound(vectors, i, density) for i, density in enumerate(vectors.values["density"])]
    if None in found:
        return None
    return _between(vectors, added, [(one, NOTHING) for one in found if one])


def _in_tensor(vectors: TaskVectors, model: int, density: float) -> Bound:
    vector = vectors.vector(model)
    return bounds([vector], kept_count(vector.model.size, density))[0]


def _in_model(vectors: TaskVectors, model: int, density: float) -> Bound | None:
    recipe = vectors.target.recipe
    base, expert = recipe.seen[0], recipe.seen[1 + model]
    if not (isinstance(base, Checkpoint) and isinstance(expert, Checkpoint)):
        return None
    names = recipe.alignment.layout.names
    found = bounds_of_model(base, expert, names, density, vectors.known)
    return None if found is None else found[vectors.target.name]


def banded(vectors: TaskVectors, added: Added) -> Fill | None:
    """All but the largest and the smallest of each model."""
    values = vectors.values
    if values["rescale"] != "none":
        return None
    kept = []
    for i, (density, gamma) in enumerate(zip(values["density"], values["gamma"], strict=True)):
        vector = vectors.vector(i)
        skip, keep = band_counts(vector.model.size, density, gamma)
        kept.append((bounds([vector], skip + keep)[0], bounds([vector], skip)[0]))
    return _between(vectors, added, kept)


def _between(vectors: TaskVectors, added: Added, kept: list[tuple[Bound, Bound]]) -> Fill:
    """Of each model what the first of its bounds keeps and the second does not."""
    threshold = floats([[one.threshold for one in both] for both in zip(*kept, strict=True)])
    below = np.nextafter(threshold, np.float32(-math.inf))
    last = np.array([[one.last for one in both] for both in zip(*kept, strict=True)], np.int64)
    return _masked(kernels.trimmed, vectors, added, threshold, below, last)


def dropped(vectors: TaskVectors, added: Added) -> Fill:
    """A random share of each model."""
    keys = np.array(vectors.mask_keys(), np.uint64)
    limits = [round(density * _FULL) for density in vectors.values["density"]]
    # Nothing is at most -1: such a model is kept at random and then multiplied by 0.
    largest = np.array([max(limit - 1, 0) for limit in limits], np.uint32)
    factors = floats([_rescale(vectors, i, keys[i], limit) for i, limit in enumerate(limits)])
    return _masked(kernels.dropped, vectors, added, keys, largest, factors)


def _rescale(vectors: TaskVectors, model: int, key: Any, limit: int) -> float:
    """What the kept entries are multiplied by (see ``methods.sparse.Drop``)."""
    size, how = vectors.models[model].size, vectors.values["rescale"]
    if limit == 0:
        return 0.0
    if limit == _FULL or how == "none":
        return 1.0
    largest = np.uint32(limit - 1)
    if how == "l1":
        return _rescale_l1(vectors, model, key, largest)
    kept = vectors.known.last(
        ("kept", int(key), size), limit, lambda: draws.kept(key, size, largest)
    )
    return size / kept if kept else 0.0


def _rescale_l1(vectors: TaskVectors, model: int, key: Any, largest: np.uint32) -> float:
    base, theta = vectors.base, vectors.models[model]
    everything = np.uint32(_FULL - 1)
    norm = vectors.target.once(
        "l1", lambda: draws.norm(base, theta, np.uint64(0), everything), model=model
    )
    kept: float = draws.norm(base, theta, key, largest)
    return norm / kept if kept >= MIN_NORM else 1.0


def _masked(
    kernel: Callable[..., None], vectors: TaskVectors, added: Added, *masks: Array
) -> Fill:
    base, models = vectors.base, vectors.models

    def fill(out: Array, first: int) -> None:
        inputs = part((base, *models), first, out.size)
        kernel(out, inputs[0], inputs[1:], first, added, *masks)

    return fill


def pruned(vectors: TaskVectors, added: Added) -> Fill:
    """A random share of each row of each model, the larger entries the likelier."""
    base, models, values = vectors.base, vectors.models, vectors.values
    shape = vectors.target.inputs[0].shape
    row = base.size // (shape[0] if len(shape) > 1 else 1)
    prunings = [
        pruning(base, model, row, density, epsilon, key, values["rescale"])
        for model, density, epsilon, key in zip(
            models, values["density"], values["epsilon"], vectors.mask_keys(), strict=True
        )
    ]

    def fill(out: Array, first: int) -> None:
        merge_pruned(out, first, base, models, row, prunings, added)

    return fill


_KEPT: dict[type[Sparsifier], Callable[[TaskVectors, Added], Fill | None]] = {
    Whole: dense,
    Trim: trimmed,
    Band: banded,
    Drop: dropped,
    MagPrune: pruned,
}
_ADDED: dict[type[Consensus], Callable[[Mapping[str, Any]], Added]] = {
    Sum: summed,
    Agreeing: agreeing,
    Mean: agreeing,
}


def sparse(target: Target) -> Fill | None:
    """For rows of the table of methods on sparse task vectors."""
    kernel: Any = target.recipe.spec.kernel
    vectors = TaskVectors.of(target)
    if vectors is None:
        return None
    consensus = _ADDED[type(kernel.consensus)](target.values)
    return _KEPT[type(kernel.sparsifier)](vectors, consensus)
