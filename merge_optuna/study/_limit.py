"""The time that one trial may take."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import optuna

from merge_optuna.errors import StudyError
from merge_optuna.study._interrupt import in_storage

_AGAIN = 1.0  # seconds until it is raised again, if somebody has swallowed it


class Overdue(BaseException):
    """Raised in a trial that takes too long.

    Not an Exception, as KeyboardInterrupt is none: evaluators catch those.
    """


@contextlib.contextmanager
def limited(trial: optuna.Trial, seconds: float | None) -> Iterator[None]:
    """A block that is left by :class:`Overdue` when it has taken so many seconds.

    Python code is interrupted between two instructions, but never within the storage.
    """
    if seconds is None:
        yield
        return
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
        if self._on and not in_storage(frame):
            raise Overdue(f"It took longer than trial_timeout={self._seconds:g} seconds.")


def check_limit(seconds: float | None) -> None:
    """Refuses a limit that cannot be kept.

    Raises:
        StudyError: If it is not a positive number, or this thread cannot be interrupted.
    """
    if seconds is None:
        return
    if not seconds > 0:
        raise StudyError(f"trial_timeout must be a positive number of seconds, not {seconds}.")
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        raise StudyError(
            "trial_timeout= interrupts trials in the main thread of a process, on Linux and "
            "macOS. Run the search there, or leave it out."
        )
