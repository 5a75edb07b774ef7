"""A greedy exchange of layers as a study."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._whole import whole
from merge_optuna.errors import StudyError, shown
from merge_optuna.search._planned import Plan, carried_out
from merge_optuna.spaces import Choices, Exchange, LayerPath
from merge_optuna.study import MergeObjective

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def greedy_path(
    objective: MergeObjective,
    *,
    beam: int = 1,
    storage: str | BaseStorage | None = None,
    name: str = "greedy path",
    max_evaluations: int | None = None,
    progress: bool = True,
) -> optuna.Study:
    """Exchanges layers of the path that a space starts with, one by one, as long as it helps.

    In each round every layer of the best path is exchanged for that of every other model at its
    depth, and the best of these paths is the next; scales stay as they are. A search of the same
    space has to beat it, or can begin with it: ``LayerPath(..., start=mo.recipe_of(study))``.

    It is a study like any other: trials that are there already are not evaluated again, so it
    goes on where it was stopped, and several processes can share it.

    Args:
        objective: Of a :class:`mo.spaces.LayerPath` with ``layout="depth"``.
        beam: How many paths a round goes on with.
        storage: A URL for :func:`mo.storage`, an Optuna storage, or None for memory.
        name: Of the study.
        max_evaluations: After so many it ends even if further exchanges would help.
        progress: Whether to show a progress bar; its total is more than it mostly takes.

    Returns:
        The study; its best trial is the path.

    Raises:
        StudyError: If the objective has another space, or several directions; if beam or
            max_evaluations are below 1.

    Example:
        >>> found = mo.greedy_path(objective)
        >>> space = mo.spaces.LayerPath([a, b], start=mo.recipe_of(found))
    """
    space = getattr(objective, "space", None)
    if not isinstance(space, LayerPath) or space.layout != "depth":
        raise StudyError(
            "mo.greedy_path takes the objective of a mo.spaces.LayerPath with layout='depth', not "
            f"of {shown(space)}."
        )
    if len(objective.directions) > 1:
        raise StudyError(
            f"mo.greedy_path needs one objective, and this evaluator has "
            f"{len(objective.directions)}."
        )
    for option, number in (("beam", beam), ("max_evaluations", max_evaluations or 1)):
        if (whole(number) or 0) < 1:
            raise StudyError(f"{option} must be a whole number of at least 1, not {number!r}.")
    return carried_out(
        _Exchanges(Exchange.of(space, beam)),
        space,
        objective,
        name=name,
        n_trials=max_evaluations,
        storage=storage,
        progress=progress,
    )


class _Exchanges(Plan):
    """The algorithm on what a study holds."""

    end = "no exchange of a layer is better"

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.most = exchange.most

    def following(self, study: optuna.Study, but: int | None = None) -> dict[str, str] | None:
        """See :meth:`Plan.following`."""
        sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
        known: dict[Choices, float] = {}
        taken = set[Choices]()
        for trial in compat.all_trials(study):
            choices = tuple(trial.params.get(name, "") for name in self._exchange.names)
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                known[choices] = sign * trial.value
            elif trial.state == TrialState.PRUNED:
                known.setdefault(choices, math.inf)
            elif trial.state == TrialState.RUNNING and trial.number != but:
                taken.add(choices)
        found = self._exchange.following(known, taken)
        return None if found is None else self._exchange.params(found)
