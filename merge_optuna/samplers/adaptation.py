"""Where the scale factor F and the crossover rate CR of differential evolution come from.

- Brest et al.: Self-adapting control parameters in differential evolution (jDE), IEEE
  Transactions on Evolutionary Computation 10(6), 2006.
- Tanabe & Fukunaga: Success-history based parameter adaptation (SHADE), CEC 2013; with linear
  population size reduction (L-SHADE), CEC 2014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._numbers import check_at_least, check_share

if TYPE_CHECKING:
    from numpy.random import Generator

    from merge_optuna.samplers.algorithm import Member
    from merge_optuna.samplers.box import Vector

__all__ = ["JDE", "SHADE", "Dither", "Fixed"]


class Adaptation(Protocol):
    """Where the scale factor F and the crossover rate CR of a mutant come from."""

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
