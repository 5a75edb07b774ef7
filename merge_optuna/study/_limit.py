"""The time that one trial, or a run, may take."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from merge_optuna import _optuna_compat as compat
from merge_optuna import _supervision as supervision
from merge_optuna._schema import REASON
from merge_optuna.errors import StudyError
from merge_optuna.study._interrupt import is_within
from merge_optuna.study._storage import storage as open_storage

_PATIENCE = 4.0  # seconds of a storage that is away: who waits takes no signal
_WHOLE = "optuna.storages.", "merge_optuna.checkpoints._threads"
"""What is not left half done: storages, and threads that fill the live model."""
_AGAIN = 1.0  # seconds until it is raised again, if somebody has swallowed it


class Deadline:
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


class Overdue(BaseException):
    """Raised in a trial that takes too long.

    Not an Exception, as KeyboardInterrupt is none: evaluators catch those.
    """


@contextlib.contextmanager
def limited(
    seconds: float | None, *, trial: int | None = None, baseline: str | None = None
) -> Iterator[None]:
    """A block that is left by :class:`Overdue` when it has taken so many seconds, if any.

    Python code is interrupted between two instructions, but never within the storage, nor while
    threads fill the live model.

    Args:
        seconds: How many.
        trial: The number of the trial that runs in it ...
        baseline: ... or the name of the baseline, for whoever looks after this process.
    """
    supervision.report(trial=trial, baseline=baseline, seconds=seconds)
    try:
        with contextlib.nullcontext() if seconds is None else _alarm(seconds):
            yield
    finally:
        supervision.report(trial=None)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    alarm = _Alarm(seconds)
    try:
        with alarm:
            yield
    finally:
        alarm.off()  # it may have rung when the block was being left


class _Alarm:
    """The timer of the process, on in a ``with`` block."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._on = False

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._ring)
        self._on = True
        signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN)

    def __exit__(self, *_: object) -> None:
        self.off()

    def off(self) -> None:
        """Switches it off, once or again."""
        self._on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._on and not any(is_within(frame, module) for module in _WHOLE):
            raise Overdue(supervision.overdue(self._seconds))


def fail_overdue(storage: str, study_name: str, number: int, reason: str) -> bool:
    """Fails the trial of another process; False if it has come to an end.

    Raises:
        StudyError: If the storage cannot be opened, read or written now, or has no such study.
    """
    opened = open_storage(storage, create=False, patience=_PATIENCE)
    study = optuna.load_study(study_name=study_name, storage=opened)
    trial = compat.numbered(compat.all_trials(study), number)
    if trial is None:
        return False
    try:
        compat.set_attrs(study, trial, user={REASON: reason}, system={})
    except UpdateFinishedTrialError:
        return False
    return compat.fail(study, trial)


def check_seconds(name: str, seconds: float | None) -> None:
    """Refuses a time that is none.

    Raises:
        StudyError: If it is not a positive number.
    """
    if seconds is not None and not seconds > 0:
        raise StudyError(f"{name} must be a positive number of seconds, not {seconds}.")


def check_limit(seconds: float | None) -> None:
    """Refuses a limit that cannot be kept.

    Raises:
        StudyError: If it is not a positive number, or this thread cannot be interrupted.
    """
    check_seconds("trial_timeout", seconds)
    if seconds is None:
        return
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        raise StudyError(
            "trial_timeout= interrupts trials in the main thread of a process, on Linux and "
            "macOS. Run the search there, or leave it out."
        )
