"""Samplers: how a search varies a recipe. State lives in the study's storage alone."""

# ruff: noqa: F401
from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from merge_optuna.samplers._bounds import Clip, Midpoint, Reflect, Resample
from merge_optuna.samplers._protocol.sampler import (
    ArchiveSampler,
    PopulationSampler,
    StoredSampler,
)
from merge_optuna.samplers._variation import (
    SBX,
    Gaussian,
    Genetic,
    IsoLine,
    PolynomialMutation,
    UniformSBX,
    Variation,
)

# The classes that a file lists as its __all__ are public here; the generated stub shows them.


def _listed() -> Iterator[tuple[str, type]]:
    for file in pkgutil.iter_modules(__path__):
        if not file.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{file.name}")
            named = {name: vars(module)[name] for name in getattr(module, "__all__", ())}
            yield from ((name, one) for name, one in named.items() if isinstance(one, type))


globals().update(_listed())

__all__ = sorted(
    name
    for name, value in globals().items()
    if isinstance(value, type) and value.__module__.startswith(__name__)
)
