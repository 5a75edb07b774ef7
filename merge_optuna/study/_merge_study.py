"""A declared search, and the loop that runs it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StudyError
from merge_optuna.evaluators import Evaluator, as_evaluator
from merge_optuna.recipes import Recipe
from merge_optuna.samplers import SURPLUS, fail_dead_trials, owner_alive, owner_of
from merge_optuna.spaces import Space
from merge_optuna.study import _interrupt as interrupt
from merge_optuna.study._callbacks import MaxFailures, StopRule
from merge_optuna.study._counts import COUNTED, remaining
from merge_optuna.study._keep_best import KeepBest
from merge_optuna.study._objective import MergeObjective
from merge_optuna.study._progress import Bar, Crowd
from merge_optuna.study._quiet import quiet
from merge_optuna.study._storage import storage as open_storage
from merge_optuna.study._storage import told_plainly

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

Callback: TypeAlias = Callable[[optuna.Study, FrozenTrial], None]

_POLL_SECONDS = 0.5
_PATIENCE = 5.0  # seconds from the creation of a trial to its owner: milliseconds


@dataclass(frozen=True)
class MergeStudy:
    """A search as a declaration: what ``merge-optuna run FILE`` looks for in a file.

    Attributes:
        name: Name of the study in the storage.
        objective: What a trial does.
        n_trials: Completed and pruned trials in total, however often it is started.
        sampler: Of Optuna or of ``mo.samplers``; the space's own with seed 0 when omitted.
        pruner: Of Optuna; none when omitted.
        test: Scores the result on data that the search does not see.
        timeout: Seconds after which a run starts no further trial; every start has as many.
        callbacks: Called after every trial, as in ``study.optimize``; see ``mo.callbacks``. A
            :class:`mo.callbacks.MaxFailures` among them takes the place of the usual one, of 10.
        first: Parameters of the first trials, before the sampler proposes any, e.g.
            ``[space.start()]``: what a search begins with, as a baseline.
        keep_best: How many of the best trials are written to ``folder`` while the search runs,
            see :class:`mo.callbacks.KeepBest`.
        folder: Where the best trials are kept.
    """

    name: str
    objective: MergeObjective
    n_trials: int
    sampler: optuna.samplers.BaseSampler | None = None
    pruner: optuna.pruners.BasePruner | None = None
    test: Evaluator | None = None
    timeout: float | None = None
    callbacks: Sequence[Callback] = ()
    first: Sequence[Mapping[str, Any]] = ()
    keep_best: int | None = None
    folder: str | Path | None = None

    def __post_init__(self) -> None:
        _check_timeout(self.timeout)
        if self.n_trials < 0:
            raise StudyError(f"n_trials must not be negative, but is {self.n_trials}.")
        if not isinstance(self.objective, MergeObjective):
            raise StudyError(
                "objective= is what a trial does, mo.MergeObjective(space, evaluator), not "
                f"{self.objective!r}: mo.MergeStudy(name, objective, n_trials)."
            )
        for callback in self._callbacks():
            if isinstance(callback, (StopRule, KeepBest)):
                callback.check(self.objective.directions)
        space = self.objective.space
        if self.sampler is None and isinstance(space, Recipe | Space):
            object.__setattr__(self, "sampler", space.sampler(seed=0))
        if self.test is not None:
            object.__setattr__(self, "test", as_evaluator(self.test))
            self.objective.check_evaluator(self.test)

    @property
    def sources(self) -> dict[str, Checkpoint]:
        """The checkpoints of the space by name, for ``mo.export(study, folder, sources=)``.

        Empty if the space is a function.
        """
        space = self.objective.space
        return {c.name: c for c in space.leaves()} if isinstance(space, Recipe | Space) else {}

    def open(self, storage: str | optuna.storages.BaseStorage | None = None) -> optuna.Study:
        """Creates the study, or opens it again, and checks that it fits.

        Trials that a killed process of this machine left running are failed.

        Args:
            storage: A URL for :func:`mo.storage`, an Optuna storage, or None for memory.

        Raises:
            StorageError: If the storage cannot be opened.
            StudyError: If a study of this name has another direction or another space.
        """
        with quiet():
            study = optuna.create_study(
                study_name=self.name,
                storage=open_storage(storage) if isinstance(storage, str) else storage,
                sampler=self.sampler,
                pruner=self.pruner or optuna.pruners.NopPruner(),
                directions=self.objective.directions,
                load_if_exists=True,
            )
        self.objective.check_study(study)
        self.objective.store_space(study)
        fail_dead_trials(study)
        if not compat.all_trials(study):
            for params in self.first:
                study.enqueue_trial(dict(params), skip_if_exists=True)
        return study

    def run(
        self,
        storage: str | optuna.storages.BaseStorage | None = None,
        *,
        n_trials: int | None = None,
        timeout: float | None = None,
        progress: bool = True,
    ) -> optuna.Study:
        """Runs the search until it has ``n_trials`` completed or pruned trials.

        It goes on where an earlier run, finished or killed, has stopped. Several processes may
        run it on one storage at the same time. A stop rule among the callbacks, or the timeout,
        can end it before.

        Args:
            storage: As for :meth:`open`.
            n_trials: Another total than the declared one.
            timeout: Another number of seconds than the declared one.
            progress: Whether to show a progress bar on standard error.

        Returns:
            The study.

        Raises:
            StudyError: If ten candidates in a row fail, with the traceback of the first.
        """
        _check_timeout(timeout)
        study = self.open(storage)
        total = self.n_trials if n_trials is None else n_trials
        deadline = _Deadline(self.timeout if timeout is None else timeout)
        bounded = _Bounded(self.objective, total, deadline)
        with interrupt.deferred(), quiet(), Bar(study, total, show=progress) as bar:
            crowd = Crowd(self.objective, bar.say)
            callbacks = [bar.update, _raise_ctrl_c, *self._callbacks(), crowd, _stop_at(total)]
            keepers = [callback for callback in callbacks if isinstance(callback, KeepBest)]
            try:
                for keeper in keepers:
                    keeper.update(study)
                while (missing := remaining(study, total)) > 0:
                    if reason := self._reason(study, deadline):
                        bar.say(f"Stopped with {missing} of {total} trials to go: {reason}.")
                        break
                    with told_plainly():
                        study.optimize(
                            bounded, n_trials=missing, timeout=deadline.left, callbacks=callbacks
                        )
                for keeper in keepers:  # a process that found the last trial may be dead
                    keeper.update(study)
            except BaseException as error:
                # A second ctrl-C, or one in a thread, may hit inside Optuna, SQLAlchemy or a
                # storage and come out as the error of whatever it has interrupted.
                if not (interrupt.noted() or _was_interrupted(error)):
                    raise
                _fail_own_trials(study)
                raise KeyboardInterrupt from error
        return study

    def _callbacks(self) -> list[Callback]:
        """Those declared, and the usual ones."""
        made = list(self.callbacks)
        if self.keep_best is not None and self.folder is not None:
            made.append(KeepBest(self.keep_best, self.folder, sources=self.sources))
        elif (self.keep_best, self.folder) != (None, None):
            raise StudyError("keep_best= and folder= go together: how many to keep, and where.")
        if not any(isinstance(callback, MaxFailures) for callback in made):
            made.append(MaxFailures())
        return made

    def _reason(self, study: optuna.Study, deadline: _Deadline) -> str | None:
        """Why no further trial should be started, if there is a reason."""
        rules = [c.reason for c in self.callbacks if isinstance(c, StopRule)]
        reasons = (rule(study) for rule in (deadline.reason, *rules))
        stopped = "a callback has stopped it" if compat.was_stopped(study) else None
        return next(filter(None, reasons), stopped)

    def test_value(self, study: optuna.Study, recipe: Recipe) -> float | tuple[float, ...]:
        """Scores a recipe on the test data.

        Raises:
            StudyError: If this study has none.
        """
        if self.test is None:
            raise StudyError(f"The study {study.study_name!r} was declared without test=.")
        return self.objective.score(recipe, self.test)


class _Deadline:
    """The end of the time that a run has, if it has one."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._started = time.monotonic()

    @property
    def left(self) -> float | None:
        """Seconds to go, None if there is no end."""
        if self._seconds is None:
            return None
        return max(0.0, self._started + self._seconds - time.monotonic())

    def reason(self, study: optuna.Study) -> str | None:
        """Why to stop: the time is up."""
        return f"its {self._seconds:g} seconds are over" if self.left == 0 else None


