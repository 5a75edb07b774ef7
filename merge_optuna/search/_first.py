"""The trials that a declared search begins with: each once, whoever is killed and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import FIRST
from merge_optuna.errors import StudyError, few
from merge_optuna.samplers.plumbing import is_excused


def check_first(first: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution]) -> None:
    """Checks that they have parameters of the space, and values in its ranges.

    Raises:
        StudyError: If not: Optuna would draw in the place of a name or value that it cannot use.
    """
    for place, params in enumerate(first):
        for name, value in params.items():
            if name not in space:
                raise StudyError(
                    f"first[{place}] has {name!r}, but the parameters of the space are "
                    f"{few([*map(repr, space)])}."
                )
            if not compat.contains(space[name], value):
                raise StudyError(
                    f"first[{place}] has {name} = {value!r}, which is not in {space[name]}."
                )


def enqueue(study: optuna.Study, first: Sequence[Mapping[str, Any]]) -> None:
    """Queues those that are not there yet, or whose process was killed.

    Storages cannot say who comes first: processes that are started at once may each queue them.
    ``mo.optimize`` leaves the copies out.
    """
    trials = compat.all_trials(study)
    there = [trial for trial in trials if FIRST in trial.user_attrs]
    if trials and not there:
        return  # it has begun without them
    done = {trial.user_attrs[FIRST] for trial in there if not is_excused(trial)}
    for place, params in enumerate(first):
        if place not in done:
            study.enqueue_trial(dict(params), user_attrs={FIRST: place})


def is_copy(trial: optuna.Trial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a queued trial is there under a lower number."""
    place = trial.user_attrs.get(FIRST)
    return place is not None and any(
        other.user_attrs.get(FIRST) == place and other.state != TrialState.FAIL
        for other in trials[: trial.number]
    )
