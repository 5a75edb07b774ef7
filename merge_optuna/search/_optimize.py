"""The loop that runs a search: exactly so many trials, in however many processes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna._schema import REASON, SURPLUS
from merge_optuna._whole import whole
from merge_optuna.errors import StorageError, StudyError, shown
from merge_optuna.evaluators import Evaluator
from merge_optuna.recipes import Recipe
from merge_optuna.reports import Reporter, Reports, as_reports, reporter
from merge_optuna.samplers.plumbing import (
    PATIENCE,
    age,
    fail_dead_trials,
    owner_alive,
    owner_of,
    sign_once,
)
from merge_optuna.search._first import is_copy
from merge_optuna.spaces import Space
from merge_optuna.study import KeepBest, MaxFailures, MergeObjective, StopRule, remaining
from merge_optuna.study.plumbing import (
    COUNTED,
    Bar,
    Crowd,
    Deadline,
    Overdue,
    beaten,
    check_limit,
    check_seconds,
    excuse,
    failed,
    interrupt,
    limited,
    outcome,
    quiet,
    told_plainly,
)

Callback: TypeAlias = Callable[[optuna.Study, FrozenTrial], None]
Objective: TypeAlias = Callable[[optuna.Trial], Any]

_POLL_SECONDS = 0.5


def optimize(
    study: optuna.Study,
    objective: Objective,
    n_trials: int,
    *,
    timeout: float | None = None,
    trial_timeout: float | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    reports: bool | Reports = True,
) -> None:
    """Runs a search until the study has ``n_trials`` completed or pruned trials.

    Like ``study.optimize``, with any sampler, pruner, storage and objective, except that

    - ``n_trials`` is the total of the study, however often and in however many processes the
      script is started: each of them returns when the total is reached, and it is never exceeded
      (processes of several machines need a database server, e.g. PostgreSQL);
    - a trial that raises has failed, with the traceback in its user attribute ``error``, and the
      search goes on; after ten failures in a row it ends. Failed trials do not count. What no
      other trial can mend – a :class:`StudyError`, a source that has changed – ends it at once; a
      trial whose recipe is an :class:`InfeasibleRecipe` is pruned;
    - one progress bar takes the place of a line per trial;
    - ctrl-C ends it between two writes, so that nothing is left half done.

    Args:
        study: Of ``optuna.create_study(..., load_if_exists=True)``.
        objective: A :class:`mo.MergeObjective`, or any function that Optuna takes.
        n_trials: Completed and pruned trials in total.
        timeout: Seconds after which this call starts no further trial.
        trial_timeout: Seconds after which a trial is interrupted and fails with the user
            attribute ``reason``. Python code is interrupted, and what waits in it; a call into
            C++ that never returns is not: ``merge-optuna run`` has a watchdog for those.
        callbacks: Called after every trial, see :mod:`mo.callbacks`. A
            :class:`mo.callbacks.MaxFailures` among them takes the place of the usual one, of 10.
        progress: Whether to show a progress bar on standard error. Without one, failures and why
            it has stopped early are warnings of the logger ``merge_optuna``.
        reports: Whether the study gets cards and notes for optuna-dashboard, and its best trials
            artifacts; a :class:`mo.reports.Reports` says where these go. Nothing is written to a
            storage in memory. They never change or end a search, and cost a few percent of it.

    Raises:
        StudyError: If the study does not fit the objective, or ten candidates in a row fail, with
            the traceback of the first.
        SourceChanged: If the files of a checkpoint are not what they were.

    Example:
        >>> mo.optimize(study, objective, n_trials=1000)
    """
    check_seconds("timeout", timeout)
    search(
        study,
        objective,
        n_trials,
        Deadline(timeout),
        trial_timeout,
        callbacks,
        progress=progress,
        reports=reports,
    )


def search(
    study: optuna.Study,
    objective: Objective,
    n_trials: int,
    deadline: Deadline,
    trial_timeout: float | None,
    callbacks: Sequence[Callback],
    *,
    progress: bool,
    reports: bool | Reports,
) -> None:
    """As :func:`optimize`, of a run that has begun before."""
    as_reports(reports)
    check_limit(trial_timeout)
    check_total(n_trials)
    for callback in callbacks:
        if isinstance(callback, (StopRule, KeepBest)):
            callback.check(study.directions)
    evaluate, crowds = _prepared(objective, study)
    with interrupt.deferred(), quiet(), Bar(study, n_trials, show=progress) as bar:
        watcher = reporter(study, reports, _space_of(objective), _replies_of(objective), bar.say)
        bounded = _Bounded(evaluate, n_trials, deadline, trial_timeout, watcher)
        first: list[Callback] = [bar.update, _raise_ctrl_c]
        last: list[Callback] = [*(partial(crowd, bar.say) for crowd in crowds)]
        last += [watcher, _stop_at(n_trials)]
        if not any(isinstance(callback, MaxFailures) for callback in callbacks):
            last.append(MaxFailures())
        loop = _Search(study, n_trials, deadline, callbacks)
        try:
            if isinstance(objective, MergeObjective) and remaining(study, n_trials) > 0:
                objective.settle(study)
            with _shown_at_the_end(watcher):
                loop.run(bounded, [*first, *callbacks, *last], bar.say)
        except BaseException as error:
            # A second ctrl-C, or one in a thread, may hit inside Optuna, SQLAlchemy or a storage
            # and come out as the error of whatever it has interrupted.
            if not (interrupt.noted() or _was_interrupted(error)):
                raise
            _fail_own_trials(study)
            raise KeyboardInterrupt from error


@contextlib.contextmanager
def _shown_at_the_end(watcher: Reporter) -> Iterator[None]:
    """A block after which a search is shown, also if it has ended for what is wrong with it."""
    try:
        yield
    except StudyError as error:
        if not isinstance(error, StorageError):
            watcher.finish()
        raise
    watcher.finish()


class _Search:
    """Asks for trials until there are enough of them, or there is a reason to stop."""

    def __init__(
        self,
        study: optuna.Study,
        total: int,
        deadline: Deadline,
        callbacks: Sequence[Callback],
    ) -> None:
        self._study = study
        self._total = total
        self._deadline = deadline
        self._callbacks = callbacks

    def run(
        self, bounded: _Bounded, every: Sequence[Callback], say: Callable[[str], None]
    ) -> None:
        study, total = self._study, self._total
        fail_dead_trials(study)
        self._keep()
        stopped = None
        while (missing := remaining(study, total)) > 0:
            if reason := self._reason() or stopped:
                say(f"Stopped with {missing} of {total} trials to go: {reason}.")
                break
            left = self._deadline.left
            with told_plainly():
                study.optimize(bounded, n_trials=missing, timeout=left, callbacks=every)
            stopped = "a callback has stopped it" if compat.was_stopped(study) else None
        self._keep()  # a process that found the last trial may be dead
        if reason := _why_none_is_complete(study):
            say(f"No trial was completed, all were pruned, the last one because: {reason}")
        if said := beaten(study):
            say(said)

    def _keep(self) -> None:
        for callback in self._callbacks:
            if isinstance(callback, KeepBest):
                callback.update(self._study)

    def _reason(self) -> str | None:
        """Why no further trial should be started, if there is a reason."""
        rules = [c.reason for c in self._callbacks if isinstance(c, StopRule)]
        reasons = (rule(self._study) for rule in (self._deadline.reason, *rules))
        return next(filter(None, reasons), None)


def _space_of(objective: Objective) -> Recipe | Space | None:
    """What an objective searches, if it is data and no function."""
    space = getattr(objective, "space", None)
    return space if isinstance(space, Recipe | Space) else None


def _replies_of(objective: Objective) -> Callable[[], list[dict[str, Any]]]:
    """What the model that an objective has scored last has written; nothing for most."""
    return getattr(getattr(objective, "evaluator", None), "last_replies", list)


def _why_none_is_complete(study: optuna.Study) -> str | None:
    """Why the last trial was pruned, if all were: a search that ends so looks like a success."""
    done = [trial for trial in compat.all_trials(study) if trial.state in COUNTED]
    if not done or any(trial.state == TrialState.COMPLETE for trial in done):
        return None
    return str(done[-1].user_attrs.get(REASON, "its pruner or its objective has said so"))


def _prepared(objective: Objective, study: optuna.Study) -> tuple[Objective, list[Crowd]]:
    """What evaluates a trial, and what looks after it."""
    if isinstance(objective, MergeObjective):  # refuses other studies, and fails trials itself
        objective.join(study)
        return objective, [Crowd(objective)]
    return _Plain(objective), []


class _Plain:
    """Anybody's objective, which fails a trial and not the search by what it raises."""

    def __init__(self, objective: Objective) -> None:
        # evaluators and recipes can be called, and would fail only in the trials
        if isinstance(objective, (Evaluator, Recipe, Space)) or not callable(objective):
            raise StudyError(
                "An objective is a mo.MergeObjective or a function from a trial to a number, not "
                f"{shown(objective)}: mo.optimize(study, objective, n_trials), with "
                "objective = mo.MergeObjective(space, evaluator)."
            )
        self._objective = objective

    def __call__(self, trial: optuna.Trial) -> Any:
        value = outcome(
            trial,
            lambda: self._evaluated(trial),
            ends=lambda error: isinstance(error, StudyError),
        )
        misfit = _misfit(value, len(trial.study.directions))
        return value if misfit is None else failed(trial, misfit)

    def _evaluated(self, trial: optuna.Trial) -> Any:
        with interrupt.interruptible():
            return self._objective(trial)


