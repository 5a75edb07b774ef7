"""The rules of the plumbing, each by value, on an algorithm that can be worked out by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial

from merge_optuna import testing
from merge_optuna._schema import CLAIM, OWNER, PARTIAL, SURPLUS
from merge_optuna.samplers import (
    ArchiveSampler,
    Box,
    Candidate,
    CmaEs,
    CmaEsSampler,
    DistributionAlgorithm,
)
from merge_optuna.samplers._protocol import waiting
from merge_optuna.samplers._protocol.claim import Claim, Place, own_claim
from merge_optuna.samplers._protocol.log import Log
from merge_optuna.samplers._protocol.owner import owner_of
from tests.samplers.storages import make_storage

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


@dataclass(frozen=True)
class Recorder(DistributionAlgorithm):
    """Proposes random points, four a generation, and remembers what it was told."""

    size: int = 4

    def population_size(self, n: int) -> int:
        return self.size

    def start(self, box: Box) -> list[list[list[float]]]:
        return []

    def ask(self, memory: Any, rng: np.random.Generator) -> Candidate:
        return Candidate(rng.random(2))

    def learn(self, memory: Any, ranked: Sequence[Candidate]) -> Any:
        return [*memory, [c.x.tolist() for c in ranked]]


def make_study(
    *, max_attempts: int = 3, storage: Any = None, **options: Any
) -> tuple[optuna.Study, ArchiveSampler]:
    sampler = ArchiveSampler(Recorder(), SPACE, seed=0, max_attempts=max_attempts)
    return optuna.create_study(storage=storage, sampler=sampler, **options), sampler


def point(trial: optuna.Trial | optuna.trial.FrozenTrial) -> list[float]:
    if isinstance(trial, optuna.Trial):
        return [trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)]
    return [trial.params["x"], trial.params["y"]]


def claims_of(study: optuna.Study) -> list[Claim | None]:
    return [own_claim(t) for t in study.trials]


def places(study: optuna.Study) -> list[tuple[int, int, int] | None]:
    return [c and (c.generation, c.slot, c.attempt) for c in claims_of(study)]


def told(study: optuna.Study) -> list[list[list[float]]]:
    """What a new process tells the algorithm: the ask that makes it look is left running."""
    sampler = ArchiveSampler(Recorder(), SPACE, seed=0)
    study = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=sampler)
    study.ask()
    (population,) = sampler._notes.log.books.values()
    return population.memory


def uninterrupted(n: int) -> list[list[float]]:
    """What a lone worker proposes in generation 0, 1, ...: worked out from the documented keys."""
    keys = [[0, 0, i // 4, i % 4, 0] for i in range(n)]
    return [np.random.default_rng(key).random(2).tolist() for key in keys]


# -- Rank (rule 8) ----------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_complete_before_pruned_before_failed(direction: str) -> None:
    sign = 1 if direction == "minimize" else -1
    study, _ = make_study(direction=direction, max_attempts=1)

    def finish(value: float | None, **what: Any) -> None:
        trial = study.ask()
        point(trial)
        for step, reported in enumerate(what.get("reports", [])):
            trial.report(reported, step)
        if "partial" in what:
            study._storage.set_trial_system_attr(trial._trial_id, PARTIAL, what["partial"])
        for i, violation in enumerate(what.get("constraints", [])):
            trial.set_constraint(f"c{i}", violation)
        study.tell(trial, value, state=what.get("state"))

    pruned = {"value": None, "state": TrialState.PRUNED}
    finish(value=None, state=TrialState.FAIL)  # 0: last
    finish(**pruned)  # 1: pruned before any report
    finish(**pruned, reports=[-9.0 * sign, 3.0 * sign])  # 2: the last report counts: 3
    finish(value=7.0 * sign)  # 3: the worst feasible value
    finish(**pruned, reports=[9.0 * sign], partial=2.0 * sign)  # 4: the partial value counts: 2
    finish(value=-5.0 * sign, constraints=[0.5, -3.0])  # 5: infeasible by 0.5
    finish(value=-9.0 * sign, constraints=[0.5, 0.5])  # 6: infeasible by 1
    finish(value=1.0 * sign, constraints=[-1.0])  # 7: feasible, the best
    log = Log([sign], max_attempts=1)
    log.follow(study.trials, 8)
    log.see(study.trials, log.unread(study.trials, 8))
    (population,) = log.books.values()
    by_rank = sorted(population.records, key=lambda record: record.rank)
    assert [record.claim.trial for record in by_rank] == [7, 3, 5, 6, 4, 2, 1, 0]


def test_generations_are_told_best_first_and_ties_by_slot() -> None:
    study, _ = make_study()
    values = [3.0, 1.0, 1.0, 2.0, 5.0, 5.0, 4.0, 5.0]
    study.optimize(lambda trial: values[trial.number] + 0 * point(trial)[0], n_trials=8)
    xs = uninterrupted(8)
    order = [[1, 2, 3, 0], [6, 4, 5, 7]]
    assert told(study) == [[xs[i] for i in generation] for generation in order]


def test_nan_reports_of_pruned_trials_rank_last_among_them() -> None:
    study, _ = make_study()

    def objective(trial: optuna.Trial) -> float:
        point(trial)
        trial.report([float("nan"), 2.0, 1.0, float("nan")][trial.number], 0)
        raise optuna.TrialPruned

    study.optimize(objective, n_trials=4)
    xs = uninterrupted(4)
    assert told(study) == [[xs[2], xs[1], xs[0], xs[3]]]


# -- Failures (rule 8) ------------------------------------------------------------------------


def test_a_failed_candidate_is_proposed_again_then_ranks_last() -> None:
    study, _ = make_study()
    failing = {1: ValueError, 2: None, 3: ValueError}  # slot 1 three times; trial 2 by NaN

    def objective(trial: optuna.Trial) -> float:
        point(trial)
        if trial.number in failing:
            error = failing[trial.number]
            if error is None:
                return float("nan")
            raise error
        return float(trial.number)

    study.optimize(objective, n_trials=7, catch=ValueError)
    assert places(study) == [
        (0, 0, 0),
        (0, 1, 0),
        (0, 1, 1),
        (0, 1, 2),
        (0, 2, 0),
        (0, 3, 0),
        (1, 0, 0),
    ]
    xs = uninterrupted(5)
    assert [point(t) for t in study.trials] == [xs[i] for i in (0, 1, 1, 1, 2, 3, 4)]
    assert told(study) == [[xs[0], xs[2], xs[3], xs[1]]]


def test_surplus_trials_are_proposed_again_without_counting() -> None:
    study, _ = make_study(max_attempts=2)
    for _ in range(5):
        trial = study.ask()
        study._storage.set_trial_system_attr(trial._trial_id, SURPLUS, True)
        study.tell(trial, state=TrialState.FAIL)
    assert [place and place[:2] for place in places(study)] == [(0, 0)] * 5
    study.tell(study.ask(), state=TrialState.FAIL)  # the first that counts
    study.tell(study.ask(), state=TrialState.FAIL)
    assert places(study)[-2:] == [(0, 0, 5), (0, 0, 6)]
    study.ask()
    assert places(study)[-1] == (0, 1, 0)


@pytest.mark.parametrize(("kills", "place"), [(5, (0, 0, 5)), (20, (0, 1, 0))])
def test_a_candidate_survives_its_process_being_killed(
    kills: int, place: tuple[int, int, int]
) -> None:
    study, _ = make_study(max_attempts=2)
    for _ in range(kills):
        trial = study.ask()
        owner = owner_of(study.trials[trial.number])
        assert owner is not None
        killed = {**owner, "start": owner["start"] - 1}  # an earlier process of this number
        study._storage.set_trial_system_attr(trial._trial_id, OWNER, killed)
    study.ask()
    assert places(study)[-1] == place
    assert [t.state for t in study.trials[:-1]] == [TrialState.FAIL] * kills


def test_a_clone_of_optunas_retry_callback_holds_its_slot() -> None:
    study, sampler = make_study()
    retry = RetryHeartbeatStaleTrialCallback(max_retry=3)

    def lose(trial: optuna.Trial) -> None:
        study.tell(trial, state=TrialState.FAIL)
        retry(study, study.trials[trial.number])

    study.optimize(lambda t: sum(point(t)), n_trials=1)
    trial = study.ask()
    point(trial)
    lose(trial)  # trial 2 waits with the parameters and the claim of trial 1
    other = optuna.load_study(study_name=study.study_name, storage=study._storage, sampler=sampler)
    clone = other.ask()
    assert clone.number == 2
    study.optimize(lambda t: sum(point(t)), n_trials=1)
    other.tell(clone, sum(point(clone)))
    study.optimize(lambda t: sum(point(t)), n_trials=4)
    assert places(study) == [
        (0, 0, 0),
        (0, 1, 0),
        (0, 1, 1),
        (0, 2, 0),
        (0, 3, 0),
        (1, 0, 0),
        (1, 1, 0),
        (1, 2, 0),
    ]
    xs = uninterrupted(7)
    assert [point(t) for t in study.trials] == [xs[i] for i in (0, 1, 1, 2, 3, 4, 5, 6)]


def test_a_clone_that_fails_before_it_claims_gives_its_slot_back() -> None:
    study, _ = make_study()
    study.tell(study.ask(), state=TrialState.FAIL)
    RetryHeartbeatStaleTrialCallback()(study, study.trials[0])  # trial 1 waits
    log = Log([1], 3)

    def retries() -> list[tuple[int, ...]]:
        assert log.follow(study.trials, 2)
        log.see(study.trials, log.unread(study.trials, 2))
        return [
            (*claim.place[1:], claim.attempt) for claim in next(iter(log.books.values())).retries
        ]

    assert retries() == []
    study._storage.set_trial_state_values(study.trials[1]._trial_id, TrialState.FAIL)
    assert retries() == [(0, 0, 0)]


# -- Trials of others -------------------------------------------------------------------------


def test_enqueued_added_and_foreign_trials_teach_nothing() -> None:
    study, _ = make_study()

    def ours(n: int) -> None:
        study.optimize(lambda t: sum(point(t)), n_trials=n)

    ours(2)
    study.enqueue_trial({"x": 0.25, "y": 0.75})
    study.enqueue_trial({"x": 0.5})  # the rest comes from the current distribution
    ours(3)
    study.add_trial(create_trial(params={"x": 0.1, "y": 0.1}, distributions=SPACE, value=-9.0))
    ours(2)
    other = optuna.load_study(
        study_name=study.study_name, storage=study._storage, sampler=RandomSampler(seed=0)
    )
    other.optimize(lambda t: sum(point(t)), n_trials=1)
    ours(2)
    claims = claims_of(study)
    assert [n for n, claim in enumerate(claims) if claim is None] == [2, 3, 5, 8]
    mine = [point(t) for t, claim in zip(study.trials, claims, strict=True) if claim is not None]
    assert mine == uninterrupted(7)
    assert point(study.trials[2]) == [0.25, 0.75]
    assert study.trials[3].params["x"] == 0.5
    assert 0 <= study.trials[3].params["y"] <= 1
    xs = uninterrupted(4)
    assert told(study) == [sorted(xs, key=sum)]


def test_a_waiting_trial_with_other_values_is_not_used() -> None:
    study, _ = make_study()
    study.add_trial(
        create_trial(params={"x": 0.5}, distributions={"x": SPACE["x"]}, state=TrialState.WAITING)
    )
    study.optimize(lambda t: sum(point(t)), n_trials=1)
    with pytest.warns(UserWarning, match="trial 0 is not used: its parameter 'x' is 0.5"):
        study.optimize(lambda t: sum(point(t)), n_trials=5)
    assert study.trials[0].params["x"] == 0.5
    assert places(study)[-1] == (1, 0, 0)


def test_a_persons_running_trial_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    study, sampler = make_study()
    person = optuna.load_study(
        study_name=study.study_name, storage=study._storage, sampler=RandomSampler()
    )
    person.ask()
    started = time.monotonic()
    study.optimize(lambda t: sum(point(t)), n_trials=1)
    assert time.monotonic() - started > 4.9
    assert sampler._notes.waiting.given_up == {0}
    monkeypatch.setattr(waiting, "_PATIENCE_UNOWNED", 60.0)  # five trials take less anywhere
    started = time.monotonic()
    study.optimize(lambda t: sum(point(t)), n_trials=5)
    assert time.monotonic() - started < 60
    assert [point(t) for t in study.trials[1:]] == uninterrupted(6)


# -- Claims (rules 1 to 3) --------------------------------------------------------------------


def test_batches_are_the_textbook_in_any_order_of_telling() -> None:
    sampler = CmaEsSampler(SPACE, seed=7)
    study = optuna.create_study(sampler=sampler)
    expected = testing.textbook(CmaEs(), SPACE, lambda p: p["x"] + p["y"], seed=7, n_trials=24)
    for _ in range(4):
        batch = [study.ask(SPACE) for _ in range(6)]
        for trial in reversed(batch):
            study.tell(trial, trial.params["x"] + trial.params["y"])
    assert sampler._notes.waiting.given_up == set()  # nobody has waited for anybody
    assert [t.params for t in study.trials] == expected


def test_a_trial_handed_to_another_process_keeps_its_claim() -> None:
    study, _ = make_study()
    trial = study.ask()
    there, _ = make_study(storage=study._storage, study_name=study.study_name, load_if_exists=True)
    same = optuna.Trial(there, trial._trial_id)
    assert point(same) == uninterrupted(1)[0]
    there.tell(same, 1.0)
    assert point(study.ask()) == uninterrupted(2)[1]


@pytest.mark.parametrize("search_space", [SPACE, None])
def test_threads_take_no_slot_twice(search_space: Any) -> None:
    study = optuna.create_study(sampler=CmaEsSampler(search_space, seed=0))

    def objective(trial: optuna.Trial) -> float:
        value = sum(point(trial))
        time.sleep(0.002)
        if trial.number % 6 == 1:
            raise ValueError
        return value

    study.optimize(objective, n_trials=60, n_jobs=4, catch=ValueError)
    taken = [(c.population, c.generation, c.slot, c.attempt) for c in claims_of(study) if c]
    assert len(set(taken)) == len(taken) == 60
    assert all(t.state.is_finished() for t in study.trials)


def write_hook(method: str, nth: int, do: Callable[[], None]) -> testing.WriteHook:
    """Calls ``do`` just before the nth call of a storage method."""
    calls = iter(range(1, 10**6))

    def hook(k: int, name: str, after: bool) -> None:
        if name == method and not after and next(calls) == nth:
            do()

    return hook


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a trial that has not claimed: every clash happens."""
    monkeypatch.setattr(waiting, "_PATIENCE_UNOWNED", 0.0)
    monkeypatch.setattr(waiting, "_PATIENCE_OWNED", 0.0)
    monkeypatch.setattr(waiting, "_STEP_ASIDE", 0.01)


