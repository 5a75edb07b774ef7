"""A real-coded genetic algorithm: selection, crossover, mutation, survival.

The operators and the defaults are Deb's (Multi-Objective Optimization Using Evolutionary
Algorithms, Wiley 2001, ch. 4); their papers are named in ``_variation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._numbers import check_at_least, check_positive
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers._variation import SBX, PolynomialMutation, Variation, roulette
from merge_optuna.samplers.algorithm import Candidate, DistributionAlgorithm, Member

if TYPE_CHECKING:
    from numpy.random import Generator

    from merge_optuna.samplers._variation import Mask
    from merge_optuna.samplers.box import Box

__all__ = ["GA", "FitnessProportional", "GASampler", "Generational", "Tournament", "Truncation"]


# -- Selection --------------------------------------------------------------------------------


class Selection(Protocol):
    """Who becomes a parent."""

    def __call__(self, population: Sequence[Member], rng: Generator) -> Member:
        """One parent of a population that is sorted, best first."""


@dataclass(frozen=True)
class Tournament:
    """The best of some members drawn with replacement, all at once.

    Attributes:
        size: how many; 1 is random selection.
    """

    size: int = 2

    def __post_init__(self) -> None:
        check_at_least(1, "size of a tournament", self.size)

    def __call__(self, population: Sequence[Member], rng: Generator) -> Member:
        """See :class:`Selection`."""
        return population[int(rng.integers(len(population), size=self.size).min())]


@dataclass(frozen=True)
class FitnessProportional:
    """Roulette wheel: a member's weight is the worst loss minus its own, one random number.

    The loss is the objective's value, negated if it is maximised; infinite losses count as the
    largest or smallest finite one. Only members as valid as the best one take part: the completed
    feasible ones once there is one, before that the pruned or infeasible ones that violate as
    little as the best. The worst of them has no chance, unless all are equal: then all have the
    same.
    """

    def __call__(self, population: Sequence[Member], rng: Generator) -> Member:
        """See :class:`Selection`."""
        best = population[0].rank[:2]
        losses = np.array([m.rank.loss for m in population if m.rank[:2] == best])
        finite = losses[np.isfinite(losses)]
        if finite.size == 0:
            finite = np.zeros(1)
        losses = np.clip(losses, finite.min(), finite.max()) / 2  # their difference has to exist
        return population[roulette(losses.max() - losses, rng)]  # sorted: they come first


# -- Survival ---------------------------------------------------------------------------------


class Survival(Protocol):
    """Who the next population is."""

    def __call__(
        self, population: Sequence[Member], children: Sequence[Member], size: int
    ) -> list[Member]:
        """At most ``size`` members, best first, of a population and children that are so too."""


@dataclass(frozen=True)
class Truncation:
    """The best of population and children, (μ+λ); the older among equals."""

    def __call__(
        self, population: Sequence[Member], children: Sequence[Member], size: int
    ) -> list[Member]:
        """See :class:`Survival`."""
        return _ranked(population, children)[:size]


@dataclass(frozen=True)
class Generational:
    """The children, but for the worst, whose places the best of the population keep.

    Attributes:
        elites: number of those.
    """

    elites: int = 1

    def __post_init__(self) -> None:
        check_positive("elites", self.elites, zero=True)

    def __call__(
        self, population: Sequence[Member], children: Sequence[Member], size: int
    ) -> list[Member]:
        """See :class:`Survival`."""
        elites = population[: self.elites]
        return _ranked(elites, children[: size - len(elites)])


def _ranked(older: Sequence[Member], younger: Sequence[Member]) -> list[Member]:
    return sorted([*older, *younger], key=lambda member: member.rank)  # keeps the order of equals


# -- The algorithm ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Memory:
    """The population, best first, and (n,) which dimensions are categorical."""

    unordered: Mask
    population: Sequence[Member] = ()


_TOURNAMENT, _SBX, _POLYNOMIAL = Tournament(), SBX(), PolynomialMutation()
_TRUNCATION = Truncation()


@dataclass(frozen=True)
class GA(DistributionAlgorithm):
    """A genetic algorithm. A candidate draws its parents, then what crossover and mutation need.

    Attributes:
        selection: ``Tournament(size)`` or ``FitnessProportional()``.
        crossover: ``SBX(eta, probability)`` or another :class:`Variation` like ``IsoLine()``.
        mutation: ``PolynomialMutation(eta, probability)`` or ``Gaussian(sigma)``.
        survival: ``Truncation()`` of population and children together, or
            ``Generational(elites)``.
        size: how many are parents, and how many children a generation has.
    """

    selection: Selection = _TOURNAMENT
    crossover: Variation = _SBX
    mutation: Variation = _POLYNOMIAL
    survival: Survival = _TRUNCATION
    size: int = 50

    def __post_init__(self) -> None:
        check_at_least(2, "population_size", self.size)
        if isinstance(self.survival, Generational) and self.survival.elites >= self.size:
            raise StudyError(
                f"elites must be fewer than the population_size of {self.size}, got "
                f"{self.survival.elites}: there would be no place for children."
            )

    def population_size(self, n: int) -> int:
        """As given."""
        return self.size

    def start(self, box: Box) -> _Memory:
        """Nobody."""
        return _Memory(box.unordered)

    def ask(self, memory: _Memory, rng: Generator) -> Candidate:
        """One child; a uniform point while there is nobody."""
        unordered, population = memory.unordered, memory.population
        if not population:
            return Candidate(rng.random(len(unordered)))
        parents = [self.selection(population, rng).x for _ in range(self.crossover.parents)]
        child = self.crossover(parents, unordered, rng)
        return Candidate(self.mutation([child], unordered, rng))

    def learn(self, memory: _Memory, ranked: Sequence[Member]) -> _Memory:
        """Survival; a failed candidate is nobody's parent."""
        children = [member for member in ranked if member.rank.state < 2]
        return _Memory(memory.unordered, self.survival(memory.population, children, self.size))


class GASampler(ArchiveSampler, algorithm=GA):
    """A real-coded genetic algorithm whose population is nothing but the stored trials.

    Two parents, drawn independently, make one child (of crossover's two), which is then mutated.
    It may equal one of them. Categorical parameters are exchanged between the parents, and drawn
    anew by mutation. Whenever ``population_size`` results are in, they are the children of the
    next replacement. A child that is as good as a member of the population does not replace it.
    """
