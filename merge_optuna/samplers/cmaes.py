"""CMA-ES: the engines of the ``cmaes`` package behind the plumbing of this one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._gaussian import GaussianAlgorithm, one_blas_thread
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers.algorithm import Candidate
from merge_optuna.samplers.box import Box

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from merge_optuna.samplers.algorithm import Member
    from merge_optuna.samplers.box import Vector

__all__ = ["CmaEs", "CmaEsSampler"]

_CLIPPED = 0.2  # share of clipped samples above which the start is too close to the bounds


@dataclass
class _Memory:
    """One running engine.

    Attributes:
        engine: ``cmaes.CMA``, ``SepCMA`` or ``CMAwM``.
        box: what it was started in, to start it again.
        bounds: (n, 2) bounds of the engine's coordinates.
        scale: (n,) width of the engine's unit in the unit box.
        asked: number of samples drawn, ``clipped`` of them onto a bound.
        warned: whether there was a warning about them.
    """

    engine: Any
    box: Box
    bounds: Vector
    scale: Vector
    asked: int = 0
    clipped: int = 0
    warned: bool = False


@dataclass(frozen=True)
class CmaEs(GaussianAlgorithm):
    """The covariance matrix adaptation evolution strategy (Hansen, arXiv 1604.00772).

    Works in the unit box; a dimension with its own sigma is measured in units of that sigma, so
    that the start is isotropic for every engine.

    Attributes:
        variant: ``"full"``, ``"separable"`` (diagonal covariance, for hundreds of parameters)
            or ``"margin"`` (keeps parameters with a step from freezing, arXiv 2205.13482).
        x0: start, parameter name -> value in its own units; 0.5 in the unit box where not given.
        sigma0: standard deviation of the start in unit-box units, 1/6 by default; one number or
            parameter name -> number (1/6 where not given).
        size: candidates per generation, by default 4 + ⌊3 ln n⌋ for n parameters.
    """

    variant: Literal["full", "separable", "margin"] = "full"
    x0: Mapping[str, float] | None = None
    sigma0: float | Mapping[str, float] | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.variant not in ("full", "separable", "margin"):
            raise StudyError(f"variant must be full, separable or margin, got {self.variant!r}.")
        super().__post_init__()

    def box(self, space: Mapping[str, BaseDistribution]) -> Box:
        """Without categorical parameters."""
        return Box(space)

    def start(self, box: Box) -> _Memory:
        """An engine at x0."""
        import cmaes  # imports scipy.stats: 0.5 s

        n = len(box)
        mean, sigma, scale = self._first(box)
        low, high = np.zeros(n), np.ones(n)
        if self.variant == "margin":  # its grid runs through the middles of the cells
            low, high = low + box.widths / 2, high - box.widths / 2
        bounds = np.stack([low, high], axis=1) / scale[:, None]
        options: dict[str, Any] = {
            "mean": mean,
            "sigma": sigma,
            "bounds": bounds,
            "population_size": self.population_size(n),
            "seed": 0,  # reseeded before every sample
        }
        if self.variant == "margin":
            engine = cmaes.CMAwM(steps=box.widths / scale, **options)
        elif self.variant == "separable" and n > 1:
            engine = cmaes.SepCMA(**options)
        else:
            engine = cmaes.CMA(**options)
        return _Memory(engine, box, bounds, scale)

    def ask(self, memory: _Memory, rng: np.random.Generator) -> Candidate:
        """One sample; resampled by the engine while outside the box, then clipped."""
        memory.engine.reseed_rng(int(rng.integers(2**32)))
        with one_blas_thread():
            sample = memory.engine.ask()
        rounded, raw = sample if isinstance(sample, tuple) else (sample, sample)
        self._count(memory, rounded)
        x = np.clip(rounded * memory.scale, 0.0, 1.0)
        return Candidate(x, {} if np.array_equal(x, raw) else {"raw": raw})

    def learn(self, memory: _Memory, ranked: Sequence[Member]) -> _Memory:
        """Update the distribution; start again at x0 once it has collapsed to a point."""
        # The engine looks at nothing but the order of the values.
        told = [(m.hidden.get("raw", m.x), float(i)) for i, m in enumerate(ranked)]
        with one_blas_thread():
            memory.engine.tell(told)
            return self.start(memory.box) if memory.engine.should_stop() else memory

    def _count(self, memory: _Memory, rounded: Vector) -> None:
        free = memory.box.widths == 0 if self.variant == "margin" else np.full(len(rounded), True)
        at_bound = (rounded == memory.bounds[:, 0]) | (rounded == memory.bounds[:, 1])
        memory.asked += 1
        memory.clipped += bool(np.any(at_bound & free))
        too_many = memory.clipped > _CLIPPED * memory.asked
        if too_many and memory.asked >= memory.engine.population_size and not memory.warned:
            memory.warned = True
            warnings.warn(
                f"{memory.clipped} of {memory.asked} CMA-ES samples were clipped to the bounds "
                "of the search space: use a smaller sigma0, or an x0 further inside.",
                stacklevel=2,
            )


class CmaEsSampler(ArchiveSampler, algorithm=CmaEs, without=("initial_population",)):
    """CMA-ES whose state is nothing but the stored trials.

    How it differs from :class:`optuna.samplers.CmaEsSampler`, which uses the same engines:

    - A search that is killed and started again goes on exactly as if nothing had happened, and
      every process of a study sees the same population. Optuna's pickles its optimizer into
      trial attributes (megabytes per generation at 300 parameters) and draws its seeds from the
      process.
    - Several workers waste nothing: generation g is told results gλ … (g+1)λ-1 whichever
      generation they were drawn from. Optuna's drops those of earlier generations.
    - Failed trials are proposed again; pruned and infeasible ones rank below the others instead
      of being dropped; constraints set by ``trial.set_constraint`` are used (Deb's rule).
    - ``x0`` and ``sigma0`` are here to stay, and ``sigma0`` may differ between parameters. With
      ``search_space`` the first trial is the first CMA-ES sample. Bounds are reached exactly.
    - Enqueued trials and trials of other samplers do not move the distribution, and there are no
      restarts with larger populations, no ``source_trials`` and no ``lr_adapt``.

    "Exactly" holds with ``search_space`` and ``seed`` given, one worker, an evaluator that returns
    the same value for the same parameters, and the same machine type and library versions;
    a candidate that fails ``max_attempts`` times, or whose process dies twenty times, ranks last
    and is not repeated.

    Samples outside the bounds are drawn again up to 100 times, then clipped. Categorical
    parameters are drawn uniformly: CMA-ES cannot learn them. When the distribution has collapsed
    (the engine's own stopping rule) a new one starts at ``x0``.
    """
