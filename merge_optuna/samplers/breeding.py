"""What individuals are: the seam between an algorithm, which chooses parents, and a space.

An individual is a point of the unit box (:class:`Points`), or it is named by its parents
(:class:`Pedigree`). A trial of the latter kind is one of the sources, ``{origin: "math"}``, or a
child, ``{origin: "child", parent_a: 12, parent_b: 31, ...}``. A parent is named by its individual
id: its place in the log of finished candidates, 0, 1, 2, ..., so that a killed trial shifts
nothing. The numbers of the trials are in the claim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from merge_optuna.errors import StudyError
from merge_optuna.samplers.algorithm import Candidate

if TYPE_CHECKING:
    from merge_optuna.samplers._variation import Variation
    from merge_optuna.samplers.algorithm import Member
    from merge_optuna.samplers.box import Box, Vector

__all__ = ["Breeding", "Pedigree", "SplitCrossover"]

ORIGIN = "origin"
"""Parameter: which source it is, or that it is a child."""
CHILD = "child"
SEED = IntDistribution(0, 2**32 - 1)
"""The distribution of a parameter that is a seed of what is drawn at random in a child."""
INDIVIDUAL = IntDistribution(0, 2**31 - 1)
"""The distribution of a parameter that names an individual."""
_SHARE = FloatDistribution(0.0, 1.0)
_FAILED = 2


class Breeding(ABC):
    """How individuals begin, and how parents have a child."""

    def uniform(self, box: Box, rng: np.random.Generator) -> Vector:
        """A random point (n,) of those that an individual without parents can have."""
        return box.uniform(rng)

    def first(self, x: Vector, rng: np.random.Generator) -> Candidate:
        """The candidate at such a point."""
        return Candidate(x)

    @abstractmethod
    def cross(self, box: Box, parents: Sequence[Member], rng: np.random.Generator) -> Candidate:
        """A child."""

    def fertile(self, member: Member) -> bool:
        """Whether it can be a parent."""
        return True


@dataclass(frozen=True)
class Points(Breeding):
    """Individuals that are points of the unit box.

    Attributes:
        variation: Makes a point of the parents'.
    """

    variation: Variation

    @property
    def parents(self) -> int:
        """How many parents a child has."""
        return self.variation.parents

    def cross(self, box: Box, parents: Sequence[Member], rng: np.random.Generator) -> Candidate:
        """See :class:`Breeding`."""
        return Candidate(self.variation([one.x for one in parents], box.unordered, rng))


@dataclass(frozen=True)
class Pedigree(Breeding):
    """Individuals that are named by their parents; ``repr`` names the options of an experiment.

    Attributes:
        sources: What those without parents are called.
    """

    sources: tuple[str, ...] = field(repr=False)

    @abstractmethod
    def children(self) -> dict[str, BaseDistribution]:
        """The distribution of every parameter that a child has."""

    def distributions(self) -> Individuals:
        """The search space, as samplers take it."""
        return Individuals(self)

    def initial(self) -> list[dict[str, str]]:
        """The parameters of the first candidates."""
        return [{ORIGIN: name} for name in self.sources]

    def uniform(self, box: Box, rng: np.random.Generator) -> Vector:
        """A source."""
        return box.point({ORIGIN: str(rng.choice(self.sources))})

    def fertile(self, member: Member) -> bool:
        """Nobody descends from what could not be scored."""
        return member.rank.state != _FAILED

    def child(
        self,
        box: Box,
        parents: Mapping[str, Member | Earlier],
        numbers: Mapping[str, Any],
        hidden: Mapping[str, Vector] | None = None,
    ) -> Candidate:
        """The candidate that is a child.

        Args:
            box: That of the space.
            parents: By the name of the parameter that names them.
            numbers: The other parameters.
            hidden: See :class:`Candidate`.
        """
        ids = {name: parent.id for name, parent in parents.items()}
        x = box.point({ORIGIN: CHILD, **ids, **numbers})
        trials = {name: parent.trial for name, parent in parents.items()}
        return Candidate(x, hidden or {}, trials)


class Individuals(dict[str, BaseDistribution]):
    """The distributions of a space that hand over how its individuals are bred.

    Attributes:
        breeding: What a sampler needs besides; a plain dictionary of the same is a box of numbers.
    """

    def __init__(self, breeding: Pedigree) -> None:
        origin = CategoricalDistribution([*breeding.sources, CHILD])
        super().__init__({ORIGIN: origin, **breeding.children()})
        self.breeding = breeding


def breeding_of(space: Mapping[str, BaseDistribution] | None) -> Pedigree | None:
    """How the individuals of a search space are bred; None if they are points."""
    return space.breeding if isinstance(space, Individuals) else None


class Earlier(NamedTuple):
    """A parent of a member."""

    id: int
    trial: int

    @classmethod
    def of(cls, member: Member, role: str) -> Earlier:
        """The one that a parameter of a child names."""
        return cls(member.params[role], member.parents[role])


@dataclass(frozen=True)
class SplitCrossover(Pedigree):
    """M2N2's crossover: two parents, a split point and a ratio (arXiv 2508.16204, §3).

    Draws the split, the ratio and, with noise, its seed.

    Attributes:
        noise: Whether noise is added to a child.
        crossover: False for a child of the first parent alone.
        split_point: False for one ratio for the whole model.
    """

    noise: bool = field(default=False, repr=False)
    crossover: bool = True
    split_point: bool = True
    parents = 2

    def __post_init__(self) -> None:
        if not self.crossover and not self.noise:
            raise StudyError("Without crossover and mutation_std every child is its parent.")

    def children(self) -> dict[str, BaseDistribution]:
        """See :class:`Pedigree`."""
        parents = {"parent_a": INDIVIDUAL, "parent_b": INDIVIDUAL}
        noise = {"noise_seed": SEED} if self.noise else {}
        return {**parents, "split": _SHARE, "ratio": _SHARE, **noise}

    def cross(self, box: Box, parents: Sequence[Member], rng: np.random.Generator) -> Candidate:
        """See :class:`Breeding`."""
        a, b = parents
        numbers: dict[str, Any] = {"split": 1.0, "ratio": 0.0}
        if self.crossover:
            numbers["split"] = rng.random() if self.split_point else 1.0
            numbers["ratio"] = rng.random()
        if self.noise:
            numbers["noise_seed"] = draw_seed(rng)
        return self.child(box, {"parent_a": a, "parent_b": b if self.crossover else a}, numbers)


def pairs_of(space: Mapping[str, BaseDistribution] | None) -> SplitCrossover | None:
    """How two parents of any standing are crossed in a search space; None in a box of numbers.

    Raises:
        StudyError: If its individuals have other parents.
    """
    breeding = breeding_of(space)
    if breeding is None or isinstance(breeding, SplitCrossover):
        return breeding
    raise StudyError(
        "This sampler breeds the individuals of mo.spaces.SplitSlerp, not those with the "
        f"parameters {', '.join(space or ())}. Use sampler=space.sampler(seed=0)."
    )


def draw_seed(rng: np.random.Generator) -> int:
    """A value of :data:`SEED`."""
    return int(rng.integers(SEED.high + 1))
