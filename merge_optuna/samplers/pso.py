"""Particle swarms: Kennedy & Eberhart 1995, as they are used since Clerc & Kennedy 2002.

- Kennedy & Eberhart: Particle swarm optimization, ICNN 1995.
- Shi & Eberhart: A modified particle swarm optimizer, CEC 1998 (the inertia weight).
- Clerc & Kennedy: The particle swarm: explosion, stability, and convergence in a
  multidimensional complex space, IEEE Transactions on Evolutionary Computation 6(1), 2002.
- Clerc: Standard particle swarm optimisation, 2012 (SPSO 2006, 2007 and 2011).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from optuna.distributions import FloatDistribution

from merge_optuna.errors import StudyError
from merge_optuna.samplers._bounds import Clip, Midpoint, Reflect, Resample
from merge_optuna.samplers._numbers import check_at_least, check_positive
from merge_optuna.samplers._protocol.sampler import PopulationSampler
from merge_optuna.samplers.algorithm import (
    Candidate,
    Member,
    Population,
    PopulationAlgorithm,
    TooFewMembers,
)
from merge_optuna.samplers.box import RawBox
from merge_optuna.samplers.breeding import Breeding, Pedigree

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna.distributions import BaseDistribution

    from merge_optuna.samplers.box import Box, Vector

__all__ = [
    "PSO",
    "Absorb",
    "Bounce",
    "ClipPosition",
    "Constriction",
    "GlobalBest",
    "Inertia",
    "Leash",
    "PSOSampler",
    "Ring",
]


# -- Coefficients -----------------------------------------------------------------------------


class Coefficients(Protocol):
    """Those of v ← chi (w v + c1 r1 (pbest − x) + c2 r2 (gbest − x))."""

    @property
    def chi(self) -> float:
        """Constriction factor."""

    @property
    def w(self) -> float:
        """Inertia weight."""

    @property
    def c1(self) -> float:
        """Pull of the particle's own best."""

    @property
    def c2(self) -> float:
        """Pull of the best that the particle knows of."""


@dataclass(frozen=True)
class Inertia:
    """v ← w v + c1 r1 (pbest − x) + c2 r2 (gbest − x) (Shi & Eberhart 1998).

    The defaults are those of Constriction, multiplied out. The swarm of 1995 is
    ``Inertia(1.0, 2.0, 2.0)`` with a maximal velocity.

    Attributes:
        w: inertia weight in [0, 1].
        c1: pull of the particle's own best.
        c2: pull of the best that the particle knows of.

    Raises:
        StudyError: for a weight outside its range or a negative pull, or if both are zero.
    """

    w: float = 0.7298
    c1: float = 1.49618
    c2: float = 1.49618
    chi = 1.0

    def __post_init__(self) -> None:
        # Inside a box velocities then stay bounded: by (c1 + c2) / (1 − w), or they grow linearly.
        if not 0 <= self.w <= 1:
            raise StudyError(f"Inertia needs w between 0 and 1, got {self.w}.")
        _check_pulls(self)


@dataclass(frozen=True)
class Constriction:
    """v ← chi (v + c1 r1 (pbest − x) + c2 r2 (gbest − x)) (Clerc & Kennedy 2002).

    Attributes:
        c1: pull of the particle's own best.
        c2: pull of the best that the particle knows of; c1 + c2 > 4.

    Raises:
        StudyError: if c1 + c2 is not greater than 4, or for a negative pull.
    """

    c1: float = 2.05
    c2: float = 2.05
    w = 1.0

    def __post_init__(self) -> None:
        _check_pulls(self)
        if self.c1 + self.c2 <= 4:
            raise StudyError(
                f"Constriction needs c1 + c2 > 4, got {self.c1} + {self.c2}: use Inertia."
            )

    @property
    def chi(self) -> float:
        """2 / |2 − φ − √(φ² − 4φ)| with φ = c1 + c2 (with κ = 1)."""
        phi = self.c1 + self.c2
        return 2 / abs(2 - phi - math.sqrt(phi * phi - 4 * phi))


def _check_pulls(of: Coefficients) -> None:
    if not (0 <= of.c1 < math.inf and 0 <= of.c2 < math.inf and of.c1 + of.c2 > 0):
        name = type(of).__name__
        raise StudyError(
            f"{name} needs c1 and c2 that are not negative nor both zero, got {of.c1} and {of.c2}."
        )


# -- Topology ---------------------------------------------------------------------------------


class Topology(Protocol):
    """Who tells a particle of the best it has seen."""

    def __call__(self, population: Population, slot: int) -> Iterable[Member]:
        """The informants of a slot, one at least."""


@dataclass(frozen=True)
class GlobalBest:
    """Everybody: fast, and the first to settle in a local optimum."""

    def __call__(self, population: Population, slot: int) -> Iterable[Member]:
        """See :class:`Topology`."""
        return population


