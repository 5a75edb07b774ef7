"""MAP-Elites: the best solution in every cell of a map (Mouret & Clune, arXiv 1504.04909)."""

from __future__ import annotations

import copy
import math
import numbers
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from merge_optuna.errors import StudyError
from merge_optuna.samplers._numbers import check_at_least
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers._variation import Gaussian, Variation
from merge_optuna.samplers.algorithm import ArchiveAlgorithm, Candidate, Member
from merge_optuna.samplers.breeding import Points, SplitCrossover, pairs_of

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from merge_optuna.samplers.box import Box

__all__ = ["Descriptor", "MAPElites", "MAPElitesSampler"]


class Descriptor(NamedTuple):
    """One axis of the map.

    Attributes:
        name: of a user attribute or a parameter.
        low: lower end of the first cell.
        high: upper end of the last cell.
        cells: number of cells of equal width.
    """

    name: str
    low: float
    high: float
    cells: int

    def cell(self, value: float) -> int:
        """The cell of a value; what is outside counts to the first or the last one."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return min(int(share * self.cells), self.cells - 1)

    def value(self, member: Member) -> Any:
        """What a trial says about it; None if nothing."""
        return member.attrs.get(self.name, member.params.get(self.name))


@dataclass
class _Archive:
    """The map.

    Attributes:
        box: the search space.
        results: how many there were, inserted or not.
        elites: cell -> member, in the order in which the cells were found.
    """

    box: Box
    results: int = 0
    elites: dict[tuple[int, ...], Member] = field(default_factory=dict)


_GAUSSIAN = Gaussian()


@dataclass(frozen=True)
class MAPElites(ArchiveAlgorithm):
    """MAP-Elites on a grid.

    A candidate draws its parents one by one, then what the variation needs. Individuals that are
    named by their parents bring their own (``breeding``), and their sources are there from the
    start.

    Attributes:
        descriptors: name -> (lower bound, upper bound, number of cells).
        initial: number of results before the first child; until then candidates are uniform.
            Those of ``initial_population`` count.
        variation: ``Gaussian(sigma)``, ``IsoLine(sigma1, sigma2)``, or
            ``Genetic(SBX(), PolynomialMutation())``. On a ``mo.spaces.SplitSlerp`` the first
            trials are the source models, and children have two parents, a split and a ratio.
        breeding: that of the search space.
    """

    descriptors: Mapping[str, tuple[float, float, int]] | tuple[Descriptor, ...]
    initial: int = 100
    variation: Variation = _GAUSSIAN
    breeding: SplitCrossover | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.descriptors, Mapping):
            grid = tuple(_descriptor(name, axis) for name, axis in self.descriptors.items())
            object.__setattr__(self, "descriptors", grid)
        check_at_least(1, "initial", self.initial)
        if not self.descriptors:
            raise StudyError('descriptors must name at least one: {"size": (0, 100, 10)}.')
        for name, low, high, cells in self._grid:
            if not (low < high and math.isfinite(high - low)):
                raise StudyError(
                    f"The range of descriptor {name!r} must be finite, the lower bound first, got "
                    f"[{low}, {high}]."
                )
            if cells < 1:
                raise StudyError(f"Descriptor {name!r} must have at least 1 cell, got {cells}.")
        if self.breeding is not None:
            _check_describes_sources(self._grid, self.breeding.distributions())

    def for_space(self, space: Mapping[str, BaseDistribution] | None) -> MAPElites:
        """With the breeding of the space."""
        return replace(self, breeding=pairs_of(space))

    @property
    def label(self) -> str:
        """Individuals with parents had a class of their own once, by which databases know them."""
        if self.breeding is None:
            return repr(self)
        # Its other options were there, but had no effect.
        return f"BredElites{repr(MAPElites(self.descriptors))[9:-1]}, crossover={self.breeding})"

    def start(self, box: Box) -> _Archive:
        """An empty map."""
        return _Archive(box)

    def ask(self, archive: _Archive, rng: Generator) -> Candidate:
        """A child of elites drawn with replacement; a random individual in the beginning."""
        elites, breeding = list(archive.elites.values()), self._breeding
        if not elites or (self.breeding is None and archive.results < self.initial):
            return breeding.first(breeding.uniform(archive.box, rng), rng)
        parents = [elites[int(rng.integers(len(elites)))] for _ in range(breeding.parents)]
        return breeding.cross(archive.box, parents, rng)

    @property
    def _grid(self) -> tuple[Descriptor, ...]:
        """What the descriptors are kept as."""
        assert isinstance(self.descriptors, tuple)
        return self.descriptors

    @property
    def _breeding(self) -> Points | SplitCrossover:
        return self.breeding or Points(self.variation)

    def insert(self, archive: _Archive, child: Member) -> _Archive:
        """Into its cell, if that is empty or the child is better."""
        archive.results += 1
        cell = None if child.rank.state == 2 else self._cell(child)
        if cell is not None:
            elite = archive.elites.get(cell)
            if elite is None or child.rank < elite.rank:
                archive.elites[cell] = child
        return archive

    def _cell(self, child: Member) -> tuple[int, ...] | None:
        cells = []
        for descriptor in self._grid:
            value = descriptor.value(child)
            number = _number(value)
            if number is None:
                if child.rank.state == 0:
                    _warn(descriptor.name, value, child.trial)
                return None
            cells.append(descriptor.cell(number))
        return tuple(cells)


def _number(value: Any) -> float | None:
    """A finite number as float, None for everything else."""
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _warn(name: str, value: Any, trial: int) -> None:
    what = "is missing" if value is None else f"is {value!r}, not a finite number"
    warnings.warn(
        f"Trial {trial} is left out of the archive of MAP-Elites: its descriptor {name!r} {what}. "
        f"Call trial.set_user_attr({name!r}, value) in the objective, or name a numeric parameter "
        "that every trial suggests.",
        stacklevel=2,
    )


class MAPElitesSampler(ArchiveSampler, algorithm=MAPElites):
    """MAP-Elites whose archive is nothing but the stored trials: good and different solutions.

    The descriptors that you name span a grid. Every cell keeps the best trial that fell into it,
    its elite; candidates are children of elites drawn uniformly from the occupied cells. Every
    result is inserted as it comes. Read the result with :meth:`archive`.

    A descriptor is the trial's user attribute of that name (``trial.set_user_attr("size", 3.2)``
    in the objective) or, without one, its parameter of that name. Values outside of the range
    count to the first or the last cell. A completed trial without one, or with something that is
    not a finite number, is not inserted and warned about. An elite is replaced by strict
    improvement. Pruned and infeasible trials are elites only until something better comes; failed
    ones never are.
    Categorical parameters are drawn anew or, with two parents, exchanged.
    """

    _algorithm: MAPElites
    breeds = True

    def archive(self, study: Study) -> dict[tuple[int, ...], FrozenTrial]:
        """The elites of a study.

        Args:
            study: one whose trials were proposed with the arguments of this sampler. Without
                ``search_space`` those count that were proposed in the space inferred now.

        Returns:
            Cell -> trial; a cell has an index from 0 for each descriptor, in their order.
        """
        elites = self._memory_of(study).elites
        trials = study.get_trials(deepcopy=False)
        return {cell: copy.deepcopy(trials[elites[cell].trial]) for cell in sorted(elites)}


def _check_describes_sources(
    grid: Sequence[Descriptor], search_space: Mapping[str, BaseDistribution]
) -> None:
    """Checks that no descriptor is a parameter that only children have."""
    for name in {descriptor.name for descriptor in grid} & set(search_space):
        raise StudyError(
            f"Descriptor {name!r} is a parameter that the source models do not have, so they "
            "would never be in the archive. Describe a model by what it does: call "
            'trial.set_user_attr("size", value) in the objective and name "size".'
        )


def _descriptor(name: str, axis: tuple[float, float, int]) -> Descriptor:
    try:
        low, high, cells = axis
        return Descriptor(name, float(low), float(high), operator.index(cells))
    except (TypeError, ValueError):
        raise StudyError(
            f"Descriptor {name!r} must be (lower bound, upper bound, number of cells), got "
            f"{axis!r}."
        ) from None
