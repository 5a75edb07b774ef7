"""Constraints of a search: what they refer to, how trials keep them, and what is recorded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import constrained_of, decoding, violation_of
from merge_optuna._schema import CONSTRAINT, CONSTRAINTS, DEV, REFERENCE
from merge_optuna.engine import AnyEngine
from merge_optuna.errors import EvaluationError, InfeasibleRecipe, StudyError, few, shown
from merge_optuna.evaluators import BASE, NoWorse, is_deterministic
from merge_optuna.recipes import Recipe
from merge_optuna.study._baseline_recipes import Candidate, Family, unmerged
from merge_optuna.study._loading import measured
from merge_optuna.study._recorded import data_of, differing

# -- before a search ----------------------------------------------------------------------------


def as_constraints(given: Sequence[NoWorse]) -> tuple[NoWorse, ...]:
    """Constraints as an objective has them.

    Raises:
        StudyError: If it is no list of them, or two have the same name.
    """
    if isinstance(given, NoWorse) or not isinstance(given, Sequence):
        raise StudyError(f"constraints= is a list of mo.evaluators.NoWorse, not {shown(given)}.")
    for one in given:
        if not isinstance(one, NoWorse):
            raise StudyError(
                f"A constraint is an mo.evaluators.NoWorse(evaluator, than='base'), not "
                f"{shown(one)}."
            )
    names = [one.name for one in given]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StudyError(
            f"Two constraints are called {few([*map(repr, twice)])}. Tell them apart: "
            "mo.evaluators.NoWorse(..., name='accuracy on mr')."
        )
    return tuple(given)


def check_sources(constraints: Sequence[NoWorse], family: Family) -> None:
    """Checks that there is what constraints refer to.

    Raises:
        StudyError: If one refers to the base and the recipe has none.
    """
    for one in constraints:
        if one.than == BASE and family.base is None:
            names = few([model.name for model in family.experts])
            raise StudyError(
                f"The constraint {one.name!r} refers to the base, but the {family.recipe.method} "
                f"of {names} has none. Use than='best source', the best of these, or a number."
            )


def are_deterministic(constraints: Sequence[NoWorse]) -> bool:
    """Whether the same model always keeps the same constraints."""
    return all(is_deterministic(one.other) for one in constraints)


def record_constraints(study: optuna.Study, constraints: Sequence[NoWorse]) -> None:
    """Stores what they are, once."""
    if constraints and CONSTRAINTS not in study.user_attrs:
        study.set_user_attr(CONSTRAINTS, {one.name: declaration_of(one) for one in constraints})


def check_constraints(study: optuna.Study, constraints: Sequence[NoWorse]) -> None:
    """Checks that the trials of a study were held to these constraints.

    Raises:
        StudyError: If they were held to others, to none, or on other data.
    """
    name, before = study.study_name, stored_constraints(study)
    if not before and not any(t.state == TrialState.COMPLETE for t in compat.all_trials(study)):
        return
    remedy = "Go on as before, or use another study_name."
    now = {one.name: declaration_of(one) for one in constraints}
    if before.keys() != now.keys():
        raise StudyError(
            f"The trials of the study {name!r} were held to {_listed(before)}, now to "
            f"{_listed(now)}. {remedy}"
        )
    for key, old in before.items():
        with decoding(f"constraint {key!r} of the study {name!r}"):
            differ = [
                part for part in ("than", "slack", "direction") if old[part] != now[key][part]
            ]
            was, now_is = (", ".join(f"{p}={d[p]!r}" for p in differ) for d in (old, now[key]))
            data = old[DEV] and now[key][DEV] and differing(old[DEV], now[key][DEV])[1]
        if differ:
            raise StudyError(
                f"The constraint {key!r} of the study {name!r} had {was}, now {now_is}. {remedy}"
            )
        if data:
            raise StudyError(
                f"The constraint {key!r} of the study {name!r} was scored on other data, or by "
                f"another function: {', '.join(data)} differ. {remedy}"
            )


def stored_constraints(study: optuna.Study) -> Mapping[str, Any]:
    """What a study says of its constraints, by name.

    Raises:
        StudyError: If it is damaged.
    """
    with decoding(f"constraints of the study {study.study_name!r}"):
        return dict(study.user_attrs.get(CONSTRAINTS) or {})


def declaration_of(one: NoWorse) -> dict[str, Any]:
    """What a constraint is, and on which data."""
    return {**one.declaration, DEV: data_of(one.other)}


def _listed(names: Mapping[str, Any]) -> str:
    return few([*map(repr, names)]) if names else "no constraints"


# -- references ---------------------------------------------------------------------------------


def settled(
    study: optuna.Study, constraints: Sequence[NoWorse], family: Family | None, engine: AnyEngine
) -> dict[str, float]:
    """What each constraint refers to: kept in the study, or scored now and kept there.

    Processes that begin at once each score it; all go on with what was kept first.

    Raises:
        StudyError: If a source has no score.
        SourceChanged: If the files of a checkpoint are not what they were.
    """
    for one in constraints:
        if isinstance(one.than, str) and one.name not in stored_references(study):
            found = _scored(one, family, engine)
            if one.name not in stored_references(study):
                kept = {"value": one.best(found.values()), "of": found}
                compat.set_study_system_attr(study, REFERENCE + one.name, kept)
    known = stored_references(study)
    return {
        one.name: known[one.name] if isinstance(one.than, str) else one.than for one in constraints
    }


def stored_references(study: optuna.Study) -> dict[str, float]:
    """What is kept of what constraints refer to, by their names.

    Raises:
        StudyError: If it is damaged.
    """
    with _decoding(study):
        return {name: float(kept["value"]) for name, kept in _kept(study)}


def stored_scores(study: optuna.Study, model: str) -> dict[str, float]:
    """What a model scores in constraints that refer to it, as it is kept, by their names.

    Raises:
        StudyError: If it is damaged.
    """
    with _decoding(study):
        return {name: float(k["of"][model]) for name, k in _kept(study) if model in k["of"]}


def _kept(study: optuna.Study) -> list[tuple[str, Any]]:
    attrs = compat.study_system_attrs(study).items()
    return [(key.removeprefix(REFERENCE), k) for key, k in attrs if key.startswith(REFERENCE)]


def _decoding(study: optuna.Study) -> contextlib.AbstractContextManager[None]:
    return decoding(f"references of the constraints of the study {study.study_name!r}")


def _scored(one: NoWorse, family: Family | None, engine: AnyEngine) -> dict[str, float]:
    """The values of the models that a constraint refers to, by their names."""
    if family is None:
        raise StudyError(
            f"The constraint {one.name!r} refers to the models of the space, a function that "
            "has given no recipe that can be merged. Use than=... with a number."
        )
    check_sources([one], family)
    models = [c for c in unmerged(family) if one.than != BASE or c.kind == BASE]
    return {model.name: _value(one, model, family, engine) for model in models}


def _value(one: NoWorse, model: Candidate, family: Family, engine: AnyEngine) -> float:
    try:
        value = as_one(measured(one.other, engine, model.make(), own=family.is_alike))
        if math.isfinite(value):
            return value
        why = f"its score is {value}."
    except (EvaluationError, InfeasibleRecipe) as error:
        why = str(error)
    raise StudyError(
        f"The constraint {one.name!r} refers to the {model.name}, which has no score: {why} Use "
        "than=... with a number."
    )


def as_one(value: float | tuple[float, ...]) -> float:
    """The value of an evaluator with one objective, which may be a tuple of one."""
    return value[0] if isinstance(value, tuple) else value


# -- trials -------------------------------------------------------------------------------------


@dataclass
class Judged:
    """What is known of how a trial keeps its constraints, as far as they were asked.

    Attributes:
        values: What it scores in each, by name.
        violations: How far that is beyond the bound; 0 or less if it is feasible.
        examples: How many were scored for it.
    """

    values: dict[str, float] = field(default_factory=dict)
    violations: dict[str, float] = field(default_factory=dict)
    examples: int = 0

    @property
    def user_attrs(self) -> dict[str, float]:
        """What is kept for people."""
        return {CONSTRAINT + name: value for name, value in self.values.items()}

    @property
    def system_attrs(self) -> dict[str, float]:
        """What is kept for samplers, as Optuna does."""
        return compat.constraint_attrs(self.violations)

    def ask(
        self,
        recipe: Recipe,
        constraints: Sequence[NoWorse],
        references: Mapping[str, float],
        engine: AnyEngine,
        *,
        own: bool = True,
        known: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Scores a model in its constraints.

        The live model is filled again for each: whoever has had it may have changed it.

        Args:
            recipe: What to score.
            constraints: In what.
            references: What they refer to, by their names.
            engine: That of the search.
            own: Whether the recipe has the shape of the merges of the search.
            known: Scores that are known, by the names of constraints.

        Raises:
            InfeasibleRecipe: If a score is not finite.
        """
        for one in constraints:
            if (value := known.get(one.name)) is None:
                value = as_one(measured(one.other, engine, recipe, own=own))
                self.examples += len(one.other)
            if not math.isfinite(value):
                raise InfeasibleRecipe(f"The score of the constraint {one.name!r} is {value}.")
            self.values[one.name] = value
            self.violations[one.name] = one.violation(value, references[one.name])


