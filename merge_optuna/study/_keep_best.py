"""The best merges as checkpoints on disk while the search goes on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna.checkpoints import clear_leftovers, remove_written
from merge_optuna.errors import CheckpointError, ExportError, StudyError
from merge_optuna.study._callbacks import FollowsTheBest, positive
from merge_optuna.study._checkpoint import export
from merge_optuna.study._export import ranked
from merge_optuna.study._trial_folders import TrialFolders

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

_LOCK = ".lock"


class KeepBest(FollowsTheBest):
    """Keeps the ``k`` best trials of a search as checkpoints, each written as soon as it is found.

    Trial 17 lies in ``folder/trial-00017``, as :func:`mo.export` writes it, with recipe and model
    card; trials that fall out of the best ``k`` are removed. A trial's folder is there only when
    it is complete. What a killed process has left is put right at the next start. Several
    processes on one storage may share the folder: one of them writes at a time.

    A trial that cannot be written, because the disk is full or a source has gone, is a warning
    and never ends the search; the best ones that could be written are kept instead. The folder
    of a fallen trial in which somebody has put or changed a file stays, with a warning.

    Args:
        k: How many, at least 1.
        folder: Where to. Trial folders in it must be of this study.
        sources: Checkpoints by name, for those made by ``Checkpoint.from_module``.
        heads: The heads to write the merges under, see :func:`mo.export`.

    Raises:
        StudyError: If ``k`` is less than 1; at the first trial, if the study has several
            objectives or ``folder`` holds trials of another study.

    Example:
        >>> best = mo.callbacks.KeepBest(3, "runs/best")
        >>> study.optimize(objective, n_trials=1000, callbacks=[best])
    """

    def __init__(
        self,
        k: int,
        folder: str | Path,
        *,
        sources: Mapping[str, Checkpoint] | None = None,
        heads: Mapping[str, Checkpoint | None] | None = None,
    ) -> None:
        self.k = positive(k, "KeepBest")
        self.folder = Path(folder).expanduser().absolute()
        self._sources, self._heads = dict(sources or {}), dict(heads or {})
        self._folders = TrialFolders(self.folder, self._sources)
        self._known: set[int] = set()  # folders that are known to be of this study
        self._failed: set[int] = set()
        self._left: set[int] = set()  # fallen, but somebody's files are in them
        self._opened = False

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Updates the folder if the trial is one of the best."""
        # Those of other processes are theirs to write: nobody waits for the lock without need.
        best = [t.number for t in self._ranked(study)[: self.k]]
        if trial.number in best or not self._opened:
            self.update(study)

    def update(self, study: optuna.Study) -> None:
        """Writes what is missing of the best trials, and removes what is not one of them.

        Raises:
            StudyError: If the study has several objectives, or the folder holds trials of another.
        """
        self.check(study.directions)
        if self.folder.exists() and not self.folder.is_dir():
            raise StudyError(f"KeepBest needs a folder, but {str(self.folder)!r} is a file.")
        order = self._ranked(study)
        if self._opened and not self._missing(order) and not self._fallen(order):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / _LOCK):
                self._check_folder(study)
                self._opened = True
                self._put_right(study)
        except (OSError, CheckpointError) as error:
            self._failed |= {trial.number for trial in order[: self.k]}
            _warn(f"The best trials cannot be kept in {str(self.folder)!r}: {error}.", study)

    # -- the folder as it should be --------------------------------------------------------

    def _ranked(self, study: optuna.Study) -> list[FrozenTrial]:
        complete = any(t.state == TrialState.COMPLETE for t in compat.all_trials(study))
        return ranked(study) if complete else []

    def _missing(self, order: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The best trials that are not there."""
        done = (self._folders.there().keys() & self._known) | self._failed
        return [trial for trial in order[: self.k] if trial.number not in done]

    def _fallen(self, order: Sequence[FrozenTrial]) -> dict[int, Path]:
        """Folders of trials that are not among the best ``k`` of those that are there."""
        there = self._folders.there()
        kept = [trial.number for trial in order if trial.number in there][: self.k]
        kept += self._left
        return {number: folder for number, folder in there.items() if number not in kept}

    # -- putting it right, under the lock --------------------------------------------------

    def _put_right(self, study: optuna.Study) -> None:
        hidden = (re.match(r"\.(trial-\d{5,})\.", path.name) for path in self.folder.iterdir())
        for name in {match[1] for match in hidden if match}:
            clear_leftovers(self.folder / name, alone=True)  # we have the lock
        for trial in self._missing(self._ranked(study)):  # others may have gone on meanwhile
            try:
                folder = self._folders.of(trial.number)
                export(study, folder, trial=trial, sources=self._sources, heads=self._heads)
                self._known.add(trial.number)
            except Exception as error:  # whatever it is, the search has nothing to do with it
                self._failed.add(trial.number)
                _warn(f"Trial {trial.number} cannot be written: {error}", study)
        for number, folder in self._fallen(self._ranked(study)).items():
            try:
                remove_written(folder)
            except ExportError as error:
                self._left.add(number)
                _warn(f"Trial {number} is no longer kept, but its folder stays. {error}", study)

    def _check_folder(self, study: optuna.Study) -> None:
        """Refuses trials that are not this study's: removing them could be a loss."""
        for number, folder in self._folders.there().items():
            if number not in self._known and not self._folders.is_of(study, number):
                raise StudyError(
                    f"{str(folder)!r} is not trial {number} of the study {study.study_name!r}. "
                    "Choose another folder for KeepBest, or remove this one yourself."
                )
            self._known.add(number)


def _warn(problem: str, study: optuna.Study) -> None:
    warnings.warn(
        f"{problem} The search goes on; any trial of {study.study_name!r} can be written later "
        "with mo.export(study, folder, trial=...).",
        stacklevel=2,
    )
