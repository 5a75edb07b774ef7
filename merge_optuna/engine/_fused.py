"""Which merges the fused kernels do, and with what arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import _kernels as kernels
from merge_optuna.engine._arrays import Array, alike, flat, floats, part, tensor_of
from merge_optuna.engine._pruned import merge as merge_pruned
from merge_optuna.engine._pruned import pruning
from merge_optuna.engine._statistics import NOWHERE, Place, Statistics, TaskVector, key_of, places
from merge_optuna.methods import mask_key
from merge_optuna.methods._sparsify import MIN_NORM, band_counts, kept_count
from merge_optuna.methods.linear import linear_terms, total_weight
from merge_optuna.methods.sparse import check_mean

if TYPE_CHECKING:
    from torch import Tensor

    from merge_optuna.recipes import Recipe

Fill = Callable[[Array, int], None]
"""``fill(out, first)`` writes the merged elements from the even flat index ``first`` on."""

_FULL = 1 << 32
_CHUNK = 1 << 15  # elements, few enough that torch uses one thread


def fused(
    recipe: Recipe, name: str, inputs: Sequence[Tensor], statistics: Statistics
) -> Fill | None:
    """How to merge one tensor in one pass, or None if only the plain path can.

    What must be known of whole tensors – thresholds, kept counts, Gram matrices – is found here.

    Args:
        recipe: A recipe without free numbers.
        name: Of a merged tensor.
        inputs: The tensors of ``recipe.sources``.
        statistics: What is known of the sources already.

    Raises:
        InfeasibleRecipe: If the values have no well-defined result.
    """
    if not has_kernel(recipe) or inputs[0].numel() == 0:
        return None
    values, prepare = recipe.values_at(name), _PREPARE.get(recipe.method)
    if prepare is None and recipe.spec.coefficients is None:
        return None
    if prepare is None:
        sources = alike(inputs)
        return None if sources is None else _combination(recipe, name, sources, values, statistics)
    base = flat(inputs[0]) if recipe.base is not None else None
    models = alike(inputs[len(inputs) - len(recipe.models) :])
    if models is None or (recipe.base is not None and base is None):
        return None
    return prepare(Merge(recipe, name, tuple(inputs[0].shape), base, models, values, statistics))


class Merge:
    """One tensor to be merged: its recipe, its sources as arrays, and its values."""

    def __init__(
        self,
        recipe: Recipe,
        name: str,
        shape: tuple[int, ...],
        base: Array | None,
        models: tuple[Array, ...],
        values: dict[str, Any],
        statistics: Statistics,
    ) -> None:
        self.recipe = recipe
        self.name = name
        self.shape = shape
        self.base = base
        self.models = models
        self.values = values
        self.statistics = statistics

    def key(self, what: str, model: int) -> Any:
        """Key of a statistic of one model's task vector."""
        return key_of(what, self.name, self.recipe.sources[0], self.recipe.models[model])

    def weights(self) -> Array:
        """The weights, divided by their sum where they are normalised."""
        weight = self.values["weight"]
        total = total_weight(weight) if self.values["normalize"] else 1.0
        return floats([w / total for w in weight])

    def task_arithmetic(self) -> Fill:
        assert self.base is not None
        base, weight, scale = self.base, self.weights(), np.float32(self.values["lambda_"])

        def fill(out: Array, first: int) -> None:
            inputs = part((base, *self.models), first, out.size)
            kernels.task_vectors(out, inputs[0], inputs[1:], weight, scale)

        return fill

    # -- sparse task vectors ---------------------------------------------------------------

    def ties(self) -> Fill | None:
        found = [self._place(i, density) for i, density in enumerate(self.values["density"])]
        if None in found:
            return None
        kept = [(place, NOWHERE) for place in found if place]
        return self._trimmed(*self._agreeing(), kept)

    def breadcrumbs(self) -> Fill | None:
        return self._band(self.weights(), kernels.SUM)

    def breadcrumbs_ties(self) -> Fill | None:
        return self._band(*self._agreeing())

    def _agreeing(self) -> tuple[Array, int]:
        """Weights and mode of a disjoint merge."""
        if not self.values["normalize"]:
            return floats(self.values["weight"]), kernels.AGREEING
        check_mean(self.values["weight"])
        return floats(self.values["weight"]), kernels.MEAN

    def _band(self, weight: Array, mode: int) -> Fill | None:
        if self.values["rescale"] != "none":
            return None
        kept = []
        for i, (density, gamma) in enumerate(
            zip(self.values["density"], self.values["gamma"], strict=True)
        ):
            vector = self.task_vector(i)
            skip, keep = band_counts(vector.model.size, density, gamma)
            kept.append((places([vector], skip + keep)[0], places([vector], skip)[0]))
        return self._trimmed(weight, mode, kept)

    def _trimmed(self, weight: Array, mode: int, kept: list[tuple[Place, Place]]) -> Fill:
        """Each model keeps what the first of its cuts keeps and the second does not."""
        threshold = floats([[cut.threshold for cut in cuts] for cuts in zip(*kept, strict=True)])
        below = np.nextafter(threshold, np.float32(-math.inf))
        last = np.array([[cut.last for cut in cuts] for cuts in zip(*kept, strict=True)], np.int64)
        return self._sparse(kernels.trimmed, weight, mode, threshold, below, last)

    def _place(self, model: int, density: float) -> Place | None:
        """Where to trim one model's task vector; None if that takes the plain path."""
        if self.values["trim_over"] == "tensor":
            vector = self.task_vector(model)
            return places([vector], kept_count(vector.model.size, density))[0]
        base, expert = self.recipe.sources[0], self.recipe.models[model]
        if not (isinstance(base, Checkpoint) and isinstance(expert, Checkpoint)):
            return None
        names = self.recipe.alignment.layout.names
        found = self.statistics.of_model(base, expert, names, density)
        return None if found is None else found[self.name]

    def task_vector(self, model: int) -> TaskVector:
        """The task vector of one model, with its histogram."""
        assert self.base is not None
        key = self.key("histogram", model)
        return TaskVector.of(self.base, self.models[model], self.statistics, key)

    def dare_linear(self) -> Fill:
        return self._dropped(self.weights(), kernels.SUM)

    def dare_ties(self) -> Fill:
        return self._dropped(*self._agreeing())

    def _dropped(self, weight: Array, mode: int) -> Fill:
        keys = np.array(self.mask_keys(), np.uint64)
        limits = [round(density * _FULL) for density in self.values["density"]]
        # Nothing is at most -1: such a model is kept at random and then multiplied by 0.
        largest = np.array([max(limit - 1, 0) for limit in limits], np.uint32)
        rescale = floats([self._rescale(i, keys[i], limit) for i, limit in enumerate(limits)])
        return self._sparse(kernels.dropped, weight, mode, keys, largest, rescale)

    def _rescale(self, model: int, key: Any, limit: int) -> float:
        """What the kept entries are multiplied by (see ``methods.sparse.Drop``)."""
        size, how = self.models[model].size, self.values["rescale"]
        if limit == 0:
            return 0.0
        if limit == _FULL or how == "none":
            return 1.0
        if how == "l1":
            return self._rescale_l1(model, key, limit)
        kept = self.statistics.last(
            ("kept", int(key), size), limit, lambda: kernels.kept(key, size, np.uint32(limit - 1))
        )
        return size / kept if kept else 0.0

    def _rescale_l1(self, model: int, key: Any, limit: int) -> float:
        assert self.base is not None
        base, theta = self.base, self.models[model]
        norm = self.statistics.once(
            self.key("l1", model),
            lambda: kernels.norm(base, theta, np.uint64(0), np.uint32(_FULL - 1)),
        )
        kept: float = kernels.norm(base, theta, key, np.uint32(limit - 1))
        return norm / kept if kept >= MIN_NORM else 1.0

    def della_linear(self) -> Fill:
        return self._pruned(self.weights(), kernels.SUM)

    def della(self) -> Fill:
        return self._pruned(*self._agreeing())

    def _pruned(self, weight: Array, mode: int) -> Fill:
        assert self.base is not None
        base, models, values = self.base, self.models, self.values
        row = base.size // (self.shape[0] if len(self.shape) > 1 else 1)
        prunings = [
            pruning(base, model, row, density, epsilon, key, values["rescale"])
            for model, density, epsilon, key in zip(
                models, values["density"], values["epsilon"], self.mask_keys(), strict=True
            )
        ]
        scale, count = np.float32(values["lambda_"]), values.get("elect") == "count"

        def fill(out: Array, first: int) -> None:
            merge_pruned(out, first, base, models, row, prunings, weight, scale, mode, count)

        return fill

    def mask_keys(self) -> list[int]:
        """Keys of the random masks of every model."""
        names = self.recipe.model_names
        return [mask_key(self.values["seed"], model, self.name) for model in names]

    def _sparse(self, kernel: Any, weight: Array, mode: int, *masks: Array) -> Fill:
        assert self.base is not None
        base, scale = self.base, np.float32(self.values["lambda_"])
        count = self.values.get("elect") == "count"

        def fill(out: Array, first: int) -> None:
            inputs = part((base, *self.models), first, out.size)
            kernel(out, inputs[0], inputs[1:], weight, scale, first, mode, count, *masks)

        return fill


