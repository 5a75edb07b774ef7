"""Algorithms that fold their results one after the other: distributions, parents, archives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StudyError
from merge_optuna.samplers._protocol.log import Candidate, Log, Place
from merge_optuna.samplers._protocol.sampler import StoredSampler, next_slot

if TYPE_CHECKING:
    from optuna import Study

    from merge_optuna.samplers._protocol.log import Book, Member
    from merge_optuna.samplers.box import Box


class DistributionAlgorithm(ABC):
    """An algorithm whose candidates are exchangeable, told once per generation (CMA-ES, a GA).

    Instances are immutable; what is learned lives in the memory that ``start`` makes. Memory and
    candidates must depend on nothing but the arguments. ``repr(self)`` names the options.
    """

    @abstractmethod
    def population_size(self, n: int) -> int:
        """Number of candidates told at once in ``n`` dimensions."""

    @abstractmethod
    def start(self, box: Box) -> Any:
        """The memory of generation 0."""

    @abstractmethod
    def ask(self, memory: Any, rng: np.random.Generator) -> Candidate:
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


class ArchiveSampler(StoredSampler):
    """Runs a :class:`DistributionAlgorithm` or :class:`ArchiveAlgorithm` in an Optuna study.

    With λ = ``population_size(n)``, generation g is told results gλ … (g+1)λ-1 of the log,
    whichever generation they were drawn from: nothing waits and nothing is wasted. An archive has
    λ = 1. The arguments are those of :class:`StoredSampler`.
    """

    _kind = DistributionAlgorithm
    _algorithm: DistributionAlgorithm

    def _catch_up(self, book: Book, box: Box) -> None:
        if len(box) == 0:
            return
        size = self._algorithm.population_size(len(box))
        if book.memory is None:
            book.memory = self._algorithm.start(box)
        while len(book.records) >= (book.told + 1) * size:
            first = book.told * size
            block = list(enumerate(book.records[first : first + size], start=first))
            block.sort(key=lambda r: (r[1].rank, r[1].claim.place))
            ranked = [record.member(individual) for individual, record in block]
            book.memory = self._algorithm.learn(book.memory, ranked)
            book.told += 1

    def _next_place(self, book: Book, box: Box, held: Collection[Place], seed: int) -> Place:
        for slot in range(len(self._initial)):
            place = Place(0, slot)
            if not book.knows(place) and place not in held:
                return place
        first = len(self._initial) if book.told == 0 else 0
        return next_slot(book.told, max(first, book.slots[book.told]), held)

    def _draw(
        self, book: Book, box: Box, rng: np.random.Generator, place: Place | None = None
    ) -> Candidate:
        if place is not None and place.generation == 0 and place.slot < len(self._initial):
            return Candidate(box.point(self._initial[place.slot]))
        return self._algorithm.ask(book.memory, rng)

    def _memory_of(self, study: Study) -> Any:
        """What the algorithm knows after all finished trials, also those no claim has listed."""
        self._refuse(study)
        space = self._search_space
        if space is None:
            space = IntersectionSearchSpace().calculate(study)
        box, digest = self._box(space), self._digest(self._box(space))
        sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
        while True:
            trials = compat.all_trials(study)
            log = Log(sign, self._max_attempts)
            log.know(digest, box)
            if log.follow(trials, len(trials)):
                break
        log.see(trials, log.unread(trials, len(trials)))
        if log.books and digest not in log.books:
            raise StudyError(
                f"No trial of the study {study.study_name!r} was proposed by this "
                f"{type(self).__name__}: it was searched with other options or another search "
                "space. Make the sampler as it was made then."
            )
        book = log.book(digest)
        self._catch_up(book, box)
        return self._algorithm.start(box) if book.memory is None else book.memory
