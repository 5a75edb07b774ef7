"""Space, engine and evaluator composed into an Optuna objective."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import (
    CANDIDATE,
    CLAIM,
    EXAMPLES,
    PARENTS,
    PARTIAL,
    PATH,
    RECIPE,
    SCORES,
    SECONDS_EVALUATE,
    SECONDS_MERGE,
    SUMMARY,
    VALUE,
)
from merge_optuna._scores import pack
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import AnyEngine, Engine
from merge_optuna.errors import RecipeError, StudyError
from merge_optuna.evaluators import (
    Evaluator,
    NoWorse,
    as_evaluator,
    batches_of,
    breakdown_over,
    check_length,
    check_metrics,
    is_deterministic,
    value_of,
    value_over,
)
from merge_optuna.recipes import Recipe, summary_of
from merge_optuna.samplers.plumbing import sign_once
from merge_optuna.spaces import Space
from merge_optuna.study import _interrupt as interrupt
from merge_optuna.study._baseline_recipes import Family, drawn, family_of
from merge_optuna.study._checks import check_order, check_study, warn_of_taken
from merge_optuna.study._constraints import (
    Judged,
    are_deterministic,
    as_constraints,
    check_constraints,
    check_sources,
    record_constraints,
    settled,
)
from merge_optuna.study._identical import Scored, take_over
from merge_optuna.study._loading import check_scorable, load_for
from merge_optuna.study._outcome import outcome, pruned
from merge_optuna.study._recorded import DECLARED, SearchSpace, record, stream_of

if TYPE_CHECKING:
    from torch import nn


class MergeObjective:
    """An Optuna objective that merges what a trial asks for and scores it.

    Everything of Optuna works with it: any sampler, pruner, storage, callbacks, ask and tell. A
    bad configuration is refused here, before a study exists.

    A trial whose recipe has no well-defined result or whose score is not finite is pruned with
    the user attribute ``reason``; one that raises fails with the traceback in the user attribute
    ``error``, and the search goes on. The user attribute ``recipe`` says in a line what was
    merged. User attributes also tell the seconds spent merging and
    evaluating, the number of examples used, the value in every task of an evaluator of several
    (``value/NAME``), and whom an individual of ``mo.spaces`` descends from.

    Values are reported while a trial runs if there is a pruner that reads them (any but
    ``NopPruner``) and the evaluator yields several batches: the mean score of each batch under its
    number for a ``WilcoxonPruner``, which pairs them with those of the best trial; for other
    pruners the value over all examples so far, under their number. A search that gets a pruner
    later prunes from its new trials on.

    A recipe that a complete trial of the study has scored is not scored again if the evaluator is
    deterministic, as those of this package are: the trial takes over value, scores and reports,
    and its user attribute ``same_as`` says whose. It is never pruned: nothing would be saved.

    With constraints, a trial that was evaluated on all examples and not pruned is scored in each
    of them, merged anew. What it scores there is a user attribute ``constraint/NAME``, how far
    that is beyond the bound is in ``trial.constraints``, where samplers find it. The best trial is
    the best one that keeps all of them; see ``docs/evaluators.md``.

    Attributes:
        space: Any ``Trial -> Recipe``, e.g. a recipe with free numbers.
        evaluator: What scores a model.
        constraints: What a merge must keep.
        engine: What holds the live model.
        directions: For ``optuna.create_study(directions=)``.
        metric_names: One per direction.
    """

    def __init__(
        self,
        space: SearchSpace,
        evaluator: Evaluator | Callable[[nn.Module], float],
        *,
        constraints: Sequence[NoWorse] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        engine: AnyEngine | None = None,
    ) -> None:
        """Composes an objective and checks that its parts fit.

        Args:
            space: A recipe with free numbers, or a function from a trial to a recipe. What a
                function returns is checked at its first trial.
            evaluator: An evaluator, or a function from the live model to a number (higher is
                better; otherwise wrap it: ``mo.evaluators.Function(f, direction="minimize")``).
            constraints: What a merge must be no worse in, each an ``mo.evaluators.NoWorse``.
            device: Of the live model; the CPU when omitted.
            dtype: Of the live model; that of the base checkpoint when omitted.
            engine: What holds the model, in place of ``device`` and ``dtype``: a ``mo.Engine``, or
                a ``mo.engine.VLLM`` for evaluators that generate.

        Raises:
            CheckpointError: If a source is damaged, holds NaN, or does not fit the others.
            RecipeError: If nothing in the recipe is free, or ``space`` is not a space.
            EvaluationError: If the evaluator, or that of a constraint, cannot score the model.
            StudyError: If two constraints have one name, or refer to a base that is not there; if
                ``engine`` is none, or ``device`` or ``dtype`` is given beside it.
        """
        check_order(space, evaluator)
        self.space = space
        self.evaluator = as_evaluator(evaluator)
        check_metrics(self.evaluator)
        self.constraints = as_constraints(constraints)
        self.engine = _engine(engine, device, dtype)
        self.directions: list[Any] = list(self.evaluator.directions)
        self.metric_names = list(self.evaluator.metric_names)
        self._busy = threading.Lock()
        self._known: tuple[Any, ...] | None = None
        self._scored: Scored | None = None
        self._references: dict[str, float] | None = None
        self._checked = False
        if isinstance(space, DECLARED):
            if isinstance(space, Recipe) and not space.slots:
                raise RecipeError("Nothing is free in this recipe. Use mo.free for a parameter.")
            self._check(space)
        for one in self._evaluators:
            check_length(one)  # which a function per example learns from the model

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
            return outcome(
                trial,
                lambda: self._merge_and_score(trial),
                # An error of the first recipe of a function, or of what constraints refer to:
                # the configuration is bad.
                ends=lambda error: not self._checked or self._references is None,
            )
        finally:
            self._busy.release()

    def score(
        self, recipe: Recipe | Checkpoint, evaluator: Evaluator | None = None
    ) -> float | tuple[float, ...]:
        """Scores a recipe or a single checkpoint, e.g. a baseline, outside of any trial.

        Args:
            recipe: What to load.
            evaluator: Another one, e.g. on test data; the objective's own when omitted.

        Raises:
            StudyError: If it is neither.
            CheckpointError, RecipeError, EvaluationError: If it cannot be loaded or scored.
        """
        check_scorable(recipe)
        evaluator = evaluator or self.evaluator
        value = value_of(evaluator, load_for(evaluator, self.engine, recipe))
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
        warn_of_taken(trial.user_attrs.keys() - before)
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
        check_metrics(evaluator)
        check = getattr(evaluator, "check", None)
        if check is not None and isinstance(self.space, DECLARED):
            check(load_for(evaluator, self.engine, _template(self.space)))
        check_length(evaluator)

    def check_study(self, study: optuna.Study) -> None:
        """Checks that a study can run this objective.

        Raises:
            StudyError: If its directions are others, it was made with another space or on other
                dev data, its pruner hides trials from its sampler, or trials were deleted.
        """
        check_study(study, self.space, self.evaluator)
        check_constraints(study, self.constraints)

    # -- before trials ---------------------------------------------------------------------

    @property
    def _evaluators(self) -> list[Evaluator]:
        return [self.evaluator, *(one.other for one in self.constraints)]

    def _check(self, recipe: Recipe | Space) -> None:
        declared = recipe.declaration().recipes.values() if isinstance(recipe, Space) else [recipe]
        for one in declared:
            self.engine.check(one)
        if any(isinstance(one.than, str) for one in self.constraints):
            check_sources(self.constraints, family_of(recipe))
        for evaluator in self._evaluators:
            model = load_for(evaluator, self.engine, _template(recipe))
            check = getattr(evaluator, "check", None)
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
            same = is_deterministic(self.evaluator) and are_deterministic(self.constraints)
            self._scored = Scored() if same else None
            self._references = None

    def store_space(self, study: optuna.Study) -> None:
        """Stores the space, the names of the metrics and digests of the data, once."""
        record(study, self.space, self.evaluator)
        record_constraints(study, self.constraints)

    def settle(self, study: optuna.Study) -> None:
        """Scores what constraints refer to, once per study, and keeps it there.

        Raises:
            StudyError: If that has no score.
        """
        self.join(study)
        if self._references is None:
            asked = any(isinstance(one.than, str) for one in self.constraints)
            family = self.family() if asked else None
            self._references = settled(study, self.constraints, family, self.engine)

    def family(self) -> Family | None:
        """Who is merged; None if a function gives no recipe that can be merged."""
        if isinstance(self.space, DECLARED):
            return family_of(self.space)
        return drawn(self.recipe, self.directions)

    # -- one trial -------------------------------------------------------------------------

    def _merge_and_score(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        self.settle(trial.study)
        started = time.perf_counter()
        recipe = self.recipe(trial)
        own = {} if isinstance(self.space, DECLARED) else {RECIPE: recipe.to_json()}
        # Before all others: the first that people see of a trial, also of one that fails.
        compat.set_attrs(trial.study, trial, user={SUMMARY: summary_of(recipe)}, system=own)
        candidates = [] if self._scored is None else _candidates(trial, recipe, self.engine)
        candidate = next(iter(candidates), None)
        if self._scored and (same := self._scored.same_as(trial, candidates)):
            self.engine.look_again(recipe)
            return take_over(trial, same, {**_parents(trial), **_path(recipe)})
        with interrupt.interruptible():
            model = load_for(self.evaluator, self.engine, recipe)
        try:
            return self._evaluate(trial, recipe, model, candidate, time.perf_counter() - started)
        finally:
            self.engine.look_again(recipe)  # an evaluator reads tokenizers, for one

    def _evaluate(
        self,
        trial: optuna.Trial,
        recipe: Recipe,
        model: nn.Module,
        candidate: str | None,
        seconds_merge: float,
    ) -> float | tuple[float, ...]:
        started = time.perf_counter()
        ids: list[NDArray[np.int64]] = []
        parts: list[NDArray[np.float64]] = []
        values: dict[str, float] = {}
        judged = Judged()
        total, seen = len(self.evaluator), 0
        batches = interrupt.interruptibly(batches_of(self.evaluator, model))
        try:
            with contextlib.closing(batches):  # else it ends when Python collects it, much later
                for step, (batch_ids, batch_scores) in enumerate(batches):
                    ids.append(batch_ids)
                    parts.append(batch_scores)
                    seen += len(batch_ids)
                    if stream_of(trial.study) and total > len(batch_ids):
                        self._report(trial, step, parts, last=seen == total)
            scores = np.concatenate(parts)
            values = breakdown_over(self.evaluator, scores)
            value = value_over(self.evaluator, scores)
            if not all(math.isfinite(number) for number in _numbers(value)):
                raise pruned(trial, f"The score is not finite: {value}.")
            judged.ask(recipe, self.constraints, self._references or {}, self.engine)
            return value
        finally:
            facts = {
                SECONDS_MERGE: round(seconds_merge, 4),
                SECONDS_EVALUATE: round(time.perf_counter() - started, 4),
                EXAMPLES: seen + judged.examples,
                **{VALUE + name: x for name, x in values.items() if math.isfinite(x)},
                **judged.user_attrs,
                **_parents(trial),
                **_path(recipe),
            }
            scored = parts and total > 1
            packed: dict[str, Any] = {**judged.system_attrs}
            if candidate:
                packed[CANDIDATE] = candidate
            if scored:
                packed[SCORES] = pack(by_example(ids, parts, total))
            compat.set_attrs(trial.study, trial, user=facts, system=packed)

    def _report(
        self, trial: optuna.Trial, step: int, parts: list[NDArray[np.float64]], *, last: bool
    ) -> None:
        """Reports what the pruner reads, and prunes; never once everything is evaluated."""
        if stream_of(trial.study) == "batches":
            report, at = float(np.mean(_first_column(parts[-1]))), step
        else:
            report, at = self._running(parts), sum(map(len, parts))
        if not math.isfinite(report):
            return
        trial.report(report, at)
        if not last and trial.should_prune():
            compat.set_system_attr(trial.study, trial, PARTIAL, self._running(parts))
            raise pruned(trial, f"{type(trial.study.pruner).__name__} at step {at}.")

    def _running(self, parts: list[NDArray[np.float64]]) -> float:
        """The value over the examples so far."""
        return _numbers(value_over(self.evaluator, np.concatenate(parts)))[0]


_ENGINE = ("device", "dtype", "place", "check", "load", "look_again")  # of AnyEngine


def _engine(
    engine: AnyEngine | None, device: torch.device | str | None, dtype: torch.dtype | str | None
) -> AnyEngine:
    if engine is None:
        return Engine("cpu" if device is None else device, dtype)
    if not isinstance(engine, AnyEngine):
        missing = [name for name in _ENGINE if not hasattr(engine, name)]
        raise StudyError(
            f"engine must be e.g. a mo.Engine or a mo.engine.VLLM, not {engine!r}, which has no "
            f"{', '.join(missing)}."
        )
    if device is not None or dtype is not None:
        raise StudyError("device= and dtype= are the engine's: give them to it, not beside it.")
    return engine


def _template(space: Recipe | Space) -> Recipe | Checkpoint:
    """A model like all of a space."""
    if isinstance(space, Space):
        return space.template
    return space.frame if space.path is None or space.slots else space


def _candidates(trial: optuna.Trial, recipe: Recipe, engine: AnyEngine) -> list[str]:
    """What is scored, and how: first as it is recorded, then what else has the same result.

    Where a pruner reads nothing, it does not matter what a trial has reported.
    """
    streams = [stream_of(trial.study)] if stream_of(trial.study) else [None, "running", "batches"]
    what = f"{recipe.digest} {engine.dtype} {engine.place}"
    return [f"{what} {stream or 'nothing'}" for stream in streams]


def _parents(trial: optuna.Trial) -> dict[str, Any]:
    """The numbers of the parents' trials, for readers: parameters have individual ids."""
    claim = compat.system_attrs(trial.study, trial).get(CLAIM) or {}
    return {PARENTS: claim["parents"]} if claim.get("parents") else {}


def _path(recipe: Recipe) -> dict[str, str]:
    return {} if recipe.path is None else {PATH: f"{recipe.path:.2f}"}


def _numbers(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _first_column(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores if scores.ndim == 1 else scores[:, 0]


def by_example(
    ids: Sequence[NDArray[np.int64]], parts: Sequence[NDArray[np.float64]], total: int
) -> NDArray[np.float32]:
    """The scores of examples, from those of batches: shape (total,), NaN where there is none."""
    scores = np.full(total, np.nan, np.float32)
    scores[np.concatenate(ids)] = _first_column(np.concatenate(parts))
    return scores
