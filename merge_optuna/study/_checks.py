"""What is refused before a search: parts of an objective that do not fit each other or a study."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import optuna

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import taken
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError, StudyError
from merge_optuna.evaluators import Evaluator
from merge_optuna.recipes import Recipe
from merge_optuna.samplers import NichesSampler, StoredSampler
from merge_optuna.samplers.plumbing import check_numbers
from merge_optuna.spaces import Genealogy, check_families
from merge_optuna.study._recorded import (
    DECLARED,
    SearchSpace,
    check_data,
    check_metrics,
    check_space,
)


def check_study(study: optuna.Study, space: SearchSpace, evaluator: Evaluator) -> None:
    """Checks that a study can search a space with an evaluator.

    Raises:
        StudyError: If its directions are others, it was made with another space or on other dev
            data, its pruner hides trials from its sampler, or trials were deleted.
    """
    check_metrics(study, evaluator)
    sampler = study.sampler
    if isinstance(space, Genealogy):
        space.check_objectives(len(study.directions))
        _check_breeds(sampler, space)
    check_objectives(sampler, _pruner_of(study), len(study.directions))
    if isinstance(sampler, StoredSampler):
        _check_stored(study, sampler, space)
    if isinstance(sampler, NichesSampler) and sampler.needs_examples:
        _check_examples(evaluator)
    if isinstance(space, Genealogy) or isinstance(sampler, NichesSampler):
        _warn_of_pruning(study, evaluator)
    check_space(study, space)
    check_data(study, evaluator)
    if isinstance(sampler, StoredSampler):
        trials = compat.all_trials(study)
        check_numbers(trials, len(trials))
    if isinstance(space, Genealogy):
        check_families(study)


def check_objectives(
    sampler: optuna.samplers.BaseSampler | None,
    pruner: optuna.pruners.BasePruner,
    objectives: int,
) -> None:
    """Checks that several objectives have a sampler that searches for all of them, and no pruner.

    Raises:
        StudyError: If not.
    """
    if objectives == 1:
        return
    single = isinstance(sampler, optuna.samplers.CmaEsSampler) or (
        isinstance(sampler, StoredSampler) and not sampler.multi_objective
    )
    if single:
        raise StudyError(
            f"{type(sampler).__name__} has one objective, this study {objectives}. Use "
            "mo.samplers.NSGA2Sampler, optuna.samplers.NSGAIISampler or TPESampler."
        )
    if not isinstance(pruner, optuna.pruners.NopPruner):
        raise StudyError(
            f"{type(pruner).__name__} compares unfinished trials by one value, but there are "
            f"{objectives} objectives. Switch pruning off: pruner=optuna.pruners.NopPruner()."
        )


def check_order(space: object, evaluator: object) -> None:
    """Both are callable, so that swapped ones would fail only in the first trial.

    Raises:
        RecipeError: If they are swapped, or the space is none.
    """
    if isinstance(evaluator, (Recipe, Checkpoint)) or isinstance(space, Evaluator):
        raise RecipeError(
            "MergeObjective takes the space first and then the evaluator: "
            f"mo.MergeObjective(recipe, evaluator), not ({type(space).__name__}, "
            f"{type(evaluator).__name__})."
        )
    if not callable(space):
        raise RecipeError(
            "A space is a recipe with free numbers or a function from a trial to a recipe, not "
            f"{space!r}."
        )


def warn_of_taken(names: Collection[str]) -> None:
    """Warns of user attributes that a space has set and that are this package's."""
    if both := taken(names):
        warnings.warn(
            f"The space sets the user attribute {' and '.join(map(repr, both))} of its trials, "
            "which mo.MergeObjective writes itself. Choose another name: docs/database.md lists "
            "those that are taken.",
            stacklevel=2,
        )


def _pruner_of(study: optuna.Study) -> optuna.pruners.BasePruner:
    """The pruner of a study; none if it is the one that Optuna puts in unasked."""
    unasked = type(study.pruner) is optuna.pruners.MedianPruner and len(study.directions) > 1
    return optuna.pruners.NopPruner() if unasked else study.pruner


def _check_stored(study: optuna.Study, sampler: StoredSampler, space: SearchSpace) -> None:
    """Checks a sampler that has a space, and must see all trials."""
    name, given = type(sampler).__name__, sampler.search_space
    if given is not None and isinstance(space, DECLARED) and given != space.distributions():
        what = "recipe" if isinstance(space, Recipe) else "space"
        raise StudyError(
            f"{name} was made for another space than the "
            f"objective's. Use sampler={what}.sampler(seed=0) of the same {what}."
        )
    if isinstance(study.pruner, optuna.pruners.HyperbandPruner):
        raise StudyError(
            "HyperbandPruner hides trials from population samplers. Use MedianPruner, "
            "SuccessiveHalvingPruner or WilcoxonPruner."
        )


def _check_breeds(sampler: optuna.samplers.BaseSampler, space: Genealogy[Any]) -> None:
    name, own = type(sampler).__name__, type(space.sampler()).__name__
    remedy = f"Use sampler=space.sampler(seed=0), a {own}."
    if not isinstance(sampler, StoredSampler) or not sampler.breeds:
        raise StudyError(
            f"{name} knows nothing of parents, which the individuals of {type(space).__name__} "
            f"are named by. {remedy}"
        )
    if sampler.breeding is None:
        raise StudyError(
            f"{name} was made without the space, and so does not know that the individuals of "
            f"{type(space).__name__} have parents. {remedy}"
        )


def _warn_of_pruning(study: optuna.Study, evaluator: Evaluator) -> None:
    """Warns of a pruner that ends the trials of individuals."""
    if len(evaluator) > 1 and not isinstance(study.pruner, optuna.pruners.NopPruner):
        warnings.warn(
            f"{type(study.pruner).__name__} ends trials on their first examples, and an "
            "individual that is good where few are is just what looks bad there; of a pruned one "
            "some examples have no score. Switch pruning off: "
            "pruner=optuna.pruners.NopPruner().",
            stacklevel=2,
        )


def _check_examples(evaluator: Evaluator) -> None:
    if len(evaluator) == 1:
        raise StudyError(
            "NichesSampler lets models compete for examples, but "
            f"{', '.join(evaluator.metric_names)} is one number for all. Use an evaluator that "
            "scores example by example, as mo.evaluators.Classification does, or evolve without "
            "niches: NichesSampler(space.distributions(), alpha=0, attraction=False)."
        )