def _combination(
    recipe: Recipe,
    name: str,
    sources: tuple[Array, ...],
    values: dict[str, Any],
    statistics: Statistics,
) -> Fill | None:
    """For methods that give coefficients; they may decline with None."""
    assert recipe.spec.coefficients is not None
    key = key_of("gram", name, *recipe.sources)
    gram = statistics.once(key, lambda: kernels.gram(sources))
    coefficients = recipe.spec.coefficients(gram, **values)
    return None if coefficients is None else _combine(sources, coefficients)


def chunked(recipe: Recipe, inputs: Sequence[Tensor], values: dict[str, Any]) -> Fill | None:
    """For elementwise methods without a fused kernel: torch's, on chunks in the cache.

    None if the sources are of a type that is not computed in float32.
    """
    if any(flat(tensor) is None for tensor in inputs):
        return None
    flats = [tensor.reshape(-1) for tensor in inputs]
    statistics = [s if s is None else s.reshape(-1) for s in values.pop("statistics", ())]

    def fill(out: Array, first: int) -> None:
        merged = tensor_of(out)
        for at in range(0, out.size, _CHUNK):
            end = min(at + _CHUNK, out.size)
            parts = [tensor[first + at : first + end].float() for tensor in flats]
            base = parts.pop(0) if recipe.base is not None else None
            known = [s if s is None else s[first + at : first + end] for s in statistics]
            more = {"statistics": known} if known else {}
            merged[at:end] = recipe.spec.kernel(base, parts, **values, **more)

    return fill


