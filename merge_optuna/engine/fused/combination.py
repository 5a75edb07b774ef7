"""Linear combinations of tensors, and what torch computes element by element."""

from __future__ import annotations

from typing import Any

import numpy as np

from merge_optuna.engine._arrays import Array, alike, flat, floats, part, tensor_of
from merge_optuna.engine._known import key_of
from merge_optuna.engine._needs import arguments
from merge_optuna.engine._plan import CHUNK, Fill
from merge_optuna.engine._target import Target
from merge_optuna.engine.kernels import combination as kernels
from merge_optuna.methods.linear import linear_terms


def by_coefficients(target: Target) -> Fill | None:
    """For methods that give coefficients; they may decline with None."""
    spec, sources = target.recipe.spec, alike(target.inputs)
    if sources is None or not sources[0].size:
        return None
    assert spec.coefficients is not None
    key = key_of("gram", target.name, *target.recipe.sources)
    gram = target.reader.known.once(key, lambda: kernels.gram(sources))
    coefficients = spec.coefficients(gram, **target.values)
    return None if coefficients is None else _combined(sources, floats(coefficients))


def linear(target: Target) -> Fill | None:
    """A model whose weight is 0 is not read, and a nested recipe is never whole."""
    terms = linear_terms(target.recipe.inputs_at(target.name), **target.values)
    factors = floats([c for _, c in terms])
    models = target.readable(source for source, _ in terms)
    if models is None:
        return None
    arrays = tuple(model.array for model in models if model.array is not None)
    if len(arrays) == len(models) and len({array.dtype for array in arrays}) == 1:
        return _combined(arrays, factors)

    def fill(out: Array, first: int) -> None:
        total, buffer = np.empty((2, min(out.size, CHUNK)), np.float32)
        for at in range(0, out.size, CHUNK):
            here = out[at : at + CHUNK]
            for k, model in enumerate(models):
                values = model.read(first + at, buffer[: here.size])
                kernels.add_scaled(total, values, factors[k], k == 0)
            kernels.store(here, total)

    return fill


def _combined(sources: tuple[Array, ...], factors: Array) -> Fill:
    def fill(out: Array, first: int) -> None:
        kernels.combine(out, part(sources, first, out.size), factors)

    return fill


def chunked(target: Target) -> Fill | None:
    """For elementwise methods without a kernel of their own: torch's, on chunks in the cache."""
    if any(flat(tensor) is None for tensor in target.inputs):
        return None
    kernel, has_base = target.recipe.spec.kernel, target.recipe.base is not None
    flats = [tensor.reshape(-1) for tensor in target.inputs]
    values = arguments(target)
    statistics = [s if s is None else s.reshape(-1) for s in values.pop("statistics", ())]

    def fill(out: Array, first: int) -> None:
        merged = tensor_of(out)
        for at in range(0, out.size, CHUNK):
            end = min(at + CHUNK, out.size)
            parts = [tensor[first + at : first + end].float() for tensor in flats]
            base = parts.pop(0) if has_base else None
            known = [s if s is None else s[first + at : first + end] for s in statistics]
            more: dict[str, Any] = {"statistics": known} if known else {}
            merged[at:end] = kernel(base, parts, **values, **more)

    return fill
