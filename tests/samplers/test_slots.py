"""Rules of populations with slots, by value, on an algorithm that writes down what it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import PartialFixedSampler
from optuna.storages import InMemoryStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial

from merge_optuna import testing
from merge_optuna.errors import StudyError
from merge_optuna.samplers import (
    DE,
    ArchiveSampler,
    Box,
    Candidate,
    DESampler,
    Member,
    Population,
    PopulationAlgorithm,
    PopulationSampler,
    PSOSampler,
    Rand,
)
from merge_optuna.samplers._protocol import waiting
from merge_optuna.samplers._protocol.claim import own_claim
from merge_optuna.samplers._protocol.slots import _Slots
from merge_optuna.samplers.algorithm import TooFewMembers
from tests.samplers import replay
from tests.samplers.storages import make_storage

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


@dataclass(frozen=True)
class Recorder(PopulationAlgorithm):
    """Proposes random points, and stores with them whom it has seen in which slot.

    Attributes:
        size: number of slots.
        smaller: how many there are after some number of evaluations.
        needs: without so many members it cannot propose anything.
    """

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
        seen = [(s, population[s].trial) for s in population.slots if s in population]
        hidden = {"saw": np.array(seen, dtype=float).ravel(), "learned": _flat(population.memory)}
        return Candidate(rng.random(population[slot].x.size), hidden)

    def learn(
        self,
        population: Population,
        generation: Sequence[tuple[Member, Member]],
        rng: np.random.Generator,
    ) -> Any:
        """Trials of the pairs, a random number."""
        pairs = tuple((target.trial, child.trial) for target, child in generation)
        return (*population.memory, (pairs, float(rng.random())))


def _flat(memory: Any) -> np.ndarray:
    return np.array([number for pairs, _ in memory for pair in pairs for number in pair], float)


def load(storage: InMemoryStorage, sampler: Any) -> optuna.Study:
    return optuna.create_study(
        study_name="s", storage=storage, sampler=sampler, load_if_exists=True
    )


def make_study(
    storage: Any = None, max_attempts: int = 3, seed: int = 0, **options: Any
) -> optuna.Study:
    """Called with the storage of another study it is a new process of the same search."""
    algorithm = Recorder(**options)
    sampler = PopulationSampler(algorithm, SPACE, seed=seed, max_attempts=max_attempts)
    return load(storage or InMemoryStorage(), sampler)


def point(trial: optuna.Trial) -> list[float]:
    return [trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)]


def ask(study: optuna.Study, n: int = 1) -> list[optuna.Trial]:
    trials = [study.ask() for _ in range(n)]
    for trial in trials:
        point(trial)
    return trials


def place(trial: optuna.Trial | int, study: optuna.Study | None = None) -> tuple[int, ...]:
    """Generation and slot; k if it is not 0."""
    owner = study or trial.study  # type: ignore[union-attr]
    number = trial if isinstance(trial, int) else trial.number
    claim = own_claim(owner.trials[number])
    assert claim is not None
    return claim.place if claim.k else claim.place[:2]


def saw(trial: optuna.Trial) -> dict[int, int] | None:
    """Slot -> number of the trial whose result was its member; None for a uniform point."""
    claim = own_claim(trial.study.trials[trial.number])
    assert claim is not None
    hidden = claim.candidate.hidden
    return dict(hidden["saw"].astype(int).reshape(-1, 2).tolist()) if hidden else None


def learned(trial: optuna.Trial) -> list[tuple[int, int]]:
    """(target, child) that the algorithm had learned from when it proposed a trial."""
    claim = own_claim(trial.study.trials[trial.number])
    assert claim is not None
    pairs = claim.candidate.hidden["learned"].astype(int).reshape(-1, 2).tolist()
    return [(target, child) for target, child in pairs]


def state(study: optuna.Study) -> _Slots:
    """The population as this process knows it, once it has read everything."""
    sampler: Any = study.sampler
    log = sampler._notes_of(study).log
    trials, box = study.trials, Box(SPACE, categorical=True)
    log.know(sampler._digest(box), box)
    assert log.follow(trials, len(trials))
    book = log.book(sampler._digest(box))
    sampler._places.catch_up(book, box)
    slots = book.memory
    assert isinstance(slots, _Slots)
    return slots


# -- Generations ------------------------------------------------------------------------------


def test_a_generation_reads_nothing_but_the_one_before() -> None:
    study = make_study()
    values = [3.0, 2.0, 1.0, 0.0, 5.0, 0.5, 4.0, 1.0]  # trials 3 and 5 win
    trials = []
    for value in values:
        trials += ask(study)
        study.tell(trials[-1], value)
    assert [place(t) for t in trials] == [(i // 3, i % 3) for i in range(8)]
    assert [saw(t) for t in trials[:3]] == [None] * 3
    assert [saw(t) for t in trials[3:6]] == [{0: 0, 1: 1, 2: 2}] * 3
    assert [saw(t) for t in trials[6:]] == [{0: 3, 1: 1, 2: 5}] * 2
    assert learned(trials[3]) == []
    assert learned(trials[6]) == learned(trials[7]) == [(0, 3), (1, 4), (2, 5)]


def test_a_slot_in_flight_is_passed_over_and_comes_back_in_the_current_generation() -> None:
    study = make_study()
    a, b, c = ask(study, 3)
    study.tell(a, 1.0)
    study.tell(b, 1.0)  # c is slow
    d, e = ask(study, 2)
    assert [place(t) for t in (d, e)] == [(1, 0), (1, 1)]
    assert saw(d) == saw(e) == {0: 0, 1: 1}
    study.tell(d, 0.0)
    study.tell(e, 2.0)
    (f,) = ask(study)
    assert (place(f), saw(f)) == ((2, 0), {0: 3, 1: 1})
    study.tell(c, 1.0)  # late, of an older generation: counts at once
    g, h = ask(study, 2)
    assert [place(t) for t in (g, h)] == [(2, 1), (2, 2)]
    assert saw(g) == saw(h) == {0: 3, 1: 1, 2: 2}
    for trial in (f, g, h):
        study.tell(trial, 9.0)
    (i,) = ask(study)
    assert (place(i), learned(i)) == ((3, 0), [(0, 3), (1, 4), (3, 5), (1, 6), (2, 7)])


def test_a_late_result_competes_with_what_its_slot_has_by_now() -> None:
    study = make_study(size=1)
    (a,) = ask(study)
    study.tell(a, 5.0)
    b, c = ask(study, 2)
    assert [place(t) for t in (b, c)] == [(1, 0), (1, 0, 1)]
    study.tell(c, 3.0)
    study.tell(b, 4.0)
    (d,) = ask(study)
    assert (place(d), saw(d), learned(d)) == ((2, 0), {0: 2}, [(0, 1), (1, 2)])
    (e,) = ask(study)
    study.tell(d, 9.0)
    (f,) = ask(study)  # that e is in flight does not hold the slot
    assert [place(t) for t in (e, f)] == [(2, 0, 1), (3, 0)]
    study.tell(e, 1.0)
    study.tell(f, 2.0)
    (g,) = ask(study)
    assert (place(g), saw(g)) == ((4, 0), {0: e.number})
    assert learned(g)[2:] == [(2, 3), (2, 4), (4, 5)]


def test_twice_as_many_in_flight_as_slots() -> None:
    study = make_study(size=2)
    flying = ask(study, 4)
    for _ in range(20):
        study.tell(flying.pop(0), 1.0)
        flying += ask(study)
    own = [place(n, study) for n in range(24) if len(place(n, study)) == 2]
    assert own == [(i // 2, i % 2) for i in range(len(own))]
    assert len(own) > 8


def test_when_all_slots_are_taken_the_least_tried_gets_a_further_candidate() -> None:
    study = make_study()
    trials = ask(study, 7)
    expected = [(0, 0), (0, 1), (0, 2), (0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 0, 2)]
    assert [place(t) for t in trials] == expected
    assert len({tuple(point(t)) for t in trials}) == 7
    for i, value in ((3, 5.0), (0, 6.0), (6, 7.0)):
        study.tell(trials[i], value)
    more = ask(study, 2)  # 1 and 2, 4 and 5 are in flight
    assert [place(t) for t in more] == [(1, 0), (1, 1, 1)]
    assert [saw(t) for t in more] == [{0: 3}, None]  # slot 1 has no member yet


def test_a_further_candidate_is_told_apart_from_the_slots_own_in_every_generation() -> None:
    """Particle swarms move on from their own candidate only."""
    study = make_study(size=2)
    a, b = ask(study, 2)
    study.tell(a, 1.0)
    c, d, e = ask(study, 3)  # slot 1 still has b of generation 0 in flight
    assert [place(t) for t in (c, d, e)] == [(1, 0), (1, 1, 1), (1, 0, 1)]
    study.tell(b, 1.0)
    study.tell(e, 2.0)
    (f,) = ask(study)  # its own one is still to come
    assert (place(f), saw(f)) == ((1, 1), {0: 0, 1: 1})


def test_with_too_few_members_a_candidate_is_drawn_as_in_generation_0() -> None:
    study = make_study(needs=2)
    a, b, c = ask(study, 3)
    study.tell(a, 1.0)
    (d,) = ask(study)
    assert (place(d), saw(d)) == ((1, 0), None)
    assert point(d) == np.random.default_rng([0, 0, 1, 0, 0]).random(2).tolist()
    study.tell(b, 1.0)
    (e,) = ask(study)
    assert (place(e), saw(e)) == ((1, 1), {0: 0, 1: 1})
    study.tell(c, state=TrialState.FAIL)
    assert place(ask(study)[0]) == (0, 2)  # the failed one again


def test_an_initial_population_is_used_once_each() -> None:
    initial = [{"x": 0.25}, {"x": 0.5, "y": 0.75}]
    sampler = PopulationSampler(Recorder(), SPACE, seed=0, initial_population=initial)
    study = load(InMemoryStorage(), sampler)
    trials = ask(study, 5)
    assert [point(t) for t in trials[:2]] == [[0.25, 0.5], [0.5, 0.75]]
    assert [place(t) for t in trials[2:]] == [(0, 2), (0, 0, 1), (0, 1, 1)]
    assert all(point(t)[0] not in (0.25, 0.5) for t in trials[2:])


# -- Failures and results that cannot be used -------------------------------------------------


def test_a_failed_candidate_holds_its_slot_and_comes_first() -> None:
    study = make_study()
    a, b, c = ask(study, 3)
    study.tell(b, state=TrialState.FAIL)
    study.tell(a, 1.0)
    (again,) = ask(study)
    assert (place(again), point(again)) == ((0, 1), point(b))
    (d,) = ask(study)
    assert (place(d), saw(d)) == ((1, 0), {0: 0})
    study.tell(again, state=TrialState.FAIL)
    (third,) = ask(study)
    assert (place(third), point(third)) == ((0, 1), point(b))
    study.tell(third, float("nan"))
    study.tell(c, 1.0)
    (e,) = ask(study)  # its third failure: it is a member, the worst
    assert (place(e), saw(e)) == ((1, 1), {0: 0, 1: third.number, 2: 2})
    study.tell(e, 7.0)
    for trial in [d, *ask(study)]:
        study.tell(trial, 7.0)
    (f,) = ask(study)
    assert saw(f) == {0: 0, 1: e.number, 2: 2}
    assert learned(f)[0] == (third.number, e.number)


def test_a_result_of_other_values_frees_its_slot() -> None:
    study = make_study()
    ask(study, 2)
    wrong = study.ask()
    wrong.suggest_float("x", 0.5, 0.6)
    study.tell(wrong, -9.0)
    with pytest.warns(UserWarning, match="trial 2 is not used"):
        (a,) = ask(study)
    assert place(a) == (1, 2)  # generation 0 has had its candidate of slot 2
    assert saw(a) is None
    study.tell(a, 1.0)
    with pytest.warns(UserWarning, match="trial 2 is not used"):
        assert saw(ask(make_study(study._storage))[0]) == {2: 3}


# -- Fewer slots ------------------------------------------------------------------------------


def test_slots_in_flight_are_not_taken_away() -> None:
    study = make_study(size=4, smaller=(2, 2))
    a, b, c, d = ask(study, 4)
    study.tell(b, 1.0)
    study.tell(c, 2.0)
    study.tell(d, 9.0)  # a is in flight and not even known: 2 and 3 have to go
    (e,) = ask(study)
    assert (place(e), saw(e)) == ((1, 1), {1: 1})
    study.tell(a, 5.0)
    (g,) = ask(study)
    assert (place(g), saw(g)) == ((1, 0), {0: 0, 1: 1})


def test_the_worst_slot_stays_while_it_is_in_flight() -> None:
    study = make_study(size=3, smaller=(5, 2))
    for trial, value in zip(ask(study, 3), (9.0, 1.0, 2.0), strict=True):
        study.tell(trial, value)
    d, e, f = ask(study, 3)
    study.tell(e, 5.0)
    study.tell(f, 5.0)
    (g,) = ask(study)  # after five results; the worst member is that of d's slot
    assert (place(g), saw(g)) == ((2, 1), {0: 0, 1: 1})
    study.tell(d, 0.5)
    (h,) = ask(study)
    assert (place(h), saw(h)) == ((2, 0), {0: 3, 1: 1})


def test_all_free_slots_can_be_taken_away_at_once() -> None:
    study = make_study(size=3, smaller=(1, 1))
    a, b, c = ask(study, 3)
    study.tell(b, 1.0)
    (d,) = ask(study)
    assert place(d) == (1, 0, 1)  # two slots are left, both in flight
    study.tell(a, 3.0)
    study.tell(c, 2.0)
    study.tell(d, 4.0)
    (e,) = ask(study)
    assert place(e) == (1, 0)
    study.tell(e, 5.0)
    (f,) = ask(study)
    assert (place(f), saw(f)) == ((1, 2), {0: 0, 2: 2})
    study.tell(f, 1.0)
    (g,) = ask(study)
    assert (place(g), saw(g)) == ((2, 2), {2: 5})


# -- Late claims ------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a trial that has not claimed."""
    monkeypatch.setattr(waiting, "_PATIENCE_UNOWNED", 0.0)
    monkeypatch.setattr(waiting, "_PATIENCE_OWNED", 0.0)
    monkeypatch.setattr(waiting, "_STEP_ASIDE", 0.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("same_process", [False, True])
def test_a_late_claim_never_begins_a_generation(same_process: bool) -> None:
    """Trial 3 claims when those above have finished generations 1 and 2."""
    study = make_study()
    for trial in ask(study, 3):
        study.tell(trial, 1.0)
    late = study._storage.create_new_trial(study._study_id)
    for _ in range(6):
        (trial,) = ask(study)
        study.tell(trial, 0.5)
    there = study if same_process else make_study(study._storage)
    trial = optuna.Trial(there, late)
    assert trial.number == 3
    point(trial)
    # Below it generation 0 is complete; it must not begin generation 1, which begins with trial 4.
    assert place(trial) == (0, 0, 1)
    there.tell(trial, 0.1)
    (a,) = ask(study)
    assert (place(a), saw(a)) == ((3, 0), {0: 3, 1: 5, 2: 6})
    (b,) = ask(make_study(study._storage))
    assert (place(b), saw(b)) == ((3, 1), {0: 3, 1: 5, 2: 6})


@pytest.mark.usefixtures("impatient")
def test_a_late_claim_below_the_beginning_of_a_generation() -> None:
    """All free slots have had their candidate, but it is the trial above that may go on."""
    study = make_study(size=2)
    for trial in ask(study, 2):
        study.tell(trial, 1.0)
    (c,) = ask(study)
    study.tell(c, 1.0)
    (d,) = ask(study)
    late = study._storage.create_new_trial(study._study_id)
    (e,) = ask(study)
    assert [place(t) for t in (c, d, e)] == [(1, 0), (1, 1), (2, 0)]
    trial = optuna.Trial(make_study(study._storage, size=2), late)
    assert place(trial) == (1, 0, 1)


def test_an_added_trial_that_claims_late_reads_those_above_it(tmp_path: Path) -> None:
    """A database's last read, which study.ask makes before it takes the trial, will not do."""
    study = make_study(make_storage("sqlite", tmp_path))
    (a,) = ask(study)
    space = {"x": SPACE["x"]}
    study.add_trial(create_trial(params={"x": 0.5}, distributions=space, state=TrialState.WAITING))
    other = make_study(make_storage("sqlite", tmp_path))
    # It has looked for waiting trials just before that one was added.
    above = optuna.Trial(other, other._storage.create_new_trial(other._study_id))
    added = study.ask()
    assert [t.number for t in (a, added, above)] == [0, 1, 2]
    assert [place(t) for t in (a, added, above)] == [(0, 0), (0, 2), (0, 1)]


@pytest.mark.usefixtures("impatient")
def test_a_late_claim_takes_a_place_that_nobody_has() -> None:
    study = make_study()
    (a,) = ask(study)
    late = study._storage.create_new_trial(study._study_id)
    b, c = ask(study, 2)
    assert [place(t) for t in (a, b, c)] == [(0, 0), (0, 1), (0, 2)]
    trial = optuna.Trial(make_study(study._storage), late)
    assert place(trial) == (0, 1, 1)
    study.tell(a, state=TrialState.FAIL)
    (again,) = ask(study)
    assert place(again) == (0, 0)
    assert replay.doubly_assigned(study.trials) == []


# -- Everything is in the storage -------------------------------------------------------------


def test_workers_with_seeds_of_their_own_learn_the_same() -> None:
    """The random numbers of learn() are those of the claim that began the generation."""
    storage = InMemoryStorage()
    workers = [make_study(storage, seed=seed) for seed in (1, 2)]
    for i in range(20):
        (trial,) = ask(workers[i % 3 % 2])
        workers[0].tell(trial, float(i % 4))
    memories = [state(worker).population.memory for worker in workers]
    assert memories[0] == memories[1]
    assert len(memories[0]) == 6


def test_a_claim_that_is_not_written_leaves_nothing_behind() -> None:
    """The ask that would have begun generation 1 fails."""
    broken: list[OSError] = []

    def hook(k: int, method: str, after: bool) -> None:
        if len(broken) == 1 and method == "set_trial_system_attr" and not after:
            broken.append(broken[0])
            raise broken[0]  # its claim, which also says the owner

    storage = InMemoryStorage()
    study = make_study(testing.on_write(storage, hook))
    for trial in ask(study, 3):
        study.tell(trial, 1.0)
    broken.append(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        study.ask()
    (a,) = ask(study)
    assert (place(a), saw(a)) == ((1, 0), {0: 0, 1: 1, 2: 2})
    assert [t.state for t in study.trials[3:]] == [TrialState.FAIL, TrialState.RUNNING]


def test_an_error_while_an_enqueued_trial_reads_the_population_leaves_nothing_behind() -> None:
    @dataclass(frozen=True)
    class Fragile(Recorder):
        def learn(self, population: Any, generation: Any, rng: Any) -> Any:
            if errors:
                raise errors.pop()
            return super().learn(population, generation, rng)

    errors: list[BaseException] = []
    storage = InMemoryStorage()
    fragile = lambda: load(storage, PopulationSampler(Fragile(), SPACE, seed=0))  # noqa: E731
    study, other = fragile(), fragile()
    for trial in ask(study, 3):
        study.tell(trial, 1.0)
    for _ in range(4):
        (trial,) = ask(other)
        other.tell(trial, 1.0)
    study.enqueue_trial({"x": 0.5})
    errors.append(KeyboardInterrupt())
    outsider = study.ask()
    with pytest.raises(KeyboardInterrupt):
        point(outsider)
    study.tell(outsider, 1.0)
    ask(study)
    assert state(study).population.memory == state(fragile()).population.memory


@pytest.mark.parametrize("fixed", ["x", "y"])
def test_a_parameter_taken_out_by_partial_fixed_sampler(fixed: str) -> None:
    """The population lives in the other dimension; its first candidates are given there too."""
    initial = [{"x": 0.25, "y": 0.75}]
    base = PopulationSampler(Recorder(), SPACE, seed=0, initial_population=initial)
    study = load(InMemoryStorage(), PartialFixedSampler({fixed: 0.125}, base))
    study.optimize(lambda t: sum(point(t)), n_trials=8)
    free = "y" if fixed == "x" else "x"
    assert [t.params[fixed] for t in study.trials] == [0.125] * 8
    assert study.trials[0].params[free] == initial[0][free]
    assert [place(n, study) for n in range(8)] == [(i // 3, i % 3) for i in range(8)]
    (book,) = base._notes.log.books.values()  # type: ignore[union-attr]
    assert len(book.records) == 7  # nothing was foreign


def test_a_trial_asked_for_before_the_space_was_known_is_uniform() -> None:
    """Optuna infers the space at the first suggest; the claim was made without one."""
    sampler = PopulationSampler(Recorder(), seed=0)
    study = load(InMemoryStorage(), sampler)
    first, second = study.ask(), study.ask()
    study.tell(first, sum(point(first)))
    xs = point(second)
    study.tell(second, state=TrialState.FAIL)
    study.optimize(lambda t: sum(point(t)), n_trials=1)
    alone = load(InMemoryStorage(), PopulationSampler(Recorder(), seed=0))
    assert [point(t) for t in (alone.ask(), alone.ask())][1] == xs


def test_parameters_outside_the_box_differ_between_candidates_of_one_slot() -> None:
    study = make_study(size=1)
    values = [trial.suggest_float("other", 0, 1) for trial in ask(study, 3)]
    assert len(set(values)) == 3


def test_a_space_that_changes_starts_another_population_and_can_come_back() -> None:
    study = make_study()
    first = ask(study, 2)
    study.tell(first[0], 1.0)
    study.sampler = PopulationSampler(Recorder(), {"x": SPACE["x"]}, seed=0)
    other = study.ask()
    other.suggest_float("x", 0, 1)
    assert place(other) == (0, 0)
    study.tell(other, 1.0)
    study.sampler = make_study().sampler
    more = ask(study, 3)
    assert [place(t) for t in more] == [(0, 2), (1, 0), (1, 1, 1)]
    assert saw(more[1]) == {0: 0}


# -- Clones of Optuna's retry callback --------------------------------------------------------


def retried(study: optuna.Study, number: int) -> None:
    RetryHeartbeatStaleTrialCallback()(study, study.trials[number])


@pytest.mark.parametrize("who", ["clone", "retry"])
def test_a_clone_and_a_retry_of_the_same_candidate_end_up_as_one_result(who: str) -> None:
    """The callback adds its clone after another worker has proposed the candidate again."""
    study = make_study()
    a, b = ask(study, 2)
    study.tell(a, state=TrialState.FAIL)
    (again,) = ask(make_study(study._storage))
    retried(study, a.number)
    (clone,) = ask(study)  # does not wait for the other, does not claim for ever
    assert "failed_trial" in study.trials[clone.number].system_attrs
    assert point(clone) == point(again) == point(a)
    first, second = (clone, again) if who == "clone" else (again, clone)
    study.tell(first, 1.0)
    study.tell(second, 1.0)
    study.tell(b, 1.0)
    (c,) = ask(study)
    study.tell(c, 1.0)
    (d,) = ask(study)
    assert (place(c), place(d)) == ((0, 2), (1, 0))
    assert saw(d) == {0: again.number, 1: b.number, 2: c.number}


def test_a_candidate_that_ranks_last_has_one_result_whatever_its_clone_does() -> None:
    study = make_study(max_attempts=1)
    a, b, c = ask(study, 3)
    study.tell(a, state=TrialState.FAIL)
    retried(study, a.number)
    study.tell(b, 1.0)
    study.tell(c, 1.0)
    (clone,) = ask(study)
    study.tell(clone, 1.0)
    for trial in ask(study, 3):
        study.tell(trial, 9.0)
    (d,) = ask(study)
    children = [child for _, child in learned(d)]
    assert len(set(children)) == len(children)
    (book,) = study.sampler._notes.log.books.values()  # type: ignore[attr-defined]
    results = Counter(record.claim.place for record in book.records)
    assert max(results.values()) == 1


@pytest.mark.parametrize("make", [DESampler, PSOSampler])
def test_trials_that_are_asked_for_and_never_told_do_not_stop_the_search(make: Any) -> None:
    """They hold every slot for as long as their process lives."""
    space = {name: FloatDistribution(0, 1) for name in "xy"}
    study = optuna.create_study(sampler=make(space, population_size=6, seed=0))
    for _ in range(9):
        study.ask(space)
    study.optimize(lambda t: sum(t.suggest_float(n, 0, 1) for n in "xy"), n_trials=150)
    values = [t.value for t in study.trials if t.value is not None]
    assert np.mean(values[-30:]) < 0.3 < np.mean(values[:30])
    claims = [own_claim(t) for t in study.trials]
    assert max(c.generation for c in claims if c is not None) > 20
    fresh = make(space, population_size=6, seed=0)
    assert replay.contradictions(study.trials, fresh) == []


def test_wrong_options_are_refused_at_once() -> None:
    space = {"x": FloatDistribution(0, 1)}
    for make, message in (
        (lambda: DESampler(space, mutation="rand1bin"), "mutation must be an object such as Cur"),
        (lambda: DESampler(space, mutation=Rand), "mutation must be an object such as CurrentToP"),
        (
            lambda: DESampler(space, adaptation=Rand()),
            "adaptation must be an object such",
        ),
        (lambda: PSOSampler(space, coefficients="inertia"), "coefficients must be an object such"),
        (lambda: DESampler(space, seed=1.5), "seed must be a non-negative integer, got 1.5"),
        (lambda: DESampler({"x": (0, 1)}), r"search_space\['x'\] must be a distribution"),
        (
            lambda: ArchiveSampler(DE(), space),
            "ArchiveSampler runs a DistributionAlgorithm, not",
        ),
    ):
        with pytest.raises(StudyError, match=message):
            make()


def test_what_the_search_space_lacks_is_warned_about() -> None:
    study = optuna.create_study(sampler=DESampler({"Y": FloatDistribution(0, 1)}, seed=0))
    with pytest.warns(UserWarning, match="'y' is not in the search_space of DESampler"):
        study.optimize(lambda t: t.suggest_float("y", 0, 1), n_trials=1)


def test_other_options_in_mid_study_are_warned_about() -> None:
    space = {"x": FloatDistribution(0, 1)}
    study = optuna.create_study(sampler=DESampler(space, population_size=6, seed=0))
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3)
    study.sampler = DESampler(space, population_size=7, seed=0)
    with pytest.warns(UserWarning, match="was searched with other options .* starts anew"):
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)


def test_an_algorithm_that_leaves_the_box_is_named() -> None:
    @dataclass(frozen=True)
    class Astray(PopulationAlgorithm):
        def population_size(self, n: int, evaluations: int = 0) -> int:
            return 4

        def ask(self, population: Population, slot: int, rng: Any) -> Any:
            return Candidate(population[slot].x + 2)

    study = optuna.create_study(
        sampler=PopulationSampler(Astray(), {"x": FloatDistribution(0, 1)}, seed=0)
    )
    with pytest.raises(StudyError, match=r"Astray.ask must return a point of \[0, 1\]\^1, not"):
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=5)
