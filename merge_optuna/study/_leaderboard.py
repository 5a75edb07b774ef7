"""Studies and trials side by side, with their baselines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import metric_names
from merge_optuna._schema import DEV, EXAMPLES, SCORES, SECONDS_EVALUATE, SECONDS_MERGE
from merge_optuna._scores import unpack
from merge_optuna.engine import Engine
from merge_optuna.errors import StudyError, few, shown
from merge_optuna.evaluators import (
    Evaluator,
    as_evaluator,
    batches_of,
    check_evaluator,
    name_of,
    value_over,
)
from merge_optuna.recipes import Recipe
from merge_optuna.study._board import SEARCH, TUNED, Cost, Entry, Kind, Leaderboard, Run
from merge_optuna.study._bootstrap import Array, Draws
from merge_optuna.study._counts import COUNTED
from merge_optuna.study._export import best_trial, frozen_trial, recipe_of

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

Studies: TypeAlias = (
    optuna.Study | Sequence[optuna.Study] | Mapping[str, optuna.Study | Sequence[optuna.Study]]
)
_SEED = re.compile(r"(?P<name>.+?)[\s,_-]+seed[\s=_-]*(?P<seed>\d+)", re.IGNORECASE)
_CLOSE = 1e-5  # per-example scores are kept in single precision


def leaderboard(
    studies: Studies,
    *,
    trials: Sequence[FrozenTrial | int] | None = None,
    test: Evaluator | None = None,
    engine: Engine | None = None,
    sources: Mapping[str, Checkpoint | str | Path] | None = None,
    baselines: Sequence[str] = (),
    seed: int = 0,
) -> Leaderboard:
    """Compares searches with each other and with the best baseline.

    Each search stands for its best trial on dev, with what the search has cost. Its value on
    ``test`` has a 95 % interval over seeds and examples, and so has its difference to the best
    baseline; see ``docs/leaderboard.md``. Baselines are those that the studies hold, and searches
    that ``baselines=`` names. The best of them is the best on test, whether tuned on dev or not.

    Several studies are one search with several seeds if a mapping gives them as a list under one
    name, or if their names differ only in a seed at the end: ``"ja-math, seed 0"``,
    ``"ja-math-seed-1"``, ``"ja_math_seed2"``. (A number without the word may be anything, e.g. a
    budget.) In a list the seeds are those in the names if all have one, otherwise the places.
    Searches are paired over equal seeds: give the same seed to what shares experts or dev data.

    Args:
        studies: A study, a list of studies, or lists of studies by the name of the search.
        trials: Trials of the one study, or their numbers: they are compared in place of searches.
        test: Scores models on examples that no search has seen. Without it dev values are
            compared, by which searches have chosen.
        engine: What loads the models, ``objective.engine``; on the CPU in the data type of the
            base when omitted.
        sources: Checkpoints by name, for those made by ``Checkpoint.from_module``; or the new
            places of those that were moved.
        baselines: Names of searches that count as tuned baselines.
        seed: Of the bootstrap.

    Returns:
        The table: ``print`` it, ``.to_markdown()``, ``.rows``.

    Raises:
        StudyError: If the studies have different metrics, one has several objectives or no
            completed trial, or ``test`` has another direction.
        EvaluationError: If ``test`` cannot score the models.
    """
    searches = _searches(studies)
    metric, direction = _alike([study for runs in searches.values() for study in runs.values()])
    rows = (
        _of_trials(searches, trials) if trials is not None else _of_searches(searches, baselines)
    )
    if test is None:
        return _on_dev(rows, metric, direction, Draws(seed=seed))
    scorer = _Scorer(as_evaluator(test), engine or Engine(), sources or {})
    scorer.check(direction)
    return Leaderboard.of(
        [row.entry(scorer.scores) for row in rows],
        value=scorer.value,
        metric=scorer.test.metric_names[0],
        direction=direction,
        draws=Draws(seed=seed),
    )


# -- rows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What one run of a row has found: a trial of a study."""

    study: optuna.Study
    trial: FrozenTrial
    seed: int
    cost: Cost

    def run(self, scores: Array | None) -> Run:
        return Run(self.trial.values[0], scores, self.seed, self.cost)


