"""What cards, notes and pages know of a study: gathered once, from the database alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import metric_names, violation_of
from merge_optuna._schema import EXAMPLES, SAME_AS, SCORES, SECONDS_EVALUATE, SECONDS_MERGE
from merge_optuna._scores import unpack
from merge_optuna.errors import MergeOptunaError
from merge_optuna.recipes import Recipe
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.spaces import Space
from merge_optuna.study import (
    Baselines,
    Lineage,
    best_trial,
    complete_trials,
    lineage,
    recipe_of,
    stored_baselines,
)
from merge_optuna.study.plumbing import Parts, stored_parts, stored_space

if TYPE_CHECKING:
    import optuna
    from numpy.typing import NDArray

    from merge_optuna.checkpoints import Checkpoint
    from merge_optuna.samplers.plumbing import Claim

COSTS = ("evaluations", "examples", "seconds")
"""Units in which a search is paid."""


class View:
    """A study as it is shown.

    Nothing here fails for what a study lacks: that is None or empty, and a card without anything
    to say is left out.

    Args:
        study: Any study of Optuna, also one that merges nothing.
        sources: Checkpoints by name, as for :func:`mo.recipe_of`.
        space: That of the search, if it runs in this process: it knows its individuals and the
            angles between its models, for which all weights would be read again.
    """

    def __init__(
        self,
        study: optuna.Study,
        sources: Mapping[str, Checkpoint | str | Path] | None = None,
        space: Recipe | Space | None = None,
    ) -> None:
        self.study, self.sources, self.space = study, dict(sources or {}), space
        self.name = study.study_name
        self.directions = [direction.name.lower() for direction in study.directions]
        self.metrics: Sequence[str] = metric_names(study) or ["value"] * len(self.directions)

    @property
    def single(self) -> bool:
        """Whether there is one objective."""
        return len(self.directions) == 1

    @property
    def sign(self) -> float:
        """1 if larger is better, else -1; of the only objective."""
        return 1.0 if self.directions[0] == "maximize" else -1.0

    @cached_property
    def trials(self) -> Sequence[FrozenTrial]:
        """All trials, by number."""
        return compat.all_trials(self.study)

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        """The completed trials, by number."""
        return complete_trials(self.study)

    @cached_property
    def paid(self) -> list[FrozenTrial]:
        """The trials that were evaluated, wholly or in part: completed and pruned ones."""
        paid = TrialState.COMPLETE, TrialState.PRUNED
        return [trial for trial in self.trials if trial.state in paid]

    @cached_property
    def baselines(self) -> Baselines:
        """What the search is compared with, as far as it is scored; may be empty."""
        return stored_baselines(self.study)

    @cached_property
    def best(self) -> FrozenTrial | None:
        """The best feasible trial; None if nothing is complete, or for several objectives."""
        return best_trial(self.study) if self.single and self.complete else None

    @cached_property
    def winner(self) -> Recipe | None:
        """The recipe of the best trial; None where there is none, or it cannot be rebuilt."""
        return None if self.best is None else self.recipe(self.best)

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes that the search space is made of, by their part in it; none of functions."""
        try:
            stored = stored_space(self.study)
            declared = {"": stored} if isinstance(stored, Recipe) else stored and stored.recipes
            return {
                name: one.with_sources(self._own(one)) for name, one in (declared or {}).items()
            }
        except MergeOptunaError:
            return {}

    def _own(self, recipe: Recipe) -> dict[str, Checkpoint | str | Path]:
        """The sources that a recipe knows."""
        called = recipe.called()
        return {name: source for name, source in self.sources.items() if name in called}

    @property
    def leaves(self) -> list[Checkpoint]:
        """The checkpoints that are merged, once."""
        found = (leaf for recipe in self.made_of for leaf in recipe.leaves())
        return list({leaf.name: leaf for leaf in found}.values())

    @property
    def made_of(self) -> list[Recipe]:
        """The recipes of the space, or of the winner where that is a function; may be empty."""
        # An evolved winner reads its sources when it is rebuilt: not if the space can say it.
        return [*self.recipes.values()] or [one for one in (self.winner,) if one is not None]

    def recipe(self, trial: FrozenTrial) -> Recipe | None:
        """The recipe of a trial; None in studies that merge nothing, or if sources are gone."""
        try:
            if isinstance(self.space, Recipe):
                return self.space.bind(trial.params)
            if self.space is not None:
                return self.space.rebuild(self.study, trial)
            return recipe_of(self.study, trial, sources=self.sources)
        except MergeOptunaError:
            return None

    @cached_property
    def claims(self) -> dict[int, Claim]:
        """What samplers of this package have claimed, by the number of the trial."""
        found = ((trial.number, _claim(trial)) for trial in self.trials)
        return {number: claim for number, claim in found if claim is not None}

    @cached_property
    def generations(self) -> list[list[int]]:
        """Numbers of the trials that samplers drew from one state of their population, in order.

        Empty where no sampler keeps one.
        """
        groups: dict[tuple[str, int], list[int]] = {}
        first: dict[str, int] = {}
        for number, claim in self.claims.items():
            first.setdefault(claim.population, number)
            groups.setdefault((claim.population, claim.generation), []).append(number)
        return [groups[key] for key in sorted(groups, key=lambda key: (first[key[0]], key[1]))]

    @property
    def archive(self) -> bool:
        """Whether every result changes the population at once: a generation is one trial then."""
        return bool(self.generations) and np.median([*map(len, self.generations)]) <= 1

    @cached_property
    def pedigree(self) -> bool:
        """Whether individuals are named by their parents."""
        return any(claim.parents for claim in self.claims.values())

    @cached_property
    def points(self) -> dict[int, NDArray[np.float64]]:
        """Where in the unit box samplers have placed trials, by number: shape (n,)."""
        found = ((number, _point(claim)) for number, claim in self.claims.items())
        return {number: point for number, point in found if point is not None}

    @cached_property
    def feasible(self) -> dict[int, FrozenTrial]:
        """The completed trials that keep all constraints, by number."""
        return {trial.number: trial for trial in self.complete if not violation_of(trial)}

    @cached_property
    def lineage(self) -> Lineage | None:
        """Whom the best trial descends from; None in spaces whose trials have no parents."""
        if self.best is None or not self.pedigree:
            return None
        try:
            return lineage(self.study, self.best)
        except MergeOptunaError:
            return None

    def scores(self, trial: FrozenTrial) -> NDArray[np.float32] | None:
        """The per-example scores (n,) of a trial, as :func:`mo.scores`; None if it has none."""
        packed = trial.system_attrs.get(SCORES)
        try:
            return None if packed is None else unpack(packed, f"trial {trial.number}")
        except MergeOptunaError:
            return None

    @cached_property
    def parts(self) -> Parts | None:
        """Of which task or group each dev example is; None if that is not known."""
        try:
            return stored_parts(self.study)
        except MergeOptunaError:
            return None

    def costs(self, unit: str) -> NDArray[np.float64]:
        """What the search had cost at the end of each of the :attr:`paid` trials.

        Args:
            unit: One of :data:`COSTS`.

        Returns:
            Shape (paid trials,), rising.
        """
        return np.cumsum([_cost(trial, unit) for trial in self.paid])


def _claim(trial: FrozenTrial) -> Claim | None:
    try:
        return own_claim(trial)
    except MergeOptunaError:
        return None


def _point(claim: Claim) -> NDArray[np.float64] | None:
    try:
        return claim.candidate.x
    except MergeOptunaError:
        return None


def _cost(trial: FrozenTrial, unit: str) -> float:
    if unit == "examples":
        return _number(trial, EXAMPLES)
    if unit == "seconds" and SECONDS_EVALUATE not in trial.user_attrs:  # none of a MergeObjective
        return trial.duration.total_seconds() if trial.duration else 0.0
    if unit == "seconds":
        return _number(trial, SECONDS_MERGE) + _number(trial, SECONDS_EVALUATE)
    # What has taken over a result was not evaluated.
    return float(SAME_AS not in trial.user_attrs)


def _number(trial: FrozenTrial, key: str) -> float:
    """A user attribute; 0 if it is no number, as it may be in studies of others."""
    value = trial.user_attrs.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
