"""What to do with a point that has left the unit box; strategies of the algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

    from merge_optuna.samplers.box import Vector


class Bounds(Protocol):
    """Brings a point back into the unit box."""

    def __call__(self, x: Vector, parent: Vector, rng: Generator) -> Vector:
        """``x`` (n,) inside [0, 1]; ``parent`` (n,), inside, is where it came from."""


@dataclass(frozen=True)
class Clip:
    """Onto the bound."""

    def __call__(self, x: Vector, parent: Vector, rng: Generator) -> Vector:
        return np.clip(x, 0.0, 1.0)


@dataclass(frozen=True)
class Midpoint:
    """Half-way between the parent and the bound (JADE, Zhang & Sanderson 2009)."""

    def __call__(self, x: Vector, parent: Vector, rng: Generator) -> Vector:
        return np.where(x < 0, parent / 2, np.where(x > 1, (parent + 1) / 2, x))


@dataclass(frozen=True)
class Reflect:
    """Mirrored at the bound, as often as needed."""

    def __call__(self, x: Vector, parent: Vector, rng: Generator) -> Vector:
        folded = np.mod(np.abs(x), 2.0)
        return np.where((x < 0) | (x > 1), np.minimum(folded, 2.0 - folded), x)


@dataclass(frozen=True)
class Resample:
    """A uniform value for each coordinate outside (as ``scipy`` does)."""

    def __call__(self, x: Vector, parent: Vector, rng: Generator) -> Vector:
        return np.where((x < 0) | (x > 1), rng.random(len(x)), x)
