"""How the weights of an individual that evolution has found are computed, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from merge_optuna.engine._arrays import Array, alike, floats, part, tensor_of
from merge_optuna.engine._plan import CHUNK, Fill
from merge_optuna.engine._target import Target
from merge_optuna.engine.kernels import descent as kernels
from merge_optuna.engine.kernels.combination import splice
from merge_optuna.methods import Part, mask_key
from merge_optuna.methods.descent import Blend, Crossover, Descent, Operation, Particle
from merge_optuna.methods.splice import Segments

if TYPE_CHECKING:
    from torch import Tensor

_FULL = 1 << 32


def spliced(target: Target) -> Fill | None:
    """How to fill a tensor of segments; None if a source is not computed in float32."""
    individual = target.recipe.individual
    assert isinstance(individual, Segments)
    models = target.inputs.arrays or alike(target.inputs)
    if models is None:
        return None
    offset = target.recipe.parts[target.name].offset
    starts, coefficients = individual.within(offset, offset + models[0].size)
    factors = floats(coefficients)

    def fill(out: Array, first: int) -> None:
        splice(out, part(models, first, out.size), starts - first, factors)

    return fill


def descended(target: Target) -> Fill | None:
    """How to fill a tensor of whom ancestors are known; None as for :func:`spliced`.

    Only the models that are needed are read, and a nested recipe is never whole.
    """
    individual, whole = target.recipe.individual, target.recipe.parts[target.name]
    assert isinstance(individual, Descent)
    sources = target.recipe.inputs_at(target.name)
    needed = [one.model for one in individual.order() if one.operation is None]
    plans = target.readable(sources[model] for model in needed)
    if plans is None:
        return None
    models = dict(zip(needed, plans, strict=True))

    def fill(out: Array, first: int) -> None:
        merged = tensor_of(out)
        for at in range(0, out.size, CHUNK):
            size = min(CHUNK, out.size - at)
            parts = {
                model: tensor_of(plan.read(first + at, np.empty(size, np.float32))).float()
                for model, plan in models.items()
            }
            here = dataclasses.replace(whole, first=first + at)
            merged[at : at + size] = individual.evaluate(parts, here, _apply, size=size)

    return fill


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
