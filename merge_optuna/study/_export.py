"""From a study back to its trials and their recipes."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import decoding, values_of, violation_of
from merge_optuna._schema import RECIPE
from merge_optuna.errors import StudyError, shown
from merge_optuna.recipes import Recipe
from merge_optuna.study._baselines import Baseline, stored_baselines
from merge_optuna.study._recorded import stored_space

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The completed trials, each with one value per direction of the study.

    Raises:
        StudyError: If one has more or fewer.
    """
    trials = [t for t in compat.all_trials(study) if t.state == TrialState.COMPLETE]
    for trial in trials:
        values_of(trial, len(study.directions))
    return trials


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The completed trials, best first: feasible before infeasible, the earliest among equals.

    Raises:
        StudyError: If no trial is complete, or the study has several objectives.
    """
    if len(study.directions) > 1:
        raise StudyError(
            f"The study {study.study_name!r} has {len(study.directions)} objectives, and so no "
            "single best trial. Choose one of mo.pareto(study) (merge-optuna pareto), and pass "
            "trial= (--trial)."
        )
    complete = complete_trials(study)
    if not complete:
        raise StudyError(f"The study {study.study_name!r} has no completed trial yet.")
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1

    def key(trial: FrozenTrial) -> tuple[float, float, int]:
        return violation_of(trial), sign * trial.values[0], trial.number

    return sorted(complete, key=key)


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The first of :func:`ranked`.

    Raises:
        StudyError: If no trial is complete, or the study has several objectives.
    """
    return ranked(study)[0]


def recipe_of(
    study: optuna.Study,
    trial: FrozenTrial | SupportsIndex | None = None,
    *,
    baseline: str | None = None,
    sources: Mapping[str, Checkpoint | str | Path] | None = None,
) -> Recipe:
    """Rebuilds the recipe of a trial from the database alone.

    Args:
        study: A study that ran a :class:`mo.MergeObjective`.
        trial: A trial, its number or a point of a front; the best one when omitted.
        baseline: Name of a baseline, instead of a trial; see :func:`mo.baselines`.
        sources: Checkpoints by name, for those made by ``Checkpoint.from_module``; or the new
            places of those that were moved.

    Raises:
        StudyError: If the study holds no recipes, or there is no such trial or baseline.
        CheckpointError: If a source has changed.
    """
    if baseline is not None:
        recipe = _recipe_of_baseline(baseline_of(study, trial, baseline))
        return recipe.with_sources(sources or {})
    frozen = frozen_trial(study, trial)
    written = frozen.system_attrs.get(RECIPE)
    if written is not None:
        with decoding(f"recipe of trial {frozen.number}"):
            recipe = Recipe.from_json(written)
        return recipe.with_sources(sources or {})
    stored = stored_space(study)
    if stored is None:
        raise StudyError(
            f"The study {study.study_name!r} holds no recipes: it did not run a mo.MergeObjective."
        )
    if isinstance(stored, Recipe):
        return stored.with_sources(sources or {}).bind(frozen.params)
    return stored.open(sources).rebuild(study, frozen)


def baseline_of(
    study: optuna.Study, trial: FrozenTrial | SupportsIndex | None, name: str
) -> Baseline:
    """A baseline by its name.

    Raises:
        StudyError: If there is none, or a trial is given as well.
    """
    if trial is not None:
        raise StudyError(f"Give trial= or baseline=, not both: {trial!r} and {name!r}.")
    return stored_baselines(study)[name]


def _recipe_of_baseline(row: Baseline) -> Recipe:
    if row.recipe is not None:
        return row.recipe
    why = row.reason or "it is an average of predictions, for reference only"
    raise StudyError(f"The baseline {row.name!r} is no checkpoint: {why}")


def frozen_trial(study: optuna.Study, trial: FrozenTrial | SupportsIndex | None) -> FrozenTrial:
    """A trial by itself or its number, or the best one.

    Raises:
        StudyError: If there is no such trial, or none is complete, or it is no trial at all.
    """
    if not isinstance(study, optuna.Study):
        raise StudyError(f"Expected a study, not {shown(study)}. Give the study, and trial=.")
    if trial is None:
        return best_trial(study)
    if isinstance(trial, FrozenTrial):
        return trial
    try:
        trials, number = compat.all_trials(study), operator.index(trial)
    except TypeError as error:
        raise StudyError(
            f"trial= is a trial, its number, or a point of mo.pareto(study), not {shown(trial)}."
        ) from error
    if (found := compat.numbered(trials, number)) is None:
        raise StudyError(
            f"The study {study.study_name!r} has no trial {number}; it has {len(trials)} trials."
        )
    return found