class _Bounded:
    """The objective, except that a trial beyond the total is failed as surplus.

    With several processes on one storage each may have started a trial when only one was
    missing. A surplus trial waits until the others have finished; if one fails, the loop asks
    for a new one.
    """

    def __init__(self, objective: MergeObjective, total: int, deadline: _Deadline) -> None:
        self._objective = objective
        self._total = total
        self._deadline = deadline
        self._first_seen: dict[int, float] = {}

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        if not self._is_surplus(trial):
            return self._objective(trial)
        compat.set_system_attr(trial.study, trial, SURPLUS, "total reached")
        while self._is_surplus(trial) and remaining(trial.study, self._total) > 0:
            if self._deadline.left == 0:
                break
            with interrupt.interruptible():
                time.sleep(_POLL_SECONDS)
            fail_dead_trials(trial.study)
            compat.fail_stale_trials(trial.study)
        return float("nan")

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        trials = compat.all_trials(trial.study)
        if len(trials) <= self._total:
            return False
        others = sum(self._is_under_way(trial.study, t) for t in trials[: trial.number])
        return sum(t.state in COUNTED for t in trials) + others >= self._total

    def _is_under_way(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether another process can be expected to finish a trial.

        One of another machine can where a heartbeat tells when it is dead.
        """
        if trial.state != TrialState.RUNNING or SURPLUS in trial.system_attrs:
            return False
        if owner_of(trial) is None:  # just created, or killed there and then
            seen = self._first_seen.setdefault(trial.number, time.monotonic())
            return time.monotonic() - seen < _PATIENCE
        alive = owner_alive(trial)
        return compat.has_heartbeat(study) if alive is None else alive


def _check_timeout(seconds: float | None) -> None:
    if seconds is not None and not seconds > 0:
        raise StudyError(f"timeout must be a positive number of seconds, not {seconds}.")


def _raise_ctrl_c(study: optuna.Study, trial: FrozenTrial) -> None:
    """A callback: between two trials is a good place."""
    interrupt.raise_if_noted()


def _stop_at(total: int) -> Any:
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
