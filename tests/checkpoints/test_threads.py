"""Work on several threads, interrupted."""

from __future__ import annotations

import signal
import time
from types import FrameType

import pytest

from merge_optuna.checkpoints import for_each


class Ring(BaseException):
    """What a timer raises."""


def test_no_thread_is_left_behind_however_often_it_is_interrupted() -> None:
    """One that is left would write into what the next item is read from."""
    working = rung = 0

    def work(seconds: float) -> None:
        nonlocal working
        working += 1
        time.sleep(seconds)
        working -= 1

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal rung
        rung += 1
        if rung <= 4:  # all of them while the threads work
            raise Ring

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(Ring):
            for_each(work, [0.8, 0.8, 0.8], 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rung >= 4
    assert working == 0