# -- for readers --------------------------------------------------------------------------------


def in_words(study: optuna.Study, trial: FrozenTrial) -> dict[str, str]:
    """How a trial keeps its constraints, by their names; empty if it has none.

    E.g. ``{"accuracy no worse than base": "0.81, must be at least 0.8: kept"}``.
    """
    return words_for(study, constrained_of(trial), trial.constraints)


def words_for(
    study: optuna.Study, values: Mapping[str, float], violations: Mapping[str, float]
) -> dict[str, str]:
    """As :func:`in_words`, of whatever has these values and violations."""
    bounds = _bounds(study)
    with decoding(f"constraints of a trial of the study {study.study_name!r}"):
        return {
            name: " ".join(
                [
                    *([f"{values[name]:.4g},"] if name in values else []),
                    *([f"must be {bounds[name]}:"] if name in bounds else []),
                    "kept" if violation <= 0 else f"violated by {violation:.2g}",
                ]
            )
            for name, violation in violations.items()
        }


def infeasible(study: optuna.Study, trial: FrozenTrial) -> str | None:
    """What is said of a trial that violates constraints; None if it is feasible.

    If it is the best one of its study, no trial keeps them all.
    """
    if not violation_of(trial):
        return None
    words = in_words(study, trial)
    broken = [f"{name} ({words[name]})" for name, c in trial.constraints.items() if c > 0]
    complete = [t for t in compat.all_trials(study) if t.state == TrialState.COMPLETE]
    alone = (
        ""
        if any(not violation_of(t) for t in complete)
        else (
            f"None of the {len(complete)} completed trials of {study.study_name!r} keeps all "
            "constraints. Loosen them with slack=, or search on. "
        )
    )
    return f"{alone}Trial {trial.number} is infeasible: {few(broken)}."


def _bounds(study: optuna.Study) -> dict[str, str]:
    """What each constraint allows, as far as the study says it."""
    known, found = stored_references(study), {}
    for name, one in stored_constraints(study).items():
        with decoding(f"constraint {name!r} of the study {study.study_name!r}"):
            than, slack, direction = one["than"], float(one["slack"]), one["direction"]
            reference = known.get(name) if isinstance(than, str) else float(than)
        if reference is not None:
            sign, word = (-1, "at least") if direction == "maximize" else (1, "at most")
            found[name] = f"{word} {reference + sign * slack:.4g}"
    return found
