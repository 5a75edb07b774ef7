"""CatCMA: categorical, integer and continuous parameters in one distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from optuna.distributions import CategoricalDistribution

from merge_optuna.errors import StudyError
from merge_optuna.samplers._gaussian import GaussianAlgorithm, check_names, one_blas_thread
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers.algorithm import Candidate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution

    from merge_optuna.samplers.algorithm import Member
    from merge_optuna.samplers.box import Box, Vector

__all__ = ["CatCmaEs", "CatCmaEsSampler"]

_SLIGHT = 1e-9  # what an absent choice counts: none would divide zero by zero if all were absent


@dataclass
class _Memory:
    """One running engine.

    Attributes:
        engine: ``cmaes.CatCMAwM``.
        box: what it was started in, to start it again.
        scale: (n,) width of the engine's unit in the unit box.
    """

    engine: Any
    box: Box
    scale: Vector

    @cached_property
    def continuous(self) -> NDArray[np.intp]:
        """Dimensions of the engine's x."""
        return np.flatnonzero(self.box.widths == 0)

    @cached_property
    def stepped(self) -> NDArray[np.intp]:
        """Dimensions of the engine's z."""
        return np.flatnonzero((self.box.widths > 0) & ~self.box.unordered)

    @cached_property
    def numeric(self) -> NDArray[np.intp]:
        """Dimensions of the engine's normal distribution, in its order."""
        return np.concatenate([self.continuous, self.stepped])

    @cached_property
    def chosen(self) -> NDArray[np.intp]:
        """Dimensions of the engine's c."""
        return np.flatnonzero(self.box.unordered)