@dataclass(frozen=True)
class Ring:
    """The particle itself and its neighbours on a ring of the slots ("lbest").

    While the first results are not in, those that are absent say nothing.

    Attributes:
        neighbours: how many on either side.

    Raises:
        StudyError: for less than one neighbour.
    """

    neighbours: int = 1

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise StudyError(f"Ring needs at least 1 neighbour, got {self.neighbours}.")

    def __call__(self, population: Population, slot: int) -> Iterable[Member]:
        """See :class:`Topology`."""
        slots, here = population.slots, population.slots.index(slot)
        steps = range(-self.neighbours, self.neighbours + 1)
        around = (slots[(here + step) % len(slots)] for step in steps)
        return [population[other] for other in around if other in population]


# -- Bounds -----------------------------------------------------------------------------------


class Walls(Protocol):
    """What happens to a particle that leaves the unit box."""

    def __call__(self, x: Vector, velocity: Vector) -> tuple[Vector, Vector]:
        """Position (n,) inside [0, 1] and velocity (n,) of a particle that has moved to ``x``."""


@dataclass(frozen=True)
class Absorb:
    """Onto the bound, where that coordinate of the velocity becomes 0 (SPSO 2007)."""

    def __call__(self, x: Vector, velocity: Vector) -> tuple[Vector, Vector]:
        """See :class:`Walls`."""
        return np.clip(x, 0.0, 1.0), np.where((x < 0) | (x > 1), 0.0, velocity)


@dataclass(frozen=True)
class Bounce:
    """Mirrored at the bound, as often as needed; each time the velocity turns round."""

    def __call__(self, x: Vector, velocity: Vector) -> tuple[Vector, Vector]:
        """See :class:`Walls`."""
        folded = np.fmod(np.abs(x), 2.0)  # mirrored at 0; fmod and the rest are exact
        turned = (x < 0) ^ (folded > 1)
        return np.where(folded > 1, 2.0 - folded, folded), np.where(turned, -velocity, velocity)


@dataclass(frozen=True)
class ClipPosition:
    """Onto the bound; the velocity stays as it is."""

    def __call__(self, x: Vector, velocity: Vector) -> tuple[Vector, Vector]:
        """See :class:`Walls`."""
        return np.clip(x, 0.0, 1.0), velocity


@dataclass(frozen=True)
class Leash:
    """Onto ±limit, where that coordinate of the velocity becomes 0, and with a warning.

    For raw coordinates whose range is only there to catch a swarm that runs away.

    Attributes:
        limit: the largest magnitude of a coordinate.
    """

    limit: float

    def __call__(self, x: Vector, velocity: Vector) -> tuple[Vector, Vector]:
        """See :class:`Walls`."""
        outside = np.abs(x) > self.limit
        if outside.any():
            warnings.warn(
                f"{int(outside.sum())} coordinates of a particle have run away beyond "
                f"±{self.limit:g} and were stopped there. A smaller inertia weight or smaller "
                "pulls keep a swarm together.",
                stacklevel=2,
            )
        return np.clip(x, -self.limit, self.limit), np.where(outside, 0.0, velocity)


# -- The algorithm ----------------------------------------------------------------------------

_INERTIA, _GLOBAL, _ABSORB = Inertia(), GlobalBest(), Absorb()


@dataclass(frozen=True)
class _Flight(Breeding):
    """A particle's step in the unit box."""

    swarm: PSO

    def first(self, x: Vector, rng: Generator) -> Candidate:
        """At rest, or on the way to a random point (SPSO 2007 and 2011)."""
        velocity = self.swarm.initial_velocity * (rng.random(x.size) - x)
        return Candidate(x, {"velocity": self._clamped(velocity)})

    def cross(self, box: Box, parents: Sequence[Member], rng: Generator) -> Candidate:
        """A step of the particle, its best and that of the swarm being the other parents."""
        particle, pbest, gbest = parents
        c, scalar = self.swarm.coefficients, self.swarm.random == "scalar"
        x, velocity = particle.x, particle.hidden["velocity"]
        r1, r2 = rng.random((2, 1 if scalar else x.size))
        pulls = c.c1 * r1 * (pbest.x - x) + c.c2 * r2 * (gbest.x - x)
        velocity = self._clamped(c.chi * (c.w * velocity + pulls))
        x, velocity = self.swarm.bounds(x + velocity, velocity)
        return Candidate(x, {"velocity": velocity})

    def _clamped(self, velocity: Vector) -> Vector:
        most = self.swarm.max_velocity
        return velocity if most is None else np.clip(velocity, -most, most)


