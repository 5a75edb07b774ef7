"""Random schedules of several processes on one storage: what holds whatever happens."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial

from merge_optuna import testing
from merge_optuna._schema import OWNER, SURPLUS
from merge_optuna.samplers import (
    ArchiveSampler,
    Box,
    Candidate,
    DistributionAlgorithm,
    Member,
    Population,
    PopulationAlgorithm,
    PopulationSampler,
    StoredSampler,
)
from merge_optuna.samplers._protocol import waiting
from merge_optuna.samplers._protocol.log import Book
from merge_optuna.samplers._protocol.owner import owner_of
from merge_optuna.samplers._protocol.slots import _Slots
from merge_optuna.samplers.algorithm import TooFewMembers
from merge_optuna.samplers.plumbing import own_claim
from tests.samplers import replay

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
Make: TypeAlias = Callable[[], StoredSampler]
Steps: TypeAlias = list[tuple[str, int]]


@dataclass(frozen=True)
class Slots(PopulationAlgorithm):
    """Its candidates depend on all that it can see."""

    size: int = 3
    smaller: tuple[int, int] | None = None
    needs: int = 0

    def population_size(self, n: int, evaluations: int = 0) -> int:
        shrunk = self.smaller and evaluations >= self.smaller[0]
        return self.smaller[1] if self.smaller and shrunk else self.size

    def start(self, box: Box) -> Any:
        return ()

    def ask(self, population: Population, slot: int, rng: np.random.Generator) -> Candidate:
        if len(population) < self.needs:
            raise TooFewMembers
        seen = [number for m in population for number in (m.id, m.trial)]
        return Candidate(rng.random(2), {"saw": np.array(seen, float)})

    def learn(
        self,
        population: Population,
        generation: Sequence[tuple[Member, Member]],
        rng: np.random.Generator,
    ) -> Any:
        pairs = tuple((target.trial, child.trial) for target, child in generation)
        return (*population.memory, (pairs, float(rng.random())))


@dataclass(frozen=True)
class Blocks(DistributionAlgorithm):
    """The same for algorithms that are told blocks of the log."""

    size: int = 3

    def population_size(self, n: int) -> int:
        return self.size

    def start(self, box: Box) -> Any:
        return []

    def ask(self, memory: Any, rng: np.random.Generator) -> Candidate:
        return Candidate(rng.random(2), {"saw": np.array(memory, float)})

    def learn(self, memory: Any, ranked: Sequence[Member]) -> Any:
        memory += [m.trial for m in ranked]
        return memory


SAMPLERS = st.sampled_from(
    [
        lambda: PopulationSampler(Slots(), SPACE, seed=0),
        lambda: PopulationSampler(Slots(needs=2), SPACE, seed=0),
        lambda: PopulationSampler(Slots(4, smaller=(5, 2)), SPACE, seed=0, max_attempts=1),
        lambda: PopulationSampler(Slots(1), SPACE, seed=0, max_attempts=2),
        lambda: ArchiveSampler(Blocks(), SPACE, seed=0, initial_population=[{}, {"x": 0.25}]),
        lambda: ArchiveSampler(Blocks(1), SPACE, seed=0, max_attempts=1),
    ]
)


def evaluate(trial: optuna.Trial) -> None:
    trial.suggest_float("x", 0, 1)
    trial.suggest_float("y", 0, 1)


# -- What holds -------------------------------------------------------------------------------


class View:
    """What a process knows once it has read everything."""

    def __init__(self, study: optuna.Study) -> None:
        sampler: Any = study.sampler
        self.trials, box = study.trials, Box(SPACE, categorical=True)
        self.log = sampler._notes_of(study).log
        self.log.know(sampler._digest(box), box)
        assert self.log.follow(self.trials, len(self.trials))
        self.size = sampler._algorithm.population_size(len(box))
        self.book: Book = self.log.book(sampler._digest(box))
        sampler._places.catch_up(self.book, box)

    def everything(self) -> Any:
        """Comparable between processes."""
        books = {
            digest: (
                [(r.claim, r.rank, r.trial.number) for r in book.records],
                book.open,
                book.retries,
                book.slots,
                book.starts,
                book.told,
            )
            for digest, book in self.log.books.items()
        }
        memory = self.book.memory
        if not isinstance(memory, _Slots):
            return books, memory
        return (
            books,
            memory.generation,
            memory.slots,
            {s: (m.id, m.trial, m.rank) for s, m in memory.population.members.items()},
            {s: (m.id, m.trial, m.rank) for s, m in memory.after.items()},
            memory.population.memory,
            [(target.id, child.id) for target, child in memory.pairs],
        )

    def check(self) -> None:
        self.check_places()
        self.check_candidates_in_flight()
        self.check_results()

    def check_places(self) -> None:
        """Two clones of a candidate aside, no two trials have a place and have not failed."""
        taken: dict[Any, list[int]] = {}
        for number, claim in replay.claims_of(self.trials).items():
            taken.setdefault(claim.place, []).append(number)
        for numbers in taken.values():
            own = [n for n in numbers if "failed_trial" not in self.trials[n].system_attrs]
            assert sum(self.trials[n].state != TrialState.FAIL for n in own) <= 1

    def check_candidates_in_flight(self) -> None:
        """None is lost: it runs, is to be read or to be proposed again."""
        for claim in self.book.open.values():
            running = self.trials[claim.trial].state in (TrialState.RUNNING, TrialState.WAITING)
            assert running or claim in self.book.retries or claim.trial in self.log._unseen
        if isinstance(memory := self.book.memory, _Slots) and self.book.starts:
            starts = [self.book.starts[g].records for g in range(memory.generation + 1)]
            assert starts == sorted(starts)
            assert {place.slot for place in self.book.open} <= set(memory.slots)

    def check_results(self) -> None:
        """Every result is used, and used once."""
        places = [record.claim.place for record in self.book.records]
        assert len(set(places)) == len(places)
        memory = self.book.memory
        if isinstance(memory, _Slots):
            told = [child for pairs, _ in memory.population.memory for _, child in pairs]
            told += [child.trial for _, child in memory.pairs]
            firsts = len({place.slot for place in places})
            assert len(told) == len(places) - firsts
        else:
            told, n = memory, self.book.told * self.size
            assert sorted(told) == sorted(r.trial.number for r in self.book.records[:n])
            assert len(self.book.records) < n + self.size
        assert len(set(told)) == len(told)


def check(studies: Sequence[optuna.Study], new: Callable[[], optuna.Study]) -> None:
    fresh = View(new())
    for study in studies:
        assert View(study).everything() == fresh.everything()
    fresh.check()


# -- What happens -----------------------------------------------------------------------------


class Processes:
    """Three processes of one search, and what can happen to them and their trials."""

    def __init__(self, make: Make) -> None:
        self.make, self.storage = make, InMemoryStorage()
        self.in_ask: dict[int, list[Callable[[], None]]] = {}
        self.studies = [self.new() for _ in range(3)]
        self.flying: list[optuna.Trial] = []
        self.created: list[int] = []  # trials that have not claimed yet

    def new(self) -> optuna.Study:
        queue: list[Callable[[], None]] = []

        def hook(k: int, method: str, after: bool) -> None:
            if method == "set_trial_system_attr" and not after and queue:
                queue.pop(0)()

        study = optuna.create_study(
            study_name="s",
            storage=testing.on_write(self.storage, hook),
            sampler=self.make(),
            load_if_exists=True,
        )
        self.in_ask[id(study)] = queue
        return study

    def run(self, steps: Steps) -> None:
        for step, i in steps:
            study = self.studies[i % 3]
            if step == "new":
                self.studies[i % 3] = self.new()
            elif step in ("complete", "prune", "fail", "surplus", "die"):
                if self.flying:
                    self.finish(step, self.flying.pop(i % len(self.flying)), i)
            else:
                getattr(self, step)(study, i)
        for study in self.studies:
            self.ask(study, 0)
        check(self.studies, self.new)

    def ask(self, study: optuna.Study, i: int) -> None:
        trial = study.ask()
        evaluate(trial)
        self.flying.append(trial)

    def finish(self, step: str, trial: optuna.Trial, i: int) -> None:
        stored = trial.study.trials[trial.number]
        set_attr = self.storage.set_trial_system_attr
        if step == "complete":
            trial.study.tell(trial, float(i * 7 % 5))
        elif step == "prune":
            trial.report(float(i % 3), 0)
            trial.study.tell(trial, state=TrialState.PRUNED)
        elif step == "die":  # the next ask finds out
            owner = owner_of(stored)
            assert owner is not None
            set_attr(trial._trial_id, OWNER, {**owner, "start": owner["start"] - 1})
        else:
            if step == "surplus":
                set_attr(trial._trial_id, SURPLUS, True)
            trial.study.tell(trial, state=TrialState.FAIL)

    def create(self, study: optuna.Study, i: int) -> None:
        """A process stops right after the first write of its ask ..."""
        self.created.append(self.storage.create_new_trial(study._study_id))

    def go_on(self, study: optuna.Study, i: int) -> None:
        """... and goes on when the others have given up on it."""
        if self.created:
            trial = optuna.Trial(study, self.created.pop(i % len(self.created)))
            evaluate(trial)
            self.flying.append(trial)

    def race(self, study: optuna.Study, i: int) -> None:
        """Another process asks, or claims late, between a worker's reading and its claim."""
        other = self.studies[(i + 1) % 3]
        self.ask_while(study, lambda: (self.go_on if i % 2 else self.ask)(other, i))

    def disk_full(self, study: optuna.Study, i: int) -> None:
        def fail() -> None:
            raise OSError("disk full")

        self.ask_while(study, fail)

    def ask_while(self, study: optuna.Study, happens: Callable[[], None]) -> None:
        queue = self.in_ask[id(study)]
        queue += [lambda: None, happens]  # the owner is written first
        with suppress(OSError):
            self.ask(study, 0)
        queue.clear()

    def add_other_values(self, study: optuna.Study, i: int) -> None:
        space = {"x": SPACE["x"]}
        study.add_trial(
            create_trial(params={"x": 0.5}, distributions=space, state=TrialState.WAITING)
        )

    def enqueue(self, study: optuna.Study, i: int) -> None:
        study.enqueue_trial({"x": 0.5})

    def clone(self, study: optuna.Study, i: int) -> None:
        """What Optuna's retry callback does, when it pleases."""
        failed = [t for t in study.trials if t.state == TrialState.FAIL and own_claim(t)]
        if failed:
            RetryHeartbeatStaleTrialCallback()(study, failed[i % len(failed)])


