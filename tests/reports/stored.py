"""Studies as they stand in a database, made by hand: what is shown of them is known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import ArrayLike
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from merge_optuna._schema import SCORES
from merge_optuna._scores import pack
from merge_optuna.study import Baseline
from merge_optuna.study._baselines import store

optuna.logging.set_verbosity(optuna.logging.ERROR)


def study(*directions: str, metrics: Sequence[str] = ("accuracy",)) -> optuna.Study:
    made = optuna.create_study(directions=directions or ["maximize"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made.set_metric_names([*metrics])
    return made


def trial(
    study: optuna.Study,
    *values: float,
    params: Mapping[str, Any] | None = None,
    space: Mapping[str, BaseDistribution] | None = None,
    scores: ArrayLike | None = None,
    violation: float | None = None,
    state: TrialState = TrialState.COMPLETE,
    **attrs: Any,
) -> None:
    """Adds a trial."""
    system = {} if scores is None else {SCORES: pack(np.asarray(scores, np.float32))}
    study.add_trial(
        create_trial(
            state=state,
            values=values or None,
            params=dict(params or {}),
            distributions=dict(space or {}),
            user_attrs=attrs,
            system_attrs=system,
            constraints=None if violation is None else {"kept": violation},
        )
    )


def baseline(
    study: optuna.Study,
    name: str,
    *values: float,
    scores: ArrayLike | None = None,
    kind: str = "source",
    place: int = 0,
    tuned: bool = False,
    violation: float | None = None,
) -> None:
    """Adds a baseline."""
    packed = None if scores is None else pack(np.asarray(scores, np.float32))
    held = {} if violation is None else {"kept": violation}
    row = Baseline(
        name, kind, tuned, values, None, 100, 1.0, None, packed, "", place, {}, held, held
    )
    store(study, row)
