"""Space, engine and evaluator composed into an Optuna objective."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import decoding, metric_names
from merge_optuna._schema import (
    CLAIM,
    DEV,
    ERROR,
    EXAMPLES,
    PARENTS,
    PARTIAL,
    PATH,
    REASON,
    RECIPE,
    SCORES,
    SECONDS_EVALUATE,
    SECONDS_MERGE,
    SPACE,
    taken,
)
from merge_optuna._scores import pack
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import Engine, check_finite
from merge_optuna.errors import (
    InfeasibleRecipe,
    RecipeError,
    SourceChanged,
    StudyError,
)
from merge_optuna.evaluators import (
    ADDED_PARTS,
    Evaluator,
    as_evaluator,
    batches_of,
    check_evaluator,
    name_of,
    value_of,
    value_over,
)
from merge_optuna.recipes import Recipe
from merge_optuna.samplers import NichesSampler, StoredSampler, sign_once
from merge_optuna.samplers.plumbing import check_numbers
from merge_optuna.spaces import Declaration, Genealogy, Space, check_families
from merge_optuna.spaces import read as read_space
from merge_optuna.study import _interrupt as interrupt
from merge_optuna.study._counts import excuse

if TYPE_CHECKING:
    from torch import nn


def failure(trial: optuna.trial.FrozenTrial) -> str | None:
    """Why a trial has failed, if it is kept: a traceback, or one sentence."""
    return trial.user_attrs.get(ERROR) or trial.user_attrs.get(REASON)


SearchSpace = Recipe | Space | Callable[[optuna.Trial], Recipe]
_DECLARED = Recipe, Space


class MergeObjective:
    """An Optuna objective that merges what a trial asks for and scores it.

    Everything of Optuna works with it: any sampler, pruner, storage, callbacks, ask and tell. A
    bad configuration is refused here, before a study exists.

    A trial whose recipe has no well-defined result or whose score is not finite is pruned with
    the user attribute ``reason``; one that raises fails with the traceback in the user attribute
    ``error``, and the search goes on. User attributes also tell the seconds spent merging and
    evaluating, the number of examples used, and whom an individual of ``mo.spaces`` descends from.

    Values are reported while a trial runs if the evaluator yields several batches: the mean score
    of each batch under its number for a ``WilcoxonPruner``, which pairs them with those of the
    best trial; for other pruners the value over all examples so far, under their number.

    Attributes:
        space: Any ``Trial -> Recipe``, e.g. a recipe with free numbers.
        evaluator: What scores a model.
        engine: What holds the live model.
        directions: For ``optuna.create_study(directions=)``.
        metric_names: One per direction.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator | Callable[[nn.Module], float],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | str | None = None,
    ) -> None:
        """Composes an objective and checks that its parts fit.

        Args:
            space: A recipe with free numbers, or a function from a trial to a recipe. What a
                function returns is checked at its first trial.
            evaluator: An evaluator, or a function from the live model to a number (higher is
                better; otherwise wrap it: ``mo.evaluators.Function(f, direction="minimize")``).
            device: Of the live model.
            dtype: Of the live model; that of the base checkpoint when omitted.

        Raises:
            CheckpointError: If a source is damaged, holds NaN, or does not fit the others.
            RecipeError: If nothing in the recipe is free, or ``space`` is not a space.
            EvaluationError: If the evaluator cannot score the model.
        """
        _check_order(space, evaluator)
        self.space = space
        self.evaluator = as_evaluator(evaluator)
        check_evaluator(self.evaluator)
        self.engine = Engine(device, dtype)
        self.directions: list[Any] = list(self.evaluator.directions)
        self.metric_names = list(self.evaluator.metric_names)
        self._busy = threading.Lock()
        self._known: tuple[Any, ...] | None = None
        self._checked = False
        if isinstance(space, _DECLARED):
            if isinstance(space, Recipe) and not space.slots:
                raise RecipeError("Nothing is free in this recipe. Use mo.free for a parameter.")
            self._check(space)

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """Merges and scores one trial.

        Raises:
            optuna.TrialPruned: If the trial is pruned.
            StudyError: If the study does not fit, or two trials run at once in this process.
            SourceChanged: If a file of a source is not what it was: the trial fails, no value is
                kept, and a sampler of this package proposes it again.
        """
        if not self._busy.acquire(blocking=False):
            raise StudyError(
                "There is one live model, so this process runs one trial at a time. Use "
                "n_jobs=1 and start several processes on the same storage instead."
            )
        try:
            self.join(trial.study)
            sign_once(trial.study, trial)
            return self._run(trial)
        finally:
            self._busy.release()

    def score(
        self, recipe: Recipe | Checkpoint, evaluator: Evaluator | None = None
    ) -> float | tuple[float, ...]:
        """Scores a recipe or a single checkpoint, e.g. a baseline, outside of any trial.

        Args:
            recipe: What to load.
            evaluator: Another one, e.g. on test data; the objective's own when omitted.
        """
        evaluator = evaluator or self.evaluator
        value = value_of(evaluator, self.engine.load(recipe, user=name_of(evaluator)))
        self.engine.look_again(recipe)
        return value

    def recipe(self, trial: optuna.Trial) -> Recipe:
        """The recipe that a trial asks for.

        The first one of a function is checked as that of a recipe with free numbers was when the
        objective was made.

        Raises:
            StudyError: If the space returns anything else.
            CheckpointError, RecipeError, EvaluationError: If the first one does not fit.
        """
        before = trial.user_attrs.keys()
        recipe = self.space(trial)
        _warn_if_taken(trial.user_attrs.keys() - before)
        if not isinstance(recipe, Recipe):
            raise StudyError(f"A space must return a recipe, not {recipe!r}.")
        if not self._checked:
            self._check(recipe)
        return recipe

    def check_evaluator(self, evaluator: Evaluator) -> None:
        """Checks that another evaluator, e.g. of test data, can score this objective's models.

        Raises:
            EvaluationError: If it cannot.
        """
        check_evaluator(evaluator)
        check = getattr(evaluator, "check", None)
        if check is not None and isinstance(self.space, _DECLARED):
            check(self.engine.load(_template(self.space), user=name_of(evaluator)))

    def check_study(self, study: optuna.Study) -> None:
        """Checks that a study can run this objective.

        Raises:
            StudyError: If its directions are others, it was made with another space or on other
                dev data, its pruner hides trials from its sampler, or trials were deleted.
        """
        directions = [direction.name.lower() for direction in study.directions]
        if directions != self.directions:
            raise StudyError(
                f"The study {study.study_name!r} is to {' and '.join(directions)}, but "
                f"{', '.join(self.metric_names)} is to {' and '.join(self.directions)}. Create "
                "it with directions=objective.directions, or use another study_name."
            )
        names = metric_names(study)
        if names is not None and names != self.metric_names:
            raise StudyError(
                f"The trials of the study {study.study_name!r} were scored by "
                f"{', '.join(names)}, not by {', '.join(self.metric_names)}. Use "
                "another study_name."
            )
        if isinstance(self.space, Genealogy):
            _check_breeds(study.sampler, self.space)
        if isinstance(study.sampler, StoredSampler):
            given = study.sampler.search_space
            wanted = self.space.distributions() if isinstance(self.space, _DECLARED) else given
            what = "recipe" if isinstance(self.space, Recipe) else "space"
            if given is not None and given != wanted:
                raise StudyError(
                    f"{type(study.sampler).__name__} was made for another space than the "
                    f"objective's. Use sampler={what}.sampler(seed=0) of the same {what}."
                )
            if isinstance(study.pruner, optuna.pruners.HyperbandPruner):
                raise StudyError(
                    "HyperbandPruner hides trials from population samplers. Use MedianPruner, "
                    "SuccessiveHalvingPruner or WilcoxonPruner."
                )
            if len(directions) > 1:
                raise StudyError(
                    f"{type(study.sampler).__name__} has one objective, this study "
                    f"{len(directions)}. Use optuna.samplers.NSGAIISampler."
                )
        sampler = study.sampler
        if isinstance(sampler, NichesSampler) and sampler.needs_examples:
            _check_examples(self.evaluator)
        self._check_space(study)
        self._check_data(study)
        if isinstance(study.sampler, StoredSampler):
            trials = compat.all_trials(study)
            check_numbers(trials, len(trials))
        if isinstance(self.space, Genealogy):
            check_families(study)

    # -- before trials ---------------------------------------------------------------------

    def _check(self, recipe: Recipe | Space) -> None:
        declared = recipe.declaration().recipes.values() if isinstance(recipe, Space) else [recipe]
        for one in declared:
            check_finite(one)
        model = self.engine.load(_template(recipe), user=name_of(self.evaluator))
        check = getattr(self.evaluator, "check", None)
        if check is not None:
            check(model)
        self._checked = True

    def join(self, study: optuna.Study) -> None:
        """Checks a study as :meth:`check_study`, and stores the space in it, once."""
        known = (compat.storage_of(study), study.study_name, study.sampler, study.pruner)
        if self._known != known:
            self.check_study(study)
            self.store_space(study)
            self._known = known

    def store_space(self, study: optuna.Study) -> None:
        """Stores the space, the names of the metrics and digests of the data, once."""
        if study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(self.metric_names)
        if isinstance(self.space, _DECLARED) and SPACE not in study.user_attrs:
            study.set_user_attr(SPACE, self.space.to_yaml())
        if (data := self._data()) is not None and DEV not in study.user_attrs:
            study.set_user_attr(DEV, data)

    def _data(self) -> dict[str, Any] | None:
        """What the dev data are, if the evaluator says it."""
        digest = getattr(self.evaluator, "digest", None)
        return None if digest is None else {EXAMPLES: len(self.evaluator), **digest}

    def _check_data(self, study: optuna.Study) -> None:
        before, now = study.user_attrs.get(DEV), self._data()
        if before is None or now is None:
            return
        with decoding(f"description of the dev data of the study {study.study_name!r}"):
            compared = before.keys() | (now.keys() - ADDED_PARTS)
            parts = sorted(part for part in compared if before.get(part) != now.get(part))
            examples = before[EXAMPLES]
        if "function" in parts:
            raise StudyError(
                f"The trials of the study {study.study_name!r} were scored by another function "
                "than the evaluator is now. Go on with the old one, or use another study_name. "
                "Edits that change no score: mo.evaluators.Function(f, digest='...') from the "
                "start of a study says when it is another."
            )
        if parts:
            raise StudyError(
                f"The trials of the study {study.study_name!r} were scored on other dev data: "
                f"{', '.join(parts)} differ ({examples} examples, now "
                f"{now[EXAMPLES]}). Go on with the old data, or use another study_name."
            )

    def _check_space(self, study: optuna.Study) -> None:
        before = stored_space(study)
        if before is None or not isinstance(self.space, _DECLARED):
            return
        now = self.space if isinstance(self.space, Recipe) else self.space.declaration()
        now = _recorded_like(before, now)
        if before.digest != now.digest:
            raise StudyError(
                f"The study {study.study_name!r} was made with another space: "
                f"{_difference(before, now)}. Use another study_name for this one."
            )

    # -- one trial -------------------------------------------------------------------------

    def _run(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        try:
            return self._merge_and_score(trial)
        except optuna.TrialPruned:
            raise
        except InfeasibleRecipe as error:
            raise self._pruned(trial, str(error)) from error
        except KeyboardInterrupt:
            excuse(trial, "interrupted")
            raise
        except SourceChanged:
            excuse(trial, "source changed")
            raise
        except Exception as error:
            if interrupt.noted():  # and came out of something as this error
                excuse(trial, "interrupted")
                raise KeyboardInterrupt from error
            # Spaces and evaluators are anybody's code; one bad trial must not end a search.
            if not self._checked:
                raise  # the first recipe of a function: the configuration is bad, not the trial
            trial.set_user_attr(ERROR, traceback.format_exc())
            optuna.logging.get_logger("optuna").warning(
                f"Trial {trial.number} failed: {type(error).__name__}: {error}"
            )
            return math.nan

    def _merge_and_score(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        started = time.perf_counter()
        recipe = self.recipe(trial)
        if not isinstance(self.space, _DECLARED):
            compat.set_system_attr(trial.study, trial, RECIPE, recipe.to_json())
        with interrupt.interruptible():
            model = self.engine.load(recipe, user=name_of(self.evaluator))
        try:
            value = self._evaluate(trial, recipe, model, time.perf_counter() - started)
        finally:
            self.engine.look_again(recipe)  # an evaluator reads tokenizers, for one
        if not all(math.isfinite(number) for number in _numbers(value)):
            raise self._pruned(trial, f"The score is not finite: {value}.")
        return value

    def _evaluate(
        self, trial: optuna.Trial, recipe: Recipe, model: nn.Module, seconds_merge: float
    ) -> float | tuple[float, ...]:
        started = time.perf_counter()
        ids: list[NDArray[np.int64]] = []
        parts: list[NDArray[np.float64]] = []
        total, seen = len(self.evaluator), 0
        batches = interrupt.interruptibly(batches_of(self.evaluator, model))
        try:
            with contextlib.closing(batches):  # else it ends when Python collects it, much later
                for step, (batch_ids, batch_scores) in enumerate(batches):
                    ids.append(batch_ids)
                    parts.append(batch_scores)
                    seen += len(batch_ids)
                    if len(self.directions) == 1 and total > len(batch_ids):
                        self._report(trial, step, parts, last=seen == total)
            return value_over(self.evaluator, np.concatenate(parts))
        finally:
            facts = {
                SECONDS_MERGE: round(seconds_merge, 4),
                SECONDS_EVALUATE: round(time.perf_counter() - started, 4),
                EXAMPLES: seen,
                **_parents(trial),
                **({} if recipe.path is None else {PATH: f"{recipe.path:.2f}"}),
            }
            scored = parts and total > 1
            scores = {SCORES: pack(_by_example(ids, parts, total))} if scored else {}
            compat.set_attrs(trial.study, trial, user=facts, system=scores)

    def _report(
        self, trial: optuna.Trial, step: int, parts: list[NDArray[np.float64]], *, last: bool
    ) -> None:
        """Reports what the pruner reads, and prunes; never once everything is evaluated."""
        if isinstance(trial.study.pruner, optuna.pruners.WilcoxonPruner):
            report, at = float(np.mean(_first_column(parts[-1]))), step
        else:
            report, at = self._running(parts), sum(map(len, parts))
        if not math.isfinite(report):
            return
        trial.report(report, at)
        if not last and trial.should_prune():
            compat.set_system_attr(trial.study, trial, PARTIAL, self._running(parts))
            raise self._pruned(trial, f"{type(trial.study.pruner).__name__} at step {at}.")

    def _running(self, parts: list[NDArray[np.float64]]) -> float:
        """The value over the examples so far."""
        return _numbers(value_over(self.evaluator, np.concatenate(parts)))[0]

    @staticmethod
    def _pruned(trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
        trial.set_user_attr(REASON, reason)
        return optuna.TrialPruned(reason)


def stored_space(study: optuna.Study) -> Recipe | Declaration | None:
    """What a study was made with, if its database says it.

    Raises:
        StudyError: If what it says is neither a recipe nor a space.
    """
    stored = study.user_attrs.get(SPACE)
    with decoding(f"space of the study {study.study_name!r}"):
        return None if stored is None else read_space(stored)


def _template(space: Recipe | Space) -> Recipe | Checkpoint:
    """A model like all of a space."""
    if isinstance(space, Space):
        return space.template
    return space.frame if space.path is None or space.slots else space


def _check_order(space: object, evaluator: object) -> None:
    """Both are callable, so that swapped ones would fail only in the first trial."""
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


def _check_examples(evaluator: Evaluator) -> None:
    if len(evaluator) == 1:
        raise StudyError(
            "NichesSampler lets models compete for examples, but "
            f"{', '.join(evaluator.metric_names)} is one number for all. Use an evaluator that "
            "scores example by example, as mo.evaluators.Classification does, or evolve without "
            "niches: NichesSampler(space.distributions(), alpha=0, attraction=False)."
        )


def _parents(trial: optuna.Trial) -> dict[str, Any]:
    """The numbers of the parents' trials, for readers: parameters have individual ids."""
    claim = compat.system_attrs(trial.study, trial).get(CLAIM) or {}
    return {PARENTS: claim["parents"]} if claim.get("parents") else {}


def _warn_if_taken(names: Collection[str]) -> None:
    """Warns of user attributes that a space has set and that are this package's."""
    if both := taken(names):
        warnings.warn(
            f"The space sets the user attribute {' and '.join(map(repr, both))} of its trials, "
            "which mo.MergeObjective writes itself. Choose another name: docs/database.md lists "
            "those that are taken.",
            stacklevel=2,
        )


def _numbers(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _first_column(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores if scores.ndim == 1 else scores[:, 0]


def _by_example(
    ids: list[NDArray[np.int64]], parts: list[NDArray[np.float64]], total: int
) -> NDArray[np.float32]:
    scores = np.full(total, np.nan, np.float32)
    scores[np.concatenate(ids)] = _first_column(np.concatenate(parts))
    return scores


def _recorded_like(
    before: Recipe | Declaration, now: Recipe | Declaration
) -> Recipe | Declaration:
    """A space with the digests of its sources as an earlier version may have recorded them."""
    if isinstance(before, Recipe) and isinstance(now, Recipe):
        return now.recorded_like(before)
    if isinstance(before, Declaration) and isinstance(now, Declaration):
        return now.recorded_like(before)
    return now


def _difference(before: Recipe | Declaration, now: Recipe | Declaration) -> str:
    """What differs between two spaces, in words."""
    if isinstance(before, Declaration) and isinstance(now, Declaration):
        return _difference_of_spaces(before, now)
    if isinstance(before, Declaration) or isinstance(now, Declaration):
        kinds = [one.kind if isinstance(one, Declaration) else "a recipe" for one in (before, now)]
        return f"{kinds[0]}, now {kinds[1]}"
    if before.method != now.method:
        return f"method {before.method}, now {now.method}"
    old = [(c.name, c.digest) for c in before.checkpoints()]
    new = [(c.name, c.digest) for c in now.checkpoints()]
    if old != new:
        changed = [name for name, digest in old if dict(new).get(name, digest) != digest]
        restored = f" (has {' and '.join(changed)} changed? Restore it)" if changed else ""
        return f"sources {_those(old, new)}, now {_those(new, old)}{restored}"
    if before.path != now.path:
        return f"path {_path_in_words(before)}, now {_path_in_words(now)}"
    for name, value in before.parameters:
        if now.values[name] != value:
            return f"{name}={value!r}, now {now.values[name]!r}"
    if before.config != now.config:
        return f"config={before.config!r}, now {now.config!r}"
    return "other excluded tensors, names or nested recipes"


def _those(these: list[tuple[str, str]], others: list[tuple[str, str]]) -> str:
    """The sources, with their digests, that are not among the others; all names if all are."""
    missing = [f"{name} ({digest})" for name, digest in these if (name, digest) not in others]
    return ", ".join(missing or [name for name, _ in these])


def _path_in_words(recipe: Recipe) -> str:
    data = recipe.path and recipe.path.to_data()
    return ", ".join(map(str, data.values())) if isinstance(data, dict) else str(data)


def _difference_of_spaces(before: Declaration, now: Declaration) -> str:
    if before.kind != now.kind:
        return f"{before.kind}, now {now.kind}"
    for name, value in before.options.items():
        if now.options[name] != value:
            return f"{name}={value!r}, now {now.options[name]!r}"
    for name in {**before.recipes, **now.recipes}:
        old, new = before.recipes.get(name), now.recipes.get(name)
        if old is None or new is None:
            return (
                f"{'with' if old else 'without'} a {name}, now {'without' if old else 'with'} one"
            )
        if old.digest != new.digest:
            return _difference(old, new)
    return "other options"
