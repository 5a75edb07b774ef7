"""What is compared on a leaderboard: trials and baselines that studies hold, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import decoding
from merge_optuna._schema import DEV, EXAMPLES, SAME_AS, SCORES, SECONDS_EVALUATE, SECONDS_MERGE
from merge_optuna._scores import unpack
from merge_optuna.engine import AnyEngine
from merge_optuna.errors import StudyError
from merge_optuna.evaluators import (
    Evaluator,
    batches_of,
    check_evaluator,
    name_of,
    value_over,
)
from merge_optuna.recipes import Recipe
from merge_optuna.study._baseline_recipes import ARITHMETIC
from merge_optuna.study._baselines import Baseline, stored_baselines
from merge_optuna.study._board import BASELINE, SEARCH, TUNED, Cost, Entry, Kind, Run
from merge_optuna.study._bootstrap import Array
from merge_optuna.study._counts import COUNTED
from merge_optuna.study._export import best_trial, recipe_of
from merge_optuna.study._loading import load_for
from merge_optuna.study._recorded import without_batches

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

Sources: TypeAlias = "Mapping[str, Checkpoint | str | Path]"
Searches: TypeAlias = Mapping[str, Mapping[int, optuna.Study]]
"""Studies by the name of their search and their seed."""

_CLOSE = 1e-5  # per-example scores are kept in single precision
_BEST_LAMBDA = "task arithmetic, λ by dev"


@dataclass(frozen=True)
class Found:
    """What one run of a contender has found.

    Attributes:
        study: That holds it.
        seed: Of the run.
        dev: Its value on dev.
        cost: What it has cost.
        recipe: Makes it, from sources in memory or at new places.
        scores: Of the dev examples, as they are kept; None if they are not.
        document: The recipe as text, of baselines: equal ones are the same.
    """

    study: optuna.Study
    seed: int | None
    dev: float
    cost: Cost
    recipe: Callable[[Sources], Recipe]
    scores: Array | None
    document: str | None = None

    @property
    def data(self) -> Any:
        """What the dev data are, as far as the study says it, however they were batched."""
        with decoding(f"description of the dev data of the study {self.study.study_name!r}"):
            return without_batches(self.study.user_attrs.get(DEV))

    @property
    def addable_scores(self) -> Array | None:
        """The scores of which its value is the mean: others lack columns that are not kept."""
        if self.scores is None or not np.isclose(self.scores.mean(), self.dev, rtol=_CLOSE):
            return None
        return self.scores


@dataclass(frozen=True)
class Contender:
    """A row of a leaderboard before anything is scored on test."""

    name: str
    found: Sequence[Found]
    kind: Kind = SEARCH

    def entry(self, scores: Callable[[Found], Array | None]) -> Entry:
        """With the scores that it is compared by."""
        runs = [Run(one.dev, scores(one), one.seed, one.cost) for one in self.found]
        return Entry(self.name, runs, self.kind)


# -- searches and trials ------------------------------------------------------------------------


def of_search(name: str, runs: Mapping[int, optuna.Study], kind: Kind) -> Contender:
    """The best trial of each study, at the cost of the whole study."""
    return Contender(
        name,
        [
            of_trial(study, best_trial(study), seed, _cost(_counted(study)))
            for seed, study in runs.items()
        ],
        kind,
    )


def of_trial(
    study: optuna.Study, trial: FrozenTrial, seed: int, cost: Cost | None = None
) -> Found:
    """A trial, at its own cost unless another is given."""
    packed = trial.system_attrs.get(SCORES)
    scores = None if packed is None else unpack(packed, f"trial {trial.number}")
    return Found(
        study,
        seed,
        trial.values[0],
        cost or _cost([trial]),
        lambda sources: recipe_of(study, trial, sources=sources),
        None if scores is None else scores.astype(np.float64),
    )


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in compat.all_trials(study) if trial.state in COUNTED]


def _cost(trials: Sequence[FrozenTrial]) -> Cost:
    return Cost(
        # what has taken over the result of another trial was not scored
        evaluations=sum(SAME_AS not in trial.user_attrs for trial in trials),
        examples=_total(trials, EXAMPLES),
        seconds=_total(trials, SECONDS_MERGE, SECONDS_EVALUATE),
    )


def _total(trials: Sequence[FrozenTrial], *keys: str) -> float | None:
    """The sum of user attributes, which trials lack that failed early; None if all lack them."""
    known = [t.user_attrs[key] for t in trials for key in keys if key in t.user_attrs]
    return sum(known) if known else None


# -- baselines ----------------------------------------------------------------------------------


def baselines_of(searches: Searches) -> list[Contender]:
    """The baselines that studies hold, each once.

    Those of searches on the same models are the same ones. Where a name stands for different
    merges in two searches, e.g. the untuned operator, the search is added to it. Of task
    arithmetic it is the λ that dev has chosen, at the cost of all.
    """
    found: dict[str, dict[str, dict[int, Found]]] = {}
    kinds: dict[str, Kind] = {}
    for search, runs in searches.items():
        for seed, study in runs.items():
            for name, kind, one in _held(study, seed):
                found.setdefault(name, {}).setdefault(search, {})[seed] = one
                kinds[name] = kind
    made = []
    for name, by_search in found.items():
        for full, by_seed in _told_apart(name, by_search).items():
            made.append(Contender(full, _once([*by_seed.values()]), kinds[name]))
    return made


def _told_apart(
    name: str, by_search: Mapping[str, Mapping[int, Found]]
) -> dict[str, Mapping[int, Found]]:
    """Baselines of one name: together if each seed has one merge only, else by their search."""
    together: dict[int, Found] = {}
    for by_seed in by_search.values():
        for seed, one in by_seed.items():
            if together.setdefault(seed, one).document != one.document:
                return {f"{name} of {search}": runs for search, runs in by_search.items()}
    return {name: together}


def _once(found: Sequence[Found]) -> list[Found]:
    """A single one without a seed, if all seeds have the same merge."""
    first = found[0]
    if any(one.document != first.document for one in found):
        return [*found]
    dev = float(np.mean([one.dev for one in found]))
    return [replace(first, seed=None, dev=dev, cost=Cost.mean([one.cost for one in found]))]


def _held(study: optuna.Study, seed: int) -> Iterator[tuple[str, Kind, Found]]:
    """Name, kind and what was found, of the baselines with a value that are checkpoints."""
    rows = stored_baselines(study)
    grid = [row for row in rows if row.kind == ARITHMETIC]
    for row in rows.headlines:
        if row.value is not None and row.document is not None:
            of_grid = row in grid
            name = _BEST_LAMBDA if of_grid else row.name
            kind = TUNED if row.tuned else BASELINE
            yield name, kind, _of_baseline(study, seed, row, grid if of_grid else [row])


def _of_baseline(
    study: optuna.Study, seed: int, row: Baseline, spent: Sequence[Baseline]
) -> Found:
    """A baseline, at the cost of all that were scored to find it."""
    (dev,) = row.values or (float("nan"),)
    examples = sum(one.examples for one in spent)
    scores = row.scores
    cost = Cost(
        evaluations=None if scores is None else examples / len(scores),
        examples=examples,
        seconds=sum(one.seconds for one in spent),
    )
    return Found(
        study,
        seed,
        dev,
        cost,
        lambda sources: recipe_of(study, baseline=row.name, sources=row.own(sources)),
        None if scores is None else scores.astype(np.float64),
        row.document,
    )


# -- held-out examples --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scorer:
    """Held-out examples and what loads models for them; equal recipes are scored once."""

    test: Evaluator
    engine: AnyEngine
    sources: Sources
    known: dict[str, Array] = field(default_factory=dict)

    def check(self) -> None:
        """Checks the evaluator.

        Raises:
            EvaluationError: If it is none.
            StudyError: If it has several objectives.
        """
        check_evaluator(self.test)
        if len(self.test.directions) > 1:
            raise StudyError(
                f"{name_of(self.test)} has {len(self.test.directions)} objectives, "
                f"{', '.join(self.test.metric_names)}; a leaderboard orders by one. Pass an "
                "evaluator with one as test=."
            )

    def value(self, scores: Array) -> float:
        """The metric over the scores of any examples."""
        value = value_over(self.test, scores)
        return value[0] if isinstance(value, tuple) else value

    def scores(self, found: Found) -> Array:
        """Scores of what was found in the order of the examples, (n,) or (n, k)."""
        recipe = found.recipe(self.sources)
        if recipe.digest not in self.known:
            model = load_for(self.test, self.engine, recipe)
            ids, scores = zip(*batches_of(self.test, model), strict=True)
            self.engine.look_again(recipe)
            self.known[recipe.digest] = np.concatenate(scores)[np.argsort(np.concatenate(ids))]
        return self.known[recipe.digest]
