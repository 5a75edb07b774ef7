"""Folds: generation g is told results gλ … (g+1)λ-1 of the log, wherever they were drawn."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from merge_optuna.samplers._protocol.claim import Place
from merge_optuna.samplers._protocol.places import Places, next_slot
from merge_optuna.samplers.algorithm import Candidate

if TYPE_CHECKING:
    import numpy as np

    from merge_optuna.samplers._protocol.log import Book
    from merge_optuna.samplers.algorithm import DistributionAlgorithm
    from merge_optuna.samplers.box import Box


class FoldPlaces(Places):
    """Every candidate is one of the generation that has begun; see :class:`ArchiveSampler`."""

    _algorithm: DistributionAlgorithm

    def catch_up(self, book: Book, box: Box) -> None:
        """See :class:`Places`."""
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

    def following(self, book: Book, box: Box, held: Collection[Place], seed: int) -> Place:
        """See :class:`Places`."""
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
