"""How a child is made of its parents: operators of the genetic algorithm, MAP-Elites and niches.

They work in the unit box. Dimensions whose values have no order (categorical parameters) are not
moved but exchanged between the parents, and drawn anew instead of mutated.

- Deb & Agrawal: Simulated binary crossover for continuous search space, Complex Systems 9, 1995.
- Deb & Goyal: A combined genetic adaptive search (GeneAS) for engineering design, Computer
  Science and Informatics 26(4), 1996. The bounds are those of Deb's own code of NSGA-II.
- Vassiliades & Mouret: Discovering the elite hypervolume by leveraging interspecies correlation,
  GECCO 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from merge_optuna.samplers._numbers import check_positive, check_share

if TYPE_CHECKING:
    from numpy.random import Generator

    from merge_optuna.samplers.box import Vector

Mask: TypeAlias = NDArray[np.bool_]

_TOGETHER = 1e-14  # parents as close as this have nothing to cross


class Variation(Protocol):
    """Makes a child."""

    @property
    def parents(self) -> int:
        """How many parents it takes."""

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        """A new point (n,) of the unit box.

        Args:
            parents: that many points (n,) of the unit box.
            unordered: (n,) which dimensions are categorical.
            rng: random numbers of the child.
        """


@dataclass(frozen=True)
class SBX:
    """Simulated binary crossover between the bounds (Deb & Agrawal 1995), one of its two children.

    Draws whether there is any, then for all coordinates which are crossed (half of them), their
    spreads, and which of the two values is taken. What is not crossed is the first parent's. A
    categorical coordinate that is crossed is the second parent's (uniform crossover).

    Attributes:
        eta: the larger, the closer to the parents; a child is as far from the parents' mean as a
            parent, times a spread factor of density (η+1)/2 · β^η up to 1, (η+1)/2 · β^-(η+2)
            beyond, truncated at the bound.
        probability: that there is a crossover; else the child is the first parent.
    """

    eta: float = 15.0
    probability: float = 0.9
    parents = 2

    def __post_init__(self) -> None:
        check_positive("eta", self.eta, zero=True)
        check_share("probability", self.probability)

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        a, b = parents
        if rng.random() >= self.probability:
            return a
        crossed, u, upper = rng.random((3, len(a)))
        low, high = self.children(a, b, u)
        child = np.where(unordered, b, np.where(upper < 0.5, high, low))
        return np.where(crossed < 0.5, child, a)

    def children(self, a: Vector, b: Vector, u: Vector) -> tuple[Vector, Vector]:
        """The two children of uniform numbers ``u`` (n,), the lower and the upper values."""
        low, high = np.minimum(a, b), np.maximum(a, b)
        apart = high - low > _TOGETHER
        gap = np.where(apart, high - low, 1.0)
        lower = (low + high - self._spread(low, gap, u) * gap) / 2
        upper = (low + high + self._spread(1.0 - high, gap, u) * gap) / 2
        return (
            np.where(apart, np.clip(lower, 0.0, 1.0), low),
            np.where(apart, np.clip(upper, 0.0, 1.0), high),
        )

    def _spread(self, room: Vector, gap: Vector, u: Vector) -> Vector:
        """The spread factors β for parents ``gap`` apart and the outer one ``room`` inside."""
        widest = 1.0 + 2.0 * room / gap
        alpha = 2.0 - widest ** -(self.eta + 1.0)
        spread = np.where(u <= 1.0 / alpha, u * alpha, 1.0 / (2.0 - u * alpha))
        return np.asarray(spread ** (1.0 / (self.eta + 1.0)))


@dataclass(frozen=True)
class UniformSBX(SBX):
    """SBX that takes as much of one parent as of the other.

    A child of SBX has three quarters of its coordinates at or near those of its first parent, as
    a half is not crossed. Here these are exchanged as well, each with probability 1/2 (uniform
    crossover, Syswerda 1989). Draws what :class:`SBX` does, and for all coordinates which are
    exchanged if they are not crossed. A categorical coordinate is either parent's.

    Attributes:
        eta: see :class:`SBX`; 20 is that of the paper on NSGA-II.
        probability: that there is a crossover; else the child is the first parent.
    """

    eta: float = 20.0

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        a, b = parents
        if rng.random() >= self.probability:
            return a
        crossed, u, upper, exchanged = rng.random((4, len(a)))
        low, high = self.children(a, b, u)
        child = np.where(upper < 0.5, high, low)
        either = np.where(exchanged < 0.5, b, a)
        return np.where((crossed < 0.5) & ~unordered, child, either)


@dataclass(frozen=True)
class PolynomialMutation:
    """Small steps that never leave the bounds (Deb & Goyal 1996).

    Draws for all coordinates which are mutated, then their steps. A categorical coordinate is
    drawn uniformly.

    Attributes:
        eta: the larger, the smaller the steps: about 1/η of the range.
        probability: per coordinate; 1/n by default.
    """

    eta: float = 20.0
    probability: float | None = None
    parents = 1

    def __post_init__(self) -> None:
        check_positive("eta", self.eta, zero=True)
        if self.probability is not None:
            check_share("probability", self.probability)

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        (x,) = parents
        mutated, u = rng.random((2, len(x)))
        probability = 1 / len(x) if self.probability is None else self.probability
        return np.where(mutated < probability, np.where(unordered, u, self.moved(x, u)), x)

    def moved(self, x: Vector, u: Vector) -> Vector:
        """The points that uniform numbers ``u`` (n,) move ``x`` (n,) to."""
        power = self.eta + 1.0
        down = (2.0 * u + (1.0 - 2.0 * u) * (1.0 - x) ** power) ** (1.0 / power)
        up = (2.0 * (1.0 - u) + (2.0 * u - 1.0) * x**power) ** (1.0 / power)
        return np.clip(np.where(u <= 0.5, x + (down - 1.0), x + (1.0 - up)), 0.0, 1.0)


@dataclass(frozen=True)
class Gaussian:
    """Normal noise on every coordinate, then clipped.

    Draws the noise of all coordinates; then, for the categorical ones, which are drawn anew (each
    with probability 1/n), and their new values.

    Attributes:
        sigma: standard deviation in unit-box units.
    """

    sigma: float = 0.1
    parents = 1

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        (x,) = parents
        moved = np.clip(x + self.sigma * rng.standard_normal(len(x)), 0.0, 1.0)
        return _redraw(np.where(unordered, x, moved), unordered, rng)


@dataclass(frozen=True)
class IsoLine:
    """x_a + σ1 N(0, I) + σ2 N(0, 1) (x_b − x_a), then clipped (Vassiliades & Mouret 2018).

    Draws the noise of all coordinates, then the one number of the line. A categorical coordinate
    is b's with the probability that is the length of the step along the line, and then drawn anew
    as by :class:`Gaussian`.

    Attributes:
        sigma1: standard deviation of the noise, in unit-box units.
        sigma2: standard deviation along the line, in distances between the parents.
    """

    sigma1: float = 0.01
    sigma2: float = 0.2
    parents = 2

    def __post_init__(self) -> None:
        check_positive("sigma1", self.sigma1, zero=True)
        check_positive("sigma2", self.sigma2, zero=True)

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        a, b = parents
        noise = self.sigma1 * rng.standard_normal(len(a))
        step = np.full(len(a), self.sigma2 * rng.standard_normal())
        x = blend(a, b, step, unordered, rng)
        moved = np.where(unordered, x, np.clip(x + noise, 0.0, 1.0))
        return _redraw(moved, unordered, rng)


_SBX, _POLYNOMIAL = SBX(), PolynomialMutation()


@dataclass(frozen=True)
class Genetic:
    """Crossover, then mutation of its child: what a genetic algorithm does."""

    crossover: Variation = _SBX
    mutation: Variation = _POLYNOMIAL

    @property
    def parents(self) -> int:
        return self.crossover.parents

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        child = self.crossover(parents, unordered, rng)
        return self.mutation([child], unordered, rng)


def blend(a: Vector, b: Vector, t: Vector, unordered: Mask, rng: Generator) -> Vector:
    """A + t (b − a), all (n,); a categorical coordinate is b's with probability abs(t)."""
    taken = np.zeros(len(a), dtype=bool)
    taken[unordered] = rng.random(int(unordered.sum())) < np.abs(t[unordered])
    return np.where(unordered, np.where(taken, b, a), a + t * (b - a))


def _redraw(x: Vector, unordered: Mask, rng: Generator) -> Vector:
    """Each categorical coordinate uniform with probability 1/n."""
    drawn, new = rng.random((2, int(unordered.sum())))
    x[unordered] = np.where(drawn < 1 / len(x), new, x[unordered])
    return x


def roulette(weights: Vector, rng: Generator) -> int:
    """An index, with probabilities proportional to ``weights`` (n,) ≥ 0; uniform if all are 0."""
    peak = weights.max()
    shares = weights / peak if peak > 0 else np.ones(len(weights))
    sums = np.cumsum(shares)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
