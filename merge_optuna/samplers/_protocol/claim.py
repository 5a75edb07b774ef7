"""Claims: which candidate a trial evaluates, as its system attribute says."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from merge_optuna._records import check_type, decoding
from merge_optuna._schema import CLAIM
from merge_optuna.samplers.algorithm import Candidate

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from merge_optuna.samplers.box import Vector


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
    def new(
        cls,
        trial: int,
        population: str,
        place: Place,
        candidate: Candidate,
        seed: int,
        seen: tuple[int, ...],
    ) -> Claim:
        """The claim of a candidate that has not been proposed before."""
        generation, slot, k = place
        vectors = {"x": candidate.x, **candidate.hidden}
        encoded = {name: _encode(vector) for name, vector in vectors.items()}
        parents = candidate.parents
        return cls(trial, population, generation, slot, 0, seed, seen, encoded, k, parents=parents)

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


def copied_claim(trial: FrozenTrial) -> Claim | None:
    """What a trial was created with by Optuna's retry callback."""
    claim = Claim.of(trial)
    return claim if claim is not None and claim.trial != trial.number else None


def _encode(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f8").tobytes()).decode()


def _decode(text: str) -> Vector:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
