"""Progress: a bar that is drawn over and over on a terminal, a line now and then in a file."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

_SECONDS = 1.0, 60.0  # between lines: at first, and at most, as they become twice as far apart
_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressBar(tqdm):  # type: ignore[misc]
    """A progress bar on standard error; where that is no terminal, lines, a minute apart at last.

    A bar goes back to the start of its line, so in a file or a pipe hours of it would be one line
    of megabytes.

    Args:
        args: As of tqdm.
        options: As of tqdm; with a ``delay`` nothing is printed before so many seconds.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._is_drawn = sys.stderr.isatty() or "ipykernel" in sys.modules  # a notebook
        self._begun = time.monotonic()
        self._next = 0.0  # seconds from the beginning
        if not self._is_drawn:
            options |= {"file": _Nowhere(), "bar_format": _LINE}
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draws the bar; or prints it, if the last time is long ago."""
        if self._is_drawn:
            return super().display(msg, pos)
        seconds = time.monotonic() - self._begun
        if msg is None and seconds >= self._next:
            least, most = _SECONDS
            self._next = seconds + min(most, max(least, seconds))
            self._print()
        return True

    def close(self) -> None:
        """Leaves the last state behind, unless it is one that is not left."""
        if not (self._is_drawn or self.disable) and self.leave:
            self._print()
        super().close()

    def _print(self) -> None:
        print(self, file=sys.stderr, flush=True)


class _Nowhere:
    """What is written here is gone."""

    def write(self, text: str) -> int:
        """Forgets a text."""
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""
