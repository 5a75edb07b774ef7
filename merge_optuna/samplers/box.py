"""The parameters of a search space as a unit box."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from merge_optuna.errors import StudyError

__all__ = ["Box"]

Vector: TypeAlias = NDArray[np.float64]
Numeric: TypeAlias = FloatDistribution | IntDistribution
Dimension: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution


class Box:
    """The parameters of a search space as [0, 1]^n, dimensions sorted by name.

    Continuous parameters are mapped linearly, ``log=True`` ones in log space; both ends are
    reached exactly. A parameter with a step and m values has m cells of width 1/m, so that a
    uniform point gives uniform values. A categorical one has a cell per choice. Parameters with
    a single value are left out.

    Args:
        space: parameter name -> distribution.
        categorical: whether to keep categorical parameters.

    Attributes:
        names: the n parameter names.
        low: (n,) lower bounds of the coordinates.
        high: (n,) their upper bounds.
        widths: (n,) width of a cell, 0 for continuous and logarithmic dimensions.
        unordered: (n,) whether a dimension is categorical: its cells have no order.
    """

    def __init__(
        self, space: Mapping[str, BaseDistribution], *, categorical: bool = False
    ) -> None:
        kinds = Dimension if categorical else Numeric
        self.space: dict[str, Dimension] = {
            name: distribution
            for name, distribution in sorted(space.items())
            if isinstance(distribution, kinds) and not distribution.single()
        }
        self.names = tuple(self.space)
        self.widths: Vector = np.array([_width(d) for d in self.space.values()], dtype=np.float64)
        self.unordered = np.array(
            [isinstance(d, CategoricalDistribution) for d in self.space.values()], dtype=bool
        )
        self.low: Vector = np.zeros(len(self.names))
        self.high: Vector = np.ones(len(self.names))

    def __len__(self) -> int:
        return len(self.names)

    def params(self, x: Vector) -> dict[str, Any]:
        """The parameter values at a point ``x`` (n,) of the box; always inside their ranges."""
        return {
            name: value_at(distribution, float(u))
            for (name, distribution), u in zip(self.space.items(), x, strict=True)
        }

    def point(self, params: Mapping[str, Any]) -> Vector:
        """The point (n,) of some parameter values, the middle for names that are not given."""
        return np.array(
            [_at(d, params[name]) if name in params else 0.5 for name, d in self.space.items()]
        )

    def uniform(self, rng: np.random.Generator) -> Vector:
        """A random point (n,)."""
        return rng.random(len(self))

    def digest(self, *more: str) -> str:
        """Twelve hex digits that name this box (and ``more``), the same in every process."""
        space = [[name, distribution_to_json(d)] for name, d in self.space.items()]
        return hashlib.sha256(json.dumps([space, *more]).encode()).hexdigest()[:12]


class RawBox(Box):
    """The parameters as they are, for floats without log and step.

    It is no unit box, and no rounding stands between a coordinate and its parameter.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        super().__init__(space, categorical=True)
        ranges = [
            (d.low, d.high)
            for d in self.space.values()
            if isinstance(d, FloatDistribution) and not d.log and d.step is None
        ]
        if len(ranges) < len(self):
            raise StudyError("Only float parameters without log and step can be raw.")
        self.low, self.high = np.array(ranges, dtype=np.float64).reshape(-1, 2).T

    def params(self, x: Vector) -> dict[str, Any]:
        """See :class:`Box`."""
        return dict(zip(self.names, map(float, x), strict=True))

    def point(self, params: Mapping[str, Any]) -> Vector:
        """See :class:`Box`."""
        middle = dict(zip(self.names, (self.low + self.high) / 2, strict=True))
        return np.array([float(params.get(name, middle[name])) for name in self.names])

    def uniform(self, rng: np.random.Generator) -> Vector:
        """See :class:`Box`."""
        return self.low + super().uniform(rng) * (self.high - self.low)

    def digest(self, *more: str) -> str:
        """See :class:`Box`."""
        return super().digest(*more, "raw")


def value_at(distribution: BaseDistribution, u: float) -> Any:
    """The value of a distribution at ``u`` in [0, 1]; uniform ``u`` gives a uniform value."""
    d = distribution
    if isinstance(d, CategoricalDistribution):
        return d.choices[min(int(u * len(d.choices)), len(d.choices) - 1)]
    if not isinstance(d, Numeric):
        raise TypeError(f"Unknown distribution {d!r}.")
    if d.log:
        low, high = _log_range(d)
        value = math.exp(low + u * (high - low))
        return _clip(round(value) if isinstance(d, IntDistribution) else value, d)
    if d.step is None:
        return _clip(d.low + u * (d.high - d.low), d)
    count = _count(d)
    return _clip(d.low + min(math.floor(u * count), count - 1) * d.step, d)


def _at(d: Dimension, value: Any) -> float:
    """The inverse of :func:`value_at`; the middle of its cell for a step or a choice."""
    if isinstance(d, CategoricalDistribution):
        return float((d.to_internal_repr(value) + 0.5) / len(d.choices))
    if d.log:
        low, high = _log_range(d)
        return float((math.log(value) - low) / (high - low))
    if d.step is None:
        return float((value - d.low) / (d.high - d.low))
    return float((round((value - d.low) / d.step) + 0.5) / _count(d))


def _clip(value: Any, d: Numeric) -> Any:
    return type(d.low)(min(max(value, d.low), d.high))


def _count(d: Numeric) -> int:
    return round((d.high - d.low) / (d.step or 1)) + 1


def _width(d: Dimension) -> float:
    if isinstance(d, CategoricalDistribution):
        return 1 / len(d.choices)
    return 0.0 if d.log or d.step is None else 1 / _count(d)


def _log_range(d: Numeric) -> tuple[float, float]:
    """Logarithms of the bounds; integers get half a step more on either side, like Optuna's."""
    half = 0.5 if isinstance(d, IntDistribution) else 0.0
    return math.log(d.low - half), math.log(d.high + half)
