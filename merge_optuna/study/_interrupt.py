"""Ctrl-C where nothing is half done.

Python raises KeyboardInterrupt between any two instructions: within a database transaction, where
it comes out as another error and leaves a traceback in the log; within a destructor or a callback
of C code, where it is swallowed. So a search only notes ctrl-C and raises it where that does no
harm: while it merges, evaluates or writes, and after a trial.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class _CtrlC:
    """What the handler knows; there is one handler per process."""

    noted = False
    welcome = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        again, self.noted = self.noted, True
        # Whoever presses it twice means now; in a storage nothing must be left half done.
        if again or (self.welcome and not is_within(frame, "optuna.storages.")):
            raise KeyboardInterrupt


_ctrl_c = _CtrlC()


def is_within(frame: FrameType | None, module: str) -> bool:
    """Whether a signal has hit a module whose name begins so, or what it has called."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(module):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within this block ctrl-C is raised in :func:`interruptible` blocks and at its end only.

    Nothing changes outside of the main thread, and where somebody else handles ctrl-C.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    _ctrl_c.noted = False
    signal.signal(signal.SIGINT, _ctrl_c.handle)
    try:
        yield
        raise_if_noted()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _ctrl_c.noted = False


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A block that may be left by ctrl-C at any instruction outside of the storage."""
    raise_if_noted()
    before, _ctrl_c.welcome = _ctrl_c.welcome, True
    try:
        yield
    finally:
        _ctrl_c.welcome = before


def interruptibly(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items, each made in an :func:`interruptible` block."""
    iterator, end = iter(items), object()
    while True:
        with interruptible():
            item = next(iterator, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def noted() -> bool:
    """Whether ctrl-C was pressed in the present :func:`deferred` block, raised or not."""
    return _ctrl_c.noted


def raise_if_noted() -> None:
    """Raises what was noted, or what somebody has swallowed.

    Raises:
        KeyboardInterrupt: If ctrl-C was pressed in the present :func:`deferred` block.
    """
    if _ctrl_c.noted:
        raise KeyboardInterrupt