def steps(most: int, **weights: int) -> st.SearchStrategy[Steps]:
    names = [name for name, weight in weights.items() for _ in range(weight)]
    step = st.tuples(st.sampled_from(names), st.integers(0, 30))
    return st.lists(step, min_size=5, max_size=most)


HONEST = {"ask": 4, "complete": 5, "fail": 1, "prune": 1, "surplus": 1, "die": 1, "new": 1}
CHAOS = HONEST | {
    "create": 1,
    "go_on": 2,
    "race": 2,
    "disk_full": 1,
    "add_other_values": 1,
    "enqueue": 1,
    "clone": 1,
}
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@given(steps(45, **HONEST), SAMPLERS)
@QUICK
def test_every_claim_is_what_the_rules_say(steps: Steps, make: Make) -> None:
    processes = Processes(make)
    processes.run(steps)
    study = processes.studies[0]
    assert replay.contradictions(study.trials, study.sampler) == []
    assert replay.doubly_assigned(study.trials) == []


@given(steps(40, **CHAOS), SAMPLERS)
@QUICK
def test_chaos_is_folded_the_same_everywhere(steps: Steps, make: Make) -> None:
    """Late claims, races, clones, trials of others, claims that are not written."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("_PATIENCE_UNOWNED", "_PATIENCE_OWNED", "_STEP_ASIDE"):
            patch.setattr(waiting, name, 0.0)  # nobody waits for a trial that has not claimed
        Processes(make).run(steps)