def check_a_race_was_resolved(study: optuna.Study, n: int) -> None:
    """No place twice; the study goes on and every worker folds the same log."""
    taken = [place for place in places(study) if place is not None]
    assert len(set(taken)) == len(taken) == n
    assert len({tuple(point(t)) for t in study.trials}) == n
    study.optimize(lambda t: sum(point(t)), n_trials=20)
    known = study.sampler._notes.log.books  # type: ignore[attr-defined]
    (mine,) = known.values()
    fresh = Log([1], max_attempts=3)
    fresh.follow(study.trials, len(study.trials))
    (theirs,) = fresh.books.values()
    assert [r.claim for r in mine.records] == [r.claim for r in theirs.records][
        : len(mine.records)
    ]
    assert len(mine.records) == len(study.trials) - 1
    finished = [r.claim.trial for r in theirs.records]
    assert len(set(finished)) == len(finished)


@pytest.mark.usefixtures("impatient")
def test_higher_number_claims_again_when_a_late_lower_one_was_first() -> None:
    """The lower trial claims while the higher one, having given up on it, is about to write."""
    storage = InMemoryStorage()
    study, _ = make_study(storage=storage)
    study.optimize(lambda t: sum(point(t)), n_trials=2)
    lower_id = storage.create_new_trial(study._study_id)  # 2: created, nothing else yet

    def lower_claims() -> None:
        late, _ = make_study(storage=storage, study_name=study.study_name, load_if_exists=True)
        trial = optuna.Trial(late, lower_id)
        late.tell(trial, sum(point(trial)))

    watched = testing.on_write(storage, write_hook("set_trial_system_attr", 2, lower_claims))
    higher, _ = make_study(storage=watched, study_name=study.study_name, load_if_exists=True)
    trial = higher.ask()
    higher.tell(trial, sum(point(trial)))
    assert places(study)[2:] == [(0, 2, 0), (0, 3, 0)]
    check_a_race_was_resolved(study, 4)


