"""Differential evolution: Storn & Price 1997, and what became of it up to L-SHADE.

Where the papers let a child that is as good as its target replace it, it does not here: this
package selects by strict improvement everywhere.

- Storn & Price: Differential evolution, J. of Global Optimization 11, 1997.
- Zhang & Sanderson: JADE, IEEE Transactions on Evolutionary Computation 13(5), 2009.
- Tanabe & Fukunaga: Improving the search performance of SHADE using linear population size
  reduction (L-SHADE), CEC 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._bounds import Bounds, Midpoint
from merge_optuna.samplers._numbers import check_at_least, check_positive
from merge_optuna.samplers._protocol.sampler import PopulationSampler
from merge_optuna.samplers.adaptation import SHADE, Adaptation
from merge_optuna.samplers.algorithm import (
    Candidate,
    Member,
    Population,
    PopulationAlgorithm,
    TooFewMembers,
)
from merge_optuna.samplers.box import Box

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna.distributions import BaseDistribution

    from merge_optuna.samplers.box import Vector

__all__ = ["DE", "Best", "CurrentToBest", "CurrentToPBest", "DESampler", "LinearReduction", "Rand"]


# -- Mutation ---------------------------------------------------------------------------------


class Mutation(Protocol):
    """How the mutant of a slot is made from the population."""

    @property
    def archive(self) -> float:
        """Size of the archive of beaten members, in population sizes; 0 for none."""
        return 0.0

    def __call__(self, population: Population, slot: int, F: float, rng: Generator) -> Vector:
        """The mutant (n,), perhaps outside of the unit box."""


@dataclass(frozen=True)
class Rand(Mutation):
    """DE/rand/1: x_a + F (x_b − x_c) (Storn & Price 1997); draws a, b, c at once."""

    def __call__(self, population: Population, slot: int, F: float, rng: Generator) -> Vector:
        """See :class:`Mutation`."""
        a, b, c = population.others(slot, 3, rng)
        return a.x + F * (b.x - c.x)


@dataclass(frozen=True)
class Best(Mutation):
    """DE/best/1: x_best + F (x_a − x_b); draws a, b at once."""

    def __call__(self, population: Population, slot: int, F: float, rng: Generator) -> Vector:
        """See :class:`Mutation`."""
        a, b = population.others(slot, 2, rng)
        return population.ranked[0].x + F * (a.x - b.x)


@dataclass(frozen=True)
class CurrentToBest(Mutation):
    """DE/current-to-best/1: x_i + F (x_best − x_i) + F (x_a − x_b); draws a, b at once."""

    def __call__(self, population: Population, slot: int, F: float, rng: Generator) -> Vector:
        """See :class:`Mutation`."""
        a, b = population.others(slot, 2, rng)
        x = population[slot].x
        return x + F * (population.ranked[0].x - x) + F * (a.x - b.x)


@dataclass(frozen=True)
class CurrentToPBest(Mutation):
    """DE/current-to-pbest/1: x_i + F (x_pbest − x_i) + F (x_a − x_b) (JADE, eq. 6 and 7).

    Draws p if it is a range, then x_pbest, then a, then b; a and b are neither i nor each other.

    Attributes:
        p: share of the population that x_pbest is drawn from (two members at least): JADE's 0.05
            to 0.2, L-SHADE's 0.11; or a range (low, high) from which it is drawn anew for every
            mutant, low = None being 2 / size: SHADE's is (None, 0.2).
        archive: x_b is drawn from the population and the members it has beaten; how many of the
            latter are kept, in population sizes: 1 in JADE and SHADE, 2.6 in L-SHADE.
    """

    p: float | tuple[float | None, float] = 0.1
    archive: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.p if isinstance(self.p, tuple) else (self.p, self.p)
        if not 0 < (high if low is None else low) <= high <= 1:
            raise StudyError(f"p must be in (0, 1], or two such numbers in order, got {self.p}.")
        check_positive("archive", self.archive, zero=True)

    def __call__(self, population: Population, slot: int, F: float, rng: Generator) -> Vector:
        """See :class:`Mutation`."""
        p, size = self.p, len(population)
        if isinstance(p, tuple):
            low = 2 / size if p[0] is None else p[0]
            p = low + (p[1] - low) * rng.random()
        top = population.ranked[: max(2, _nearest(p * size))]
        best = top[int(rng.integers(len(top)))]
        (a,) = population.others(slot, 1, rng)
        beaten: Sequence[Vector] = population.memory.beaten
        seconds = [m.x for s, m in population.members.items() if s != slot and m is not a]
        seconds.extend(beaten)
        if not seconds:
            raise TooFewMembers
        x, b = population[slot].x, seconds[int(rng.integers(len(seconds)))]
        return x + F * (best.x - x) + F * (a.x - b)


def _nearest(x: float) -> int:
    """The nearest integer, the upper one in the middle: ``round`` of the papers' own code."""
    return math.floor(x + 0.5)


# -- Population size --------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearReduction:
    """The population shrinks linearly over a budget (L-SHADE, eq. 10).

    Attributes:
        budget: number of evaluations after which it is as small as it gets.
        to: that size; four is the smallest with which current-to-pbest/1 works.
    """

    budget: int
    to: int = 4

    def __post_init__(self) -> None:
        check_at_least(1, "budget", self.budget)
        check_at_least(4, "to", self.to)

    def __call__(self, initial: int, evaluations: int) -> int:
        """Population size after so many evaluations."""
        done = min(evaluations, self.budget)
        return min(initial, _nearest((self.to - initial) * done / self.budget + initial))


# -- The algorithm ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Memory:
    """What the adaptation has learned, and the points that were beaten, oldest first."""

    learned: Any
    beaten: Sequence[Vector] = ()


