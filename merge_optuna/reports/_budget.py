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
    """Seconds spent so far, and whether there are some left for cards."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._spent = 0.0
        self._cards: float | None = None  # seconds that they took the last time

    def allows(self) -> bool:
        """Whether cards that take as long as the last time are within the share.

        The first may take what they do: who looks at a search that has begun wants to see it.
        """
        if self._cards is None:
            return True
        return self._spent + self._cards <= SHARE * (time.monotonic() - self._started)

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """A block whose seconds count."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent += time.monotonic() - began

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """The part of such a block that makes cards."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._cards = time.monotonic() - began
