"""Per-example scores, kept packed with a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.trial import FrozenTrial

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import SCORES
from merge_optuna._scores import pack, unpack
from merge_optuna.errors import StudyError
from merge_optuna.evaluators import as_scores
from merge_optuna.study._export import frozen_trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial


def set_scores(trial: Trial, array: ArrayLike) -> None:
    """Stores one score per dev example with a running trial.

    :class:`mo.MergeObjective` does this by itself; call it from a hand-written objective so that
    samplers with niches, races and leaderboards can use it.

    Args:
        trial: The running trial.
        array: Shape (n,), in the order of the examples and in the direction of the study: larger
            is better if it maximises, smaller (losses) if it minimises. NaN where one was not
            evaluated. Scores that are all 0 or 1 take one bit each, others 32.

    Raises:
        EvaluationError: If they are no numbers.
        StudyError: If the shape is not (n,).
    """
    scores = as_scores(array, "mo.set_scores").astype(np.float32)
    if scores.ndim != 1:
        raise StudyError(f"Scores must have shape (n,), not {scores.shape}.")
    compat.set_system_attr(trial.study, trial, SCORES, pack(scores))


def scores(study: Study, trial: FrozenTrial | int) -> NDArray[np.float32]:
    """Returns the per-example scores of a trial.

    Args:
        study: The study.
        trial: A trial or its number.

    Returns:
        Shape (n,), in the order of the examples; NaN where one was not evaluated.

    Raises:
        StudyError: If the trial has none, or there is no such trial.
    """
    number = trial.number if isinstance(trial, FrozenTrial) else trial
    packed = frozen_trial(study, number).system_attrs.get(SCORES)
    if packed is None:
        raise StudyError(
            f"Trial {number} of {study.study_name!r} has no per-example scores. They are stored "
            "by mo.MergeObjective, or by mo.set_scores(trial, array) in an objective."
        )
    return unpack(packed, f"trial {number}")
