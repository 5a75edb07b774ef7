"""For tests of samplers: the textbook loop, storages that misbehave, and a suite to inherit."""

from __future__ import annotations

import math
import os
import pickle
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from merge_optuna.samplers import ArchiveSampler, PopulationSampler, StoredSampler
from merge_optuna.samplers.algorithm import (
    Candidate,
    DistributionAlgorithm,
    Member,
    Population,
    PopulationAlgorithm,
    Rank,
)
from merge_optuna.samplers.plumbing import CANDIDATE, LEARN, keyed_rng, own_claim

Params: TypeAlias = dict[str, Any]
WriteHook: TypeAlias = Callable[[int, str, bool], None]


def textbook(
    algorithm: DistributionAlgorithm | PopulationAlgorithm,
    search_space: Mapping[str, BaseDistribution],
    evaluate: Callable[[Params], float | Sequence[float]],
    *,
    seed: int,
    n_trials: int,
    maximize: bool = False,
    initial_population: Sequence[Params] = (),
) -> list[Params]:
    """Run an algorithm without Optuna: what one worker has to reproduce bit for bit.

    Args:
        algorithm: What to run.
        search_space: Parameter name -> distribution.
        evaluate: Parameters -> value, or one value per objective.
        seed: The sampler's seed.
        n_trials: Number of evaluations.
        maximize: Whether larger values are better.
        initial_population: Parameters of the first candidates.

    Returns:
        The parameters of every candidate, in the order of their evaluation.
    """
    loop = _Loop(algorithm, search_space, evaluate, seed, n_trials, maximize, initial_population)
    with suppress(_Enough):
        loop.run()
    return loop.history


class _Enough(Exception):
    """All evaluations have been made."""


class _Loop:
    def __init__(
        self,
        algorithm: Any,
        search_space: Mapping[str, BaseDistribution],
        evaluate: Callable[[Params], float | Sequence[float]],
        seed: int,
        n_trials: int,
        maximize: bool,
        initial: Sequence[Params],
    ) -> None:
        self.algorithm = algorithm.for_space(search_space)
        self.evaluate_params, self.n_trials = evaluate, n_trials
        self.sign, self.seed, self.history = -1 if maximize else 1, seed, list[Params]()
        self.box = self.algorithm.box(search_space)
        self.initial = [self.box.point(params) for params in initial]

    def run(self) -> None:
        if isinstance(self.algorithm, PopulationAlgorithm):
            self.run_slots()
        else:
            self.run_generations()

    def run_slots(self) -> None:
        """Everybody is evaluated, then everybody is replaced."""
        algorithm, n = self.algorithm, len(self.box)
        members: dict[int, Member] = {}
        slots = list(range(algorithm.population_size(n)))
        memory = algorithm.start(self.box)
        for generation in count():
            population = Population(members, slots, memory)
            children = {}
            for slot in slots:
                rng = keyed_rng(self.seed, CANDIDATE, generation, slot)
                if generation > 0:
                    candidate = algorithm.ask(population, slot, rng)
                else:
                    given = slot < len(self.initial)
                    x = self.initial[slot] if given else rng.random(n)
                    candidate = algorithm.first(x, rng)
                children[slot] = self.evaluate(candidate)
            pairs = [(members[slot], child) for slot, child in children.items() if members]
            members = {
                slot: algorithm.survive(members[slot], child) if members else child
                for slot, child in children.items()
            }
            size = algorithm.population_size(n, len(self.history))
            best = sorted(slots, key=lambda slot: (members[slot].rank, members[slot].id))[:size]
            slots = sorted(best)
            members = {slot: members[slot] for slot in slots}
            rng = keyed_rng(self.seed, LEARN, generation, 0)
            memory = algorithm.learn(Population(members, slots, memory), pairs, rng)

    def run_generations(self) -> None:
        """Everybody is evaluated, then the algorithm is told."""
        memory = self.algorithm.start(self.box)
        for generation in count():
            evaluated = []
            for slot in range(self.algorithm.population_size(len(self.box))):
                if len(self.history) < len(self.initial):
                    candidate = Candidate(self.initial[len(self.history)])
                else:
                    rng = keyed_rng(self.seed, CANDIDATE, generation, slot)
                    candidate = self.algorithm.ask(memory, rng)
                evaluated.append(self.evaluate(candidate))
            memory = self.algorithm.learn(memory, sorted(evaluated, key=lambda m: m.rank))

    def evaluate(self, candidate: Candidate) -> Member:
        if len(self.history) == self.n_trials:
            raise _Enough
        params = self.box.params(candidate.x)
        values = np.atleast_1d(self.evaluate_params(params)).tolist()
        loss, *further = (self.sign * value for value in values)
        rank = Rank(0, 0.0, loss, tuple(further))
        self.history.append(params)
        individual = len(self.history) - 1
        return Member(
            candidate.x, rank, candidate.hidden, individual, params=params, trial=individual
        )


