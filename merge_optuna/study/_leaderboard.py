"""Studies and trials side by side, with their baselines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna._records import metric_names
from merge_optuna.engine import AnyEngine, Engine
from merge_optuna.errors import StudyError, few, shown
from merge_optuna.evaluators import Evaluator, as_evaluator
from merge_optuna.study._board import SEARCH, TUNED, Leaderboard
from merge_optuna.study._bootstrap import Draws
from merge_optuna.study._contenders import (
    Contender,
    Scorer,
    Searches,
    Sources,
    baselines_of,
    of_search,
    of_trial,
)
from merge_optuna.study._export import frozen_trial
from merge_optuna.study._recorded import was_scored_on

Studies: TypeAlias = (
    optuna.Study | Sequence[optuna.Study] | Mapping[str, optuna.Study | Sequence[optuna.Study]]
)
_SEED = re.compile(r"(?P<name>.+?)[\s,_-]+seed[\s=_-]*(?P<seed>\d+)", re.IGNORECASE)


def leaderboard(
    studies: Studies,
    *,
    trials: Sequence[FrozenTrial | int] | None = None,
    test: Evaluator | None = None,
    engine: AnyEngine | None = None,
    sources: Sources | None = None,
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
        test: Scores models on examples that no search has seen, by the metric of the searches or
            another, e.g. right answers where these have minimised a loss. Without it dev values
            are compared, by which searches have chosen.
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
            completed trial, or ``test`` has several objectives.
        EvaluationError: If ``test`` cannot score the models.
    """
    searches = _searches(studies)
    metric, direction = _alike([study for runs in searches.values() for study in runs.values()])
    if trials is not None:
        contenders = _of_trials(searches, trials)
    else:
        contenders = _of_searches(searches, baselines)
    contenders += baselines_of(searches)
    if test is None:
        return _on_dev(contenders, metric, direction, Draws(seed=seed))
    scorer = Scorer(as_evaluator(test), engine or Engine(), sources or {})
    scorer.check()
    board = Leaderboard.of(
        [one.entry(scorer.scores) for one in contenders],
        value=scorer.value,
        metric=scorer.test.metric_names[0],
        direction=scorer.test.directions[0],
        dev_metric=metric,
        draws=Draws(seed=seed),
    )
    return replace(board, notes=(*board.notes, *_seen(contenders, scorer.test)))


def _seen(contenders: Sequence[Contender], test: Evaluator) -> list[str]:
    """What is to be said where the held-out examples are none."""
    found = [one for contender in contenders for one in contender.found]
    if not any(was_scored_on(one.study, test) for one in found):
        return []
    return [
        "The test data are the dev data: these are the examples that the searches have seen, so "
        "that the values are too good. Give others as test=."
    ]


def _of_searches(searches: Searches, baselines: Sequence[str]) -> list[Contender]:
    """All searches.

    Raises:
        StudyError: If a baseline is none of them.
    """
    unknown = [name for name in baselines if name not in searches]
    if unknown:
        raise StudyError(
            f"baselines= names {few(unknown)}, but the searches are {few([*searches])}."
        )
    return [
        of_search(name, runs, TUNED if name in baselines else SEARCH)
        for name, runs in searches.items()
    ]


def _of_trials(searches: Searches, trials: Sequence[FrozenTrial | int]) -> list[Contender]:
    """Trials of the one study.

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
    return [Contender(f"trial {t.number}", [of_trial(study, t, seed)]) for t in chosen]


def _on_dev(
    contenders: Sequence[Contender], metric: str, direction: str, draws: Draws
) -> Leaderboard:
    """Of dev values; their examples are drawn where it is known that all rows had the same."""
    data = [one.data for contender in contenders for one in contender.found]
    same = all(one == data[0] for one in data)
    entries = [one.entry(lambda f: f.addable_scores if same else None) for one in contenders]
    return Leaderboard.of(entries, metric=metric, direction=direction, on="dev", draws=draws)


# -- which studies are one search ---------------------------------------------------------------


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
    alike = [name for name, runs in found.items() if len(runs) > 1 and None in _seeds(runs)]
    if alike:
        raise StudyError(
            f"Several studies are called {few(alike)}. If they are one search with several seeds, "
            f"say so: mo.leaderboard({{{alike[0]!r}: [...]}}); otherwise give each a name there."
        )
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


def _seeds(studies: Sequence[optuna.Study]) -> list[int | None]:
    return [_named(study)[1] for study in studies]


def _by_seed(name: str, studies: Sequence[optuna.Study]) -> dict[int, optuna.Study]:
    if not studies:
        raise StudyError(f"There is no study of {name!r}.")
    seeds = _seeds(studies)
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
                "orders by one. mo.pareto(study) shows its front beside the baselines; what a "
                "point of it scores on test is told by "
                "objective.score(mo.recipe_of(study, trial=...), test)."
            )
        kinds.setdefault((*names, study.direction.name.lower()), study.study_name)
    if len(kinds) != 1:
        there = ", ".join(f"{n!r} is to {d} {m}" for (m, d), n in kinds.items())
        raise StudyError(
            f"Only studies of one metric can be compared, but {there}. Choose those of one: "
            "mo.leaderboard([study, ...]), on the command line with --study, once for each."
        )
    ((metric, direction),) = kinds
    return metric, direction
