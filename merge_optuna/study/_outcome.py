"""How a trial ends: with a value, pruned, failed, or failed for no fault of its candidate."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import TypeVar

import optuna
from optuna.trial import FrozenTrial

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import ERROR, REASON, SURPLUS
from merge_optuna.errors import InfeasibleRecipe, SourceChanged
from merge_optuna.study import _interrupt as interrupt

T = TypeVar("T")


def outcome(
    trial: optuna.Trial, evaluate: Callable[[], T], ends: Callable[[Exception], bool]
) -> T | float:
    """What a trial is told; nan if it has failed, with the traceback stored.

    Args:
        trial: The trial.
        evaluate: Evaluates it. That is anybody's code; one bad trial must not end a search.
        ends: Whether an exception ends the search nevertheless.

    Raises:
        optuna.TrialPruned: If it is pruned, or its recipe has no well-defined result.
        SourceChanged: If a source has changed, which no other candidate can mend.
        KeyboardInterrupt: If it was interrupted.
    """
    try:
        return evaluate()
    except optuna.TrialPruned:
        raise
    except InfeasibleRecipe as error:
        raise pruned(trial, str(error)) from error
    except KeyboardInterrupt:
        excuse(trial, "interrupted")
        raise
    except SourceChanged:
        excuse(trial, "source changed")
        raise
    except Exception as error:
        if interrupt.noted():  # and came out of something as this error
            excuse(trial, "interrupted")
            raise KeyboardInterrupt from error
        if ends(error):
            raise
        trial.set_user_attr(ERROR, traceback.format_exc())
        optuna.logging.get_logger("optuna").warning(
            f"Trial {trial.number} failed: {type(error).__name__}: {error}"
        )
        return math.nan


def pruned(trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
    """What to raise to prune a trial."""
    trial.set_user_attr(REASON, reason)
    return optuna.TrialPruned(reason)


def failed(trial: optuna.Trial, reason: str) -> float:
    """What a trial is told that fails without an exception."""
    trial.set_user_attr(REASON, reason)
    return math.nan


def excuse(trial: optuna.Trial, why: str) -> None:
    """Notes that a trial fails for no fault of its candidate, which will be proposed again."""
    compat.set_system_attr(trial.study, trial, SURPLUS, why)


def failure(trial: FrozenTrial) -> str | None:
    """Why a trial has failed, if it is kept: a traceback, or one sentence."""
    return trial.user_attrs.get(ERROR) or trial.user_attrs.get(REASON)
