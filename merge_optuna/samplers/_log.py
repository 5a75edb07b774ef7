"""Claims and the log: what a population sampler keeps in the storage, and how it is read back.

Every trial of a population sampler carries a *claim*: which candidate of which generation it
evaluates, the vector itself, and the trials its worker had seen finish. The log is what these
lists say, read in trial-number order; it depends on no clock and is the same in every process.
:class:`Log` folds it from the stored trials, each once; throwing it away loses nothing.
"""

from __future__ import annotations

import base64
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna._records import check_type, decoding, values_of
from merge_optuna._schema import CLAIM, KILLED, PARTIAL, SCORES, SURPLUS
from merge_optuna._scores import unpack
from merge_optuna.errors import StudyError

if TYPE_CHECKING:
    from merge_optuna.samplers._box import Box, Vector

_KILLS = 20  # a candidate that takes its process down that often is to blame


@dataclass(frozen=True, eq=False)
class Candidate:
    """What an algorithm proposes.

    Attributes:
        x: (n,) the point of the unit box that is evaluated.
        hidden: further vectors that the algorithm wants back with the result, e.g. the sample
            before it was rounded to a step.
        parents: numbers of the trials that a child descends from, by the name of the parameter
            that names the parent.
    """

    x: Vector
    hidden: Mapping[str, Vector] = field(default_factory=dict)
    parents: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> dict[str, str]:
        """The vectors of a :class:`Claim`."""
        return {name: _encode(vector) for name, vector in {"x": self.x, **self.hidden}.items()}


class Place(NamedTuple):
    """Where a candidate stands in its population; see :class:`Claim`."""

    generation: int
    slot: int
    k: int = 0


@dataclass(frozen=True)
class Claim:
    """The place a trial takes in its population.

    Attributes:
        trial: number of the trial. A claim that says another number was copied by Optuna's
            retry callback.
        population: digest of the search space and of the algorithm's options.
        generation: the generation the candidate was drawn from.
        slot: which candidate of that generation.
        k: 0, or 1, 2, ... for further candidates of the same slot, proposed while all slots
            were taken.
        attempt: 0, then one more each time the candidate is proposed again after a failure.
        seed: the seed it was drawn with.
        seen: numbers of the trials that finished since the previous claim, as this worker read
            them.
        vectors: the candidate, name -> base64 of little-endian float64: no bit changes.
        owner: who runs the trial, if that has not been stored before.
        parents: numbers of the parents' trials, see :class:`Candidate`.
    """

    trial: int
    population: str
    generation: int
    slot: int
    attempt: int
    seed: int
    seen: tuple[int, ...]
    vectors: Mapping[str, str]
    k: int = 0
    owner: Mapping[str, Any] | None = None
    parents: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, trial: FrozenTrial) -> Claim | None:
        """The claim a trial carries, its own or a copied one."""
        stored = trial.system_attrs.get(CLAIM)
        return None if stored is None else cls.from_json(stored, trial.number)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], of: int) -> Claim:
        """The inverse of :meth:`to_json`.

        Args:
            stored: what a trial carries.
            of: number of that trial.

        Raises:
            StudyError: If it is no claim.
        """
        with decoding(f"claim of trial {of}"):
            claim = cls(**{**stored, "seen": tuple(stored["seen"])})
            claim._check()
            return claim

    def _check(self) -> None:
        """Checks the types of all fields."""
        numbers = (self.trial, self.generation, self.slot, self.attempt, self.seed, self.k)
        for number in (*numbers, *self.seen, *self.parents.values()):
            check_type("a number", number, int)
        for text in (self.population, *self.vectors.values()):
            check_type("a text", text, str)

    def check_seen(self) -> None:
        """Checks that the trials it has seen were there.

        Raises:
            ValueError: If one was not.
        """
        if not all(0 <= number < self.trial for number in self.seen):
            raise ValueError(f"it has seen trials that were not there: {list(self.seen)[-5:]}")

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {**vars(self), "seen": list(self.seen)}

    def again(self, trial: int, seen: tuple[int, ...] = ()) -> Claim:
        """The same candidate, proposed once more by another trial."""
        return replace(self, trial=trial, attempt=self.attempt + 1, seen=seen, owner=None)

    @property
    def candidate(self) -> Candidate:
        """What the trial evaluates."""
        with decoding(f"claim of trial {self.trial}"):
            vectors = {name: _decode(text) for name, text in self.vectors.items()}
            return Candidate(vectors.pop("x"), vectors, self.parents)

    @property
    def place(self) -> Place:
        """Generation, slot and k: one candidate of a population, however often proposed."""
        return Place(self.generation, self.slot, self.k)

    def same_attempt(self, other: Claim) -> bool:
        """Whether two trials claim the same."""
        mine = (self.population, self.place, self.attempt)
        return mine == (other.population, other.place, other.attempt)


