"""Scores baselines: once per study, by however many processes, whoever is killed and when."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import optuna
from numpy.typing import NDArray
from torch import nn

from merge_optuna._bar import ProgressBar
from merge_optuna.checkpoints import Checkpoint, hex_digest
from merge_optuna.errors import EvaluationError, InfeasibleRecipe, SourceChanged, StudyError, shown
from merge_optuna.evaluators import (
    Evaluator,
    batches_of,
    breakdown_over,
    value_over,
)
from merge_optuna.fitted import chosen_greedily
from merge_optuna.recipes import Recipe
from merge_optuna.spaces import Choices, Exchange, LayerPath
from merge_optuna.study import _interrupt as interrupt
from merge_optuna.study._baseline_book import Book, InMemory, InStudy
from merge_optuna.study._baseline_recipes import (
    ENSEMBLE,
    PATH,
    SOUP,
    SOURCE,
    UNTUNED,
    Candidate,
    Family,
    candidates,
    check_kinds,
    family_of,
    source_name,
)
from merge_optuna.study._baselines import (
    Baseline,
    Baselines,
    packed_scores,
    stored_baselines,
)
from merge_optuna.study._constraints import Judged, declaration_of, settled, stored_scores
from merge_optuna.study._limit import Deadline, Overdue, limited
from merge_optuna.study._loading import load_alone
from merge_optuna.study._objective import MergeObjective, by_example
from merge_optuna.study._progress import quiet
from merge_optuna.study._recorded import DECLARED, without_batches

_Batch: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]

_DEATHS = 2  # of processes that have scored the same baseline, until it is left alone
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Found:
    """What scoring has come to.

    Attributes:
        recipe: What was scored; None if it is no checkpoint.
        values: One per objective.
        scores: Per example, shape (n,).
        examples: How many were scored for it.
        breakdown: What the values are made of, by name.
        judged: How it keeps the constraints of the search.
    """

    recipe: Recipe | None
    values: tuple[float, ...]
    scores: NDArray[np.float32]
    examples: int
    breakdown: Mapping[str, float] = field(default_factory=dict)
    judged: Judged = field(default_factory=Judged)


@dataclass(frozen=True)
class _Task:
    """One baseline to be scored; ``run`` raises if it has no score."""

    kind: str
    name: str
    tuned: bool
    place: int
    of: str
    run: Callable[[], Found]

    def row(self, found: Found | None, reason: str | None, seconds: float) -> Baseline:
        """The baseline, scored or not."""
        recipe = None if found is None else found.recipe
        row = Baseline(
            name=self.name,
            kind=self.kind,
            tuned=self.tuned,
            values=None if found is None else found.values,
            reason=reason,
            examples=0 if found is None else found.examples + found.judged.examples,
            seconds=round(seconds, 4),
            document=None if recipe is None else recipe.to_json(),
            packed=None if found is None else packed_scores(found.scores),
            of=self.of,
            place=self.place,
            breakdown={} if found is None else found.breakdown,
            constrained={} if found is None else found.judged.values,
            violations={} if found is None else found.judged.violations,
        )
        row.__dict__["recipe"] = recipe  # with its modules in memory, which no text can name
        return row


def baselines(
    of: MergeObjective | optuna.Study,
    study: optuna.Study | None = None,
    *,
    kinds: bool | Sequence[str] = True,
    progress: bool = True,
) -> Baselines:
    """What a search has to beat: the merges that need none, scored on the same dev data.

    The base; every unmerged model (``source NAME``); the uniform average of the experts; the
    method of the search where nobody has tuned it, at the start of its free numbers; task
    arithmetic θ_0 + λ Σ τ_i with λ = 0.1, 0.2, ... 1; the greedy soup; and for reference, where
    the evaluator can do it, the ensemble of the experts, which is no checkpoint and never counts
    as the best. See ``docs/baselines.md``.

    Args:
        of: An objective, to score them; or a study, for those that are kept in it.
        study: Keeps what is scored: what is there already is not scored again, unless it has
            failed; several processes share the work, and a killed one loses at most the one that
            it was at.
        kinds: Which to score: ``"base"``, ``"source"``, ``"uniform average"``, ``"untuned
            operator"``, ``"task arithmetic"``, ``"greedy soup"``, ``"ensemble"``; all of these
            when omitted. Of layer paths also ``"greedy path"``, see :func:`mo.greedy_path`.
        progress: Whether to show a progress bar if it takes more than two seconds.

    Returns:
        A sequence that prints as a table; ``.best``, ``.best_untuned``, ``["uniform average"]``.

    Raises:
        StudyError: If ``of`` is neither, the study does not fit the objective, or there is no such
            kind.
        SourceChanged: If the files of a checkpoint are not what they were.

    Example:
        >>> print(mo.baselines(objective))
    """
    if isinstance(of, optuna.Study):
        return stored_baselines(of)
    if not isinstance(of, MergeObjective):
        raise StudyError(f"mo.baselines takes a mo.MergeObjective or a study, not {shown(of)}.")
    if study is not None:
        of.join(study)
    book: Book = InMemory(of) if study is None else InStudy(study, again=True)
    return score(of, book, check_kinds(kinds), Deadline(None), None, progress=progress)


def keep(
    study: optuna.Study,
    objective: MergeObjective,
    kinds: Sequence[str],
    deadline: Deadline,
    trial_timeout: float | None,
    *,
    progress: bool,
) -> Baselines:
    """Scores what a study lacks of the baselines of its objective, and keeps it there."""
    return score(objective, InStudy(study), kinds, deadline, trial_timeout, progress=progress)


def baseline_evaluations(objective: MergeObjective, kinds: bool | Sequence[str]) -> int | None:
    """How many evaluations baselines take; None if there are none, or nobody knows before."""
    wanted = check_kinds(kinds)
    if not wanted or PATH in wanted or not isinstance(objective.space, DECLARED):
        return None
    family = family_of(objective.space)
    alone = sum(c.kind in wanted for c in candidates(objective.space, family))
    soup = SOUP in wanted and _has_soup(objective, family)
    experts = len(family.experts)
    found = alone + soup * (experts - 1 if SOURCE in wanted else 2 * experts - 1)
    together = ENSEMBLE in wanted and _has_ensemble(objective, family)
    return found + together * experts


def score(
    objective: MergeObjective,
    book: Book,
    kinds: Sequence[str],
    deadline: Deadline,
    trial_timeout: float | None,
    *,
    progress: bool,
) -> Baselines:
    """Scores what is not in a book yet."""
    with interrupt.deferred(), quiet():
        tasks = _Scorer(objective, book).tasks(kinds) if kinds else []
        bar = ProgressBar(
            total=len(tasks),
            desc="Baselines",
            unit="baseline",
            delay=2,
            leave=False,
            disable=not progress,
        )
        with bar:
            while deadline.left != 0:
                left = _left(tasks, book)
                bar.update(len(tasks) - len(left) - bar.n)
                if not left:
                    break
                if not _score_one(left, book, trial_timeout):
                    with interrupt.interruptible():
                        time.sleep(_POLL_SECONDS)  # others are at what is left
    return book.baselines()


def _left(tasks: Sequence[_Task], book: Book) -> list[_Task]:
    done = {(row.name, row.of) for row in book.baselines()}
    return [task for task in tasks if (task.name, task.of) not in done]


def _score_one(left: Sequence[_Task], book: Book, trial_timeout: float | None) -> bool:
    """Scores the first that nobody else is scoring, if there is one."""
    for doubtful, task in itertools.product((False, True), left):
        with book.taken(task.name, doubtful=doubtful) as deaths:
            if deaths is None:
                continue
            if deaths >= _DEATHS:
                book.put(task.row(None, f"Its process has died {deaths} times in it.", 0.0))
            else:
                book.put(_attempt(task, trial_timeout))
            return True
    return False


def _attempt(task: _Task, trial_timeout: float | None) -> Baseline:
    """Scores one. What it raises is anybody's code's: it is told, and the search goes on."""
    started = time.perf_counter()
    found = reason = None
    try:
        with limited(trial_timeout, baseline=task.name):
            found = task.run()
    except SourceChanged:
        raise
    except Overdue as overdue:
        reason = str(overdue)
    except Exception as error:  # evaluators are anybody's code; the row keeps the reason
        if interrupt.noted():  # and came out of something as this error
            raise KeyboardInterrupt from error
        own = isinstance(error, (InfeasibleRecipe, EvaluationError))
        reason = str(error) if own else f"{type(error).__name__}: {error}"
    return task.row(found, reason, time.perf_counter() - started)


class _Scorer:
    """Scores models of a family on the dev data of an objective.

    Args:
        objective: The search.
        book: Where its baselines are kept; what stands there is known.
    """

    def __init__(self, objective: MergeObjective, book: Book) -> None:
        self._objective = objective
        self._evaluator = objective.evaluator
        self._constraints = objective.constraints
        self._book = book

    def tasks(self, kinds: Sequence[str]) -> list[_Task]:
        """The baselines of some kinds; none if nothing is known of who is merged."""
        space = self._objective.space
        with interrupt.interruptible():
            family = self._objective.family()
        if family is None:
            return []
        held_to = [declaration_of(one) for one in self._constraints]
        made_of = [family.digests, _digest(self._evaluator), *([held_to] if held_to else [])]
        of = hex_digest([json.dumps(made_of).encode()])
        self._book.drop_others(of)
        engine = self._objective.engine
        self._references = settled(self._book.study, self._constraints, family, engine)
        made = [
            (c.kind, c.name, c.tuned, partial(self._candidate, family, c))
            for c in candidates(space, family)
        ]
        if _has_soup(self._objective, family):
            made.append((SOUP, SOUP, True, partial(self._soup, family, of)))
        if _has_ensemble(self._objective, family):
            made.append((ENSEMBLE, ENSEMBLE, False, partial(self._ensemble, family)))
        if (exchange := _exchange_of(self._objective)) is not None:
            made.append((PATH, PATH, True, partial(self._exchanged, exchange)))
        return [
            _Task(kind, name, tuned, place, of, partial(self._held, family, kind, name, run))
            for place, (kind, name, tuned, run) in enumerate(made)
            if kind in kinds
        ]

    def _candidate(self, family: Family, candidate: Candidate) -> Found:
        return self._measured(candidate.make(), own=_is_own(family, candidate.kind))

    def _held(self, family: Family, kind: str, name: str, run: Callable[[], Found]) -> Found:
        """What a baseline comes to, with how it keeps the constraints if it is a checkpoint."""
        found = run()
        if found.recipe is not None:
            known = stored_scores(self._book.study, name)
            engine, own = self._objective.engine, _is_own(family, kind)
            found.judged.ask(
                found.recipe, self._constraints, self._references, engine, own=own, known=known
            )
        return found

    def _soup(self, family: Family, of: str) -> Found:
        """The greedy soup; the scores of its members alone are known if they are baselines."""
        sign = -1.0 if self._objective.directions[0] == "minimize" else 1.0
        tried: dict[tuple[Checkpoint, ...], Found] = {}
        examples = 0

        def value(models: Sequence[Checkpoint]) -> float:
            nonlocal examples
            row = self._known_source(models, of)
            if row is not None and row.values is None:
                return -math.inf
            if row is not None:
                found = _found_before(row, family.source(models[0]))
            else:
                recipe = family.average(models) if len(models) > 1 else family.source(models[0])
                found = self._measured(recipe, own=family.is_alike)
                examples += found.examples
            tried[tuple(models)] = found
            return sign * found.values[0]

        def safely(models: Sequence[Checkpoint]) -> float:
            try:
                return value(models)
            except (InfeasibleRecipe, EvaluationError):
                return -math.inf

        best = tried[tuple(chosen_greedily(family.experts, safely))]
        return replace(best, examples=examples)

    def _exchanged(self, exchange: Exchange) -> Found:
        """The greedy path, see ``mo.greedy_path``."""
        space: Any = self._objective.space
        sign = 1.0 if self._objective.directions[0] == "minimize" else -1.0
        known: dict[Choices, float] = {}
        best: Found | None = None
        examples = 0
        while (choices := exchange.following(known, set())) is not None:
            recipe = space.bind({**space.start(), **exchange.params(choices)})
            try:
                found = self._measured(recipe, own=True)
            except (InfeasibleRecipe, EvaluationError):
                known[choices] = math.inf
                continue
            examples += found.examples
            value = sign * found.values[0]
            if value < min(known.values(), default=math.inf):
                best = found
            known[choices] = value
        if best is None:
            raise EvaluationError("No path has a score.")
        return replace(best, examples=examples)

    def _ensemble(self, family: Family) -> Found:
        """The mean of what the models predict, each of them loaded in its turn."""
        read: list[Recipe] = []

        def models() -> Iterator[nn.Module]:
            for expert in family.experts:
                read.append(recipe := family.source(expert))
                yield self._load(recipe, own=family.is_alike)

        ensemble: Any = getattr(self._evaluator, "ensemble", None)
        try:
            with contextlib.closing(interrupt.interruptibly(ensemble(models()))) as batches:
                found = _found(self._evaluator, None, batches)
        finally:
            for recipe in read:
                self._objective.engine.look_again(recipe)
        return replace(found, examples=len(read) * len(self._evaluator))

    def _known_source(self, models: Sequence[Checkpoint], of: str) -> Baseline | None:
        """One model alone, if that is a baseline that has been scored or has failed."""
        rows = self._book.baselines() if len(models) == 1 else ()
        name = source_name(models[0])
        return next((row for row in rows if (row.name, row.of) == (name, of)), None)

    def _load(self, recipe: Recipe, *, own: bool) -> nn.Module:
        """The live model of the search, or one of another shape than its merges have."""
        return load_alone(self._evaluator, self._objective.engine, recipe, own=own)

    def _measured(self, recipe: Recipe, *, own: bool) -> Found:
        with interrupt.interruptible():
            model = self._load(recipe, own=own)
        try:
            batches = interrupt.interruptibly(batches_of(self._evaluator, model))
            with contextlib.closing(batches):
                return _found(self._evaluator, recipe, batches)
        finally:
            self._objective.engine.look_again(recipe)  # an evaluator reads tokenizers, for one


def _found(evaluator: Evaluator, recipe: Recipe | None, batches: Iterable[_Batch]) -> Found:
    """What batches of scores add up to.

    Raises:
        EvaluationError: If that is no finite number.
    """
    ids, parts = map(list, zip(*batches, strict=True))
    scores = np.concatenate(parts)
    value = value_over(evaluator, scores)
    values = value if isinstance(value, tuple) else (value,)
    if not all(map(math.isfinite, values)):
        raise EvaluationError(f"The score is not finite: {value}.")
    parted = {n: x for n, x in breakdown_over(evaluator, scores).items() if math.isfinite(x)}
    total = len(evaluator)
    return Found(recipe, values, by_example(ids, parts, total), total, parted)


def _found_before(row: Baseline, recipe: Recipe) -> Found:
    """What scoring a baseline has come to, as it is kept; its recipe with modules in memory."""
    values = row.values or ()
    scores = np.array(values, np.float32) if row.scores is None else row.scores
    return Found(recipe, values, scores, row.examples, row.breakdown)


def _is_own(family: Family, kind: str) -> bool:
    """Whether a baseline has the shape of the merges of the search."""
    return family.is_alike or kind == UNTUNED


def _has_soup(objective: MergeObjective, family: Family) -> bool:
    return len(objective.directions) == 1 and len(family.experts) > 1


def _exchange_of(objective: MergeObjective) -> Exchange | None:
    """How layers are exchanged, of a search of paths by depth for one objective."""
    space = objective.space
    by_depth = isinstance(space, LayerPath) and space.layout == "depth"
    return Exchange.of(space, 1) if by_depth and len(objective.directions) == 1 else None  # type: ignore[arg-type]


def _has_ensemble(objective: MergeObjective, family: Family) -> bool:
    return hasattr(objective.evaluator, "ensemble") and len(family.experts) > 1


def _digest(evaluator: Evaluator) -> dict[str, str] | None:
    digest = getattr(evaluator, "digest", None)
    if digest is None:
        return None
    return {part: str(value) for part, value in sorted(without_batches(digest).items())}