@dataclass(frozen=True)
class _Row:
    """A row before anything is scored."""

    name: str
    found: Sequence[_Found]
    kind: Kind = SEARCH

    def entry(self, scores: Callable[[_Found], Array | None]) -> Entry:
        return Entry(self.name, [found.run(scores(found)) for found in self.found], self.kind)


def _of_searches(
    searches: Mapping[str, Mapping[int, optuna.Study]], baselines: Sequence[str]
) -> list[_Row]:
    """The best trial of each study, at the cost of the whole study.

    Raises:
        StudyError: If a baseline is none of the searches.
    """
    unknown = [name for name in baselines if name not in searches]
    if unknown:
        raise StudyError(
            f"baselines= names {few(unknown)}, but the searches are {few([*searches])}."
        )
    return [
        _Row(
            name,
            [_Found(s, best_trial(s), seed, _cost(_counted(s))) for seed, s in runs.items()],
            TUNED if name in baselines else SEARCH,
        )
        for name, runs in searches.items()
    ]


def _of_trials(
    searches: Mapping[str, Mapping[int, optuna.Study]], trials: Sequence[FrozenTrial | int]
) -> list[_Row]:
    """Trials of the one study, each at its own cost.

    Raises:
        StudyError: If there are several studies, or a trial is not complete.
    """
    studies = [(seed, study) for runs in searches.values() for seed, study in runs.items()]
    if len(studies) > 1:
        raise StudyError(f"trials= are of one study, but there are {len(studies)}.")
    (seed, study), *_ = studies
    chosen = [frozen_trial(study, trial) for trial in trials]
    unfinished = [trial.number for trial in chosen if trial.state != TrialState.COMPLETE]
    if unfinished:
        raise StudyError(
            f"Trials {few([*map(str, unfinished)])} of the study {study.study_name!r} are not "
            "complete: they have no value on all dev examples."
        )
    return [_Row(f"trial {t.number}", [_Found(study, t, seed, _cost([t]))]) for t in chosen]


def _searches(studies: Studies) -> dict[str, dict[int, optuna.Study]]:
    """Studies by the name of their search and their seed.

    Raises:
        StudyError: If they are no studies, or two have one seed.
    """
    if isinstance(studies, optuna.Study):
        return {studies.study_name: {0: studies}}
    if isinstance(studies, Mapping):
        lists = {n: [s] if isinstance(s, optuna.Study) else [*s] for n, s in studies.items()}
        return {str(name): _by_seed(str(name), runs) for name, runs in lists.items()}
    found: dict[str, list[optuna.Study]] = {}
    for study in studies:
        found.setdefault(_named(study)[0], []).append(study)
    return {name: _by_seed(name, runs) for name, runs in found.items()}


def _named(study: optuna.Study) -> tuple[str, int | None]:
    """The name of the search, and the seed if the name of the study ends in one.

    Raises:
        StudyError: If it is no study.
    """
    if not isinstance(study, optuna.Study):
        raise StudyError(
            f"Expected studies, not {shown(study)}. Load one with optuna.load_study; trials of "
            "one are compared with mo.leaderboard(study, trials=[...])."
        )
    match = _SEED.fullmatch(study.study_name)
    return (match["name"], int(match["seed"])) if match else (study.study_name, None)


def _by_seed(name: str, studies: Sequence[optuna.Study]) -> dict[int, optuna.Study]:
    if not studies:
        raise StudyError(f"There is no study of {name!r}.")
    seeds = [_named(study)[1] for study in studies]
    if None in seeds:
        return dict(enumerate(studies))
    if len(set(seeds)) < len(seeds):
        raise StudyError(
            f"Two studies of {name!r} have one seed: {few([s.study_name for s in studies])}."
        )
    return {seed: s for seed, s in zip(seeds, studies, strict=True) if seed is not None}


