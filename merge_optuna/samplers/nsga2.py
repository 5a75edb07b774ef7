"""NSGA-II (Deb, Pratap, Agarwal & Meyarivan 2002): a genetic algorithm for several objectives.

A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE Transactions on Evolutionary
Computation 6(2), 182-197. Sections in brackets are of this paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from merge_optuna.samplers._numbers import check_at_least
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers._variation import PolynomialMutation, UniformSBX, Variation
from merge_optuna.samplers.algorithm import Candidate, DistributionAlgorithm, Member

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from merge_optuna.samplers._variation import Mask
    from merge_optuna.samplers.box import Box, Vector

__all__ = ["NSGA2", "NSGA2Sampler"]


# -- Who is better ----------------------------------------------------------------------------


class Standing(NamedTuple):
    """The crowded comparison (III-B): an earlier front, then more room; smaller is better.

    Attributes:
        front: number of the member's front, from 0.
        crowding: minus its crowding distance.
    """

    front: int
    crowding: float


def dominance(members: Sequence[Member]) -> Mask:
    """Constrained domination (VI-A): [i, j] says whether member i of N dominates j; (N, N).

    Who is more valid (completed before pruned, then by violation) dominates; among equally valid
    ones it is who is worse in no objective and better in one.
    """
    order = {valid: i for i, valid in enumerate(sorted({m.rank[:2] for m in members}))}
    valid = np.array([order[m.rank[:2]] for m in members])
    losses = np.array([m.losses for m in members])
    no_worse = np.all(losses[:, None] <= losses, axis=2)
    dominates = no_worse & ~no_worse.T
    return np.asarray(
        (valid[:, None] < valid) | ((valid[:, None] == valid) & dominates), dtype=bool
    )


def fronts(dominates: Mask) -> Iterator[NDArray[np.intp]]:
    """The fast non-dominated sort (III-A): the indices of the first front, the second, ...

    Args:
        dominates: (N, N), see :func:`dominance`.
    """
    dominators = dominates.sum(axis=0)  # how many dominate a member that are in no front yet
    left = np.ones(len(dominates), dtype=bool)
    while np.any(left):
        front = np.flatnonzero(left & (dominators == 0))
        yield front
        left[front] = False
        dominators -= dominates[front].sum(axis=0)


def crowding_distance(losses: Vector) -> Vector:
    """How far apart the neighbours of each of k points are, summed over the objectives (III-B).

    An objective in which all are equal adds nothing, in the others the outermost points have
    infinite room. Infinite losses have no part in the range that distances are divided by, and no
    distance from each other.

    Args:
        losses: (k, m) of one front.

    Returns:
        (k,) distances.
    """
    total, order = np.zeros(len(losses)), np.arange(len(losses))
    for column in losses.T / 2:  # halved, so that differences of the largest floats exist
        order = order[np.argsort(column[order], kind="stable")]
        sorted_ = column[order]
        if sorted_[0] == sorted_[-1]:
            continue
        finite = sorted_[np.isfinite(sorted_)]
        width = float(finite[-1] - finite[0]) if finite.size else 0.0
        below = np.concatenate([[-np.inf], sorted_[:-1]])
        above = np.concatenate([sorted_[1:], [np.inf]])
        gaps = np.subtract(above, below, out=np.zeros(len(losses)), where=above != below)
        total[order] += gaps / (width or 1.0)
    return total


# -- The algorithm ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Memory:
    """The parents with their standings, and (n,) which dimensions are categorical."""

    unordered: Mask
    population: Sequence[Member] = ()
    standings: Sequence[Standing] = ()


_SBX, _POLYNOMIAL = UniformSBX(), PolynomialMutation()


@dataclass(frozen=True)
class NSGA2(DistributionAlgorithm):
    """NSGA-II. A candidate draws its parents, then what crossover and mutation need.

    Attributes:
        size: how many are parents, and how many children a generation has.
        crossover: ``UniformSBX(eta, probability)``, or ``SBX(eta, probability)`` as in the
            paper, or another :class:`Variation` like ``IsoLine()``.
        mutation: ``PolynomialMutation(eta, probability)`` or ``Gaussian(sigma)``.
    """

    size: int = 50
    crossover: Variation = _SBX
    mutation: Variation = _POLYNOMIAL
    multi_objective: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_at_least(2, "population_size", self.size)

    def population_size(self, n: int) -> int:
        """As given."""
        return self.size

    def start(self, box: Box) -> _Memory:
        """Nobody."""
        return _Memory(box.unordered)

    def ask(self, memory: _Memory, rng: Generator) -> Candidate:
        """One child; a uniform point while there is nobody."""
        unordered = memory.unordered
        if not memory.population:
            return Candidate(rng.random(len(unordered)))
        parents = [_tournament(memory, rng).x for _ in range(self.crossover.parents)]
        child = self.crossover(parents, unordered, rng)
        return Candidate(self.mutation([child], unordered, rng))

    def learn(self, memory: _Memory, ranked: Sequence[Member]) -> _Memory:
        """Who of parents and children stays (III-C); a failed candidate is nobody's parent."""
        children = sorted(ranked, key=lambda member: member.id)
        everybody = [m for m in (*memory.population, *children) if m.rank.state < 2]
        kept = _survivors(everybody, self.size)
        return _Memory(memory.unordered, [m for m, _ in kept], [s for _, s in kept])


def _tournament(memory: _Memory, rng: Generator) -> Member:
    """The better of two members (III-C), the first drawn of equals."""
    first, second = rng.integers(len(memory.population), size=2)
    winner: int = second if memory.standings[second] < memory.standings[first] else first
    return memory.population[winner]


def _survivors(members: Sequence[Member], size: int) -> list[tuple[Member, Standing]]:
    """At most ``size``: whole fronts, and of the last one those with the most room (III-C)."""
    kept: list[tuple[Member, Standing]] = []
    for number, front in enumerate(fronts(dominance(members)) if members else ()):
        room = crowding_distance(np.array([members[i].losses for i in front]))
        order = np.arange(len(front))
        if len(kept) + len(front) > size:
            order = np.argsort(-room, kind="stable")[: size - len(kept)]  # the older of equals
        kept += [(members[front[i]], Standing(number, -float(room[i]))) for i in order]
        if len(kept) == size:
            break
    return kept


class NSGA2Sampler(ArchiveSampler, algorithm=NSGA2):
    """NSGA-II, whose population is nothing but the stored trials; for one objective or several.

    How it differs from :class:`optuna.samplers.NSGAIISampler`:

    - A search that is killed and started again goes on exactly as if nothing had happened, and
      workers neither wait nor lose results: whenever ``population_size`` results are in, they are
      the children of the next replacement, whichever generation they were drawn from.
    - Crossover and mutation are SBX and polynomial mutation, not uniform crossover and uniform
      values. With SBX as it is in the paper, where a child is three quarters its first parent, it
      was behind Optuna's on half of the test problems after 1000 trials, and so
      :class:`UniformSBX` is the default, which is not.
    - Failed trials are proposed again; pruned ones rank below completed ones.

    Two parents, each the winner of a tournament of two, make one child (of crossover's two), which
    is then mutated. Constraints set by ``trial.set_constraint`` are used: who violates less
    dominates. ``study.best_trials`` of Optuna is the front that has been found.
    """
