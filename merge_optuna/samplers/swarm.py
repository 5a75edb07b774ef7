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
from merge_optuna.samplers._protocol.sampler import PopulationSampler
from merge_optuna.samplers.algorithm import Candidate, Member
from merge_optuna.samplers.breeding import (
    CHILD,
    INDIVIDUAL,
    ORIGIN,
    SEED,
    Earlier,
    Pedigree,
    breeding_of,
    draw_seed,
)
from merge_optuna.samplers.pso import PSO, GlobalBest, Topology

if TYPE_CHECKING:
    from merge_optuna.samplers.box import Box

__all__ = ["SwarmSampler"]

ROLES = ("position", "before", "pbest", "gbest")
"""Where a particle is, where it was before, and what it is pulled to."""
_GLOBAL = GlobalBest()


@dataclass(frozen=True)
class Particles(Pedigree):
    """Particles that are named by four parents; what a step makes of them is up to the space.

    A child draws the seed of its step, of which its r1 and r2 are drawn.
    """

    def children(self) -> dict[str, BaseDistribution]:
        """See :class:`Pedigree`."""
        return {**dict.fromkeys(ROLES, INDIVIDUAL), "seed": SEED}

    def cross(self, box: Box, parents: Sequence[Member], rng: np.random.Generator) -> Candidate:
        """A step; in the beginning the particle is at rest."""
        particle, pbest, gbest = parents
        moved = particle.params[ORIGIN] == CHILD
        before = Earlier.of(particle, "position") if moved else particle
        roles = dict(zip(ROLES, (particle, before, pbest, gbest), strict=True))
        return self.child(box, roles, {"seed": draw_seed(rng)})


def _swarm(search_space: Mapping[str, BaseDistribution], *, topology: Topology = _GLOBAL) -> PSO:
    """The algorithm of :class:`SwarmSampler`.

    Args:
        search_space: ``space.distributions()`` of a ``mo.spaces.ParticleSwarm``.
        topology: ``GlobalBest()`` or ``Ring(neighbours)``.
    """
    breeding = breeding_of(search_space)
    if not isinstance(breeding, Particles):
        raise StudyError(
            "SwarmSampler searches a mo.spaces.ParticleSwarm: sampler=space.sampler(seed=0)."
        )
    return PSO(topology=topology, size=len(breeding.sources), breeding=breeding)


class SwarmSampler(PopulationSampler, algorithm=_swarm, without=("initial_population",)):
    """PSO-Merging with random numbers for every parameter; the swarm is the stored trials.

    The first trials are the models themselves, one particle each. Then all particles move at
    once; personal and global bests change by strict improvement only. The weights of inertia and
    pulls are those of the space.
    """

    breeds = True
