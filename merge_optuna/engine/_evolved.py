"""How the weights of an individual that evolution has found are computed, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from merge_optuna.engine import _kernels as kernels
from merge_optuna.engine._arrays import Array, Inputs, alike, flat, floats, part, tensor_of
from merge_optuna.methods import Part, mask_key
from merge_optuna.methods._affine import gram as methods_gram
from merge_optuna.methods.descent import Blend, Crossover, Descent, Operation
from merge_optuna.methods.splice import Segments

if TYPE_CHECKING:
    from torch import Tensor

    from merge_optuna.recipes import Recipe

_FULL = 1 << 32
_CHUNK = 1 << 15  # elements: what all ancestors need of it stays in the cache, on one thread


def evolved(recipe: Recipe, name: str, inputs: Inputs) -> Callable[[Array, int], None] | None:
    """How to fill a tensor of an individual; None if a source is not computed in float32."""
    if inputs.arrays is None and any(flat(tensor) is None for tensor in inputs):
        return None
    if isinstance(recipe.individual, Segments):
        arrays = inputs.arrays or alike(inputs)
        if arrays is not None:
            return _spliced(recipe, recipe.individual, name, arrays)
    return _in_chunks(recipe, name, inputs)


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


def _spliced(
    recipe: Recipe, individual: Segments, name: str, models: tuple[Array, ...]
) -> Callable[[Array, int], None]:
    offset = recipe.parts[name].offset
    starts, coefficients = individual.within(offset, offset + models[0].size)
    factors = floats(coefficients)

    def fill(out: Array, first: int) -> None:
        kernels.splice(out, part(models, first, out.size), starts - first, factors)

    return fill


def _in_chunks(
    recipe: Recipe, name: str, inputs: Sequence[Tensor]
) -> Callable[[Array, int], None]:
    individual, whole = recipe.individual, recipe.parts[name]
    assert individual is not None
    flats = [tensor.reshape(-1) for tensor in inputs]

    def fill(out: Array, first: int) -> None:
        merged = tensor_of(out)
        for at in range(0, out.size, _CHUNK):
            end = min(at + _CHUNK, out.size)
            parts = [tensor[first + at : first + end].float() for tensor in flats]
            here = dataclasses.replace(whole, first=first + at)
            if isinstance(individual, Descent):
                merged[at:end] = individual.evaluate(parts, here, _apply)
            else:
                merged[at:end] = individual.evaluate(parts, here)

    return fill


def _apply(operation: Operation, parents: Sequence[Tensor], part: Part) -> Tensor:
    """The fused kernel of an operation if it has one, else itself."""
    if isinstance(operation, Crossover) and operation.granularity == "parameter":
        return _crossed(operation, parents, part)
    if isinstance(operation, Blend):
        return _blended(operation, parents, part)
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
