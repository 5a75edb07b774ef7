"""Searches among individuals that are named by their parents, each in a second or two.

Also run by processes of their own, so nothing here needs pytest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from torch import nn

import merge_optuna as mo
from merge_optuna.samplers import MAPElitesSampler, StoredSampler
from merge_optuna.spaces import Genealogy
from merge_optuna.study import MergeObjective
from tests.spaces.models import Waves, nets

PARAMETERS = 74
WEIGHTS = "weights"
"""User attribute: digest of the weights that were scored."""


def niches(models: Sequence[mo.Checkpoint], **options: Any) -> tuple[Genealogy, StoredSampler]:
    space = mo.spaces.SplitSlerp(models, **options)
    return space, space.sampler(seed=1, archive_size=4)


def elites(models: Sequence[mo.Checkpoint], **options: Any) -> tuple[Genealogy, StoredSampler]:
    space = mo.spaces.SplitSlerp(models, **options)
    grid = {"first": (0, 1, 10), "last": (0, 1, 10)}
    return space, MAPElitesSampler(space.distributions(), descriptors=grid, seed=1)


def evolver(models: Sequence[mo.Checkpoint], **options: Any) -> tuple[Genealogy, StoredSampler]:
    space = mo.spaces.DifferentialCrossover(models, **options)
    return space, space.sampler(seed=1)


def merged(models: Sequence[mo.Checkpoint], **options: Any) -> tuple[Genealogy, StoredSampler]:
    return evolver(models, merger=mo.recipes.linear(models), **options)


def swarm(models: Sequence[mo.Checkpoint], **options: Any) -> tuple[Genealogy, StoredSampler]:
    space = mo.spaces.ParticleSwarm(models[0], models[1:], sparsified=False, **options)
    return space, space.sampler(seed=1)


Search = Callable[..., tuple[Genealogy, StoredSampler]]

KINDS: dict[str, tuple[Search, dict[str, Any]]] = {
    "niches": (niches, {}),
    "niches-noise": (niches, {"mutation_std": 0.1}),
    "map-elites": (elites, {}),
    "evolver": (evolver, {}),
    "evolver-merged": (merged, {}),
    "swarm": (swarm, {}),
}
"""What runs in processes: one of every kind of parents."""


class Probe(Waves):
    """Remembers which weights it has scored, and how."""

    def __call__(self, model: nn.Module) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        (batch,) = super().__call__(model)
        self.scores = batch[1]
        self.weights = digest(model.state_dict())
        yield batch


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    content = b"".join(
        name.encode() + tensors[name].detach().numpy().tobytes() for name in sorted(tensors)
    )
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Objective:
    """A :class:`MergeObjective` that stores the digest of what it has scored, and descriptors."""

    def __init__(self, space: Genealogy, **options: Any) -> None:
        self.probe = Probe()
        self.merge = MergeObjective(space, self.probe, **options)

    def __call__(self, trial: optuna.Trial) -> Any:
        value = self.merge(trial)
        trial.set_user_attr(WEIGHTS, self.probe.weights)
        for name, half in zip(("first", "last"), np.split(self.probe.scores, 2), strict=True):
            trial.set_user_attr(name, float(half.mean()))
        return value

    def weights_of(self, recipe: mo.Recipe) -> str:
        """The digest of what a recipe makes."""
        self.merge.score(recipe)
        return self.probe.weights


def make_space(kind: str, **options: Any) -> tuple[Genealogy, StoredSampler]:
    make, usual = KINDS[kind]
    return make(nets(), **{**usual, **options})


def search(
    kind: str,
    storage: BaseStorage | None,
    total: int,
    after: Callable[[int], bool] = lambda number: True,
    **options: Any,
) -> optuna.Study:
    """One worker: the same command, however often it is started.

    ``after`` is called with the number of each trial that was scored; it fails on False.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, sampler = make_space(kind, **options)
    objective = Objective(space)

    def run(trial: optuna.Trial) -> Any:
        value = objective(trial)
        return value if after(trial.number) else float("nan")

    study = optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=sampler,
        load_if_exists=True,
        directions=objective.merge.directions,
    )
    while len(done(study)) < total:
        study.optimize(run, n_trials=1)
    return study


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])


def done(study: optuna.Study) -> list[dict[str, Any]]:
    """Parameters and digests of the finished trials."""
    return [{**t.params, WEIGHTS: t.user_attrs.get(WEIGHTS)} for t in finished(study)]