def on_write(storage: BaseStorage, hook: WriteHook) -> BaseStorage:
    """The same storage, but it calls ``hook(k, method, after)`` around the k-th write to a trial.

    The hook runs before (``after=False``) and after (True) each ``create_new_trial`` and
    ``set_trial_…``; k counts from 1.
    """
    storage = optuna.storages.get_storage(storage)  # as a study does with a database
    writes = count(1)

    def watch(name: str) -> Any:
        method = getattr(storage, name)

        def write(*args: Any, **kwargs: Any) -> Any:
            k = next(writes)
            hook(k, name, False)
            result = method(*args, **kwargs)
            hook(k, name, True)
            return result

        return staticmethod(write)

    names = [n for n in dir(BaseStorage) if n.startswith(("create_new_trial", "set_trial"))]
    kind = type(storage)  # a subclass: what knows its kind of storage still finds it
    watched: BaseStorage = object.__new__(
        type(f"Watched{kind.__name__}", (kind,), {n: watch(n) for n in names})
    )
    watched.__dict__ = storage.__dict__
    return watched


def kill_at(write: int, *, after: bool, trial: int = 1) -> WriteHook:
    """A hook for :func:`on_write` that kills this process (SIGKILL).

    Args:
        write: At which write of the trial; its creation is the first.
        after: Whether after the write or before it.
        trial: At which of the trials that this process creates.
    """
    created = writes = 0

    def hook(k: int, method: str, is_after: bool) -> None:
        nonlocal created, writes
        if not is_after:
            created += method == "create_new_trial"
            writes = 1 if method == "create_new_trial" else writes + 1
        if (created, writes, is_after) == (trial, write, after):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


