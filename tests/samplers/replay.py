"""What the stored claims imply, worked out from the rules: knows neither Log nor Book.

Slow and simple on purpose: it goes through the trials by number and says, before each claim, what
it has to be. It knows no late claims, no clones of Optuna's and no results of other vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna._schema import KILLED, SCORES, SURPLUS
from merge_optuna.samplers import Box, Candidate, Member, Population, PopulationAlgorithm
from merge_optuna.samplers._protocol.claim import Claim, Place
from merge_optuna.samplers.algorithm import Rank, TooFewMembers
from merge_optuna.samplers.plumbing import own_claim


class Step(NamedTuple):
    """What a trial has claimed and what it should have."""

    number: int
    claimed: tuple[Place, int, dict[str, bytes]]
    implied: tuple[Place, int, dict[str, bytes]]


def claims_of(trials: Sequence[FrozenTrial]) -> dict[int, Claim]:
    return {t.number: claim for t in trials if (claim := own_claim(t)) is not None}


def contradictions(trials: Sequence[FrozenTrial], sampler: Any, sign: int = 1) -> list[str]:
    """Claims that are not what the claims below them imply; empty if all is well.

    ``sign`` is −1 for a study that maximises.
    """
    steps = _replay(trials, sampler, sign).steps()
    return [
        f"trial {step.number} claims {step.claimed[:2]} instead of {step.implied[:2]}"
        + ", another vector" * (step.claimed[2] != step.implied[2])
        for step in steps
        if step.claimed != step.implied
    ]


def individuals(trials: Sequence[FrozenTrial], sampler: Any, sign: int = 1) -> list[int]:
    """Numbers of the trials, each at its place in the log."""
    log = _replay(trials, sampler, sign)
    for _ in log.steps():
        pass
    return [member.trial for _, member in log.results]


def _replay(trials: Sequence[FrozenTrial], sampler: Any, sign: int) -> _Replay:
    slots = isinstance(sampler._algorithm, PopulationAlgorithm)
    return (_Slots if slots else _Blocks)(trials, sampler, sign)


def doubly_assigned(trials: Sequence[FrozenTrial]) -> list[str]:
    """Places that two trials hold at once."""
    attempts: dict[Any, list[int]] = {}
    claims, found = claims_of(trials), []
    for number, claim in claims.items():
        attempts.setdefault((claim.population, claim.place), []).append(number)
    for (_, place), numbers in attempts.items():
        if any(trials[n].state != TrialState.FAIL for n in numbers[:-1]):
            found.append(f"trials {numbers} all have {place}")
        if [claims[n].attempt for n in numbers] != list(range(len(numbers))):
            found.append(f"attempts of trials {numbers}: {[claims[n].attempt for n in numbers]}")
        if len({str(claims[n].vectors) for n in numbers}) > 1:
            found.append(f"trials {numbers} of {place} have different vectors")
    return found


def wrong_values(trials: Sequence[FrozenTrial], box: Box) -> list[int]:
    """Trials that have evaluated something else than their candidate."""
    return [
        number
        for number, claim in claims_of(trials).items()
        if not trials[number].params.items() <= box.params(claim.candidate.x).items()
    ]


class _Replay(ABC):
    """The log: finished trials in the order in which the claims name them, each once."""

    def __init__(self, trials: Sequence[FrozenTrial], sampler: Any, sign: int) -> None:
        self.trials, self.claims, self.sign = trials, claims_of(trials), sign
        self.algorithm, self.seed = sampler._algorithm, sampler._seed
        self.box = sampler._algorithm.box(sampler.search_space)
        self.size = self.algorithm.population_size(len(self.box))
        self.initial = [self.box.point(params) for params in sampler._initial]
        self.objectives = max([len(t.values or ()) for t in trials], default=1)
        self.max_attempts = sampler._max_attempts
        self.results: list[tuple[Place, Member]] = []
        self.failed: list[int] = []  # trials whose candidate has to be proposed again
        self.claimed: set[Place] = set()
        self.pending: set[Place] = set()
        self.failures: Counter[Place] = Counter()

    def steps(self) -> Iterator[Step]:
        read: set[int] = set()
        for number, claim in self.claims.items():
            for finished in claim.seen:
                assert finished < number, f"trial {number} has seen {finished}"
                assert finished not in read, f"trial {number} has seen {finished} again"
                read.add(finished)
                self.finish(finished)
            if self.failed:
                again = self.claims[self.failed.pop(0)]
                implied = again.place, again.attempt + 1, _bits(again.candidate)
            else:
                place = self.place()
                implied = place, 0, _bits(self.candidate(place))
            yield Step(number, (claim.place, claim.attempt, _bits(claim.candidate)), implied)
            self.claimed.add(claim.place)
            self.pending.add(claim.place)

    def finish(self, number: int) -> None:
        trial, claim = self.trials[number], self.claims[number]
        assert trial.state.is_finished(), f"trial {number} is in the log"
        place, failed = claim.place, trial.state == TrialState.FAIL
        if failed:
            innocent = KILLED in trial.system_attrs or SURPLUS in trial.system_attrs
            self.failures[place] += not innocent
            if self.failures[place] < self.max_attempts:
                self.failed.append(number)
                return
        unknown = (np.inf,) * (self.objectives - 1)
        violation = sum(max(0.0, c) for c in trial.constraints.values())
        if failed:
            rank = Rank(2, 0.0, np.inf, unknown)
        elif trial.state == TrialState.PRUNED:
            last = trial.intermediate_values[trial.last_step] if trial.intermediate_values else 0
            loss = self.sign * last if trial.intermediate_values else np.inf
            rank = Rank(1, violation, loss, unknown)
        else:
            loss, *further = (self.sign * value for value in trial.values)
            rank = Rank(0, violation, loss, tuple(further))
        candidate = claim.candidate
        self.pending.discard(place)
        self.results.append(
            (
                place,
                Member(
                    candidate.x,
                    rank,
                    candidate.hidden,
                    id=len(self.results),
                    k=place.k,
                    params=trial.params,
                    attrs=trial.user_attrs,
                    trial=number,
                    packed_scores=trial.system_attrs.get(SCORES),
                    sign=self.sign,
                    parents=candidate.parents,
                ),
            )
        )

    def rng(self, place: Place) -> np.random.Generator:
        return np.random.default_rng([self.seed, 0, *place])

    @abstractmethod
    def place(self) -> Place: ...

    @abstractmethod
    def candidate(self, place: Place) -> Candidate: ...


class _Slots(_Replay):
    """Rule 5."""

    generation, begun, memory = 0, 0, None

    def __init__(self, trials: Sequence[FrozenTrial], sampler: Any, sign: int) -> None:
        super().__init__(trials, sampler, sign)
        self.slots = list(range(self.size))
        self.memory = self.algorithm.start(self.box)

    def member(self, slot: int, generation: int, until: int | None = None) -> Member | None:
        """Of the results up to a generation, the one that the slot has kept."""
        kept = None
        for place, child in self.results[:until]:
            if place.slot == slot and place.generation <= generation:
                kept = child if kept is None else self.algorithm.survive(kept, child)
        return kept

    def population(self) -> Population:
        """After the previous generation."""
        members = {s: self.member(s, self.generation - 1) for s in self.slots}
        known = {s: member for s, member in members.items() if member is not None}
        return Population(known, self.slots, self.memory)

    def free(self) -> list[int]:
        busy = {place.slot for place in self.pending if place.k == 0}
        return [s for s in self.slots if s not in busy]

    def place(self) -> Place:
        further = [p for p in self.claimed if p.generation == self.generation and p.k > 0]
        if (
            all(Place(self.generation, s) in self.claimed for s in self.free())
            if self.free()
            else len(further) >= len(self.slots) and len(self.results) > self.begun
        ):
            self.begin()
        for slot in self.free():
            if Place(self.generation, slot) not in self.claimed:
                return Place(self.generation, slot)
        flying = Counter(place.slot for place in self.pending)
        tries = Counter(p.slot for p in self.claimed if p.generation == self.generation)
        slot = min(self.slots, key=lambda s: (tries[s], flying[s], s))
        k = 1
        while Place(self.generation, slot, k) in self.claimed:
            k += 1
        return Place(self.generation, slot, k)

    def begin(self) -> None:
        """The next generation: the worst free slots go, the algorithm learns."""
        pairs = []
        for i in range(self.begun, len(self.results)):
            place, child = self.results[i]
            target = self.member(place.slot, self.generation, until=i)
            if target is not None:
                pairs.append((target, child))
        self.begun = len(self.results)
        size = self.algorithm.population_size(len(self.box), len(self.results))
        flying = {place.slot for place in self.pending}
        members = {s: self.member(s, self.generation) for s in self.slots if s not in flying}
        known = {s: member for s, member in members.items() if member is not None}
        worst = sorted(known, key=lambda s: (known[s].rank, known[s].id))[::-1]
        gone = worst[: max(0, len(self.slots) - size)]
        self.slots = [s for s in self.slots if s not in gone]
        self.generation += 1
        rng = np.random.default_rng([self.seed, 3, self.generation - 1, 0, 0])
        self.memory = self.algorithm.learn(self.population(), pairs, rng)

    def candidate(self, place: Place) -> Candidate:
        population, rng = self.population(), self.rng(place)
        if place.generation > 0 and place.slot in population:
            try:
                return self.algorithm.ask(population, place.slot, rng)
            except TooFewMembers:
                pass
        if place in [Place(0, s) for s in range(len(self.initial))]:
            return self.algorithm.first(self.initial[place.slot], rng)
        return self.algorithm.first(self.algorithm.uniform(self.box, rng), rng)


class _Blocks(_Replay):
    """Rule 6."""

    told, memory = 0, None

    def place(self) -> Place:
        if self.memory is None:
            self.memory = self.algorithm.start(self.box)
        while len(self.results) >= (self.told + 1) * self.size:
            block = self.results[self.told * self.size : (self.told + 1) * self.size]
            ranked = sorted(block, key=lambda result: (result[1].rank, result[0]))
            self.memory = self.algorithm.learn(self.memory, [member for _, member in ranked])
            self.told += 1
        for slot in range(len(self.initial)):
            if Place(0, slot) not in self.claimed:
                return Place(0, slot)
        slot = 0
        while Place(self.told, slot) in self.claimed:
            slot += 1
        return Place(self.told, slot)

    def candidate(self, place: Place) -> Candidate:
        if place.generation == 0 and place.slot < len(self.initial):
            return Candidate(self.initial[place.slot])
        return self.algorithm.ask(self.memory, self.rng(place))


def _bits(candidate: Candidate) -> dict[str, bytes]:
    vectors = {"x": candidate.x, **candidate.hidden}
    return {name: np.asarray(v, dtype="<f8").tobytes() for name, v in vectors.items()}
