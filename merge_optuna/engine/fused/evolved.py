"""How the weights of an individual that evolution has found are computed, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from merge_optuna.engine._arrays import Array, Inputs, alike, flat, floats, part, tensor_of
from merge_optuna.engine.kernels import task_vectors as kernels
from merge_optuna.methods import Part, mask_key
from merge_optuna.methods._affine import gram as methods_gram
from merge_optuna.methods.descent import Blend, Crossover, Descent, Operation, Particle
from merge_optuna.methods.splice import Segments

if TYPE_CHECKING:
    from torch import Tensor

    from merge_optuna.recipes import Recipe

Fill = Callable[["Array", int], None]
_FULL = 1 << 32
_CHUNK = 1 << 15  # elements: what all ancestors need of it stays in the cache, on one thread


def spliced(recipe: Recipe, name: str, inputs: Inputs) -> Fill | None:
    """How to fill a tensor of segments; None if a source is not computed in float32."""
    individual = recipe.individual
    assert isinstance(individual, Segments)
    models = inputs.arrays or alike(inputs)
    if models is None:
        return None
    offset = recipe.parts[name].offset
    starts, coefficients = individual.within(offset, offset + models[0].size)
    factors = floats(coefficients)

    def fill(out: Array, first: int) -> None:
        kernels.splice(out, part(models, first, out.size), starts - first, factors)

    return fill


def descended(recipe: Recipe, name: str, plan: Callable[[Any, str], Fill | Tensor]) -> Fill | None:
    """How to fill a tensor of whom ancestors are known; None as for :func:`spliced`.

    Only the models that are needed are read, and a nested recipe is never whole.

    Args:
        recipe: Of the individual.
        name: Of a merged tensor.
        plan: From a source and the tensor's name in it to how to fill it, or the tensor.
    """
    individual, whole = recipe.individual, recipe.parts[name]
    assert isinstance(individual, Descent)
    sources = recipe.inputs_at(name)
    models: dict[int, Array | Fill] = {}
    for one in individual.order():
        if one.operation is None:
            planned = plan(*sources[one.model])
            model = planned if callable(planned) else flat(planned)
            if model is None:
                return None
            models[one.model] = model

    def read(model: int, first: int, size: int) -> Tensor:
        values = models[model]
        if not callable(values):
            return tensor_of(values[first : first + size]).float()
        buffer = np.empty(size, np.float32)
        values(buffer, first)
        return torch.from_numpy(buffer)

    def fill(out: Array, first: int) -> None:
        merged = tensor_of(out)
        for at in range(0, out.size, _CHUNK):
            size = min(_CHUNK, out.size - at)
            parts = {model: read(model, first + at, size) for model in models}
            here = dataclasses.replace(whole, first=first + at)
            merged[at : at + size] = individual.evaluate(parts, here, _apply, size=size)

    return fill


def gram(inputs: Inputs, first: int, last: int) -> NDArray[np.float64]:
    """Dot products of a range of flat tensors with each other, (n, n).

    Summed in float64 in a fixed order.
    """
    if inputs.arrays is not None:
        arrays: tuple[Array, ...] | None = part(inputs.arrays, first, last - first)
    else:
        tensors = [tensor.reshape(-1)[first:last].contiguous() for tensor in inputs]
        arrays = alike(tensors)
    products: NDArray[np.float64]
    products = methods_gram(tensors) if arrays is None else kernels.gram(arrays)
    return products


def _apply(operation: Operation, parents: Sequence[Tensor], part: Part) -> Tensor:
    """The fused kernel of an operation if it has one, else itself."""
    if isinstance(operation, Crossover) and operation.granularity == "parameter":
        return _crossed(operation, parents, part)
    if isinstance(operation, Blend):
        return _blended(operation, parents, part)
    if isinstance(operation, Particle):
        return _moved(operation, parents, part)
    return operation(parents, part)


def _crossed(operation: Crossover, parents: Sequence[Tensor], part: Part) -> Tensor:
    limit = round(operation.CR * _FULL)
    if limit == 0:
        return parents[0]
    out = torch.empty_like(parents[0])
    target, *donors = (tensor.numpy() for tensor in parents)
    a, b = (*donors, target)[:2]
    key = np.uint64(mask_key(operation.seed, operation.granularity, part.name))
    F, last = np.float32(operation.F), np.uint32(limit - 1)
    kernels.crossover(out.numpy(), target, a, b, F, key, part.first, last)
    return out


def _blended(operation: Blend, parents: Sequence[Tensor], part: Part) -> Tensor:
    out = torch.empty_like(parents[0])
    array, size = out.numpy(), out.numel()
    split = min(max(operation.split - part.offset - part.first, 0), size)
    a, b = (tensor.numpy() for tensor in parents)
    kernels.blend(array, a, b, split, floats(operation.coefficients))
    if operation.std:
        key = np.uint64(mask_key(operation.seed, "noise", part.name))
        noise = torch.empty(size, dtype=torch.float64)
        kernels.uniform(noise.numpy(), key, part.first)
        torch.special.ndtri(noise, out=noise)
        kernels.add_noise(array, noise.numpy(), np.float32(operation.std))
    return out


def _moved(operation: Particle, parents: Sequence[Tensor], part: Part) -> Tensor:
    out = torch.empty_like(parents[0])
    arrays = [tensor.numpy() for tensor in parents]
    w, c1, c2 = floats([operation.w, operation.c1, operation.c2])
    r1, r2 = (np.uint64(mask_key(operation.seed, which, part.name)) for which in ("r1", "r2"))
    kernels.particle(out.numpy(), *arrays, w, c1, c2, r1, r2, part.first)
    return out