def combined(recipe: Recipe, name: str, plan: Callable[[Any, str], Fill | Tensor]) -> Fill | None:
    """``linear``: a model whose weight is 0 is not read, and a nested recipe is never whole.

    None if a source is of a type that is not computed in float32.

    Args:
        recipe: A recipe without free numbers.
        name: Of a merged tensor.
        plan: From a source and the tensor's name in it to how to fill it, or the tensor.

    Raises:
        InfeasibleRecipe: If the weights cannot be normalised.
    """
    terms = linear_terms(recipe.inputs_at(name), **recipe.values_at(name))
    factors = floats([c for _, c in terms])
    models: list[Array | Fill] = []
    for source, _ in terms:
        planned = plan(*source)
        model = planned if callable(planned) else flat(planned)
        if model is None:
            return None
        models.append(model)
    arrays = tuple(model for model in models if not callable(model))
    if len(arrays) == len(models) and len({array.dtype for array in arrays}) == 1:
        return _combine(arrays, factors)

    def fill(out: Array, first: int) -> None:
        total, buffer = np.empty((2, min(out.size, _CHUNK)), np.float32)
        for at in range(0, out.size, _CHUNK):
            here = out[at : at + _CHUNK]
            for k, model in enumerate(models):
                values = buffer[: here.size]
                if callable(model):
                    model(values, first + at)
                else:
                    values = model[first + at : first + at + here.size]
                kernels.add_scaled(total, values, factors[k], k == 0)
            kernels.store(here, total)

    return fill


def _combine(sources: tuple[Array, ...], coefficients: Any) -> Fill:
    factors = floats(coefficients)

    def fill(out: Array, first: int) -> None:
        kernels.combine(out, part(sources, first, out.size), factors)

    return fill


def has_kernel(recipe: Recipe) -> bool:
    """Whether the recipe's own method, inner recipes aside, is merged in one pass."""
    spec = recipe.spec
    known = recipe.method in _PREPARE or recipe.individual is not None
    return known or spec.elementwise or spec.coefficients is not None


_PREPARE: dict[str, Callable[[Merge], Fill | None]] = {
    "task_arithmetic": Merge.task_arithmetic,
    "ties": Merge.ties,
    "della_linear": Merge.della_linear,
    "della": Merge.della,
    "breadcrumbs": Merge.breadcrumbs,
    "breadcrumbs_ties": Merge.breadcrumbs_ties,
    "dare_linear": Merge.dare_linear,
    "dare_ties": Merge.dare_ties,
}
