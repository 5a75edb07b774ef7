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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna.samplers._owner import KILLED

if TYPE_CHECKING:
    from merge_optuna.samplers._box import Box, Vector

CLAIM = "merge_optuna:claim"
"""System attribute: the claim of a trial, see :class:`Claim`."""
PARTIAL = "merge_optuna:partial"
"""System attribute: value of a pruned trial as far as it got, in the units of the objective.
Without it the last intermediate value counts, which is something else under WilcoxonPruner."""
SURPLUS = "merge_optuna:surplus"
"""System attribute of a trial that was failed unevaluated: its candidate was not to blame."""

_KILLS = 20  # a candidate that takes its process down that often is to blame


@dataclass(frozen=True, eq=False)
class Candidate:
    """What an algorithm proposes.

    Attributes:
        x: (n,) the point of the unit box that is evaluated.
        hidden: further vectors that the algorithm wants back with the result, e.g. the sample
            before it was rounded to a step.
    """

    x: Vector
    hidden: Mapping[str, Vector] = field(default_factory=dict)

    def encode(self) -> dict[str, str]:
        """The vectors of a :class:`Claim`."""
        return {name: _encode(vector) for name, vector in {"x": self.x, **self.hidden}.items()}


@dataclass(frozen=True)
class Claim:
    """The place a trial takes in its population.

    Attributes:
        trial: number of the trial. A claim that says another number was copied by Optuna's
            retry callback.
        population: digest of the search space and of the algorithm's options.
        generation: the generation the candidate was drawn from.
        slot: which candidate of that generation.
        attempt: 0, then one more each time the candidate is proposed again after a failure.
        seed: the seed it was drawn with.
        seen: numbers of the trials that finished since the previous claim, as this worker read
            them.
        vectors: the candidate, name -> base64 of little-endian float64: no bit changes.
    """

    trial: int
    population: str
    generation: int
    slot: int
    attempt: int
    seed: int
    seen: tuple[int, ...]
    vectors: Mapping[str, str]

    @classmethod
    def of(cls, trial: FrozenTrial) -> Claim | None:
        """The claim a trial carries, its own or a copied one."""
        stored = trial.system_attrs.get(CLAIM)
        return None if stored is None else cls.from_json(stored)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Claim:
        """The inverse of :meth:`to_json`."""
        return cls(**{**stored, "seen": tuple(stored["seen"])})

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {**vars(self), "seen": list(self.seen)}

    def again(self, trial: int, seen: tuple[int, ...] = ()) -> Claim:
        """The same candidate, proposed once more by another trial."""
        return replace(self, trial=trial, attempt=self.attempt + 1, seen=seen)

    @property
    def candidate(self) -> Candidate:
        """What the trial evaluates."""
        vectors = {name: _decode(text) for name, text in self.vectors.items()}
        return Candidate(vectors.pop("x"), vectors)

    @property
    def place(self) -> tuple[str, int, int]:
        """Population, generation and slot: one candidate, however often it is proposed."""
        return self.population, self.generation, self.slot


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


@dataclass(frozen=True, eq=False)
class Record:
    """A finished candidate; its individual id is its place in ``Population.records``.

    Attributes:
        claim: who proposed it.
        rank: smaller is better: (0 complete, 1 pruned, 2 failed; constraint violation; loss).
    """

    claim: Claim
    rank: tuple[int, float, float]


class Population:
    """One algorithm in one search space: its part of the log.

    Attributes:
        records: the log, in order.
        retries: claims of failed candidates that nobody has proposed again yet.
        slots: generation -> number of slots taken so far.
        memory: whatever the algorithm has learned from the first ``told`` generations.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.retries: list[Claim] = []
        self.slots: Counter[int] = Counter()
        self.memory: Any = None
        self.told = 0
        self._attempts: dict[tuple[str, int, int], int] = {}
        self._failures: Counter[tuple[str, int, int]] = Counter()
        self._kills: Counter[tuple[str, int, int]] = Counter()

    def take(self, claim: Claim) -> bool:
        """Give the slot to this claim; False if another trial has it."""
        if claim.attempt <= self._attempts.get(claim.place, -1):
            return False
        self._attempts[claim.place] = claim.attempt
        self.retries = [r for r in self.retries if r.place != claim.place]
        self.slots[claim.generation] = max(self.slots[claim.generation], claim.slot + 1)
        return True

    def finish(self, claim: Claim, trial: FrozenTrial, sign: int, max_attempts: int) -> None:
        """Log a finished trial, or queue its candidate to be proposed again if it failed."""
        if trial.state == TrialState.FAIL:
            killed = KILLED in trial.system_attrs
            self._kills[claim.place] += killed
            self._failures[claim.place] += not killed and SURPLUS not in trial.system_attrs
            if self._failures[claim.place] < max_attempts and self._kills[claim.place] < _KILLS:
                if claim.attempt == self._attempts[claim.place]:
                    self.retries.append(claim)
                return
        self.records.append(Record(claim, _rank(trial, sign)))


class Log:
    """The log of one study.

    Args:
        sign: 1 if the study minimises, -1 if it maximises.
        max_attempts: how often a candidate that fails is proposed before it ranks last.

    Attributes:
        populations: digest -> population.
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
        self.populations: dict[str, Population] = {}
        self.front = 0
        self.open: dict[int, Any] = {}
        self.seed: int | None = None
        self._unseen: dict[int, Claim] = {}

    def box(self, digest: str) -> Box | None:
        """The box of a population, if this process has asked for it."""
        return self._boxes.get(digest)

    def know(self, digest: str, box: Box) -> None:
        """Tell the box of a population, against which its results are checked."""
        if digest not in self._boxes:
            self._boxes[digest] = box
            if digest in self.populations:
                self.reset()

    def follow(self, trials: Sequence[FrozenTrial], until: int) -> bool:
        """Fold the trials below number ``until``.

        Returns:
            False if ``trials`` was read while others wrote and contradicts itself (a database
            reads states before attributes): read again.
        """
        if len(trials) < self.front:
            return False
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
            if claim is None or self._foreign(claim, trials[number]):
                continue
            population = self.population(claim.population)
            population.finish(claim, trials[number], self._sign, self._max_attempts)

    def take(self, claim: Claim) -> None:
        """Register a claim; one whose slot is taken is dropped, and its result with it."""
        self.seed = claim.seed if self.seed is None else self.seed
        if self.population(claim.population).take(claim):
            self._unseen[claim.trial] = claim

    def population(self, digest: str) -> Population:
        """The population of this digest, empty at first."""
        return self.populations.setdefault(digest, Population())

    def _foreign(self, claim: Claim, trial: FrozenTrial) -> bool:
        """Whether the trial has evaluated something else than its candidate."""
        box = self.box(claim.population)
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


def _rank(trial: FrozenTrial, sign: int) -> tuple[int, float, float]:
    """Sort key of a finished trial, smaller is better.

    Complete trials come before pruned ones, pruned before failed. Within a state Deb's rule
    (2000): no violation before some, less before more, then by value (pruned: partial value).
    """
    if trial.state == TrialState.FAIL:
        return 2, 0.0, 0.0
    violation = sum(max(0.0, c) if c == c else math.inf for c in trial.constraints.values())
    if trial.state == TrialState.COMPLETE:
        return 0, violation, sign * trial.values[0]
    step = trial.last_step
    last = math.nan if step is None else trial.intermediate_values[step]
    loss = sign * trial.system_attrs.get(PARTIAL, last)
    return 1, violation, loss if loss == loss else math.inf


def _encode(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f8").tobytes()).decode()


def _decode(text: str) -> Vector:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
