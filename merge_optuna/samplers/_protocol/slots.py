"""Slots: each keeps a member that its next candidate meets."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from merge_optuna.samplers._protocol.claim import Place
from merge_optuna.samplers._protocol.log import Start
from merge_optuna.samplers._protocol.places import LEARN, Places, keyed_rng, next_slot
from merge_optuna.samplers.algorithm import Candidate, Member, Population, TooFewMembers

if TYPE_CHECKING:
    import numpy as np

    from merge_optuna.samplers._protocol.log import Book
    from merge_optuna.samplers.algorithm import PopulationAlgorithm
    from merge_optuna.samplers.box import Box


class _Slots:
    """The slots of one population, folded from its book.

    Attributes:
        generation: the one that candidates are drawn for.
        slots: those that take part in it.
        population: what the algorithm sees, the members after the generation before.
        after: slot -> member as far as it is known.
        pairs: (target, child) that the algorithm has not learned yet.
    """

    def __init__(self, algorithm: PopulationAlgorithm, box: Box) -> None:
        self.algorithm = algorithm
        self.box = box
        self.generation = 0
        self.slots = list(range(algorithm.population_size(len(box))))
        self.population = Population({}, self.slots, algorithm.start(box))
        self.after: dict[int, Member] = {}
        self.pairs: list[tuple[Member, Member]] = []

    def fold(self, child: Member, place: Place) -> None:
        """A result has come in, of this generation or late of an earlier one."""
        slot = place.slot
        if slot not in self.slots:
            return
        if slot in self.after:
            self.pairs.append((self.after[slot], child))
        self.after[slot] = self._survivor(self.after.get(slot), child)
        if place.generation < self.generation:
            before = self.population.members
            late = {slot: self._survivor(before.get(slot), child)}
            self.population = Population(before | late, self.slots, self.population.memory)

    def advance(self, start: Start) -> None:
        """Begin the next generation; slots with a candidate in flight are not taken away."""
        size = self.algorithm.population_size(len(self.box), start.records)
        worst_first = sorted(
            (slot for slot in self.after if slot not in start.taken),
            key=lambda slot: (self.after[slot].rank, self.after[slot].id),
            reverse=True,
        )
        for slot in worst_first[: max(0, len(self.slots) - size)]:
            self.slots.remove(slot)
            del self.after[slot]
        population = Population(self.after, self.slots, self.population.memory)
        rng = keyed_rng(start.seed, LEARN, self.generation, 0)
        memory = self.algorithm.learn(population, self.pairs, rng)
        self.population = Population(self.after, self.slots, memory)
        self.pairs = []
        self.generation += 1

    def _survivor(self, target: Member | None, child: Member) -> Member:
        return child if target is None else self.algorithm.survive(target, child)


class SlotPlaces(Places):
    """In each generation every slot gets one candidate; see :class:`PopulationSampler`."""

    _algorithm: PopulationAlgorithm

    def catch_up(self, book: Book, box: Box) -> None:
        """See :class:`Places`."""
        if len(box) == 0:
            return
        if book.memory is None:
            book.memory = _Slots(self._algorithm, box)
        slots: _Slots = book.memory
        while start := book.starts.get(slots.generation + 1):
            self._fold(book, start.records)
            slots.advance(start)
        self._fold(book, len(book.records))

    def _fold(self, book: Book, until: int) -> None:
        for individual in range(book.told, until):
            record = book.records[individual]
            book.memory.fold(record.member(individual), record.claim.place)
        book.told = max(book.told, until)

    def following(self, book: Book, box: Box, held: Collection[Place], seed: int) -> Place:
        """See :class:`Places`."""
        if len(box) == 0:
            return next_slot(0, book.slots[0], held)
        slots: _Slots = book.memory
        # Further candidates do not hold their slot: else none would ever be free with twice as
        # many trials in flight as there are slots.
        busy = {place.slot for place in book.open if place.k == 0}
        if not held and _is_over(book, slots, busy):
            slots.advance(Start(len(book.records), frozenset(book.taken), seed))
        for slot in slots.slots:
            place = Place(slots.generation, slot)
            if slot not in busy and not book.knows(place) and place not in held:
                return place
        return _further(book, slots, held)

    def _draw(
        self, book: Book, box: Box, rng: np.random.Generator, place: Place | None = None
    ) -> Candidate:
        population: Population = book.memory.population
        if place is None:  # any slot will do
            place = Place(1, int(rng.choice(population.slots)))
        if place.generation > 0 and place.slot in population:
            with suppress(TooFewMembers):
                return self._algorithm.ask(population, place.slot, rng)
        given = place.generation == 0 and place.k == 0 and place.slot < len(self._initial)
        x = box.point(self._initial[place.slot]) if given else self._algorithm.uniform(box, rng)
        return self._algorithm.first(x, rng)


def _is_over(book: Book, slots: _Slots, busy: Collection[int]) -> bool:
    """Whether all slots of the generation that are free have had their candidate."""
    had = {slot for slot in slots.slots if book.knows(Place(slots.generation, slot))}
    free = set(slots.slots).difference(busy)
    if free:
        return free <= had
    # Slots can be lost for ever, e.g. to trials that were asked for and never told.
    further = book.tries[slots.generation].total() - len(had)
    news = len(book.records) > book.starts[slots.generation].records
    return further >= len(slots.slots) and news


def _further(book: Book, slots: _Slots, held: Collection[Place]) -> Place:
    """A further candidate of the least occupied slot."""
    tries, taken = book.tries[slots.generation], book.taken
    slot = min(slots.slots, key=lambda slot: (tries[slot], taken[slot], slot))
    place = Place(slots.generation, slot, 1)
    while book.knows(place) or place in held:
        place = place._replace(k=place.k + 1)
    return place