@dataclass(frozen=True)
class PSO(PopulationAlgorithm):
    """A synchronous particle swarm.

    The member of a slot is its particle: where it has moved last, its velocity in ``hidden`` and
    its personal best in ``best`` (None: where it is). Random numbers are drawn in the order of
    the equations: x, then a point for the initial velocity; r1, then r2.

    Individuals that are named by their parents bring a step of their own (``breeding``). One
    whose candidate has failed stays where it is, as nobody descends from what could not be
    scored; one that has not been scored at all begins once more, at any of the sources.

    Attributes:
        coefficients: ``Inertia(w, c1, c2)`` or ``Constriction(c1, c2)``.
        topology: ``GlobalBest()`` or ``Ring(neighbours)``.
        random: whether r1 and r2 are drawn for each ``"dimension"``, or as one ``"scalar"`` for
            each particle and step. With scalars, without an initial velocity and away from the
            bounds, every particle stays an affine combination of the initial ones.
        size: number of particles.
        initial_velocity: 0 for particles at rest; otherwise which part of the way to a random
            point: 0.5 in SPSO 2006 and 2007 ("half-difference"), 1 in SPSO 2011.
        max_velocity: largest step of a parameter, as a fraction of its range.
        bounds: what happens to particles outside: ``Absorb()``, ``Bounce()`` or
            ``ClipPosition()``.
        raw: whether the coordinates are the parameters themselves instead of [0, 1]: for floats
            that all have the same range [−limit, limit]. The bounds are then ``Leash(limit)``;
            there is no initial and no maximal velocity.
    """

    coefficients: Coefficients = _INERTIA
    topology: Topology = _GLOBAL
    random: Literal["dimension", "scalar"] = "dimension"
    size: int = 40
    initial_velocity: float = 0.0
    max_velocity: float | None = None
    bounds: Walls = _ABSORB
    raw: bool = field(default=False, repr=False)
    breeding: Pedigree | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.random not in ("dimension", "scalar"):
            raise StudyError(f"random must be dimension or scalar, got {self.random!r}.")
        check_at_least(2, "population_size", self.size)
        if not 0 <= self.initial_velocity <= 1:
            raise StudyError(
                f"initial_velocity must be between 0 and 1, got {self.initial_velocity}."
            )
        if self.max_velocity is not None:
            check_positive("max_velocity", self.max_velocity)
        if isinstance(self.bounds, Clip | Midpoint | Reflect | Resample):
            raise StudyError(
                f"{type(self.bounds).__name__} knows nothing of velocities: the bounds of a "
                "particle swarm are Absorb(), Bounce() or ClipPosition()."
            )
        if self.raw and (self.initial_velocity, self.max_velocity) != (0.0, None):
            raise StudyError("Raw particles have neither an initial nor a maximal velocity.")

    def for_space(self, space: Mapping[str, BaseDistribution] | None) -> PSO:
        """On a leash, if its coordinates are raw."""
        return replace(self, bounds=_leash(space)) if self.raw else self

    def box(self, space: Mapping[str, BaseDistribution]) -> Box:
        """Raw, if its coordinates are."""
        return RawBox(space) if self.raw else super().box(space)

    @property
    def label(self) -> str:
        """Individuals with parents had a class of their own once, by which databases know them."""
        if self.breeding is None:
            return repr(self)
        return f"BredSwarm(size={self.size}, topology={self.topology})"

    def population_size(self, n: int, evaluations: int = 0) -> int:
        """The same for every n (SPSO 2011)."""
        return self.size

    def start(self, box: Box) -> Box:
        """The search space; a swarm has no other memory."""
        return box

    def uniform(self, box: Box, rng: Generator) -> Vector:
        """See :class:`Breeding`."""
        return self._breeding.uniform(box, rng)

    def first(self, x: Vector, rng: Generator) -> Candidate:
        """See :class:`Breeding`."""
        return self._breeding.first(x, rng)

    def ask(self, population: Population, slot: int, rng: Generator) -> Candidate:
        """A step of the slot's particle."""
        particle = population[slot]
        if not self._breeding.fertile(particle):
            raise TooFewMembers
        parents = (particle, *self.bests(population, slot))
        return self._breeding.cross(population.memory, parents, rng)

    def bests(self, population: Population, slot: int) -> tuple[Member, Member]:
        """The particle's own best, and the best that it knows of: the earliest of equals."""
        known = map(_best, self.topology(population, slot))
        return _best(population[slot]), min(known, key=lambda best: (best.rank, best.id))

    def survive(self, target: Member, child: Member) -> Member:
        """The particle moves, better or not; a further candidate only tells it what it found."""
        if not self._breeding.fertile(child):
            return target
        best = _best(target)
        best = child if child.rank < best.rank else best
        return replace(child if child.k == 0 else target, best=best)

    @property
    def _breeding(self) -> Breeding:
        return self.breeding or _Flight(self)


def _best(particle: Member) -> Member:
    """Its personal best."""
    return particle if particle.best is None else particle.best


class PSOSampler(PopulationSampler, algorithm=PSO):
    """A particle swarm that is nothing but the stored trials.

    All particles move at once, personal and global bests change by strict improvement only. A
    particle whose candidate was pruned or has failed moves on from it like any other.
    """


def _leash(search_space: Mapping[str, BaseDistribution] | None) -> Leash:
    ranges = {
        (d.low, d.high) if isinstance(d, FloatDistribution) else None
        for d in (search_space or {}).values()
    }
    found = ranges.pop() if len(ranges) == 1 else None
    if found is None or found[0] != -found[1]:
        raise StudyError("raw=True needs a search_space of floats with one range [−limit, limit].")
    return Leash(found[1])