@pytest.mark.usefixtures("impatient")
def test_late_lower_number_steps_aside_when_the_higher_one_is_gone() -> None:
    """The higher trial claims and finishes while the lower one is about to write its claim."""
    storage = InMemoryStorage()
    study, _ = make_study(storage=storage)
    study.optimize(lambda t: sum(point(t)), n_trials=2)

    def higher_runs() -> None:
        early, _ = make_study(storage=storage, study_name=study.study_name, load_if_exists=True)
        early.optimize(lambda t: sum(point(t)), n_trials=1)

    watched = testing.on_write(storage, write_hook("set_trial_system_attr", 2, higher_runs))
    lower, _ = make_study(storage=watched, study_name=study.study_name, load_if_exists=True)
    trial = lower.ask()
    lower.tell(trial, sum(point(trial)))
    assert places(study)[2:] == [(0, 3, 0), (0, 2, 0)]
    check_a_race_was_resolved(study, 4)


def test_an_error_while_claiming_fails_the_trial_and_loses_no_result() -> None:
    """The claim that would have listed the previous result is never written."""

    def full() -> None:
        raise OSError("disk full")

    storage = InMemoryStorage()
    watched = testing.on_write(storage, write_hook("set_trial_system_attr", 6, full))
    study, _ = make_study(storage=watched)
    study.optimize(lambda t: sum(point(t)), n_trials=5)
    with pytest.raises(OSError, match="disk full"):
        study.optimize(lambda t: sum(point(t)), n_trials=1)
    study.optimize(lambda t: sum(point(t)), n_trials=6)
    states = [t.state for t in study.trials]
    assert states == [TrialState.COMPLETE] * 5 + [TrialState.FAIL] + [TrialState.COMPLETE] * 6
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert [point(t) for t in done] == uninterrupted(11)
    listed = [n for claim in claims_of(study) if claim for n in claim.seen]
    assert listed == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_torn_reads_are_noticed() -> None:
    """A database reads states before attributes: a claim may list a trial still 'running'."""
    study, _ = make_study()
    study.optimize(lambda t: sum(point(t)), n_trials=2)
    trials = study.trials
    trials[0].state = TrialState.RUNNING
    assert claims_of(study)[1].seen == (0,)  # type: ignore[union-attr]
    assert not Log([1], 3).follow(trials, 2)
    assert Log([1], 3).follow(study.trials, 2)


