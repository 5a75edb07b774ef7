"""Work on files that stay what they were: looked at before and after."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.errors import SourceChanged

_ATTEMPTS = 3

T = TypeVar("T")


def renew(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether files were touched since they were opened; they have been opened again then.

    Raises:
        SourceChanged: If a content is another than it was.
    """
    renewed = [checkpoint.origin.renew() for checkpoint in checkpoints]  # all, not until one
    return any(renewed)


def steadily(
    work: Callable[[], T], checkpoints: Sequence[Checkpoint], forget: Callable[[], None]
) -> T:
    """Does work that reads checkpoints, again if a file was touched meanwhile.

    Looking at a file takes a microsecond.

    Args:
        work: What reads them.
        checkpoints: All that it may read.
        forget: Drops what earlier work has kept of them.

    Raises:
        SourceChanged: If the content of a file is another than it was when it was opened.
    """
    for _ in range(_ATTEMPTS):
        if renew(checkpoints):
            forget()
        try:
            with _last_words():
                result = work()
        except Exception:
            if not _touched(checkpoints):
                raise
        else:
            if not _touched(checkpoints):
                return result
        forget()  # it may be of what stood there for a moment
    renew(checkpoints)
    names = ", ".join(checkpoint.name for checkpoint in checkpoints)
    raise SourceChanged(
        f"A file of {names} is touched again and again while it is read. Stop what writes to it."
    )


@contextlib.contextmanager
def _last_words() -> Iterator[None]:
    """Lets a process say where it was if a file is cut short in the middle of being read.

    The system ends a process that reads a memory map beyond the end of its file (SIGBUS).
    """
    error = sys.__stderr__  # a notebook puts something without a descriptor in the other's place
    if faulthandler.is_enabled() or error is None or error.closed:
        yield
        return
    faulthandler.enable(error)
    try:
        yield
    finally:
        faulthandler.disable()


def _touched(checkpoints: Sequence[Checkpoint]) -> bool:
    return any(checkpoint.origin.touched for checkpoint in checkpoints)
