"""What a study records of its space, metrics and dev data, and whether they are still the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import optuna

from merge_optuna._records import decoding, metric_names
from merge_optuna._schema import DEV, EXAMPLES, SPACE
from merge_optuna.errors import StudyError
from merge_optuna.evaluators import ADDED_PARTS, BATCH_SIZE, Evaluator, part_name
from merge_optuna.recipes import Recipe
from merge_optuna.spaces import Declaration, Space, read
from merge_optuna.study._parts import record_parts

SearchSpace: TypeAlias = Recipe | Space | Callable[[optuna.Trial], Recipe]
DECLARED = Recipe, Space
"""Spaces that are data; others are functions."""


def stored_space(study: optuna.Study) -> Recipe | Declaration | None:
    """What a study was made with, if its database says it.

    Raises:
        StudyError: If what it says is neither a recipe nor a space.
    """
    stored = study.user_attrs.get(SPACE)
    with decoding(f"space of the study {study.study_name!r}"):
        return None if stored is None else read(stored)


def record(study: optuna.Study, space: SearchSpace, evaluator: Evaluator) -> None:
    """Stores the space, the names of the metrics and digests of the data, once."""
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(evaluator.metric_names))
    if isinstance(space, DECLARED) and SPACE not in study.user_attrs:
        study.set_user_attr(SPACE, space.to_yaml())
    if (data := data_of(evaluator)) is not None and DEV not in study.user_attrs:
        study.set_user_attr(DEV, data)
    record_parts(study, evaluator)


def check_metrics(study: optuna.Study, evaluator: Evaluator) -> None:
    """Checks that the objectives of a study are an evaluator's.

    Raises:
        StudyError: If they have other directions or names.
    """
    directions = [direction.name.lower() for direction in study.directions]
    wanted, name = [*evaluator.directions], study.study_name
    if directions != wanted:
        raise StudyError(
            f"The study {name!r} is to {' and '.join(directions)}, but "
            f"{', '.join(evaluator.metric_names)} is to {' and '.join(wanted)}. Create "
            "it with directions=objective.directions, or use another study_name."
        )
    names = metric_names(study)
    if names is not None and names != [*evaluator.metric_names]:
        raise StudyError(
            f"The trials of the study {name!r} were scored by {', '.join(names)}, not by "
            f"{', '.join(evaluator.metric_names)}. Use another study_name."
        )


def check_data(study: optuna.Study, evaluator: Evaluator) -> None:
    """Checks that the trials of a study were scored on an evaluator's data.

    Raises:
        StudyError: If they were scored on others, by another function, or in other batches where
            the pruner compares these.
    """
    before, now, name = study.user_attrs.get(DEV), data_of(evaluator), study.study_name
    if before is None or now is None:
        return
    with decoding(f"description of the dev data of the study {name!r}"):
        differ, parts = differing(before, now)
        examples = before[EXAMPLES]
    if "function" in parts:
        raise StudyError(
            f"The trials of the study {name!r} were scored by another function "
            "than the evaluator is now. Go on with the old one, or use another study_name. "
            "Edits that change no score: mo.evaluators.Function(f, digest='...') from the "
            "start of a study says when it is another."
        )
    if parts:
        raise StudyError(
            f"The trials of the study {name!r} were scored on other dev data: "
            f"{', '.join(parts)} differ ({examples} examples, now "
            f"{now[EXAMPLES]}). Go on with the old data, or use another study_name."
        )
    if differ and reads_batches(study):
        was, now_is = (", ".join(f"{p}={d.get(p)}" for p in differ) for d in (before, now))
        raise StudyError(
            f"The trials of the study {name!r} were scored with {was}, now it is {now_is}. Its "
            "WilcoxonPruner compares trials batch by batch, and other batches hold other "
            f"examples. Go on with {was}, or use another study_name."
        )


def stream_of(study: optuna.Study) -> Literal["batches", "running"] | None:
    """What its pruner reads of a trial that runs; None if it reads nothing."""
    if len(study.directions) > 1 or isinstance(study.pruner, optuna.pruners.NopPruner):
        return None
    return "batches" if reads_batches(study) else "running"


def reads_batches(study: optuna.Study) -> bool:
    """Whether its pruner reads the mean scores of single batches, not the running value."""
    return isinstance(study.pruner, optuna.pruners.WilcoxonPruner)


def was_scored_on(study: optuna.Study, evaluator: Evaluator) -> bool:
    """Whether an evaluator's data are the dev data of a study, as far as both say it."""
    before, now = study.user_attrs.get(DEV), data_of(evaluator)
    if before is None or now is None:
        return False
    with decoding(f"description of the dev data of the study {study.study_name!r}"):
        return not differing(before, now)[1]


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The parts in which descriptions of data differ, and those of them that change scores."""
    compared = before.keys() | {part for part in now if part_name(part) not in ADDED_PARTS}
    differ = sorted(part for part in compared if before.get(part) != now.get(part))
    return differ, [part for part in differ if part_name(part) != BATCH_SIZE]


def data_of(evaluator: Evaluator) -> dict[str, Any] | None:
    """What the dev data are, if the evaluator says it."""
    digest = getattr(evaluator, "digest", None)
    return None if digest is None else {EXAMPLES: len(evaluator), **digest}


def without_batches(data: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the data are, or a digest, however the examples are batched, which is no part of it."""
    return {part: value for part, value in (data or {}).items() if part_name(part) != BATCH_SIZE}


def check_space(study: optuna.Study, space: SearchSpace) -> None:
    """Checks that a study was made with this space, as far as it says it.

    Raises:
        StudyError: If it was made with another.
    """
    stored = stored_space(study)
    if stored is None or not isinstance(space, DECLARED):
        return
    before, now = _declaration(stored), _declaration(space)
    now = now.recorded_like(before)  # an earlier version has digested sources in another way
    if before.digest != now.digest:
        raise StudyError(
            f"The study {study.study_name!r} was made with another space: "
            f"{_difference(before, now)}. Use another study_name for this one."
        )


def _declaration(space: Recipe | Space | Declaration) -> Declaration:
    """A space as it is compared: a recipe with free numbers is one as well."""
    if isinstance(space, Recipe):
        return Declaration("a recipe", {"recipe": space}, {})
    return space.declaration() if isinstance(space, Space) else space


def _difference(before: Declaration, now: Declaration) -> str:
    """What differs between two spaces, in words."""
    if before.kind != now.kind:
        return f"{before.kind}, now {now.kind}"
    for name, value in before.options.items():
        if now.options[name] != value:
            return f"{name}={value!r}, now {now.options[name]!r}"
    for name in {**before.recipes, **now.recipes}:
        old, new = before.recipes.get(name), now.recipes.get(name)
        if old is None or new is None:
            with_it, without = ("with", "without") if old else ("without", "with")
            return f"{with_it} a {name}, now {without} one"
        if old.digest != new.digest:
            return _difference_of_recipes(old, new)
    return "other options"


def _difference_of_recipes(before: Recipe, now: Recipe) -> str:
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
