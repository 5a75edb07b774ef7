"""How often a search may be shown: what that takes is a small share of the search."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

SHARE = 0.03
"""Of the seconds of a search, for what it shows while it runs."""
JOURNAL = 0.1
"""Of the bytes of a journal, which keeps all that was ever written."""


class Budget:
    """Seconds spent so far, and whether there are some left."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._spent = 0.0
        self._last = 0.0

    def allows(self) -> bool:
        """Whether as much again as the last time is within the share."""
        elapsed = time.monotonic() - self._started
        return self._spent + self._last <= SHARE * elapsed

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """A block whose seconds count."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic() - began
            self._spent += self._last
