"""The cross-entropy method (Rubinstein 1999; de Boer, Kroese, Mannor & Rubinstein 2005)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._numbers import check_positive
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers.algorithm import Candidate, DistributionAlgorithm, Member

if TYPE_CHECKING:
    from merge_optuna.samplers.box import Box, Vector

__all__ = ["CrossEntropy", "CrossEntropySampler"]


class _Normal(NamedTuple):
    """Independent normal distributions, (n,) means and (n,) standard deviations."""

    mean: Vector
    sigma: Vector


@dataclass(frozen=True)
class CrossEntropy(DistributionAlgorithm):
    """A normal distribution, fitted to the best of each generation.

    A candidate draws n standard normal numbers; what lies outside the box is moved to its edge.

    Attributes:
        size: candidates per generation.
        elites: how many of them, the best, the next distribution is fitted to.
        smoothing: how far mean and standard deviation move towards those of the elites, in (0, 1]:
            with 1 they are theirs, with less they do not collapse as soon (2005, eq. 17).
        sigma: standard deviation at first, of a coordinate in [0, 1]; the mean is the middle.
    """

    size: int = 20
    elites: int = 5
    smoothing: float = 0.7
    sigma: float = 0.3

    def __post_init__(self) -> None:
        check_positive("elites", self.elites)
        if self.elites > self.size:
            raise StudyError(
                f"elites must be at most population_size, {self.size}, got {self.elites}."
            )
        for name in ("smoothing", "sigma"):
            if not 0 < getattr(self, name) <= 1:
                raise StudyError(f"{name} must be in (0, 1], got {getattr(self, name)}.")

    def population_size(self, n: int) -> int:
        """See :class:`DistributionAlgorithm`."""
        return self.size

    def start(self, box: Box) -> _Normal:
        """The middle of the box."""
        return _Normal(np.full(len(box), 0.5), np.full(len(box), self.sigma))

    def ask(self, memory: _Normal, rng: np.random.Generator) -> Candidate:
        """A point of the distribution."""
        drawn = memory.mean + memory.sigma * rng.standard_normal(len(memory.mean))
        return Candidate(np.clip(drawn, 0.0, 1.0))

    def learn(self, memory: _Normal, ranked: Sequence[Member]) -> _Normal:
        """Towards mean and standard deviation of the elites."""
        best = np.array([member.x for member in ranked[: self.elites]])
        found = _Normal(best.mean(axis=0), best.std(axis=0))
        share = self.smoothing
        moved = (share * new + (1 - share) * old for new, old in zip(found, memory, strict=True))
        return _Normal(*moved)


class CrossEntropySampler(ArchiveSampler, algorithm=CrossEntropy):
    """The cross-entropy method, whose distribution is nothing but the stored trials.

    Simple and robust where a few parameters matter and scores are noisy: it learns no correlation
    between parameters, as CMA-ES does, and needs no step size.
    """
