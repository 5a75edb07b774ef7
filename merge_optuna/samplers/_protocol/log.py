"""The log: which results a population has seen, in an order that is the same in every process.

Every claim lists the trials that its worker had seen finish. The log is what these lists say, read
in trial-number order; it depends on no clock. :class:`Log` folds it from the stored trials, each
once; throwing it away loses nothing.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from merge_optuna._records import check_type, decoding, values_of, violation_of
from merge_optuna._schema import CLAIM, KILLED, PARTIAL, SCORES, SURPLUS
from merge_optuna.errors import StudyError
from merge_optuna.samplers._protocol.claim import Claim, Place, held_claim
from merge_optuna.samplers.algorithm import Member, Rank

if TYPE_CHECKING:
    from merge_optuna.samplers.box import Box

_KILLS = 20  # a candidate that takes its process down that often is to blame


def is_excused(trial: FrozenTrial) -> bool:
    """Whether a trial has failed for no fault of its candidate."""
    failed = trial.state == TrialState.FAIL
    return failed and (KILLED in trial.system_attrs or SURPLUS in trial.system_attrs)


@dataclass(frozen=True, eq=False)
class Record:
    """A finished candidate; its individual id is its place in ``Book.records``.

    Attributes:
        claim: who proposed it.
        rank: how good it is.
        trial: the finished trial.
        sign: 1 if the study minimises, -1 if it maximises; the first of several objectives.
    """

    claim: Claim
    rank: Rank
    trial: FrozenTrial
    sign: int

    def member(self, individual: int) -> Member:
        """What algorithms see of it."""
        candidate, trial = self.claim.candidate, self.trial
        return Member(
            candidate.x,
            self.rank,
            candidate.hidden,
            individual,
            self.claim.k,
            trial.params,
            trial.user_attrs,
            trial.number,
            packed_scores=trial.system_attrs.get(SCORES),
            sign=self.sign,
            parents=self.claim.parents,
        )


class Start(NamedTuple):
    """The moment of the first claim of a generation.

    Attributes:
        records: length of the log.
        taken: the slots with a candidate in flight.
        seed: the seed of that claim. What the algorithm learns must not depend on who folds it.
    """

    records: int
    taken: frozenset[int]
    seed: int


class Book:
    """One algorithm in one search space: its part of the log.

    Attributes:
        records: the log, in order.
        open: place -> claim of the candidates that have no result yet.
        retries: those of them that have failed and that nobody has proposed again yet.
        slots: generation -> number of slots taken so far.
        tries: generation -> slot -> number of candidates so far.
        starts: generation -> when it was first claimed from.
        memory: whatever the plumbing has folded from the log.
        told: how far it has.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.open: dict[Place, Claim] = {}
        self.retries: list[Claim] = []
        self.slots: Counter[int] = Counter()
        self.tries: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self.starts: dict[int, Start] = {}
        self.memory: Any = None
        self.told = 0
        self._attempts: dict[Place, int] = {}
        self._failures: Counter[Place] = Counter()
        self._kills: Counter[Place] = Counter()

    @property
    def taken(self) -> Counter[int]:
        """Slot -> number of its candidates in flight."""
        return Counter(place.slot for place in self.open)

    def knows(self, place: Place) -> bool:
        """Whether a candidate of this place has been claimed."""
        return place in self._attempts

    def take(self, claim: Claim) -> bool:
        """Give the place to this claim; False if another trial has it or has had a result."""
        place = claim.place
        latest = self._attempts.get(place)
        if latest is not None and (claim.attempt <= latest or place not in self.open):
            return False
        if place.generation not in self.starts:
            start = Start(len(self.records), frozenset(self.taken), claim.seed)
            self.starts[place.generation] = start
        if latest is None:
            self.tries[place.generation][place.slot] += 1
        self._attempts[place] = claim.attempt
        self.open[place] = claim
        self.retries = [r for r in self.retries if r.place != place]
        self.slots[place.generation] = max(self.slots[place.generation], place.slot + 1)
        return True

    def drop(self, claim: Claim) -> None:
        """Give a place back whose result cannot be used."""
        self.open.pop(claim.place, None)

    def finish(
        self, claim: Claim, trial: FrozenTrial, signs: Sequence[int], max_attempts: int
    ) -> None:
        """Log a finished trial, or queue its candidate to be proposed again if it failed."""
        place = claim.place
        if trial.state == TrialState.FAIL:
            self._kills[place] += KILLED in trial.system_attrs
            self._failures[place] += not is_excused(trial)
            if claim.attempt < self._attempts[place]:  # a clone of it is in flight
                return
            if self._failures[place] < max_attempts and self._kills[place] < _KILLS:
                self.retries.append(claim)
                return
        self.open.pop(place, None)
        self.records.append(Record(claim, _rank(trial, signs), trial, signs[0]))


