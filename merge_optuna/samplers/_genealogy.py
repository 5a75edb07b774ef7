"""Search spaces whose individuals are named by their parents.

A trial of such a space is one of the sources, ``{origin: "math"}``, or a child,
``{origin: "child", parent_a: 12, parent_b: 31, ...}``. A parent is named by its individual id: its
place in the log of finished candidates, 0, 1, 2, ..., so that a killed trial shifts nothing. The
numbers of the trials are in the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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
    from merge_optuna.samplers.algorithm import Member
    from merge_optuna.samplers.box import Box

ORIGIN = "origin"
"""Parameter: which source it is, or that it is a child."""
CHILD = "child"
SEEDS = 2**32
"""How many seeds there are of what is drawn at random in a child."""
_MOST = 2**31


def individual_id() -> IntDistribution:
    """The distribution of a parameter that names an individual."""
    return IntDistribution(0, _MOST - 1)


def seed_number() -> IntDistribution:
    """The distribution of a parameter that is a seed."""
    return IntDistribution(0, SEEDS - 1)


def origin(sources: Sequence[str]) -> CategoricalDistribution:
    """The distribution of :data:`ORIGIN`.

    Raises:
        StudyError: If a source is called like what is none.
    """
    if CHILD in sources:
        raise StudyError(f"No model can be called {CHILD!r} here: give it another name=.")
    return CategoricalDistribution([*sources, CHILD])


def sources_of(space: Mapping[str, BaseDistribution] | None) -> tuple[str, ...]:
    """The sources of a space of this kind; empty for every other space."""
    found = (space or {}).get(ORIGIN)
    if isinstance(found, CategoricalDistribution) and CHILD in found.choices:
        return tuple(str(choice) for choice in found.choices if choice != CHILD)
    return ()


def source(box: Box, name: str) -> Candidate:
    """The candidate that is a source."""
    return Candidate(box.point({ORIGIN: name}))


class Parent(Protocol):
    """Who can be a parent: a member, or an :class:`Earlier` one."""

    @property
    def id(self) -> int:
        """The individual's number."""

    @property
    def trial(self) -> int:
        """Number of its trial."""


class Earlier(NamedTuple):
    """A parent of a member."""

    id: int
    trial: int

    @classmethod
    def of(cls, member: Member, role: str) -> Earlier:
        """The one that a parameter of a child names."""
        return cls(member.params[role], member.parents[role])


def child(
    box: Box,
    parents: Mapping[str, Parent],
    numbers: Mapping[str, Any],
    hidden: Mapping[str, Any] | None = None,
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
    return Candidate(x, hidden or {}, {name: parent.trial for name, parent in parents.items()})


@dataclass(frozen=True)
class SplitCrossover:
    """M2N2's crossover: a split point and a ratio (arXiv 2508.16204, §3).

    Draws the split, the ratio and, where the space has noise, its seed.

    Attributes:
        crossover: False for a child of the first parent alone.
        split_point: False for one ratio for the whole model.
    """

    crossover: bool = True
    split_point: bool = True

    def check(self, space: Mapping[str, BaseDistribution]) -> None:
        """Checks that children can differ from their parents.

        Raises:
            StudyError: If not, or the space has other children.
        """
        if set(space) - {"noise_seed"} != {ORIGIN, "parent_a", "parent_b", "split", "ratio"}:
            raise StudyError(
                "This sampler breeds the individuals of mo.spaces.SplitSlerp, not those with the "
                f"parameters {', '.join(space)}. Use sampler=space.sampler(seed=0)."
            )
        if not self.crossover and "noise_seed" not in space:
            raise StudyError("Without crossover and mutation_std every child is its parent.")

    def __call__(self, box: Box, a: Member, b: Member, rng: np.random.Generator) -> Candidate:
        """A child of two members."""
        numbers: dict[str, Any] = {"split": 1.0, "ratio": 0.0}
        if self.crossover:
            numbers["split"] = rng.random() if self.split_point else 1.0
            numbers["ratio"] = rng.random()
        if "noise_seed" in box.space:
            numbers["noise_seed"] = int(rng.integers(SEEDS))
        return child(box, {"parent_a": a, "parent_b": b if self.crossover else a}, numbers)


_FLOAT = FloatDistribution(0.0, 1.0)


def split_slerp(sources: Sequence[str], *, noise: bool) -> dict[str, BaseDistribution]:
    """The space of :class:`SplitCrossover`."""
    return {
        ORIGIN: origin(sources),
        "parent_a": individual_id(),
        "parent_b": individual_id(),
        "split": _FLOAT,
        "ratio": _FLOAT,
        **({"noise_seed": seed_number()} if noise else {}),
    }
