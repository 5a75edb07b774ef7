"""The places of a population: who gets which, and what is drawn for it.

A place is a generation, a slot and k. How the log of results becomes the population that the next
candidate is drawn from, the two kinds say: :class:`~.slots.SlotPlaces` for algorithms with slots,
:class:`~.folds.FoldPlaces` for those that fold their results one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_optuna.errors import StudyError
from merge_optuna.samplers._protocol.claim import Place
from merge_optuna.samplers.algorithm import Candidate

if TYPE_CHECKING:
    from merge_optuna.samplers._protocol.log import Book
    from merge_optuna.samplers.box import Box

CANDIDATE, INDEPENDENT, OUTSIDER, LEARN = range(4)
"""Tags of the random streams: candidates, parameters outside the box, unclaimed trials, learning.
"""


def keyed_rng(seed: int, tag: int, generation: int, slot: int, k: int = 0) -> np.random.Generator:
    """The random numbers of one place in a population, the same in every process."""
    return np.random.default_rng([seed, tag, generation, slot, k])


def next_slot(generation: int, slot: int, held: Collection[Place]) -> Place:
    """The first place of a generation from ``slot`` on that nobody holds."""
    while Place(generation, slot) in held:
        slot += 1
    return Place(generation, slot)


class Places(ABC):
    """The places of one algorithm's populations. What has happened in them is in their books.

    Args:
        algorithm: what proposes the candidates.
        initial: parameters of the first candidates.
    """

    def __init__(self, algorithm: Any, initial: Sequence[Mapping[str, Any]]) -> None:
        self._algorithm = algorithm
        self._initial = initial

    def propose(self, book: Book, box: Box, place: Place, seed: int) -> Candidate:
        """The candidate of a place.

        Raises:
            StudyError: If the algorithm makes something else.
        """
        if len(box) == 0:
            return Candidate(np.empty(0))
        candidate = self._draw(book, box, keyed_rng(seed, CANDIDATE, *place), place)
        _check_candidate(candidate, box, self._algorithm)
        return candidate

    def outsider(self, book: Book, box: Box, number: int, seed: int) -> Candidate:
        """Values for a trial outside the population, by its number."""
        if len(box) == 0:
            return Candidate(np.empty(0))
        return self._draw(book, box, keyed_rng(seed, OUTSIDER, number, 0))

    @abstractmethod
    def catch_up(self, book: Book, box: Box) -> None:
        """Fold what is new in the log."""

    @abstractmethod
    def following(self, book: Book, box: Box, held: Collection[Place], seed: int) -> Place:
        """The next free place.

        ``held`` are the places of trials with a higher number, if this one claims late. They
        have read the log without it: it must not begin a generation.
        """

    @abstractmethod
    def _draw(
        self, book: Book, box: Box, rng: np.random.Generator, place: Place | None = None
    ) -> Candidate:
        """A candidate; without a place one of a trial outside the population."""


def _check_candidate(candidate: Any, box: Box, algorithm: Any) -> None:
    name = f"{type(algorithm).__name__}.ask"
    if not isinstance(candidate, Candidate):
        raise StudyError(f"{name} must return a Candidate, not {candidate!r}.")
    x, n = candidate.x, len(box)
    if np.shape(x) != (n,) or not bool(np.all((x >= box.low) & (x <= box.high))):
        raise StudyError(f"{name} must return a point of [0, 1]^{n}, not {x!r}.")
    if not all(isinstance(vector, np.ndarray) for vector in candidate.hidden.values()):
        raise StudyError(f"{name}: Candidate.hidden holds arrays, not {candidate.hidden!r}.")
