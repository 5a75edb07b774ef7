"""For tests of samplers: the textbook loop, storages that misbehave, and a suite to inherit."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, TypeAlias

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage

from merge_optuna.samplers._box import Box
from merge_optuna.samplers._population import (
    CANDIDATE,
    DistributionAlgorithm,
    PopulationSampler,
    keyed_rng,
)

Params: TypeAlias = dict[str, float | int]
WriteHook: TypeAlias = Callable[[int, str, bool], None]


def textbook(
    algorithm: DistributionAlgorithm,
    search_space: Mapping[str, BaseDistribution],
    evaluate: Callable[[Params], float],
    *,
    seed: int,
    generations: int,
    maximize: bool = False,
) -> list[Params]:
    """Run an algorithm without Optuna: what one worker has to reproduce bit for bit.

    Returns:
        The parameters of every candidate, in the order of their evaluation.
    """
    box = Box(search_space)
    memory = algorithm.start(box)
    history = []
    for generation in range(generations):
        evaluated = []
        for slot in range(algorithm.population_size(len(box))):
            candidate = algorithm.ask(memory, keyed_rng(seed, CANDIDATE, generation, slot))
            params = box.params(candidate.x)
            loss = -evaluate(params) if maximize else evaluate(params)
            evaluated.append((loss, slot, candidate))
            history.append(params)
        evaluated.sort(key=lambda e: e[:2])
        memory = algorithm.learn(memory, [candidate for _, _, candidate in evaluated])
    return history


def on_write(storage: BaseStorage, hook: WriteHook) -> BaseStorage:
    """A storage that calls ``hook(k, method, after)`` around the k-th write to a trial (from 1).

    The hook runs before (``after=False``) and after (True) each ``create_new_trial`` and
    ``set_trial_…``. Heartbeats are not passed on.
    """
    writes = count(1)

    def watch(name: str) -> Any:
        method = getattr(storage, name)

        def write(*args: Any, **kwargs: Any) -> Any:
            k = next(writes)
            hook(k, name, False)
            result = method(*args, **kwargs)
            hook(k, name, True)
            return result

        return staticmethod(
            write if name.startswith(("create_new_trial", "set_trial")) else method
        )

    names = [n for n in dir(BaseStorage) if not n.startswith("_")]
    watched: BaseStorage = type("WatchedStorage", (BaseStorage,), {n: watch(n) for n in names})()
    return watched


def kill_at(write: int, *, after: bool) -> WriteHook:
    """A hook for :func:`on_write` that kills this process (SIGKILL) at the given write."""

    def hook(k: int, method: str, is_after: bool) -> None:
        if k == write and is_after == after:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


class DistributionSuite:
    """What every algorithm behind :class:`PopulationSampler` must pass; for pytest.

    Inherit it and override :meth:`algorithm`.
    """

    search_space: Mapping[str, BaseDistribution] = {
        "a": FloatDistribution(-1, 2),
        "b": FloatDistribution(1e-3, 1, log=True),
        "c": IntDistribution(0, 9),
    }
    generations = 4

    def algorithm(self) -> DistributionAlgorithm:
        """The algorithm under test."""
        raise NotImplementedError

    def sampler(self) -> PopulationSampler:
        """The algorithm as a sampler, with seed 7."""
        return PopulationSampler(self.algorithm(), self.search_space, seed=7)

    def budget(self) -> int:
        """Number of trials of ``generations`` generations."""
        size = self.algorithm().population_size(len(Box(self.search_space)))
        return size * self.generations

    @staticmethod
    def evaluate(params: Params) -> float:
        """A bowl with many ties in it."""
        bowl = (params["a"] - 1) ** 2 + abs(params["b"] - 0.1) + (params["c"] - 3) ** 2 / 9
        return round(bowl, 1)

    def objective(self, trial: optuna.Trial) -> float:
        """:meth:`evaluate` as an Optuna objective."""
        params: Params = {
            "a": trial.suggest_float("a", -1, 2),
            "b": trial.suggest_float("b", 1e-3, 1, log=True),
            "c": trial.suggest_int("c", 0, 9),
        }
        return self.evaluate(params)

    def reference(self, *, maximize: bool = False) -> list[Params]:
        """The parameters of the textbook loop."""
        return textbook(
            self.algorithm(),
            self.search_space,
            self.evaluate,
            seed=7,
            generations=self.generations,
            maximize=maximize,
        )

    def test_one_worker_is_the_textbook(self) -> None:
        """Bit for bit, in both directions."""
        for maximize in (False, True):
            study = optuna.create_study(
                direction="maximize" if maximize else "minimize", sampler=self.sampler()
            )
            study.optimize(self.objective, n_trials=self.budget())
            assert [t.params for t in study.trials] == self.reference(maximize=maximize)

    def test_nothing_is_kept_in_the_sampler(self) -> None:
        """A new sampler for every trial."""
        study = optuna.create_study()
        for _ in range(self.budget()):
            study.sampler = pickle.loads(pickle.dumps(self.sampler()))
            study.optimize(self.objective, n_trials=1)
        assert [t.params for t in study.trials] == self.reference()

    def test_failed_candidates_are_proposed_again(self) -> None:
        """Failures between them change nothing about the completed trials."""

        def flaky(trial: optuna.Trial) -> float:
            value = self.objective(trial)
            if trial.number % 5 in (1, 2):
                raise OSError
            return value

        study = optuna.create_study(sampler=self.sampler())
        while (
            sum(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials) < self.budget()
        ):
            study.optimize(flaky, n_trials=1, catch=OSError)
        done = [t.params for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
        assert done == self.reference()
