"""What cards, notes and pages know of a study: gathered once, from the database alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import metric_names
from merge_optuna._schema import EXAMPLES, SECONDS_EVALUATE, SECONDS_MERGE
from merge_optuna.errors import MergeOptunaError
from merge_optuna.recipes import Recipe
from merge_optuna.study import Baselines, best_trial, complete_trials, recipe_of, stored_baselines

if TYPE_CHECKING:
    import optuna
    from numpy.typing import NDArray

    from merge_optuna.checkpoints import Checkpoint

COSTS = ("evaluations", "examples", "seconds")
"""Units in which a search is paid."""


class View:
    """A study as it is shown.

    Nothing here fails for what a study lacks: that is None or empty, and a card without anything
    to say is left out.

    Args:
        study: Any study of Optuna, also one that merges nothing.
        sources: Checkpoints by name, as for :func:`mo.recipe_of`.
    """

    def __init__(
        self,
        study: optuna.Study,
        sources: Mapping[str, Checkpoint | str | Path] | None = None,
    ) -> None:
        self.study, self.sources = study, dict(sources or {})
        self.name = study.study_name
        self.directions = [direction.name.lower() for direction in study.directions]
        self.metrics: Sequence[str] = metric_names(study) or ["value"] * len(self.directions)

    @property
    def single(self) -> bool:
        """Whether there is one objective."""
        return len(self.directions) == 1

    @property
    def sign(self) -> float:
        """1 if larger is better, else -1; of the only objective."""
        return 1.0 if self.directions[0] == "maximize" else -1.0

    @cached_property
    def trials(self) -> Sequence[FrozenTrial]:
        """All trials, by number."""
        return compat.all_trials(self.study)

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        """The completed trials, by number."""
        return complete_trials(self.study)

    @cached_property
    def paid(self) -> list[FrozenTrial]:
        """The trials that were evaluated, wholly or in part: completed and pruned ones."""
        paid = TrialState.COMPLETE, TrialState.PRUNED
        return [trial for trial in self.trials if trial.state in paid]

    @cached_property
    def baselines(self) -> Baselines:
        """What the search is compared with, as far as it is scored; may be empty."""
        return stored_baselines(self.study)

    @cached_property
    def best(self) -> FrozenTrial | None:
        """The best feasible trial; None if nothing is complete, or for several objectives."""
        return best_trial(self.study) if self.single and self.complete else None

    @cached_property
    def winner(self) -> Recipe | None:
        """The recipe of the best trial; None where there is none, or it cannot be rebuilt."""
        return None if self.best is None else self.recipe(self.best)

    def recipe(self, trial: FrozenTrial) -> Recipe | None:
        """The recipe of a trial; None in studies that merge nothing, or if sources are gone."""
        try:
            return recipe_of(self.study, trial, sources=self.sources)
        except MergeOptunaError:
            return None

    def costs(self, unit: str) -> NDArray[np.float64]:
        """What the search had cost at the end of each of the :attr:`paid` trials.

        Args:
            unit: One of :data:`COSTS`.

        Returns:
            Shape (paid trials,), rising.
        """
        return np.cumsum([_cost(trial, unit) for trial in self.paid])


def _cost(trial: FrozenTrial, unit: str) -> float:
    attrs = trial.user_attrs
    if unit == "examples":
        return float(attrs.get(EXAMPLES, 0))
    if unit == "seconds":
        return float(attrs.get(SECONDS_MERGE, 0) + attrs.get(SECONDS_EVALUATE, 0))
    return 1.0
