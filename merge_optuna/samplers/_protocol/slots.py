"""Algorithms whose population has slots: each keeps a member that its next candidate meets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._protocol.log import Candidate, Member, Place, Start
from merge_optuna.samplers._protocol.sampler import LEARN, StoredSampler, keyed_rng, next_slot

if TYPE_CHECKING:
    from merge_optuna.samplers._protocol.log import Book
    from merge_optuna.samplers.box import Box, Vector


class TooFewMembers(Exception):
    """While the first results are not in: the candidate is drawn as in generation 0."""


class Population:
    """What an algorithm sees: the member of each slot after the previous generation.

    Args:
        members: slot -> member. A slot whose first candidate is not evaluated yet is absent; with
            one worker none is.
        slots: all slots of this generation.
        memory: what the algorithm has learned from the generations before.

    Attributes:
        members: sorted by slot.
    """

    def __init__(self, members: Mapping[int, Member], slots: Sequence[int], memory: Any) -> None:
        self.members = dict(sorted(members.items()))
        self.slots = tuple(slots)
        self.memory = memory

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, slot: int) -> bool:
        return slot in self.members

    def __getitem__(self, slot: int) -> Member:
        return self.members[slot]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def others(self, slot: int, count: int, rng: np.random.Generator) -> list[Member]:
        """``count`` different members of other slots."""
        others = [other for other in self.members if other != slot]
        if len(others) < count:
            raise TooFewMembers
        return [self.members[others[i]] for i in rng.choice(len(others), count, replace=False)]

    @cached_property
    def ranked(self) -> list[Member]:
        """Best first; the earlier among equals."""
        return sorted(self, key=lambda member: (member.rank, member.id))


class PopulationAlgorithm(ABC):
    """An algorithm on a population with slots (differential evolution, particle swarms).

    Instances are immutable: inherit as a frozen dataclass, whose ``repr`` names the options. The
    results of the methods must depend on nothing but the arguments.
    """

    @abstractmethod
    def population_size(self, n: int, evaluations: int = 0) -> int:
        """Number of slots in ``n`` dimensions after so many evaluations; must not grow."""

    @abstractmethod
    def ask(self, population: Population, slot: int, rng: np.random.Generator) -> Candidate:
        """The next candidate of a slot that has a member."""

    def first(self, x: Vector, rng: np.random.Generator) -> Candidate:
        """A candidate of generation 0, at a given or uniform point ``x`` (n,)."""
        return Candidate(x)

    def survive(self, target: Member, child: Member) -> Member:
        """Which of the two the slot keeps: the better, the older of equals.

        A child with ``k`` > 0 is a further candidate of a slot whose own is still in flight.
        """
        return child if child.rank < target.rank else target

    def start(self, box: Box) -> Any:
        """The memory of generation 0."""
        return None

    def learn(
        self,
        population: Population,
        generation: Sequence[tuple[Member, Member]],
        rng: np.random.Generator,
    ) -> Any:
        """The memory of the next generation.

        Args:
            population: the next generation, with the memory of this one.
            generation: (target, child) of this or earlier generations; in the order of the slots
                when there is one worker, as they finished when there are more.
            rng: random numbers of the generation.
        """
        return population.memory


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


class PopulationSampler(StoredSampler):
    """Runs a :class:`PopulationAlgorithm` in an Optuna study.

    In each generation every slot gets one candidate, in order, drawn from the population after
    the generation before: with one worker that is the textbook. With several nothing waits. The
    next generation begins when all free slots have had their candidate; slots whose candidate is
    still in flight are passed over and take part with what is known of them. When no slot is free,
    the one with the fewest candidates in this generation gets a further one, of those the one with
    the fewest in flight; a generation of nothing but further candidates has one for each slot.

    The arguments are those of :class:`StoredSampler`.
    """

    _kind = PopulationAlgorithm
    _algorithm: PopulationAlgorithm

    def _check_initial(self) -> None:
        super()._check_initial()
        size = self.population_size()
        if size is not None and len(self._initial) > size:
            raise StudyError(
                f"initial_population has {len(self._initial)} candidates, but the population only "
                f"{size} slots. Raise population_size or leave some out."
            )

    def _catch_up(self, book: Book, box: Box) -> None:
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

    def _next_place(self, book: Book, box: Box, held: Collection[Place], seed: int) -> Place:
        if len(box) == 0:
            return next_slot(0, book.slots[0], held)
        slots: _Slots = book.memory
        # Further candidates do not hold their slot: else none would ever be free with twice as
        # many trials in flight as there are slots.
        busy = {place.slot for place in book.open if place.k == 0}
        free = [slot for slot in slots.slots if slot not in busy]
        if free:
            over = all(book.knows(Place(slots.generation, slot)) for slot in free)
        else:  # slots can be lost for ever, e.g. to trials that were asked for and never told
            own = sum(book.knows(Place(slots.generation, slot)) for slot in slots.slots)
            further = book.tries[slots.generation].total() - own
            enough = further >= len(slots.slots)
            over = enough and len(book.records) > book.starts[slots.generation].records
        if over and not held:
            slots.advance(Start(len(book.records), frozenset(book.taken), seed))
            free = [slot for slot in slots.slots if slot not in busy]
        for slot in free:
            place = Place(slots.generation, slot)
            if not book.knows(place) and place not in held:
                return place
        tries, taken = book.tries[slots.generation], book.taken
        slot = min(slots.slots, key=lambda slot: (tries[slot], taken[slot], slot))
        place = Place(slots.generation, slot, 1)
        while book.knows(place) or place in held:
            place = place._replace(k=place.k + 1)
        return place

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
        x = box.point(self._initial[place.slot]) if given else box.uniform(rng)
        return self._algorithm.first(x, rng)
