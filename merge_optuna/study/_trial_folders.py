"""Folders with a checkpoint for each of several trials: ``trial-00017`` and so on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna.study._export import recipe_of

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

_NAME = re.compile(r"trial-(\d{5,})")


@dataclass(frozen=True)
class TrialFolders:
    """A folder with those of trials.

    Attributes:
        root: The folder.
        sources: Checkpoints by name, for those made by ``Checkpoint.from_module``.
    """

    root: Path
    sources: Mapping[str, Checkpoint | str | Path]

    def of(self, number: int) -> Path:
        """The folder of a trial."""
        return self.root / f"trial-{number:05}"

    def there(self) -> dict[int, Path]:
        """Those that are there, complete, by the number of the trial."""
        names = ((_NAME.fullmatch(path.name), path) for path in self.root.glob("trial-*"))
        return {int(match[1]): path for match, path in names if match}

    def is_of(self, study: optuna.Study, number: int) -> bool:
        """Whether the folder of a trial holds what a completed trial of a study has scored."""
        trials, recipe = compat.all_trials(study), self.of(number) / "recipe.yaml"
        trial = compat.numbered(trials, number)
        if trial is None or trial.state != TrialState.COMPLETE or not recipe.is_file():
            return False
        return recipe.read_text() == recipe_of(study, number, sources=self.sources).to_yaml()