class AlgorithmSuite:
    """What every algorithm must pass as a sampler; for pytest.

    Inherit it and override :meth:`algorithm`; for a sampler with arguments of its own override
    :meth:`sampler` too. ``n_trials`` should take the algorithm through several generations. One
    that can search several objectives is inherited with ``objectives = 2`` as well.
    """

    search_space: Mapping[str, BaseDistribution] = {
        "a": FloatDistribution(-1, 2),
        "b": FloatDistribution(1e-3, 1, log=True),
        "c": IntDistribution(0, 9),
        "d": CategoricalDistribution(["left", "right", "none"]),
    }
    n_trials = 40
    objectives = 1

    def algorithm(self) -> DistributionAlgorithm | PopulationAlgorithm:
        """The algorithm under test."""
        raise NotImplementedError  # not abstract: pytest makes the instances

    def sampler(self, **options: Any) -> StoredSampler:
        """The algorithm as a sampler, with seed 7."""
        algorithm = self.algorithm()
        slots = isinstance(algorithm, PopulationAlgorithm)
        kind = PopulationSampler if slots else ArchiveSampler
        return kind(algorithm, self.search_space, seed=7, **options)

    def study(self, *, maximize: bool = False, **options: Any) -> optuna.Study:
        """A study in memory with this sampler."""
        direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
        directions = [direction] * self.objectives
        return optuna.create_study(directions=directions, sampler=self.sampler(**options))

    def evaluate(self, params: Params) -> float | tuple[float, ...]:
        """A bowl with many ties in it; the further ones are elsewhere."""
        values = tuple(_bowl(params, 1.0 - i) for i in range(self.objectives))
        return values[0] if self.objectives == 1 else values

    def objective(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """:meth:`evaluate` as an Optuna objective."""
        params: Params = {
            "a": trial.suggest_float("a", -1, 2),
            "b": trial.suggest_float("b", 1e-3, 1, log=True),
            "c": trial.suggest_int("c", 0, 9),
        }
        if "d" in self.search_space:
            params["d"] = trial.suggest_categorical("d", ["left", "right", "none"])
        assert trial.params == params
        return self.evaluate(params)

    def reference(self, **options: Any) -> list[Params]:
        """The parameters of the textbook loop."""
        return textbook(
            self.algorithm(),
            self.search_space,
            self.evaluate,
            seed=7,
            n_trials=self.n_trials,
            **options,
        )

    def test_one_worker_is_the_textbook(self) -> None:
        """Bit for bit, in both directions."""
        for maximize in (False, True):
            study = self.study(maximize=maximize)
            study.optimize(self.objective, n_trials=self.n_trials)
            assert [t.params for t in study.trials] == self.reference(maximize=maximize)

    def test_nothing_is_kept_in_the_sampler(self) -> None:
        """A new sampler for every trial."""
        study = self.study()
        for _ in range(self.n_trials):
            study.sampler = pickle.loads(pickle.dumps(self.sampler()))
            study.optimize(self.objective, n_trials=1)
        assert [t.params for t in study.trials] == self.reference()

    def test_failed_candidates_are_proposed_again(self) -> None:
        """Failures between them change nothing about the completed trials."""

        def flaky(trial: optuna.Trial) -> float | tuple[float, ...]:
            value = self.objective(trial)
            if trial.number % 5 in (1, 2):
                raise OSError
            return value

        study = self.study()
        completed: list[Params] = []
        while len(completed) < self.n_trials:
            study.optimize(flaky, n_trials=1, catch=OSError)
            done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
            completed = [t.params for t in done]
        assert completed == self.reference()

    def test_an_initial_population_comes_first(self) -> None:
        """As the first candidates, and the textbook goes on from them."""
        initial: list[Params] = [
            {"a": 0.5, "c": 2},
            {"a": -1.0, "b": 0.1, "c": 9, "d": "right"},
        ]
        initial = [{k: v for k, v in p.items() if k in self.search_space} for p in initial]
        study = self.study(initial_population=initial)
        study.optimize(self.objective, n_trials=self.n_trials)
        for trial, params in zip(study.trials, initial, strict=False):
            assert all(_same(trial.params[name], value) for name, value in params.items())
        reference = self.reference(initial_population=initial)
        assert [t.params for t in study.trials] == reference

    def test_many_in_flight(self) -> None:
        """No place twice, the stored parameters are the candidate's, and the search moves on."""
        study = self.study()
        flying: list[optuna.Trial] = []
        for i in range(3 * self.n_trials):
            flying.append(study.ask())
            if len(flying) > 30:
                trial = flying.pop(i * 7 % 31)
                study.tell(trial, self.objective(trial))
        claims = [claim for t in study.trials if (claim := own_claim(t)) is not None]
        assert len({claim.place for claim in claims}) == len(claims) == 3 * self.n_trials
        box = self.algorithm().box(self.search_space)
        for stored, claim in zip(study.trials, claims, strict=True):
            assert stored.params.items() <= box.params(claim.candidate.x).items()
        assert max(claim.generation for claim in claims) > 0


def _bowl(params: Params, a: float) -> float:
    bowl = (params["a"] - a) ** 2 + abs(params["b"] - 0.1) + (params["c"] - 3) ** 2 / 9
    return float(round(bowl, 1)) + (params.get("d") == "left")


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-14))
