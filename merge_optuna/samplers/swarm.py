"""A particle swarm of individuals that are named by their parents (``mo.spaces.ParticleSwarm``).

Zhang, Zhang & Feng: PSO-Merging, arXiv 2508.19839, with random numbers for every parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import BaseDistribution

from merge_optuna.errors import StudyError
from merge_optuna.samplers._genealogy import (
    CHILD,
    ORIGIN,
    SEEDS,
    Earlier,
    Parent,
    child,
    individual_id,
    origin,
    seed_number,
    sources_of,
)
from merge_optuna.samplers._protocol.sampler import PopulationSampler
from merge_optuna.samplers.algorithm import Candidate, Member, Population, TooFewMembers
from merge_optuna.samplers.pso import GlobalBest, Swarm, Topology

if TYPE_CHECKING:
    from merge_optuna.samplers.box import Box

PARENTS = ("position", "before", "pbest", "gbest")
"""Where a particle is, where it was before, and what it is pulled to."""
_FAILED = 2
_GLOBAL = GlobalBest()


def swarm_space(sources: Sequence[str]) -> dict[str, BaseDistribution]:
    """The space of particles: who they are by the four parents, and the seed of r1 and r2."""
    parents = dict.fromkeys(PARENTS, individual_id())
    return {ORIGIN: origin(sources), **parents, "seed": seed_number()}


@dataclass(frozen=True)
class BredSwarm(Swarm):
    """A swarm on individuals; what a step makes of the four parents, it does not know.

    A candidate draws the seed of its step. A particle whose candidate has failed stays where it
    is, as nobody descends from what could not be scored; one that has not been scored at all
    begins once more, at any of the sources.
    """

    size: int
    topology: Topology = _GLOBAL

    def population_size(self, n: int, evaluations: int = 0) -> int:
        """One particle for each source."""
        return self.size

    def start(self, box: Box) -> Box:
        """The search space; a swarm has no other memory."""
        return box

    def ask(self, population: Population, slot: int, rng: np.random.Generator) -> Candidate:
        """A step of the slot's particle; in the beginning it is at rest."""
        particle = population[slot]
        if particle.rank.state == _FAILED:
            raise TooFewMembers
        pbest, gbest = self.bests(population, slot)
        moved = particle.params[ORIGIN] == CHILD
        before: Parent = Earlier.of(particle, "position") if moved else particle
        parents = dict(zip(PARENTS, (particle, before, pbest, gbest), strict=True))
        return child(population.memory, parents, {"seed": int(rng.integers(SEEDS))})

    def survive(self, target: Member, child: Member) -> Member:
        """See :class:`Swarm`; but nobody moves to what has failed."""
        return target if child.rank.state == _FAILED else super().survive(target, child)


class SwarmSampler(PopulationSampler):
    """PSO-Merging with random numbers for every parameter; the swarm is the stored trials.

    The first trials are the models themselves, one particle each. Then all particles move at
    once; personal and global bests change by strict improvement only. The weights of inertia and
    pulls are those of the space.

    A search that is killed and started again goes on exactly as if nothing had happened; several
    workers share one swarm and never wait for each other (see :class:`PopulationSampler`).

    Args:
        search_space: ``space.distributions()`` of a ``mo.spaces.ParticleSwarm``.
        topology: ``GlobalBest()`` or ``Ring(neighbours)``.
        seed: a non-negative integer. None takes the seed of the study's first trial, or draws
            one.
        max_attempts: how often a candidate is proposed until its trial does not fail.

    Raises:
        StudyError: for another space, and later for a multi-objective study or a Hyperband
            pruner.
    """

    breeds = True

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution],
        *,
        topology: Topology = _GLOBAL,
        seed: int | None = None,
        max_attempts: int = 3,
    ) -> None:
        sources = sources_of(search_space)
        if set(search_space) != {ORIGIN, *PARENTS, "seed"}:
            raise StudyError(
                "SwarmSampler searches a mo.spaces.ParticleSwarm: sampler=space.sampler(seed=0)."
            )
        super().__init__(
            BredSwarm(len(sources), topology),
            search_space,
            initial_population=[{ORIGIN: name} for name in sources],
            seed=seed,
            max_attempts=max_attempts,
        )
