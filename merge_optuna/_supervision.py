"""One process looks after another: ``merge-optuna run`` after the one that does its work.

A call into C++ that never returns cannot be interrupted, and a process that the system
kills cannot say why. So the command starts itself as a worker, which reports its trials through a
pipe. The supervisor ends a trial that takes too long together with the worker, says of what a
worker has died, and starts the next one; the storage has everything that it needs to go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from merge_optuna.errors import MergeOptunaError

_ENVIRONMENT = "MERGE_OPTUNA_SUPERVISOR"
_STOPS = ("SIGINT", "SIGTERM", "SIGHUP")
_POLL_SECONDS = 0.2
_GRACE = 10.0  # seconds that a trial has to end by itself once it is interrupted
_LAST_WORDS = 5.0  # seconds from SIGTERM to SIGKILL
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_DEATHS, _OVERDUE = 3, 10  # in a row, without a trial that came to an end
_CAUSES = {
    "SIGBUS": "a file that it reads was cut short, or the disk is full or gone",
    "SIGKILL": "probably the machine ran out of memory",
    "SIGSEGV": "a library that it uses is broken",
}

Fail = Callable[[str, str, int, str], bool]
"""Fails a trial, by storage, study, number and reason; False if it has come to an end.

It raises a MergeOptunaError if it cannot: it is called again once the worker is dead."""


# -- the worker -------------------------------------------------------------------------------


def report(**facts: Any) -> None:
    """Tells the supervisor something; nothing happens in a process that has none."""
    if (lines := _lines()) is not None:
        os.write(lines.report, json.dumps(facts).encode() + b"\n")


def follow() -> None:
    """Ends this process together with its supervisor, even if that is killed.

    The system does it: a thread would wait for its turn as long as a call into C++ holds it.
    """
    if (lines := _lines()) is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != lines.supervisor:  # it was quicker
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class _Lines:
    """What connects a worker with its supervisor.

    Attributes:
        supervisor: Its pid.
        report: The writing end of a pipe.
    """

    supervisor: int
    report: int


def _lines() -> _Lines | None:
    """Those of this process; what it starts inherits the environment, but not the lines."""
    given = os.environ.get(_ENVIRONMENT)
    lines = None if given is None else _Lines(*map(int, given.split(":")))
    return lines if lines is not None and lines.supervisor == os.getppid() else None


# -- the supervisor ---------------------------------------------------------------------------


def can_supervise(arguments: Sequence[str]) -> bool:
    """Whether this process was started with these arguments, by anybody but a supervisor.

    Only on Linux, which tells who has sent a signal and ends a process with its parent.
    """
    started = sys.orig_argv[-len(arguments) :] == list(arguments)
    return started and _lines() is None and sys.platform == "linux"


def supervise(argv: list[str], fail: Fail) -> NoReturn:
    """Runs a command as a worker, again where it dies, and ends as it does.

    Args:
        argv: Path of the program, and its arguments.
        fail: What fails the trial of a worker that is going to be ended.
    """
    # Waited for one by one: a ctrl-C of the terminal has reached the worker as well, one that was
    # sent to this process has not.
    signal.pthread_sigmask(signal.SIG_BLOCK, _expected())
    row = 0
    while True:
        worker = _Worker(argv, fail)
        status = worker.wait()
        if status >= 0 or worker.stopped:
            _end_as(status)
        row = 1 if worker.has_ended_trials else row + 1
        again = row < (_OVERDUE if worker.was_overdue else _DEATHS)
        print(f"\n{worker.last_words(status)} {_outlook(row, again)}", file=sys.stderr)
        if not again:
            _end_as(status)


def _expected() -> set[signal.Signals]:
    """The signals that are waited for."""
    return {signal.SIGCHLD, *(signal.Signals[name] for name in _STOPS)}


def _outlook(row: int, again: bool) -> str:
    if again:
        return "It is started again."
    return f"That is {row} times in a row without a trial that came to an end: the search stops."


def _end_as(status: int) -> NoReturn:
    """Ends with the exit code of the worker, or by the same signal."""
    if status < 0:
        import resource  # not on every system, as little as what it is for

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core is enough
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
        os.kill(os.getpid(), -status)
    sys.exit(status)


class _Worker:
    """A worker under way.

    Attributes:
        stopped: Whether somebody wanted it to stop.
        was_overdue: Whether it was ended because of a trial that took too long.
        has_ended_trials: Whether at least one has come to an end.
    """

    def __init__(self, argv: list[str], fail: Fail) -> None:
        self.stopped = self.was_overdue = self.has_ended_trials = False
        self._fail = fail
        self._study: tuple[str, str] | None = None
        self._trial: int | None = None
        self._what = ""
        self._reason = ""
        self._end = math.inf
        self._unread = b""
        self._reports, report = os.pipe()
        os.set_inheritable(report, True)
        environment = {**os.environ, _ENVIRONMENT: f"{os.getpid()}:{report}"}
        self._pid = os.posix_spawn(argv[0], argv, environment, setsigmask=())
        os.close(report)
        os.set_blocking(self._reports, False)

    def wait(self) -> int:
        """Exit code of the worker, negative if a signal has ended it."""
        while (status := self._status()) is None:
            self._take_signal()
            self._read()
            if time.monotonic() > self._end:
                self._end_overdue()
        self._read()
        os.close(self._reports)
        return status

    def last_words(self, status: int) -> str:
        """What has happened to it."""
        if self.was_overdue:
            what = self._what[0].upper() + self._what[1:]
            return f"{what} could not be interrupted. {self._reason}"
        where = f" in {self._what}" if self._what else ""
        name = signal.Signals(-status).name
        why = f": {_CAUSES[name]}" if name in _CAUSES else ""
        return f"The process of the search died of {name}{where}{why}."

    def _status(self) -> int | None:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def _take_signal(self) -> None:
        info = signal.sigtimedwait(_expected(), _POLL_SECONDS)
        if info is None or info.si_signo == signal.SIGCHLD:
            return
        self.stopped = True
        if info.si_code <= 0:  # sent by a process; the kernel tells all of the terminal
            os.kill(self._pid, info.si_signo)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reports, 1 << 16):
                *lines, self._unread = (self._unread + chunk).split(b"\n")
                for line in lines:
                    self._note(**json.loads(line))

    def _note(
        self,
        *,
        study: tuple[str, str] | None = None,
        trial: int | None = None,
        baseline: str | None = None,
        seconds: float | None = None,
    ) -> None:
        if study is not None:
            self._study = study
            return
        self._trial, self._end = trial, math.inf
        self._what = "" if trial is None else f"trial {trial}"
        if baseline is not None:
            self._what = f"the baseline {baseline!r}"
        self.has_ended_trials |= not self._what
        if seconds is not None:
            self._reason = overdue(seconds)
            self._end = time.monotonic() + seconds + _GRACE

    def _end_overdue(self) -> None:
        self._end = math.inf
        if self._study is None:
            return
        if self._trial is None:  # the next worker finds that the owner of the baseline is dead
            self.was_overdue = True
            self._terminate()
            return
        late = *self._study, self._trial, self._reason
        refused = False
        try:
            if not self._fail(*late):
                return
        except MergeOptunaError:
            refused = True
        self.was_overdue = True
        self._terminate()
        if refused:  # perhaps it was the worker that held a lock
            self._fail_dead(late)

    def _fail_dead(self, late: tuple[str, str, int, str]) -> None:
        try:
            self._fail(*late)
        except MergeOptunaError as error:
            message = f"Trial {self._trial} cannot be failed in the storage. {error}"
            print(f"\n{message}", file=sys.stderr)

    def _terminate(self) -> None:
        """Asks it to end, then makes it."""
        os.kill(self._pid, signal.SIGTERM)
        signal.sigtimedwait((signal.SIGCHLD,), _LAST_WORDS)
        os.kill(self._pid, signal.SIGKILL)


def overdue(seconds: float) -> str:
    """Why a trial has failed that took too long."""
    return f"It took longer than trial_timeout={seconds:g} seconds."
