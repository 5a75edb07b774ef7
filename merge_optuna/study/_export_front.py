"""The points of a front as checkpoints on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from merge_optuna.errors import ExportError
from merge_optuna.study._checkpoint import export
from merge_optuna.study._front import pareto
from merge_optuna.study._trial_folders import TrialFolders

if TYPE_CHECKING:
    import torch

    from merge_optuna.checkpoints import Checkpoint


def export_front(
    study: optuna.Study,
    folder: str | Path,
    *,
    most: int | None = None,
    force: bool = False,
    sources: Mapping[str, Checkpoint | str | Path] | None = None,
    dtype: torch.dtype | str | None = None,
    tokenizer: str | None = None,
    trust_remote_code: bool = False,
    heads: Mapping[str, Checkpoint | None] | None = None,
) -> list[Path]:
    """Writes each point of a front as :func:`mo.export` writes it, to ``folder/trial-00017``.

    The folder of a trial appears only when it is complete. One that is there already stays as it
    is, so that what was interrupted goes on when it is started again, and after further trials
    only what is new on the front is written. Trials that have left the front are not removed.

    Args:
        study: A study that ran a :class:`mo.MergeObjective`.
        folder: Where to. What is called ``trial-...`` in it must be of this study.
        most: Only so many points, those that spread best, see :meth:`Front.spread`.
        force: Also write anew what is there already, e.g. in another data type: an earlier export
            is replaced, never anything else.
        sources: As for :func:`mo.export`.
        dtype: As for :func:`mo.export`.
        tokenizer: As for :func:`mo.export`.
        trust_remote_code: As for :func:`mo.export`.
        heads: As for :func:`mo.export`.

    Returns:
        The folders, in the order of the front.

    Raises:
        StudyError: If the study has no front, see :func:`mo.pareto`, or holds no recipes.
        ExportError: If one of the folders is there, but is not of this study: nothing is written
            then; or as for :func:`mo.export`.
    """
    front = pareto(study)
    numbers = [point.number for point in (front if most is None else front.spread(most))]
    folders = TrialFolders(Path(folder).expanduser().absolute(), sources or {})
    there = folders.there().keys() & {*numbers}
    for number in sorted(there):
        if not force and not folders.is_of(study, number):
            raise ExportError(
                f"{str(folders.of(number))!r} is not trial {number} of the study "
                f"{study.study_name!r}. Choose another folder for its front, or remove this one "
                "yourself."
            )
    for number in numbers if force else [n for n in numbers if n not in there]:
        export(
            study,
            folders.of(number),
            trial=number,
            force=force,
            sources=sources,
            dtype=dtype,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
            heads=heads,
        )
    return [folders.of(number) for number in numbers]
