"""How far a study is."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import SURPLUS

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


def remaining(study: optuna.Study, total: int) -> int:
    """How many trials are missing to ``total`` completed or pruned ones.

    For ``study.optimize(objective, n_trials=mo.remaining(study, total))``, which can be started
    any number of times, by one process at a time; :func:`mo.optimize` is for any number of them.
    """
    done = sum(t.state in COUNTED for t in compat.all_trials(study))
    return max(0, total - done)


def counts(study: optuna.Study) -> dict[str, int]:
    """Number of trials by state: complete, pruned, failed, running.

    Trials that were not evaluated, because others had reached the total or somebody stopped them,
    count as nothing.
    """
    trials = [t for t in compat.all_trials(study) if SURPLUS not in t.system_attrs]
    states = [t.state for t in trials]
    return {
        "complete": states.count(TrialState.COMPLETE),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
        "running": states.count(TrialState.RUNNING),
    }