class Log:
    """The log of one study.

    Args:
        signs: per objective 1 if the study minimises it, -1 if it maximises it.
        max_attempts: how often a candidate that fails is proposed before it ranks last.

    Attributes:
        books: digest -> book of a population.
        front: all trials with a lower number have been folded.
        open: number -> stored claim, of the folded trials that were not finished then.
        seed: the seed of the first claim.
    """

    def __init__(self, signs: Sequence[int], max_attempts: int) -> None:
        self._signs = tuple(signs)
        self._max_attempts = max_attempts
        self._boxes: dict[str, Box] = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything that the storage knows."""
        self.books: dict[str, Book] = {}
        self.front = 0
        self.open: dict[int, Any] = {}
        self.seed: int | None = None
        self._unseen: dict[int, Claim] = {}

    @property
    def all_claimed(self) -> bool:
        """Whether every unfinished trial that was folded has a claim."""
        return None not in self.open.values()

    def box(self, digest: str) -> Box | None:
        """The box of a population, if this process has asked for it."""
        return self._boxes.get(digest)

    def know(self, digest: str, box: Box) -> None:
        """Tell the box of a population, against which its results are checked."""
        if digest not in self._boxes:
            self._boxes[digest] = box
            if digest in self.books:
                self.reset()

    def follow(self, trials: Sequence[FrozenTrial], until: int) -> bool:
        """Fold the trials below number ``until``.

        Returns:
            False if ``trials`` was read while others wrote and contradicts itself (a database
            reads states before attributes): read again.

        Raises:
            StudyError: If a trial is missing.
        """
        if len(trials) < self.front:
            return False
        check_numbers(trials, until)
        for number, claim in list(self.open.items()):
            trial = trials[number]
            if trial.system_attrs.get(CLAIM) != claim or (
                claim is not None and claim["trial"] != number and trial.state.is_finished()
            ):
                # A late claim, one made again after a clash, or a retry that died before it
                # claimed: what followed has to be redone.
                self.reset()
                break
            if trial.state.is_finished():
                del self.open[number]
        for number in range(self.front, until):
            trial = trials[number]
            claim = held_claim(trial)
            if claim is not None:
                with decoding(f"claim of trial {number}"):
                    claim.check_seen()
                if not all(trials[n].state.is_finished() for n in claim.seen):
                    return False
                self.see(trials, claim.seen)
                self.take(claim)
            if not trial.state.is_finished():
                self.open[number] = trial.system_attrs.get(CLAIM)
            self.front = number + 1
        return True

    def append(self, claim: Claim) -> None:
        """Fold a claim just written; a late one is left to the next :meth:`follow`."""
        if claim.trial == self.front:
            self.take(claim)
            self.open[claim.trial] = claim.to_json()
            self.front += 1

    def unread(self, trials: Sequence[FrozenTrial], until: int) -> tuple[int, ...]:
        """Numbers below ``until`` of the trials that have finished and are not in the log."""
        finished = (n for n in self._unseen if n < until and trials[n].state.is_finished())
        return tuple(sorted(finished))

    def see(self, trials: Sequence[FrozenTrial], numbers: Sequence[int]) -> None:
        """Append finished trials to the log, each once."""
        for number in numbers:
            claim = self._unseen.pop(number, None)
            if claim is None:
                continue
            book = self.book(claim.population)
            if self._foreign(claim, trials[number]):
                book.drop(claim)
            else:
                book.finish(claim, trials[number], self._signs, self._max_attempts)

    def take(self, claim: Claim) -> None:
        """Register a claim; one whose slot is taken is dropped, and its result with it."""
        self.seed = claim.seed if self.seed is None else self.seed
        if self.book(claim.population).take(claim):
            self._unseen[claim.trial] = claim

    def book(self, digest: str) -> Book:
        """The book of this population, empty at first."""
        return self.books.setdefault(digest, Book())

    def _foreign(self, claim: Claim, trial: FrozenTrial) -> bool:
        """Whether the trial has evaluated something else than its candidate."""
        box = self.box(claim.population)
        with decoding(f"claim of trial {claim.trial}"):  # its vector may have another length
            proposed = {} if box is None else box.params(claim.candidate.x)
        wrong = [n for n, value in proposed.items() if trial.params.get(n, value) != value]
        if wrong:
            name = wrong[0]
            warnings.warn(
                f"The result of trial {trial.number} is not used: its parameter {name!r} is "
                f"{trial.params[name]!r}, not the proposed {proposed[name]!r}. Does the objective "
                "suggest it in the range of the sampler's search_space?",
                stacklevel=2,
            )
        return bool(wrong)


def check_numbers(trials: Sequence[FrozenTrial], until: int) -> None:
    """Checks that nobody has deleted a trial below a number: all others would be taken for others.

    Raises:
        StudyError: If somebody has.
    """
    if until and (len(trials) < until or trials[until - 1].number != until - 1):
        there = {trial.number for trial in trials}
        missing = min(set(range(until)) - there, default=until - 1)
        raise StudyError(
            f"Trial {missing} is missing in the study. Trials must not be deleted: their numbers "
            "tell which results a sampler has seen. Restore the database, or use another "
            "study_name."
        )


def _rank(trial: FrozenTrial, signs: Sequence[int]) -> Rank:
    unknown = (math.inf,) * (len(signs) - 1)
    if trial.state == TrialState.FAIL:
        return Rank(2, 0.0, math.inf, unknown)
    violation = violation_of(trial)
    if trial.state == TrialState.COMPLETE:
        values = values_of(trial, len(signs))
        loss, *further = (sign * value for sign, value in zip(signs, values, strict=True))
        return Rank(0, violation, loss, tuple(further))
    step = trial.last_step
    last = math.nan if step is None else trial.intermediate_values[step]
    with decoding(f"partial value of trial {trial.number}"):
        partial = trial.system_attrs.get(PARTIAL, last)
        check_type("it", partial, (int, float))
    loss = signs[0] * partial
    return Rank(1, violation, loss if loss == loss else math.inf, unknown)
