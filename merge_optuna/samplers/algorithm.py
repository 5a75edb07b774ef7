"""All that one has to know to write an algorithm: three bases to inherit from, and what they see.

An algorithm knows nothing of Optuna, of processes or of storages: points of the unit box come out
of it, evaluated members go into it. Which base it takes depends on what a result does:

- :class:`PopulationAlgorithm`: it meets the member of its slot (differential evolution, swarms);
- :class:`DistributionAlgorithm`: a generation of results is learned at once (CMA-ES, a GA);
- :class:`ArchiveAlgorithm`: it is inserted at once (MAP-Elites, niches).

``PopulationSampler`` runs the first, ``ArchiveSampler`` the other two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from merge_optuna._scores import unpack
from merge_optuna.samplers.box import Box

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna.distributions import BaseDistribution

    from merge_optuna.samplers.box import Vector

__all__ = [
    "ArchiveAlgorithm",
    "Candidate",
    "DistributionAlgorithm",
    "Member",
    "Population",
    "PopulationAlgorithm",
]


@dataclass(frozen=True, eq=False)
class Candidate:
    """What an algorithm proposes.

    Attributes:
        x: (n,) the point of the unit box that is evaluated.
        hidden: further vectors that the algorithm wants back with the result, e.g. the sample
            before it was rounded to a step.
        parents: numbers of the trials that a child descends from, by the name of the parameter
            that names the parent.
    """

    x: Vector
    hidden: Mapping[str, Vector] = field(default_factory=dict)
    parents: Mapping[str, int] = field(default_factory=dict)


class Rank(NamedTuple):
    """How good a finished candidate is; smaller is better.

    Complete trials come before pruned ones, pruned before failed. Within a state Deb's rule
    (2000): no violation before some, less before more, then by loss. Several losses are compared
    one after the other, which is an order but says nothing of which is better.

    Attributes:
        state: 0 complete, 1 pruned, 2 failed.
        violation: sum of the violated constraints.
        loss: the objective's value, negated if it is maximised; a pruned trial's partial value,
            inf if it has none. With several objectives that of the first.
        further: those of the other objectives.
    """

    state: int
    violation: float
    loss: float
    further: tuple[float, ...] = ()

    def worse_by(self, better: Rank) -> float:
        """Difference of the losses; inf where they cannot be compared."""
        return self.loss - better.loss if self[:2] == better[:2] else math.inf


@dataclass(frozen=True, eq=False)
class Member:
    """A candidate that has been evaluated.

    Attributes:
        x: (n,) the point of the unit box.
        rank: how good it is.
        hidden: what the algorithm has added to the candidate.
        id: the individual's number, its place in the log.
        k: see :class:`Claim`.
        params: what was evaluated.
        attrs: user attributes of its trial.
        trial: number of its trial.
        best: the best that its slot has seen, for algorithms that move on from it (PSO).
        packed_scores: ``scores`` as stored.
        sign: 1 if the study minimises, -1 if it maximises; the first of several objectives.
        parents: see :class:`Candidate`.
    """

    x: Vector
    rank: Rank
    hidden: Mapping[str, Vector] = field(default_factory=dict)
    id: int = 0
    k: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    trial: int = 0
    best: Member | None = None
    packed_scores: Any = field(default=None, repr=False)
    sign: int = -1
    parents: Mapping[str, int] = field(default_factory=dict)

    @property
    def losses(self) -> tuple[float, ...]:
        """One per objective, smaller is better; see :class:`Rank`."""
        return self.rank.loss, *self.rank.further

    @cached_property
    def scores(self) -> Vector:
        """(m,) per-example scores, larger is better; without any, the objective's value as one.

        In a study that minimises they are the negated ones.
        """
        if self.packed_scores is None:
            return np.array([-self.rank.loss])
        return -self.sign * unpack(self.packed_scores, f"trial {self.trial}").astype(np.float64)


class TooFewMembers(Exception):
    """While the first results are not in: the candidate is drawn as in generation 0."""


class Population:
    """What an algorithm sees: the member of each slot after the previous generation.

    Args:
        members: slot -> member. A slot whose first candidate is not evaluated yet is absent; with
            one worker none is.
        slots: all slots of this generation.
        memory: what the algorithm has learned from the generations before.

    Attributes:
        members: sorted by slot.
    """

    def __init__(self, members: Mapping[int, Member], slots: Sequence[int], memory: Any) -> None:
        self.members = dict(sorted(members.items()))
        self.slots = tuple(slots)
        self.memory = memory

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, slot: int) -> bool:
        return slot in self.members

    def __getitem__(self, slot: int) -> Member:
        return self.members[slot]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def others(self, slot: int, count: int, rng: Generator) -> list[Member]:
        """``count`` different members of other slots."""
        others = [other for other in self.members if other != slot]
        if len(others) < count:
            raise TooFewMembers
        return [self.members[others[i]] for i in rng.choice(len(others), count, replace=False)]

    @cached_property
    def ranked(self) -> list[Member]:
        """Best first; the earlier among equals."""
        return sorted(self, key=lambda member: (member.rank, member.id))


class Algorithm(ABC):
    """What the three bases share.

    Instances are immutable: inherit as a frozen dataclass, whose ``repr`` names the options. So do
    the strategies among these, whose ``repr`` is part of it. The results of the methods must
    depend on nothing but the arguments.
    """

    multi_objective: ClassVar[bool] = False
    """Whether it can search several objectives: it looks at :attr:`Member.losses`."""

    def for_space(self, space: Mapping[str, BaseDistribution] | None) -> Self:
        """The algorithm in a search space, or in one that is inferred later.

        Raises:
            StudyError: If it cannot search it.
        """
        return self

    def box(self, space: Mapping[str, BaseDistribution]) -> Box:
        """The coordinates in which it searches a space; what it leaves out is drawn uniformly."""
        return Box(space, categorical=True)

    @property
    def label(self) -> str:
        """What databases call its populations: it names the options."""
        return repr(self)

    @abstractmethod
    def start(self, box: Box) -> Any:
        """The memory of generation 0."""


class PopulationAlgorithm(Algorithm):
    """An algorithm on a population with slots (differential evolution, particle swarms)."""

    @abstractmethod
    def population_size(self, n: int, evaluations: int = 0) -> int:
        """Number of slots in ``n`` dimensions after so many evaluations; must not grow."""

    @abstractmethod
    def ask(self, population: Population, slot: int, rng: Generator) -> Candidate:
        """The next candidate of a slot that has a member."""

    def uniform(self, box: Box, rng: Generator) -> Vector:
        """A point (n,) of generation 0 that is not given."""
        return box.uniform(rng)

    def first(self, x: Vector, rng: Generator) -> Candidate:
        """A candidate of generation 0, at a given or uniform point ``x`` (n,)."""
        return Candidate(x)

    def survive(self, target: Member, child: Member) -> Member:
        """Which of the two the slot keeps: the better, the older of equals.

        A child with ``k`` > 0 is a further candidate of a slot whose own is still in flight.
        """
        return child if child.rank < target.rank else target

    def start(self, box: Box) -> Any:
        """The memory of generation 0."""
        return None

    def learn(
        self,
        population: Population,
        generation: Sequence[tuple[Member, Member]],
        rng: Generator,
    ) -> Any:
        """The memory of the next generation.

        Args:
            population: the next generation, with the memory of this one.
            generation: (target, child) of this or earlier generations; in the order of the slots
                when there is one worker, as they finished when there are more.
            rng: random numbers of the generation.
        """
        return population.memory


class DistributionAlgorithm(Algorithm):
    """An algorithm whose candidates are exchangeable, told once per generation (CMA-ES, a GA).

    What is learned lives in the memory that ``start`` makes.
    """

    @abstractmethod
    def population_size(self, n: int) -> int:
        """Number of candidates told at once in ``n`` dimensions."""

    @abstractmethod
    def ask(self, memory: Any, rng: Generator) -> Candidate:
        """A candidate of the current generation."""

    @abstractmethod
    def learn(self, memory: Any, ranked: Sequence[Member]) -> Any:
        """The memory of the next generation, from members of this or earlier ones, best first.

        ``memory`` may be changed in place.
        """


class ArchiveAlgorithm(DistributionAlgorithm):
    """An algorithm with an archive into which every result is inserted at once (MAP-Elites)."""

    def population_size(self, n: int) -> int:
        """Results are told one by one."""
        return 1

    def learn(self, memory: Any, ranked: Sequence[Member]) -> Any:
        """The only member is inserted."""
        return self.insert(memory, ranked[0])

    @abstractmethod
    def insert(self, archive: Any, child: Member) -> Any:
        """The archive with the child, or without it; ``archive`` may be changed in place."""