def _alike(studies: Sequence[optuna.Study]) -> tuple[str, str]:
    """The metric and the direction that all of them have.

    Raises:
        StudyError: If they have not, or one has several.
    """
    if not studies:
        raise StudyError("There is nothing to compare: the list of studies is empty.")
    kinds: dict[tuple[str, ...], str] = {}
    for study in studies:
        names = metric_names(study) or ["value"] * len(study.directions)
        if len(names) > 1:
            raise StudyError(
                f"The study {study.study_name!r} has {len(names)} objectives; a leaderboard "
                "orders by one. Score trials of its front by a test evaluator with one."
            )
        kinds.setdefault((*names, study.direction.name.lower()), study.study_name)
    if len(kinds) != 1:
        there = ", ".join(f"{n!r} is to {d} {m}" for (m, d), n in kinds.items())
        raise StudyError(f"Only studies of one metric can be compared, but {there}.")
    ((metric, direction),) = kinds
    return metric, direction


# -- costs and scores ---------------------------------------------------------------------------


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in compat.all_trials(study) if trial.state in COUNTED]


def _cost(trials: Sequence[FrozenTrial]) -> Cost:
    return Cost(
        evaluations=len(trials),
        examples=_total(trials, EXAMPLES),
        seconds=_total(trials, SECONDS_MERGE, SECONDS_EVALUATE),
    )


def _total(trials: Sequence[FrozenTrial], *keys: str) -> float | None:
    """The sum of user attributes, which trials lack that failed early; None if all lack them."""
    known = [t.user_attrs[key] for t in trials for key in keys if key in t.user_attrs]
    return sum(known) if known else None


@dataclass(frozen=True)
class _Scorer:
    """Held-out examples and what loads models for them; equal recipes are scored once."""

    test: Evaluator
    engine: Engine
    sources: Mapping[str, Checkpoint | str | Path]
    known: dict[str, Array] = field(default_factory=dict)

    def check(self, direction: str) -> None:
        """Checks the evaluator.

        Raises:
            StudyError: If its direction is not that of the studies.
        """
        check_evaluator(self.test)
        if [*self.test.directions] != [direction]:
            raise StudyError(
                f"{name_of(self.test)} is to {' and '.join(self.test.directions)} "
                f"{', '.join(self.test.metric_names)}, but the studies {direction} theirs."
            )

    def value(self, scores: Array) -> float:
        value = value_over(self.test, scores)
        return value[0] if isinstance(value, tuple) else value

    def scores(self, found: _Found) -> Array:
        return self.of(recipe_of(found.study, found.trial, sources=self.sources))

    def of(self, recipe: Recipe | Checkpoint) -> Array:
        """Scores in the order of the examples, (n,) or (n, k)."""
        if recipe.digest not in self.known:
            model = self.engine.load(recipe, user=name_of(self.test))
            ids, scores = zip(*batches_of(self.test, model), strict=True)
            self.engine.look_again(recipe)
            self.known[recipe.digest] = np.concatenate(scores)[np.argsort(np.concatenate(ids))]
        return self.known[recipe.digest]


def _on_dev(rows: Sequence[_Row], metric: str, direction: str, draws: Draws) -> Leaderboard:
    """Of dev values; their examples are drawn where it is known that all rows had the same."""
    found = [one for row in rows for one in row.found]
    data = [one.study.user_attrs.get(DEV) for one in found]
    same = all(one == data[0] for one in data)
    entries = [row.entry(_dev_scores if same else lambda _: None) for row in rows]
    return Leaderboard.of(entries, metric=metric, direction=direction, on="dev", draws=draws)


def _dev_scores(found: _Found) -> Array | None:
    """The stored scores, if the value of the trial is their mean: others lack columns."""
    packed = found.trial.system_attrs.get(SCORES)
    if packed is None:
        return None
    scores = unpack(packed, f"trial {found.trial.number}").astype(np.float64)
    return scores if np.isclose(scores.mean(), found.trial.values[0], rtol=_CLOSE) else None
