"""Rules that end a search: callbacks of ``study.optimize`` and of a declared search."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import violation_of
from merge_optuna._schema import SURPLUS
from merge_optuna.errors import StudyError
from merge_optuna.samplers.plumbing import own_claim
from merge_optuna.study._counts import COUNTED
from merge_optuna.study._export import best_trial
from merge_optuna.study._outcome import failure


class FollowsTheBest:
    """A callback that follows the best trial of a search."""

    def check(self, directions: Sequence[Any]) -> None:
        """Refuses a search with several objectives, which has no best trial.

        Raises:
            StudyError: If there is more than one direction.
        """
        if len(directions) > 1:
            raise StudyError(
                f"{type(self).__name__} follows the best trial, but this study has "
                f"{len(directions)} objectives and so no single best one. Leave it out; when "
                "the search is over, mo.pareto(study) shows its front, and mo.export_front writes "
                "it."
            )


class StopRule:
    """Ends a search for a reason found in its stored trials.

    Inherit it and override :meth:`reason`. Among the callbacks of a :class:`mo.MergeStudy` a rule
    is asked before the first trial as well, so that a search that is over stays over.
    """

    def check(self, directions: Sequence[Any]) -> None:
        """Refuses a search that the rule cannot judge, given its directions.

        Raises:
            StudyError: If it is one.
        """

    def reason(self, study: optuna.Study) -> str | None:
        """Why the search should end now; None if it should not."""
        raise NotImplementedError

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Asks Optuna to stop if there is a reason."""
        self.check(study.directions)
        if self.reason(study) is not None:
            study.stop()


class Stagnation(FollowsTheBest, StopRule):
    """Stops a search whose best value has not improved for ``n`` completed trials.

    It looks at the stored trials only, in the order of their numbers: a search that is started
    again stops where it would have stopped, and of several processes on one storage each stops
    after the trial it is running. Pruned and failed trials do not count.

    Args:
        n: Completed trials since the best one, at least 1.

    Raises:
        StudyError: If ``n`` is less than 1, or the study has several objectives.

    Example:
        >>> study.optimize(objective, n_trials=1000, callbacks=[mo.callbacks.Stagnation(100)])
    """

    def __init__(self, n: int) -> None:
        self.n = positive(n, "Stagnation")

    def reason(self, study: optuna.Study) -> str | None:
        """That the best value is too old, once it is."""
        complete = [t for t in compat.all_trials(study) if t.state == TrialState.COMPLETE]
        if len(complete) <= self.n:
            return None
        best = best_trial(study).number
        since = sum(t.number > best for t in complete)
        return f"trial {best} is the best for {since} trials" if since >= self.n else None


class UnchangedGeneration(FollowsTheBest, StopRule):
    """Stops an Evolver search after a generation in which no child was accepted.

    Args:
        n: Children in a generation: the number of models.

    Raises:
        StudyError: If ``n`` is less than 1, or the study has several objectives.

    Example:
        >>> study.optimize(objective, callbacks=[mo.callbacks.UnchangedGeneration(len(models))])
    """

    def __init__(self, n: int) -> None:
        self.n = positive(n, "UnchangedGeneration")

    def reason(self, study: optuna.Study) -> str | None:
        """That the last generation has changed nothing, once it has not."""
        trials = compat.all_trials(study)
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        nothing = (-math.inf, -math.inf)

        def quality(trial: FrozenTrial) -> tuple[float, float]:
            return (-violation_of(trial), sign * trial.values[0]) if trial.values else nothing

        since, best = 0, nothing
        for trial in trials:
            claim = own_claim(trial)
            if trial.state not in COUNTED or claim is None:
                continue
            value = quality(trial)
            beaten = best  # by a merged population
            if (target := claim.parents.get("target")) is not None:
                beaten = quality(trials[target])
            if claim.parents:
                since = 0 if value > beaten else since + 1
            best = max(best, value)
        return f"none of the last {since} children was accepted" if since >= self.n else None


class MaxFailures:
    """Ends a search in which nothing works any more.

    An exception in a trial of :class:`mo.MergeObjective` fails that trial and the search goes on.
    This ends it when ``n`` candidates in a row have failed in this process; one that a sampler
    has proposed three times counts once. Trials that were interrupted do not count.

    Args:
        n: Failed candidates in a row, at least 1.

    Raises:
        StudyError: If ``n`` is less than 1; out of ``study.optimize`` when it is reached, with the
            traceback of the first.

    Example:
        >>> study.optimize(objective, n_trials=1000, callbacks=[mo.callbacks.MaxFailures(10)])
    """

    def __init__(self, n: int = 10) -> None:
        self.n = positive(n, "MaxFailures")
        self._row: dict[Hashable, str] = {}

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Counts a trial."""
        if trial.state != TrialState.FAIL:
            self._row.clear()
        elif SURPLUS not in trial.system_attrs:
            claim = own_claim(trial)
            candidate = trial.number if claim is None else claim.place
            error = failure(trial) or f"trial {trial.number} failed"
            self._row.setdefault(candidate, error)
        if len(self._row) >= self.n:
            first = next(iter(self._row.values()))
            self._row.clear()
            raise StudyError(
                f"{self.n} candidates in a row have failed in {study.study_name!r}. "
                f"The first of them:\n{first}"
            )


def positive(n: int, name: str) -> int:
    """The number a callback is made with.

    Raises:
        StudyError: If it is no number, or less than 1.
    """
    if not isinstance(n, int) or n < 1:
        raise StudyError(f"{name} needs a number of at least 1, not {n!r}.")
    return n
