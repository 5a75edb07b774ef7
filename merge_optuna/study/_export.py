"""From a study back to recipes and checkpoints."""

from __future__ import annotations

import operator
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import (
    breakdown_of,
    constrained_of,
    decoding,
    metric_names,
    values_of,
    violation_of,
)
from merge_optuna._schema import DEV, RECIPE
from merge_optuna.engine import write
from merge_optuna.errors import StudyError, shown
from merge_optuna.recipes import Recipe
from merge_optuna.study._baselines import Baseline, stored_baselines
from merge_optuna.study._constraints import infeasible, words_for
from merge_optuna.study._interrupt import interruptible
from merge_optuna.study._recorded import stored_space

if TYPE_CHECKING:
    import torch

    from merge_optuna.checkpoints import Checkpoint

_HEAD = "head_content"  # of the dev data of a task that brings a head


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The completed trials, each with one value per direction of the study.

    Raises:
        StudyError: If one has more or fewer.
    """
    trials = [t for t in compat.all_trials(study) if t.state == TrialState.COMPLETE]
    for trial in trials:
        values_of(trial, len(study.directions))
    return trials


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The completed trials, best first: feasible before infeasible, the earliest among equals.

    Raises:
        StudyError: If no trial is complete, or the study has several objectives.
    """
    if len(study.directions) > 1:
        raise StudyError(
            f"The study {study.study_name!r} has {len(study.directions)} objectives, and so no "
            "single best trial. Choose one of mo.pareto(study) (merge-optuna pareto), and pass "
            "trial= (--trial)."
        )
    complete = complete_trials(study)
    if not complete:
        raise StudyError(f"The study {study.study_name!r} has no completed trial yet.")
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1

    def key(trial: FrozenTrial) -> tuple[float, float, int]:
        return violation_of(trial), sign * trial.values[0], trial.number

    return sorted(complete, key=key)


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The first of :func:`ranked`.

    Raises:
        StudyError: If no trial is complete, or the study has several objectives.
    """
    return ranked(study)[0]


def recipe_of(
    study: optuna.Study,
    trial: FrozenTrial | SupportsIndex | None = None,
    *,
    baseline: str | None = None,
    sources: Mapping[str, Checkpoint | str | Path] | None = None,
) -> Recipe:
    """Rebuilds the recipe of a trial from the database alone.

    Args:
        study: A study that ran a :class:`mo.MergeObjective`.
        trial: A trial, its number or a point of a front; the best one when omitted.
        baseline: Name of a baseline, instead of a trial; see :func:`mo.baselines`.
        sources: Checkpoints by name, for those made by ``Checkpoint.from_module``; or the new
            places of those that were moved.

    Raises:
        StudyError: If the study holds no recipes, or there is no such trial or baseline.
        CheckpointError: If a source has changed.
    """
    if baseline is not None:
        _baseline(study, trial, baseline)  # refuses both
        recipe = _recipe_of_baseline(stored_baselines(study)[baseline])
        own = {leaf.name for leaf in recipe.leaves()}  # others of the study have no part in it
        return recipe.with_sources({n: s for n, s in (sources or {}).items() if n in own})
    frozen = frozen_trial(study, trial)
    written = frozen.system_attrs.get(RECIPE)
    if written is not None:
        with decoding(f"recipe of trial {frozen.number}"):
            recipe = Recipe.from_json(written)
        return recipe.with_sources(sources or {})
    stored = stored_space(study)
    if stored is None:
        raise StudyError(
            f"The study {study.study_name!r} holds no recipes: it did not run a mo.MergeObjective."
        )
    if isinstance(stored, Recipe):
        return stored.with_sources(sources or {}).bind(frozen.params)
    return stored.open(sources).rebuild(study, frozen)


def export(
    study: optuna.Study,
    folder: str | Path,
    *,
    trial: FrozenTrial | SupportsIndex | None = None,
    baseline: str | None = None,
    force: bool = False,
    sources: Mapping[str, Checkpoint | str | Path] | None = None,
    dtype: torch.dtype | str | None = None,
    tokenizer: str | None = None,
    trust_remote_code: bool = False,
    score: Mapping[str, Any] | None = None,
    heads: Mapping[str, Checkpoint | None] | None = None,
) -> Path:
    """Writes the merged checkpoint of a trial, with recipe and model card.

    With heads it is written under each of them, a checkpoint in a folder of its own.

    Args:
        study: A study that ran a :class:`mo.MergeObjective`.
        folder: Where to.
        trial: A trial, its number or a point of a front; the best one when omitted.
        baseline: Name of a baseline, instead of a trial; see :func:`mo.baselines`.
        force: Replace an earlier export. A folder that holds anything else is never replaced.
        sources: Checkpoints by name, for those made by ``Checkpoint.from_module``; or the new
            places of those that were moved.
        dtype: Data type of the weights; that of the base when omitted.
        tokenizer: Name of the source whose tokenizer files are copied; the base when omitted.
        trust_remote_code: Also copy the code that the configs name; see :func:`mo.write`.
        score: Further results for the model card, e.g. on test data.
        heads: Checkpoints with the heads by names of folders, e.g. ``{"mr": mr, "subj": subj}``:
            the ``heads`` of :class:`mo.evaluators.Tasks`, or of a :class:`mo.MergeStudy`. None for
            a model as it is merged. See :func:`mo.write`.

    Returns:
        The folder.

    Raises:
        ExportError: If the folder is not empty and ``force`` is not set, or holds anything but an
            earlier export; or if the disk is full. What was there is untouched.
        StudyError: If the study holds no recipes, or there is no such trial or baseline.
    """
    one = _trial(study, trial) if baseline is None else _baseline(study, trial, baseline)
    if heads is None:
        _say_missing_heads(study)
    names = metric_names(study) or ["value"] * len(study.directions)
    values = {**dict(zip(names, one.values, strict=False)), **one.breakdown}
    dev = {f"{name} (dev)": value for name, value in values.items()}
    kept = words_for(study, one.constrained, one.violations)
    about = {"study": study.study_name, one.kind: one.name, **kept, **_beside(study, names)}
    if trial is None and one.trial is not None and (said := infeasible(study, one.trial)):
        warnings.warn(said, stacklevel=2)  # of one that is asked for by number the card says it
    url = compat.url_of(study) or "STORAGE"
    place = ["--study", study.study_name, f"--{one.kind}", str(one.name)]
    for name, head in (heads or {}).items():
        place += ["--head", name if head is None else f"{name}={head.ref}"]
    command = shlex.join(["merge-optuna", "export", url, str(folder), *place])
    recipe = recipe_of(study, one.trial, baseline=baseline, sources=sources)
    with interruptible():
        return write(
            recipe,
            folder,
            force=force,
            dtype=dtype,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
            score={**dev, **(score or {}), **about},
            command=command,
            heads=heads,
        )


def _say_missing_heads(study: optuna.Study) -> None:
    """What is written would lack what its trials were scored under."""
    parts = [part.partition("/") for part in study.user_attrs.get(DEV) or {}]
    tasks = [task for task, _, part in parts if part == _HEAD]
    if tasks:
        warnings.warn(
            f"The trials of {study.study_name!r} were scored under heads for {', '.join(tasks)}, "
            "which are not written. For a model with each of them pass heads=evaluator.heads, or "
            f"--head {tasks[0]}=CHECKPOINT.",
            stacklevel=3,
        )


class _Exported(NamedTuple):
    """A trial or a baseline, as a model card tells it."""

    kind: str
    name: int | str
    values: Sequence[float]
    breakdown: Mapping[str, float]
    constrained: Mapping[str, float]
    violations: Mapping[str, float]
    trial: FrozenTrial | None = None


def _trial(study: optuna.Study, trial: FrozenTrial | SupportsIndex | None) -> _Exported:
    one = frozen_trial(study, trial)
    held = constrained_of(one), one.constraints
    return _Exported("trial", one.number, one.values or (), breakdown_of(one), *held, one)


def _baseline(
    study: optuna.Study, trial: FrozenTrial | SupportsIndex | None, name: str
) -> _Exported:
    if trial is not None:
        raise StudyError(f"Give trial= or baseline=, not both: {trial!r} and {name!r}.")
    row = stored_baselines(study)[name]
    held = row.constrained, row.violations
    return _Exported("baseline", row.name, row.values or (), row.breakdown, *held)


def _recipe_of_baseline(row: Baseline) -> Recipe:
    if row.recipe is not None:
        return row.recipe
    why = row.reason or "it is an average of predictions, for reference only"
    raise StudyError(f"The baseline {row.name!r} is no checkpoint: {why}")


def _beside(study: optuna.Study, metrics: Sequence[str]) -> dict[str, float]:
    """The scores of the baselines by what the model card calls them."""
    return {
        f"{metric} (dev{', tuned on it' if row.tuned else ''}) of the baseline {row.name}"
        f"{', infeasible' if row.violation else ''}": value
        for row in stored_baselines(study).headlines
        for metric, value in zip(metrics, row.values or (), strict=False)
    }


def frozen_trial(study: optuna.Study, trial: FrozenTrial | SupportsIndex | None) -> FrozenTrial:
    """A trial by itself or its number, or the best one.

    Raises:
        StudyError: If there is no such trial, or none is complete, or it is no trial at all.
    """
    if not isinstance(study, optuna.Study):
        raise StudyError(f"Expected a study, not {shown(study)}. Give the study, and trial=.")
    if trial is None:
        return best_trial(study)
    if isinstance(trial, FrozenTrial):
        return trial
    try:
        trials, number = compat.all_trials(study), operator.index(trial)
    except TypeError as error:
        raise StudyError(
            f"trial= is a trial, its number, or a point of mo.pareto(study), not {shown(trial)}."
        ) from error
    if (found := compat.numbered(trials, number)) is None:
        raise StudyError(
            f"The study {study.study_name!r} has no trial {number}; it has {len(trials)} trials."
        )
    return found