def _misfit(value: Any, n: int) -> str | None:
    """What is wrong with a value for ``n`` objectives, on some of which Optuna breaks down."""
    numbers = value if isinstance(value, Sequence) else [value]
    wanted = "a number" if n == 1 else f"{n} numbers"
    try:
        fits = len(numbers) == n and not any(map(math.isnan, numbers))
    except TypeError:
        fits = False
    return None if fits else f"The objective returned {value!r}, not {wanted}."


class _Bounded:
    """The objective, except that a trial beyond the total is failed as surplus.

    With several processes on one storage each may have started a trial when only one was
    missing. A surplus trial waits until the others have finished; if one fails, the loop asks
    for a new one.

    Why it is exact: of the trials that are evaluated, the one with the highest number has seen
    all the others, finished or running, before it began.
    """

    def __init__(
        self,
        objective: Objective,
        total: int,
        deadline: Deadline,
        trial_timeout: float | None,
        watcher: Reporter,
    ) -> None:
        self._objective = objective
        self._total = total
        self._deadline = deadline
        self._trial_timeout = trial_timeout
        self._watcher = watcher
        self._first_seen: dict[int, float] = {}

    def __call__(self, trial: optuna.Trial) -> Any:
        sign_once(trial.study, trial)
        if is_copy(trial, compat.all_trials(trial.study)):
            excuse(trial, "queued twice")
            return math.nan
        late = age(trial) > PATIENCE / 2
        if not self._is_surplus(trial, late):
            return self._evaluated(trial)
        excuse(trial, "total reached")
        while self._is_surplus(trial, late) and remaining(trial.study, self._total) > 0:
            if self._deadline.left == 0:
                break
            with interrupt.interruptible():
                time.sleep(_POLL_SECONDS)
            fail_dead_trials(trial.study)
            compat.fail_stale_trials(trial.study)
        return math.nan

    def _evaluated(self, trial: optuna.Trial) -> Any:
        try:
            with limited(self._trial_timeout, trial=trial.number):
                value = self._objective(trial)
        except Overdue as overdue:
            value = failed(trial, str(overdue))
        self._watcher.evaluated(trial, value)
        return value

    def _is_surplus(self, trial: optuna.Trial, late: bool) -> bool:
        trials = compat.all_trials(trial.study)
        if len(trials) <= self._total:
            return False
        # Others may have taken one that signed late for dead, and count on its place.
        rivals = [*trials[: trial.number], *(trials[trial.number + 1 :] if late else ())]
        others = sum(self._is_under_way(trial.study, t) for t in rivals)
        return sum(t.state in COUNTED for t in trials) + others >= self._total

    def _is_under_way(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether another process can be expected to finish a trial.

        One of another machine can where a heartbeat tells when it is dead. One of this process
        cannot: it was left by an earlier run here, when the storage failed.
        """
        if trial.state != TrialState.RUNNING or SURPLUS in trial.system_attrs:
            return False
        owner = owner_of(trial)
        if owner is None:  # just created, or killed there and then
            seen = self._first_seen.setdefault(trial.number, time.monotonic())
            return time.monotonic() - seen < PATIENCE
        alive = owner_alive(trial)
        if alive and owner["pid"] == os.getpid():
            return False
        return compat.has_heartbeat(study) if alive is None else alive


def check_total(n_trials: int) -> None:
    """Refuses a number of trials that is none.

    Raises:
        StudyError: If it is no whole number, or negative.
    """
    if whole(n_trials) is None:
        raise StudyError(
            f"n_trials must be a whole number, not {shown(n_trials)}: the total of the study, "
            "over all its processes, so that each of them knows when to stop."
        )
    if n_trials < 0:
        raise StudyError(f"n_trials must not be negative, but is {n_trials}.")


def _raise_ctrl_c(study: optuna.Study, trial: FrozenTrial) -> None:
    """A callback: between two trials is a good place."""
    interrupt.raise_if_noted()


def _stop_at(total: int) -> Callback:
    """A callback that ends ``optimize`` once other processes have done the rest."""

    def stop(study: optuna.Study, trial: FrozenTrial) -> None:
        if len(compat.all_trials(study)) >= total and remaining(study, total) == 0:
            study.stop()

    return stop


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether a ctrl-C is what an error began with."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fail_own_trials(study: optuna.Study) -> None:
    """Ends what Optuna leaves running when ctrl-C hits it outside of the objective."""
    for trial in compat.all_trials(study):
        owner = owner_of(trial) if trial.state == TrialState.RUNNING else None
        if owner is not None and owner["pid"] == os.getpid() and owner_alive(trial):
            compat.set_system_attr(study, trial, SURPLUS, "interrupted")
            compat.fail(study, trial)