# -- State and cost (rules 4, 10, 12) ---------------------------------------------------------


def test_vectors_survive_the_storage_bit_for_bit(tmp_path: Path) -> None:
    vector = np.random.default_rng(0).standard_normal(300) * 1e-300
    candidate = Candidate(vector, {"raw": np.nextafter(vector, 1)})
    claim = Claim.new(0, "p", Place(1, 2), candidate, 3, (4, 5))
    for kind in ("memory", "sqlite", "journal"):
        study = optuna.create_study(storage=make_storage(kind, tmp_path))
        study.ask()
        study._storage.set_trial_system_attr(0 if kind != "sqlite" else 1, CLAIM, claim.to_json())
        stored = Claim.of(study.trials[0])
        assert stored == claim
        assert stored.candidate.x.tobytes() == vector.tobytes()
        assert stored.candidate.hidden["raw"].tobytes() == candidate.hidden["raw"].tobytes()


def test_without_a_seed_every_process_uses_the_first() -> None:
    study = optuna.create_study()
    for _ in range(10):
        study.sampler = ArchiveSampler(Recorder(), SPACE)
        study.optimize(lambda t: sum(point(t)), n_trials=1)
    seeds = {claim.seed for claim in claims_of(study) if claim}
    assert len(seeds) == 1
    again = optuna.create_study(sampler=ArchiveSampler(Recorder(), SPACE, seed=seeds.pop()))
    again.optimize(lambda t: sum(point(t)), n_trials=10)
    assert [point(t) for t in again.trials] == [point(t) for t in study.trials]
    different = optuna.create_study(sampler=ArchiveSampler(Recorder(), SPACE))
    assert point(different.ask()) != point(study.trials[0])


