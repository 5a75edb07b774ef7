"""Differential evolution: Storn & Price 1997, and what became of it up to L-SHADE.

Where the papers let a child that is as good as its target replace it, it does not here: this
package selects by strict improvement everywhere.

- Storn & Price: Differential evolution, J. of Global Optimization 11, 1997.
- Brest et al.: Self-adapting control parameters in differential evolution (jDE), IEEE
  Transactions on Evolutionary Computation 10(6), 2006.
- Zhang & Sanderson: JADE, IEEE Transactions on Evolutionary Computation 13(5), 2009.
- Tanabe & Fukunaga: Success-history based parameter adaptation (SHADE), CEC 2013.
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
from merge_optuna.samplers._numbers import check_at_least, check_positive, check_share
from merge_optuna.samplers._protocol.sampler import PopulationSampler
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


# -- Mutation ---------------------------------------------------------------------------------


class Mutation(Protocol):
    """How the mutant of a slot is made from the population.

    An implementation is a frozen dataclass: its ``repr`` is part of the population's name.
    """

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


# -- F and CR ---------------------------------------------------------------------------------


class Adaptation(Protocol):
    """Where the scale factor F and the crossover rate CR of a mutant come from.

    An implementation is a frozen dataclass: its ``repr`` is part of the population's name.
    """

    def start(self) -> Any:
        """What is learned, in generation 0: nothing, unless it says otherwise."""
        return None

    def draw(self, learned: Any, target: Member, rng: Generator) -> tuple[float, float]:
        """F and CR of a mutant."""

    def learn(self, learned: Any, won: Sequence[tuple[Member, Member]]) -> Any:
        """What is learned from the (target, child) pairs of a generation whose child won."""
        return learned


@dataclass(frozen=True)
class Fixed(Adaptation):
    """The same F and CR for every mutant: 0.5 and 0.9 are first choices of Storn & Price 1997."""

    F: float = 0.5
    CR: float = 0.9

    def __post_init__(self) -> None:
        _check_F(self.F, self.F)
        check_share("CR", self.CR)

    def draw(self, learned: None, target: Member, rng: Generator) -> tuple[float, float]:
        """See :class:`Adaptation`."""
        return self.F, self.CR


@dataclass(frozen=True)
class Dither(Adaptation):
    """F uniform in [low, high], anew for every mutant (Price, Storn & Lampinen 2005)."""

    low: float = 0.5
    high: float = 1.0
    CR: float = 0.9

    def __post_init__(self) -> None:
        _check_F(self.low, self.high)
        check_share("CR", self.CR)

    def draw(self, learned: None, target: Member, rng: Generator) -> tuple[float, float]:
        """See :class:`Adaptation`."""
        return self.low + (self.high - self.low) * rng.random(), self.CR


@dataclass(frozen=True)
class JDE(Adaptation):
    """Every member has an F and a CR of its own, inherited or drawn anew (Brest et al. 2006).

    The first are 0.5 and 0.9. A child that wins keeps those that made it.

    Attributes:
        tau: probability of a new F, and of a new CR.
        low: a new F is uniform in [low, high], a new CR in [0, 1].
        high: see ``low``.
    """

    tau: float = 0.1
    low: float = 0.1
    high: float = 1.0

    def __post_init__(self) -> None:
        _check_F(self.low, self.high)
        check_share("tau", self.tau)

    def draw(self, learned: None, target: Member, rng: Generator) -> tuple[float, float]:
        """See :class:`Adaptation`."""
        F, CR = target.hidden.get("F_CR", (0.5, 0.9))
        r = rng.random(4)  # rand_1 ... rand_4 of the paper
        if r[1] < self.tau:
            F = self.low + r[0] * (self.high - self.low)
        if r[3] < self.tau:
            CR = r[2]
        return float(F), float(CR)


@dataclass(frozen=True)
class SHADE(Adaptation):
    """F and CR from a memory of what has worked (Tanabe & Fukunaga 2013; L-SHADE 2014).

    Draws the entry, then CR, then F until it is positive.

    Attributes:
        memory: number H of remembered means of F and CR.
        terminal: L-SHADE's version of 2014: the mean of CR is a Lehmer mean too, and an entry for
            which only CR = 0 has worked means 0 for ever (Algorithm 1 there; the code that its
            authors published overwrites it).
    """

    memory: int = 100
    terminal: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, "memory", self.memory)

    def start(self) -> _History:
        """All means are 0.5."""
        return _History(np.full(self.memory, 0.5), np.full(self.memory, 0.5), 0)

    def draw(self, learned: _History, target: Member, rng: Generator) -> tuple[float, float]:
        """F from a Cauchy, CR from a normal distribution around a random entry."""
        i = int(rng.integers(self.memory))
        mean = learned.CR[i]
        CR = 0.0 if math.isnan(mean) else float(np.clip(rng.normal(mean, 0.1), 0.0, 1.0))
        F = 0.0
        while F <= 0:  # drawn again, not cut off
            F = float(learned.F[i] + 0.1 * rng.standard_cauchy())
        return min(F, 1.0), CR

    def learn(self, learned: _History, won: Sequence[tuple[Member, Member]]) -> _History:
        """One entry becomes the mean of the winners, weighted by how much they won by."""
        # Candidates drawn as in generation 0, because there were too few members, have no F.
        won = [(target, child) for target, child in won if "F_CR" in child.hidden]
        if not won:
            return learned
        F, CR = np.array([child.hidden["F_CR"] for _, child in won]).T
        weights = _gains(won)
        means_F, means_CR, i = learned.F.copy(), learned.CR.copy(), learned.next
        means_F[i] = _lehmer(F, weights)
        if not self.terminal:
            means_CR[i] = np.sum(weights * CR)
        elif math.isnan(means_CR[i]) or np.sum(weights * CR) == 0:
            means_CR[i] = math.nan
        else:
            means_CR[i] = _lehmer(CR, weights)
        return _History(means_F, means_CR, (i + 1) % self.memory)


@dataclass(frozen=True, eq=False)
class _History:
    """Means of F and CR that have worked, (H,) each, and the entry to be replaced next.

    NaN is the terminal value of CR.
    """

    F: Vector
    CR: Vector
    next: int


def _gains(won: Sequence[tuple[Member, Member]]) -> Vector:
    """The weights of the winners: the share of each in the improvement."""
    gains = np.array([target.rank.worse_by(child.rank) for target, child in won])
    finite = gains[np.isfinite(gains)]
    # A child that completes where its target did not has gained as much as the best.
    gains[~np.isfinite(gains)] = finite.max() if finite.size else 1.0
    gains = np.ldexp(gains, -np.frexp(gains.max())[1])  # exact; penalties of 1e308 have a sum
    return np.asarray(gains / np.sum(gains))


def _lehmer(values: Vector, weights: Vector) -> float:
    """The weighted Lehmer mean Σ w v² / Σ w v."""
    return float(np.sum(weights * values**2) / np.sum(weights * values))


def _check_F(low: float, high: float) -> None:
    if not 0 < low <= high <= 2:
        got = f"{low}" if low == high else f"[{low}, {high}]"
        raise StudyError(f"F must be in (0, 2], the lower bound first, got {got}.")


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
    """Differential evolution whose population is nothing but the stored trials.

    A search that is killed and started again goes on exactly as if nothing had happened; several
    workers share one population and never wait for each other (see :class:`PopulationSampler`).
    Every parameter is mapped to [0, 1], logarithmic ones in log space; those with a step and
    categorical ones as cells of equal width, whose point moves on continuously.
    """

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
            initial_population: see there.
            seed: see there.
            max_attempts: see there.

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
