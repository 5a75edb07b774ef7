"""From a study to a checkpoint on disk, with recipe and model card."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import optuna
from optuna.trial import FrozenTrial

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import DEV
from merge_optuna.engine import write
from merge_optuna.errors import MergeOptunaError
from merge_optuna.recipes import Panel, Recipe, panels_of
from merge_optuna.study._constraints import infeasible
from merge_optuna.study._export import recipe_of
from merge_optuna.study._interrupt import interruptible
from merge_optuna.study._model_card import Exported, comparison_of, scores_of
from merge_optuna.study._shares import layer_shares

if TYPE_CHECKING:
    import torch

    from merge_optuna.checkpoints import Checkpoint

_HEAD = "head_content"  # of the dev data of a task that brings a head


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
    one = Exported.of(study, trial, baseline)
    if heads is None:
        _say_missing_heads(study)
    if trial is None and one.trial is not None and (said := infeasible(study, one.trial)):
        warnings.warn(said, stacklevel=2)  # of one that is asked for by number the card says it
    recipe = recipe_of(study, one.trial, baseline=baseline, sources=sources)
    with interruptible():
        return write(
            recipe,
            folder,
            force=force,
            dtype=dtype,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
            score=scores_of(study, one, score or {}),
            command=_command(study, folder, one, heads or {}),
            heads=heads,
            comparison=comparison_of(study, one),
            panels=_shares(study, one, recipe, sources),
        )


def _command(
    study: optuna.Study,
    folder: str | Path,
    one: Exported,
    heads: Mapping[str, Checkpoint | None],
) -> str:
    """What makes the same checkpoint again."""
    url = compat.url_of(study) or "STORAGE"
    place = ["--study", study.study_name, f"--{one.kind}", str(one.name)]
    for name, head in heads.items():
        place += ["--head", name if head is None else f"{name}={head.ref}"]
    return shlex.join(["merge-optuna", "export", url, str(folder), *place])


def _shares(
    study: optuna.Study,
    one: Exported,
    recipe: Recipe,
    sources: Mapping[str, Checkpoint | str | Path] | None,
) -> tuple[Panel, ...]:
    """What there is to see of weights whose recipe shows nothing: where they come from."""
    if one.trial is None or recipe.path is not None or panels_of(recipe):
        return ()
    try:
        return layer_shares(study, one.trial, sources=sources)
    except MergeOptunaError:  # nobody descends from anybody
        return ()


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