def test_other_options_start_another_population() -> None:
    study, _ = make_study()
    study.optimize(lambda t: sum(point(t)), n_trials=5)
    study.sampler = ArchiveSampler(Recorder(3), SPACE, seed=0)
    study.optimize(lambda t: sum(point(t)), n_trials=4)
    study.sampler = ArchiveSampler(Recorder(), SPACE, seed=0)
    study.optimize(lambda t: sum(point(t)), n_trials=1)
    generations = [place and place[:2] for place in places(study)]
    assert generations[4:] == [(1, 0), (0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_an_inferred_space_starts_after_one_uniform_trial() -> None:
    study = optuna.create_study(sampler=ArchiveSampler(Recorder(), seed=0))
    study.optimize(lambda t: sum(point(t)), n_trials=5)
    populations = [claim.population for claim in claims_of(study) if claim]
    assert populations[0] == ""
    assert len(set(populations[1:])) == 1
    assert [point(t) for t in study.trials[1:]] == uninterrupted(4)


class Counting(Sequence[Any]):
    """A list that counts how often it is read."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.reads = items, 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("reads everything")


def test_an_ask_reads_new_trials_only() -> None:
    study, _ = make_study()
    study.optimize(lambda t: sum(point(t)), n_trials=300)
    trials = Counting(study.trials)
    log = Log([1], 3)
    log.follow(trials, 299)
    log.see(trials, log.unread(trials, 299))
    trials.reads = 0
    log.follow(trials, 300)
    log.see(trials, log.unread(trials, 300))
    assert trials.reads < 10
