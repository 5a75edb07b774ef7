"""Natural niches: competition for examples, attraction between parents (M2N2, arXiv 2508.16204).

Abrantes, Lange & Tang: Competition and Attraction Improve Model Fusion, GECCO 2025.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._numbers import check_at_least
from merge_optuna.samplers._protocol.sampler import ArchiveSampler
from merge_optuna.samplers._variation import Gaussian, Variation, blend, roulette
from merge_optuna.samplers.algorithm import ArchiveAlgorithm, Candidate, Member, Rank
from merge_optuna.samplers.breeding import Breeding, Points, SplitCrossover, pairs_of

if TYPE_CHECKING:
    from numpy.random import Generator
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from merge_optuna.samplers._variation import Mask
    from merge_optuna.samplers.box import Box, Vector

__all__ = ["NaturalNiches", "Niches", "NichesSampler"]

_EXTREME = 100  # exponent of two


@dataclass(frozen=True)
class Niches:
    """The archive of M2N2: who stays, and who meets whom. What an individual is, it does not know.

    An archive is a list of at most ``archive_size`` members. Member i has score s_ij on example j
    (``Member.scores``, larger is better). An example is a resource that those who solve it share:
    with z_j = Σ_i s_ij and c_j = max_i s_ij (1 for binary scores),

        fitness f_i = Σ_j c_j s_ij / z_j^α,
        attraction of a to b = Σ_j max(0, s_bj − s_aj) c_j / z_j^α.

    Where the paper says nothing: an example on which the worst score of the archive is negative is
    shifted so that the worst is 0. This holds for losses, and for the negated scores of a study
    that minimises: of an example's losses l a member has s_ij = max_k l_kj − l_ij, by how much it
    is better than the worst of the archive. Neither their unit (nats, bits) nor what is the same
    for everybody, as the entropy of a text, changes anybody's chances. Scores that are not finite
    (NaN: not evaluated) count as 0 after that. Pruned and infeasible members count as 0 on every
    example and are the first to go, the worst first.

    Attributes:
        archive_size: number P of members.
        alpha: strength of the competition; 0 for none, f then being the plain sum for binary
            scores.
        attraction: False draws the second parent like the first (ablation).
    """

    archive_size: int = 20
    alpha: float = 1.0
    attraction: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", float(self.alpha))  # with one repr
        check_at_least(2, "archive_size", self.archive_size)
        if not 0 <= self.alpha <= 3:  # z^α has to exist
            raise StudyError(f"alpha must be in [0, 3], got {self.alpha}.")

    def fitness(self, archive: Sequence[Member]) -> Vector:
        """(P,) what each has of the resources."""
        return _Resources(archive, self.alpha).fitness()

    def attractions(self, archive: Sequence[Member], a: int) -> Vector:
        """(P,) how attractive everybody is to member ``a``; itself not at all."""
        return _Resources(archive, self.alpha).attractions(a)

    def parents(
        self, archive: Sequence[Member], rng: Generator, room: Room | None = None
    ) -> tuple[Member, Member]:
        """Two members of an archive that is not empty, one random number each.

        The first by fitness; the second by its attraction to the first and never the same one
        (unless there is no other), or without attraction by fitness too. Where all weights are
        zero the draw is uniform. ``room`` saves time where the archive is much the same as before.
        """
        resources = _Resources(archive, self.alpha, room)
        fitness = resources.fitness()
        a = roulette(fitness, rng)
        if not self.attraction or len(archive) == 1:
            return archive[a], archive[roulette(fitness, rng)]
        others = [*archive[:a], *archive[a + 1 :]]
        return archive[a], others[roulette(np.delete(resources.attractions(a), a), rng)]

    def insert(
        self, archive: Sequence[Member], child: Member, room: Room | None = None
    ) -> list[Member]:
        """The archive after a result has come in.

        A full one loses the member with the lowest fitness, computed with the newcomer present;
        the first of equals, the newcomer being the last. The newcomer takes its place, as in the
        authors' code. A failed result is not inserted, nor one with scores of other examples; the
        latter is warned about.
        """
        archive = list(archive)
        if child.rank.state == 2 or not _comparable(archive, child):
            return archive
        archive.append(child)
        if len(archive) > self.archive_size:
            fitness = _Resources(archive, self.alpha, room).fitness()
            lowest = np.flatnonzero(fitness == fitness.min())
            loser = max(lowest, key=lambda i: _handicap(archive[i]))  # the first of equals
            archive[loser] = child
            archive.pop()
        return archive


class Room:
    """Memory for the scores of an archive, which makes room for one member at a time.

    Allocating it for every result would take longer than what is computed in it.
    """

    def __init__(self) -> None:
        self._owners: list[Member | None] = []
        self._scores, self._work = np.empty((2, 0, 0))

    def scores(self, archive: Sequence[Member]) -> tuple[Vector, Vector] | None:
        """s_ij, (P, m), not to be written to, and an array like it for any purpose.

        None if not all scores are as they have to be.
        """
        shape = len(archive), len(archive[0].scores)
        if len(archive) > len(self._owners) or shape[1] != self._scores.shape[1]:
            self._owners = [None] * len(archive)
            self._scores, self._work = np.empty((2, *shape))
        for i, member in enumerate(archive):
            if self._owners[i] is not member:
                if not _plain(member, shape[1]):
                    return None
                self._scores[i], self._owners[i] = member.scores, member
        return self._scores[: len(archive)], self._work[: len(archive)]


def _plain(member: Member, m: int) -> bool:
    """Whether its scores, m of them, are nothing to be changed by :func:`_scores`."""
    if not (_competes(member) and len(member.scores) == m > 0):
        return False
    low, high = float(member.scores.min()), float(member.scores.max())
    return low >= 0 and high < math.inf and abs(math.frexp(high)[1]) <= _EXTREME


class _Resources:
    """What an archive competes for.

    Attributes:
        scores: (P, m) s_ij.
        worth: (m,) c_j / z_j^α.
    """

    def __init__(self, archive: Sequence[Member], alpha: float, room: Room | None = None) -> None:
        scores = (room or Room()).scores(archive)
        if scores is None:
            self.scores = _scores(archive)
            self._work = np.empty_like(self.scores)
        else:
            self.scores, self._work = scores
        z = np.sum(self.scores, axis=0)
        z[z == 0] = 1.0
        self.worth = np.max(self.scores, axis=0) / z**alpha

    def fitness(self) -> Vector:
        """See :meth:`Niches.fitness`."""
        shares = np.multiply(self.scores, self.worth, out=self._work)
        # Not a matrix product: equal rows must have equal sums, for ties.
        return np.asarray(np.sum(shares, axis=1))

    def attractions(self, a: int) -> Vector:
        """See :meth:`Niches.attractions`."""
        gains = np.subtract(self.scores, self.scores[a], out=self._work)
        np.maximum(0.0, gains, out=gains)
        gains *= self.worth
        return np.asarray(np.sum(gains, axis=1))


def _competes(member: Member) -> bool:
    return member.rank.state == 0 and member.rank.violation == 0


def _handicap(member: Member) -> Rank:
    return Rank(0, 0.0, -math.inf) if _competes(member) else member.rank


def _scores(archive: Sequence[Member]) -> Vector:
    """s_ij, (P, m); see :class:`Niches` for what is not a score."""
    rows = {i: member.scores for i, member in enumerate(archive) if _competes(member)}
    scores = np.full((len(archive), max(map(len, rows.values()), default=1)), np.nan)
    for i, row in rows.items():
        scores[i] = row
    finite = np.isfinite(scores)
    # A common factor changes nobody's chances, and without it z^α may be too large or too small.
    exponent = int(np.frexp(np.max(np.abs(scores), where=finite, initial=0.0))[1])
    if abs(exponent) > _EXTREME:
        scores = np.ldexp(scores, -exponent)
    shift = np.min(scores, axis=0, where=finite, initial=0.0)
    return np.where(finite, scores - shift, 0.0)


def _comparable(archive: Sequence[Member], child: Member) -> bool:
    """Whether the archive has scores of the same examples, as far as can be seen."""
    if not _competes(child):
        return True
    first = next(filter(_competes, archive), None)
    if first is None:
        if child.packed_scores is None:
            warnings.warn(
                f"Trial {child.trial} has no per-example scores: niches take the objective's "
                "value as the only one, so there is a single niche. Store them with "
                "mo.set_scores(trial, array) in the objective; mo.MergeObjective does if its "
                "evaluator has several examples.",
                stacklevel=2,
            )
        return True
    expected, got = len(first.scores), len(child.scores)
    if expected == got:
        return True
    warnings.warn(
        f"Trial {child.trial} is left out of the archive of niches: it has {_count(child)}, trial "
        f"{first.trial} has {_count(first)}. Store the scores of the same examples with every "
        "trial (mo.set_scores).",
        stacklevel=2,
    )
    return False


def _count(member: Member) -> str:
    if member.packed_scores is None:
        return "no per-example scores"
    return f"{len(member.scores)} per-example scores"


# -- The algorithm ----------------------------------------------------------------------------


@dataclass
class _Archive:
    """Members in the order of their places.

    Attributes:
        box: the search space.
        results: how many there were, inserted or not.
        members: at most ``archive_size``.
        room: for their scores.
    """

    box: Box
    results: int = 0
    members: list[Member] = field(default_factory=list)
    room: Room = field(default_factory=Room)


@dataclass(frozen=True)
class _Split:
    """M2N2's crossover of points, then the mutation; a :class:`Variation`.

    Draws the split point p in 0 … n-1, the ratio w, then what categorical coordinates and the
    mutation need.
    """

    crossover: bool
    split_point: bool
    mutation: Variation | None
    parents = 2

    def __call__(self, parents: Sequence[Vector], unordered: Mask, rng: Generator) -> Vector:
        """See :class:`Variation`."""
        a, b = parents
        x, n = a, len(a)
        if self.crossover:
            split = int(rng.integers(n)) if self.split_point else n
            w = rng.random()
            t = np.where(np.arange(n) < split, w, 1.0 - w)
            x = np.clip(blend(a, b, t, unordered, rng), 0.0, 1.0)
        return x if self.mutation is None else self.mutation([x], unordered, rng)


_NICHES, _GAUSSIAN = Niches(), Gaussian(0.01)


@dataclass(frozen=True)
class NaturalNiches(ArchiveAlgorithm):
    """M2N2.

    A candidate draws the two parents, then what their crossover needs. Individuals that are named
    by their parents bring their own (``breeding``): their sources are there from the start, and
    what mutates them is their space.

    Attributes:
        niches: who stays, and who meets whom.
        crossover: False makes a child of the first parent by mutation alone (ablation).
        split_point: False takes the ratio w for all coordinates (ablation).
        mutation: ``Gaussian(sigma)`` or ``PolynomialMutation(eta)``; None for none. That of a
            ``SplitSlerp`` is its ``mutation_std``.
        initial: number of results before the first child, ``archive_size`` by default; until then
            candidates are uniform. Those of ``initial_population`` count.
        breeding: that of the search space.
    """

    niches: Niches = _NICHES
    crossover: bool = True
    split_point: bool = True
    mutation: Variation | None = _GAUSSIAN
    initial: int | None = None
    breeding: SplitCrossover | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.breeding is not None and self.mutation not in (None, _GAUSSIAN):
            raise StudyError(
                "The mutation of these individuals is that of their space: "
                "mo.spaces.SplitSlerp(seeds, mutation_std=0.01)."
            )
        if self.breeding is None and not self.crossover and self.mutation is None:
            raise StudyError("Without crossover and mutation every child is its parent.")
        if self.initial is not None:
            check_at_least(1, "initial", self.initial)
        _ = self._breeding  # finds crossover=False without mutation_std

    def for_space(self, space: Mapping[str, BaseDistribution] | None) -> NaturalNiches:
        """With the breeding of the space."""
        return replace(self, breeding=pairs_of(space))

    @property
    def label(self) -> str:
        """Individuals with parents had a class of their own once, by which databases know them."""
        if self.breeding is None:
            return repr(self)
        return f"BredNiches(niches={self.niches}, crossover={self._breeding})"

    def start(self, box: Box) -> _Archive:
        """Nobody."""
        return _Archive(box)

    def ask(self, archive: _Archive, rng: Generator) -> Candidate:
        """A child; a random individual in the beginning, and while there are no parents."""
        breeding = self._breeding
        if self._begins(archive):
            return breeding.first(breeding.uniform(archive.box, rng), rng)
        parents = self.niches.parents(archive.members, rng, archive.room)
        return breeding.cross(archive.box, parents, rng)

    def insert(self, archive: _Archive, child: Member) -> _Archive:
        """See :meth:`Niches.insert`."""
        archive.results += 1
        archive.members = self.niches.insert(archive.members, child, archive.room)
        return archive

    @cached_property
    def _breeding(self) -> Breeding:
        if self.breeding is None:
            return Points(_Split(self.crossover, self.split_point, self.mutation))
        return replace(self.breeding, crossover=self.crossover, split_point=self.split_point)

    def _begins(self, archive: _Archive) -> bool:
        if self.breeding is not None:
            return not archive.members
        initial = self.niches.archive_size if self.initial is None else self.initial
        return archive.results < initial or len(archive.members) < 2


class NichesSampler(ArchiveSampler, algorithm=NaturalNiches, spread=("niches",)):
    """M2N2's evolution on any search space; its archive is nothing but the stored trials.

    On a ``mo.spaces.SplitSlerp`` it evolves the weights of models, as the paper does: the first
    trials are the source models, the others children of two individuals. On any other space it
    evolves the parameters.

    Individuals compete for examples: one that solves what few others do stays, even if it is bad
    on average; and the second parent is the one that is good where the first is not. This needs
    per-example scores, which :class:`mo.MergeObjective` stores, or ``mo.set_scores(trial, array)``
    in any objective. They are in the direction of the study: in one that minimises they are
    losses, smaller is better. Without them the objective's value is the only score and there is
    one niche. See :class:`Niches` for the formulas.

    A child lies between its parents: with a random ratio w and a random split point, coordinates
    before it are a + w (b − a), those from it on a + (1 − w) (b − a). The coordinates are the
    parameters sorted by name; a categorical one is b's with that probability. The defaults are the
    paper's for a search from scratch.

    Every result is inserted as it comes. Read the result with :meth:`archive`.
    """

    _algorithm: NaturalNiches
    breeds = True

    @property
    def needs_examples(self) -> bool:
        """Whether it makes use of per-example scores."""
        return self._algorithm.niches.alpha > 0 or self._algorithm.niches.attraction

    def archive(self, study: Study) -> list[FrozenTrial]:
        """The trials in the archive of a study.

        Args:
            study: one whose trials were proposed with the arguments of this sampler. Without
                ``search_space`` those count that were proposed in the space inferred now.
        """
        trials = study.get_trials(deepcopy=False)
        return [copy.deepcopy(trials[m.trial]) for m in self._memory_of(study).members]
