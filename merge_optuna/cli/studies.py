"""What a STORAGE holds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import breakdown_of, constrained_of, metric_names
from merge_optuna._schema import PATH, REASON, SPACE, SUMMARY
from merge_optuna.errors import MergeOptunaError, StudyError, few
from merge_optuna.recipes import Panel, panels_of, summary_of
from merge_optuna.search import MergeStudy
from merge_optuna.study import (
    Baselines,
    Front,
    baselines,
    best_trial,
    counts,
    failure,
    front_of,
    in_words,
    infeasible,
    layer_shares,
    ranked,
    recipe_of,
    stored_baselines,
    why_empty,
)
from merge_optuna.study import storage as open_storage
from merge_optuna.study.plumbing import held_out

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

_LONGEST = 2000  # of what is said of the best recipe; a path may have a thousand layers


def opened(url: str, name: str | None) -> optuna.Study:
    """The named study, or the only one, of a storage that is there."""
    return named(open_storage(url, create=False), url, name)


def named(storage: optuna.storages.BaseStorage, url: str, name: str | None) -> optuna.Study:
    """The named study, or the only one in a storage."""
    names = optuna.get_all_study_names(storage)
    url = compat.without_password(url)
    if not names:
        raise StudyError(f"There is no study in {url}.")
    if name is None and len(names) > 1:
        raise StudyError(
            f"There are {len(names)} studies in {url}: {', '.join(names)}. Choose "
            "one with --study."
        )
    if name is not None and name not in names:
        raise StudyError(f"There is no study {name!r} in {url}, only {', '.join(names)}.")
    return optuna.load_study(study_name=name or names[0], storage=storage)


def those(urls: Sequence[str], names: Sequence[str] | None) -> list[optuna.Study]:
    """The named studies, or all of them, in storages that are there.

    Raises:
        StudyError: If one is in none of them, or there are none at all.
    """
    found: list[optuna.Study] = []
    for url in urls:
        storage = open_storage(url, create=False)
        there = optuna.get_all_study_names(storage)
        wanted = there if names is None else [name for name in names if name in there]
        found += [optuna.load_study(study_name=name, storage=storage) for name in wanted]
    missing = sorted({*(names or ())} - {study.study_name for study in found})
    places = ", ".join(map(compat.without_password, urls))
    if missing:
        raise StudyError(f"There is no study {few(missing)} in {places}.")
    if not found:
        raise StudyError(f"There is no study in {places}.")
    return found


def result(study: optuna.Study, *, best: int) -> dict[str, Any]:
    """What a study has come to: counts, and the best trials or the Pareto front."""
    trials, front = counts(study), front_of(study) if len(study.directions) > 1 else None
    if front is not None:
        top = [point.trial for point in front]
    else:
        top = ranked(study)[:best] if trials["complete"] else []
    return {
        "study": study.study_name,
        "directions": [direction.name.lower() for direction in study.directions],
        "metrics": metric_names(study) or ["value"] * len(study.directions),
        "trials": trials,
        "best": [
            {"trial": t.number, "values": t.values, "params": t.params}
            | {key: t.user_attrs[key] for key in (SUMMARY, PATH) if key in t.user_attrs}
            | ({"breakdown": parts} if (parts := breakdown_of(t)) else {})
            | _constrained(study, t)
            for t in top
        ],
        **beside(baselines(study)),
        **({} if front is None else _about(front, study)),
    }


def winner(
    study: optuna.Study, sources: Mapping[str, Checkpoint | str | Path]
) -> dict[str, dict[str, Any]]:
    """The recipe of the best trial as people look at it; why there is none, if it merges.

    Where trials descend from each other it is not rebuilt, for which weights may have to be read.
    """
    if len(study.directions) > 1 or not counts(study)["complete"]:
        return {}
    best = best_trial(study)
    about = {"trial": best.number, "summary": best.user_attrs.get(SUMMARY)}
    panels = _shares(study, best, sources)
    try:
        if not panels:
            recipe = recipe_of(study, best, sources=sources)
            panels, about["summary"] = panels_of(recipe), summary_of(recipe, most=_LONGEST)
    except MergeOptunaError as error:
        is_merge = SUMMARY in best.user_attrs or SPACE in study.user_attrs
        return {"winner": {**about, "missing": str(error)}} if is_merge else {}
    return {"winner": {**about, "panels": [_panel(panel) for panel in panels]}}


def tested(study: optuna.Study) -> dict[str, Any]:
    """What the winner and baselines score on held-out data, as far as somebody has kept it."""
    rows = [
        {
            "name": who,
            "examples": one.examples,
            "values": dict(zip(one.metrics, one.values, strict=True)),
        }
        for who, one in held_out(study).items()
    ]
    return {"held_out": rows} if rows else {}


def _shares(
    study: optuna.Study, trial: FrozenTrial, sources: Mapping[str, Checkpoint | str | Path]
) -> tuple[Panel, ...]:
    """Of each source in each layer, where trials descend from each other."""
    try:
        return layer_shares(study, trial, sources=sources)
    except MergeOptunaError:
        return ()


def _panel(panel: Panel) -> dict[str, Any]:
    """As JSON can hold it."""
    numbers = [[None if math.isnan(x) else x for x in row] for row in panel.values.tolist()]
    return {**panel._asdict(), "values": numbers}


def add_test(result: dict[str, Any], declared: MergeStudy, study: optuna.Study) -> None:
    """Scores the best trial, or each point of the front, on the test data.

    And the best baseline beside the best trial: a number alone says nothing.
    """
    for best in result["best"]:
        recipe = recipe_of(study, best["trial"], sources=declared.sources)
        value = declared.test_value(study, recipe)
        if "front" not in result:
            result["test"] = value
            _add_baseline(result, declared, study)
        else:
            names = declared.test.metric_names if declared.test is not None else ()
            numbers = value if isinstance(value, tuple) else (value,)
            best["test"] = dict(zip(names, numbers, strict=True))


def _add_baseline(result: dict[str, Any], declared: MergeStudy, study: optuna.Study) -> None:
    best = stored_baselines(study).best
    if best is not None and best.recipe is not None:
        recipe = recipe_of(study, baseline=best.name, sources=best.own(declared.sources))
        value = declared.test_value(study, recipe)
        result["test_baseline"] = {"name": best.name, "value": value}


def _about(front: Front, study: optuna.Study) -> dict[str, Any]:
    """How good a front is; why there is none, where trials are complete."""
    about = front.to_data() if front else {"hypervolume": 0.0, "reference": None, "dominated": []}
    kept = {name: about[name] for name in ("hypervolume", "reference", "dominated")}
    complete = counts(study)["complete"]
    notes = front.notes if front else [why_empty(study)] if complete else []
    return {"front": {**kept, "notes": notes}}


def _constrained(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    """Whether a trial is feasible, and how it keeps its constraints, if there are any."""
    if not (words := in_words(study, trial)):
        return {}
    values = constrained_of(trial)
    constraints = {
        name: {
            "value": values.get(name),
            "violation": trial.constraints[name],
            "note": words[name],
        }
        for name in words
    }
    return {"constraints": constraints, "infeasible": infeasible(study, trial)}


def beside(found: Baselines) -> dict[str, Any]:
    """Baselines as plain data, if there are any."""
    shown = found.headlines
    rows = [
        {
            "name": row.name,
            "kind": row.kind,
            "values": None if row.values is None else list(row.values),
            "tuned": row.tuned,
            "reason": row.reason,
            "note": row.note,
            "examples": row.examples,
            "seconds": row.seconds,
            "headline": row in shown,
        }
        | ({"breakdown": dict(row.breakdown)} if row.breakdown else {})
        for row in found
    ]
    return {"baselines": rows} if rows else {}


def reasons(study: optuna.Study) -> dict[str, dict[str, int]]:
    """Why trials were pruned and have failed, and how often; numbers in the reasons left out."""
    trials = study.get_trials(deepcopy=False)
    pruned = [str(t.user_attrs.get(REASON, "")) for t in trials if t.state == TrialState.PRUNED]
    failed = [str(failure(t) or "") for t in trials if t.state == TrialState.FAIL]
    return {
        "pruned": Counter(re.sub(r"\b\d[\d.e+-]*\b", "#", r) or "no reason kept" for r in pruned),
        "failed": Counter((r.strip().splitlines() or ["stopped or killed"])[-1] for r in failed),
    }