# Without a budget nothing needs tuning less; better than rand/1/bin on most of BBOB.
_MUTATION, _ADAPTATION, _MIDPOINT = CurrentToPBest(), SHADE(memory=20), Midpoint()


@dataclass(frozen=True)
class DE(PopulationAlgorithm):
    """Differential evolution with binomial crossover.

    A candidate draws F and CR, then the members of its mutant, then what its bounds need, then
    the crossover mask, then the coordinate that is crossed in any case. A generation draws the
    part of the archive that stays, if it has grown too large.

    Attributes:
        mutation: ``CurrentToPBest(p, archive)``, ``CurrentToBest()``, ``Best()`` or ``Rand()``.
        adaptation: ``SHADE(memory)``, ``JDE()``, ``Dither(low, high, CR)`` or ``Fixed(F, CR)``.
            With ``mutation=Rand(), adaptation=Fixed(0.5, 0.9)`` it is the classic rand/1/bin.
        size: number of slots; n for n parameters, between 20 and 100, by default.
        reduction: ``LinearReduction(budget)`` to shrink the population; see
            :meth:`DESampler.lshade`.
        bounds: what happens to mutants outside: ``Midpoint()``, ``Clip()``, ``Reflect()`` or
            ``Resample()``.
    """

    mutation: Mutation = _MUTATION
    adaptation: Adaptation = _ADAPTATION
    size: int | None = None
    reduction: LinearReduction | None = None
    bounds: Bounds = _MIDPOINT

    def __post_init__(self) -> None:
        size, reduction = self.size, self.reduction
        if size is not None:
            check_at_least(4, "population_size", size)
        if size is not None and reduction is not None and reduction.budget <= size:
            raise StudyError(
                f"The budget of {reduction.budget} evaluations ends with the first generation of "
                f"{size}: raise it or choose a smaller population_size."
            )

    def population_size(self, n: int, evaluations: int = 0) -> int:
        """N between 20 and 100, unless given.

        Storn & Price advise 5 n to 10 n; but then a thousand trials, which is much for a merge,
        are a handful of generations.
        """
        size = self.size or min(max(n, 20), 100)
        return self.reduction(size, evaluations) if self.reduction else size

    def start(self, box: Box) -> _Memory:
        """Nothing is learned, nobody is beaten."""
        return _Memory(self.adaptation.start())

    def ask(self, population: Population, slot: int, rng: Generator) -> Candidate:
        """Mutation, bounds, binomial crossover with the slot's member; F and CR are kept."""
        target = population[slot]
        F, CR = self.adaptation.draw(population.memory.learned, target, rng)
        mutant = self.mutation(population, slot, F, rng)
        mutant = self.bounds(mutant, target.x, rng)
        cross = rng.random(mutant.size) < CR
        cross[rng.integers(mutant.size)] = True  # at least one coordinate
        x = np.where(cross, mutant, target.x)
        return Candidate(x, {"F_CR": np.array([F, CR])})

    def learn(
        self,
        population: Population,
        generation: Sequence[tuple[Member, Member]],
        rng: Generator,
    ) -> _Memory:
        """Winners teach the adaptation, the beaten go to the archive; random ones leave it.

        Only once, down to the size that the next generation allows (L-SHADE, Algorithm 2, trims
        before and after the reduction: as random).
        """
        memory: _Memory = population.memory
        won = [(target, child) for target, child in generation if child.rank < target.rank]
        beaten = [*memory.beaten, *(target.x for target, _ in won)]
        limit = _nearest(self.mutation.archive * len(population.slots))
        if len(beaten) > limit:
            kept = sorted(rng.choice(len(beaten), limit, replace=False))
            beaten = [beaten[i] for i in kept]
        return _Memory(self.adaptation.learn(memory.learned, won), beaten)


class DESampler(PopulationSampler, algorithm=DE):
    """Differential evolution whose population is nothing but the stored trials."""

    @classmethod
    def lshade(
        cls,
        budget: int,
        search_space: Mapping[str, BaseDistribution],
        *,
        population_size: int | None = None,
        bounds: Bounds = _MIDPOINT,
        initial_population: Sequence[Mapping[str, Any]] = (),
        seed: int | None = None,
        max_attempts: int = 3,
    ) -> DESampler:
        """L-SHADE (Tanabe & Fukunaga 2014): the strongest variant if the budget is known.

        Success-history adaptation with six entries, current-to-pbest/1 with p = 0.11 and an
        archive of 2.6 population sizes, and a population that shrinks linearly to 4. The paper
        starts with 18 n, for budgets of 10,000 n; with fewer trials fewer slots do better.

        Args:
            budget: number of trials of the whole search.
            search_space: parameter name -> distribution.
            population_size: that of the first generation; 18 for each of n parameters by default,
                but at most a fortieth of the budget (and at least 10).
            bounds: this and the others as for :class:`DESampler`.
            initial_population: as there.
            seed: as there.
            max_attempts: as there.

        Raises:
            StudyError: if the budget ends with the first generation, and as for the class.
        """
        if population_size is None:
            n = len(Box(search_space, categorical=True))
            population_size = max(4, min(18 * n, max(10, budget // 40)))
        make: Callable[..., DESampler] = cls  # its arguments are in the stub of this package
        return make(
            search_space,
            mutation=CurrentToPBest(0.11, archive=2.6),
            adaptation=SHADE(memory=6, terminal=True),
            population_size=population_size,
            reduction=LinearReduction(budget),
            bounds=bounds,
            initial_population=initial_population,
            seed=seed,
            max_attempts=max_attempts,
        )
