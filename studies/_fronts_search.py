"""The searches and sweeps of an experiment."""

from __future__ import annotations

from typing import Any

import optuna
from _fronts_experiment import LARGER, OPTUNAS, OURS, SWEEPS, TPE, Experiment, Params

import merge_optuna as mo

STEPS = mo.samplers.PolynomialMutation()  # of the paper


class QueuedToo(optuna.samplers.NSGAIISampler):
    """Optuna's NSGA-II, with the queued trials in its first population."""

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Gives each trial a generation; Optuna gives none to those that are queued."""
        super().before_trial(study, trial)
        self.get_trial_generation(study, trial)


Sampler = optuna.samplers.BaseSampler


def ours(experiment: Experiment, seed: int, mutation: Any = STEPS) -> Sampler:
    return experiment.space(experiment.way.per).sampler(
        seed=seed,
        objectives=2,
        population_size=experiment.population,
        initial_population=first(experiment),  # queued ones would teach it nothing
        mutation=mutation,
    )


def larger(experiment: Experiment, seed: int) -> Sampler:
    return ours(experiment, seed, mo.samplers.PolynomialMutation(eta=2))


def optunas(experiment: Experiment, seed: int) -> Sampler:
    return QueuedToo(population_size=experiment.population, seed=seed)


def tpe(experiment: Experiment, seed: int) -> Sampler:
    return optuna.samplers.TPESampler(seed=seed)


SEARCHES = {OURS: ours, LARGER: larger, OPTUNAS: optunas, TPE: tpe}


def first(experiment: Experiment) -> list[Params]:
    """What all searches begin with."""
    return experiment.uniform(experiment.way.first, experiment.way.per)


def declared(experiment: Experiment, name: str, seed: int, n_trials: int) -> mo.MergeStudy:
    """A search."""
    return mo.MergeStudy(
        f"{name}, seed {seed}",
        mo.MergeObjective(experiment.space(experiment.way.per), experiment.dev),
        n_trials=n_trials,
        sampler=SEARCHES[name](experiment, seed),
        first=[] if name in (OURS, LARGER) else first(experiment),
        baselines=False,  # the sweeps take their place
    )


def sweep(experiment: Experiment, name: str, n_trials: int) -> mo.MergeStudy:
    """The points of a sweep, as a search that proposes none."""
    points = SWEEPS[name](n_trials)
    return mo.MergeStudy(
        name,
        mo.MergeObjective(experiment.space("model"), experiment.dev),
        n_trials=len(points),
        sampler=optuna.samplers.RandomSampler(seed=0),
        first=experiment.uniform(points, "model"),
        baselines=False,
    )


def front(study: optuna.Study) -> list[tuple[int, tuple[float, ...]]]:
    """Number and values of the points that no other dominates; of equal values the first."""
    first = {point.values: point.number for point in reversed(mo.pareto(study))}
    return [(number, values) for values, number in reversed(first.items())]


def seconds(study: optuna.Study) -> float:
    """Spent on merging and scoring."""
    spent = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return sum(s.get("seconds_merge", 0) + s.get("seconds_evaluate", 0) for s in spent)