@dataclass(frozen=True)
class CatCmaEs(GaussianAlgorithm):
    """CatCMA with margin (Hamano et al. 2025, arXiv 2504.07884), by the ``cmaes`` package.

    A normal distribution for the numbers and a table of probabilities for the choices, told the
    same ranking. Numbers live in the unit box as in :class:`CmaEs`; those with a step have a
    margin that keeps them from freezing, and so have the probabilities.

    A parameter that a trial has not suggested teaches nothing: a choice leaves the probabilities
    as they are, a continuous number the mean; what the sample would have been goes on counting
    for the spread, which under a random ranking stays as it is.

    Attributes:
        x0: start of numeric parameters, name -> value in its own units; 0.5 in the unit box where
            not given.
        sigma0: standard deviation of the start in unit-box units, 1/6 by default; one number or
            parameter name -> number (1/6 where not given).
        probabilities: start of categorical parameters, name -> probability of each choice in the
            order of its choices, all above 0; the same for every choice where not given.
        size: candidates per generation, by default 4 + ⌊3 ln n⌋ for n parameters.
    """

    x0: Mapping[str, float] | None = None
    sigma0: float | Mapping[str, float] | None = None
    probabilities: Mapping[str, Sequence[float]] | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = dict(self.probabilities or ())
        for name, row in given.items():
            if not all(0 < p <= 1 for p in row) or not math.isclose(sum(row), 1, abs_tol=1e-6):
                raise StudyError(
                    f"probabilities of {name!r} must lie above 0 and have sum 1, got {row}."
                )
        rows = sorted((name, tuple(map(float, row))) for name, row in given.items())
        object.__setattr__(self, "probabilities", tuple(rows))

    def for_space(self, space: Mapping[str, BaseDistribution] | None) -> Self:
        """Itself, if its start lies in the space."""
        choices = {
            name: len(d.choices)
            for name, d in (space or {}).items()
            if isinstance(d, CategoricalDistribution)
        }
        rows = dict(self.probabilities or ())
        if space is not None:
            check_names("probabilities", rows, set(choices), "categorical")
        for name, row in rows.items() if space is not None else ():
            if len(row) != choices[name]:
                raise StudyError(
                    f"probabilities has {len(row)} numbers for {name!r}, which has "
                    f"{choices[name]} choices."
                )
        return super().for_space(space)

    def start(self, box: Box) -> _Memory:
        """An engine at x0."""
        import cmaes  # imports scipy.stats: 0.5 s

        mean, sigma, scale = self._first(box)
        memory = _Memory(None, box, scale)
        options: dict[str, Any] = {}
        if n := len(memory.numeric):
            options |= {"mean": mean[memory.numeric], "sigma": sigma, "cov": np.eye(n)}
        if len(memory.continuous):
            options["x_space"] = [[0.0, 1.0 / scale[i]] for i in memory.continuous]
        if len(memory.stepped):
            options["z_space"] = [_middles(box.widths[i]) / scale[i] for i in memory.stepped]
        if len(memory.chosen):
            rows = [self._row(box, int(i)) for i in memory.chosen]
            widest = max(map(len, rows))
            options["c_space"] = [len(row) for row in rows]
            options["cat_param"] = np.array([[*row, *[0.0] * (widest - len(row))] for row in rows])
        size = self.population_size(len(box))
        # reseeded before every sample
        memory.engine = cmaes.CatCMAwM(population_size=size, seed=0, **options)
        return memory

    def _row(self, box: Box, i: int) -> list[float]:
        count = round(1 / box.widths[i])
        row = dict(self.probabilities or ()).get(box.names[i], [1 / count] * count)
        return [float(p) / math.fsum(row) for p in row]

    def ask(self, memory: _Memory, rng: np.random.Generator) -> Candidate:
        """One sample, numbers outside the box put onto its bounds."""
        memory.engine.reseed_rng(int(rng.integers(2**32)))
        with one_blas_thread():
            sample = memory.engine.ask()
        x, box = np.empty(len(memory.box)), memory.box
        for part, values in ((memory.continuous, sample.x), (memory.stepped, sample.z)):
            if len(part):
                x[part] = np.clip(values * memory.scale[part], 0.0, 1.0)
        if len(memory.chosen):
            x[memory.chosen] = (np.argmax(sample.c, axis=1) + 0.5) * box.widths[memory.chosen]
        raw = sample._v_raw
        hidden = {} if raw is None or np.array_equal(x[memory.numeric], raw) else {"raw": raw}
        return Candidate(x, hidden)

    def learn(self, memory: _Memory, ranked: Sequence[Member]) -> _Memory:
        """Update the distribution; start again at x0 once its numbers have collapsed."""
        # The penalty for samples outside the box compares with the values: they are the ranks.
        told = [(self._solution(memory, m), float(i)) for i, m in enumerate(ranked)]
        member_of = {id(told[i][0]): m for i, m in enumerate(ranked)}
        with one_blas_thread():
            if not len(memory.numeric):
                memory.engine.tell(told)
                return memory
            before = memory.engine._mean.copy()
            memory.engine.tell(told)  # leaves them in its order
            best = [(s._v_raw, _absent(memory, member_of[id(s)])) for s, _ in told]
            _take_back(memory, before, best)
            return self.start(memory.box) if memory.engine.should_stop() else memory

    def _solution(self, memory: _Memory, member: Member) -> Any:
        """What the engine is told of a member."""
        import cmaes

        missing, raw, c = _absent(memory, member), None, None
        if len(memory.numeric):
            raw = np.array(member.hidden.get("raw", member.x[memory.numeric]))
            high = 1.0 / memory.scale[memory.continuous]
            inside = np.clip(raw[: len(high)], 0.0, high)
            gone = missing[memory.continuous]
            raw[: len(high)][gone] = inside[gone]  # no penalty for what was not evaluated
        if len(memory.chosen):
            q = memory.engine._q
            index = (member.x[memory.chosen] / memory.box.widths[memory.chosen]).astype(int)
            c = np.eye(q.shape[1])[index]
            gone = missing[memory.chosen]
            c[gone] = _SLIGHT * c[gone] + (1 - _SLIGHT) * q[gone]
        return cmaes.CatCMAwM.Solution(c=c, _v_raw=raw)


def _absent(memory: _Memory, member: Member) -> NDArray[np.bool_]:
    """(n,) whether a member's trial has not suggested a dimension."""
    return np.array([name not in member.params for name in memory.box.names])


def _take_back(
    memory: _Memory, before: Vector, told: Sequence[tuple[Vector, NDArray[np.bool_]]]
) -> None:
    """Move the mean back by what absent numbers have moved it.

    Args:
        memory: with the engine after its update.
        before: the mean before it.
        told: sample and absent dimensions of each member, best first.
    """
    engine, part = memory.engine, memory.continuous  # steps have their margin instead
    for weight, (raw, absent) in zip(engine._weights[: engine._mu], told, strict=False):
        pull = weight * (raw - before)[: len(part)]
        engine._mean[: len(part)] -= np.where(absent[part], pull, 0.0)


def _middles(width: float) -> Vector:
    """The middles of the cells of the unit box."""
    count = round(1 / width)
    return np.array([(i + 0.5) / count for i in range(count)])


class CatCmaEsSampler(ArchiveSampler, algorithm=CatCmaEs, without=("initial_population",)):
    """CatCMA with margin: CMA-ES that learns choices, steps and numbers at once.

    For spaces that mix kinds: which layer to take at each depth and how strongly, which method
    and which weights. Where all parameters are continuous :class:`CmaEsSampler` is the same
    without what the others need. OptunaHub's ``CatCmawmSampler`` uses the same engine; how this
    one differs is what :class:`CmaEsSampler` says of Optuna's, and conditional parameters are
    not guessed: what a trial has not suggested teaches nothing.
    """