def own_claim(trial: FrozenTrial) -> Claim | None:
    """The claim a trial has made itself."""
    claim = Claim.of(trial)
    return claim if claim is not None and claim.trial == trial.number else None


def held_claim(trial: FrozenTrial) -> Claim | None:
    """The claim a trial holds: its own, or a copied one while it waits or has not claimed yet."""
    claim = Claim.of(trial)
    if claim is None or claim.trial == trial.number:
        return claim
    return None if trial.state.is_finished() else claim.again(trial.number)


class Rank(NamedTuple):
    """How good a finished candidate is; smaller is better.

    Complete trials come before pruned ones, pruned before failed. Within a state Deb's rule
    (2000): no violation before some, less before more, then by loss.

    Attributes:
        state: 0 complete, 1 pruned, 2 failed.
        violation: sum of the violated constraints.
        loss: the objective's value, negated if it is maximised; a pruned trial's partial value,
            inf if it has none.
    """

    state: int
    violation: float
    loss: float

    def worse_by(self, better: Rank) -> float:
        """Difference of the losses; inf where they cannot be compared."""
        return self.loss - better.loss if self[:2] == better[:2] else math.inf


@dataclass(frozen=True, eq=False)
class Member:
    """A candidate that has been evaluated.

    Attributes:
        x: (n,) the point of the unit box.
        rank: how good it is.
        hidden: what the algorithm has added to the candidate.
        id: the individual's number, its place in the log.
        k: see :class:`Claim`.
        params: what was evaluated.
        attrs: user attributes of its trial.
        trial: number of its trial.
        best: the best that its slot has seen, for algorithms that move on from it (PSO).
        packed_scores: ``scores`` as stored.
        sign: 1 if the study minimises, -1 if it maximises.
        parents: see :class:`Candidate`.
    """

    x: Vector
    rank: Rank
    hidden: Mapping[str, Vector] = field(default_factory=dict)
    id: int = 0
    k: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    trial: int = 0
    best: Member | None = None
    packed_scores: Any = field(default=None, repr=False)
    sign: int = -1
    parents: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def scores(self) -> Vector:
        """(m,) per-example scores, larger is better; without any, the objective's value as one.

        In a study that minimises they are the negated ones.
        """
        if self.packed_scores is None:
            return np.array([-self.rank.loss])
        return -self.sign * unpack(self.packed_scores, self.trial).astype(np.float64)


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
        sign: 1 if the study minimises, -1 if it maximises.
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

    def finish(self, claim: Claim, trial: FrozenTrial, sign: int, max_attempts: int) -> None:
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
        self.records.append(Record(claim, _rank(trial, sign), trial, sign))


class Log:
    """The log of one study.

    Args:
        sign: 1 if the study minimises, -1 if it maximises.
        max_attempts: how often a candidate that fails is proposed before it ranks last.

    Attributes:
        books: digest -> book of a population.
        front: all trials with a lower number have been folded.
        open: number -> stored claim, of the folded trials that were not finished then.
        seed: the seed of the first claim.
    """

    def __init__(self, sign: int, max_attempts: int) -> None:
        self._sign = sign
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
                book.finish(claim, trials[number], self._sign, self._max_attempts)

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


def _rank(trial: FrozenTrial, sign: int) -> Rank:
    if trial.state == TrialState.FAIL:
        return Rank(2, 0.0, math.inf)
    violation = sum(max(0.0, c) if c == c else math.inf for c in trial.constraints.values())
    if trial.state == TrialState.COMPLETE:
        return Rank(0, violation, sign * values_of(trial, 1)[0])
    step = trial.last_step
    last = math.nan if step is None else trial.intermediate_values[step]
    with decoding(f"partial value of trial {trial.number}"):
        partial = trial.system_attrs.get(PARTIAL, last)
        check_type("it", partial, (int, float))
    loss = sign * partial
    return Rank(1, violation, loss if loss == loss else math.inf)


def _encode(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f8").tobytes()).decode()


def _decode(text: str) -> Vector:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
