"""Files as they were when they were read: what tells that one has changed since."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """What the file system says of a file; a link counts as the file that it leads to.

    The time of the last write can be set back, that of the last change of the file's entry cannot.
    """

    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file now.

        Raises:
            OSError: If there is no such file, or it cannot be reached.
        """
        s = os.stat(path)
        return cls(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


def stamps_of(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """The stamps of files now."""
    return {path: Stamp.of(path) for path in paths}


def first_changed(stamps: Mapping[Path, Stamp]) -> tuple[Path, str] | None:
    """The first file that is not what it was, and what has happened to it; None if all are."""
    for path, stamp in stamps.items():
        try:
            now = Stamp.of(path)
        except FileNotFoundError:
            return path, "is gone"
        except OSError as error:
            return path, f"cannot be read ({error.strerror})"
        if now.size < stamp.size:
            return path, "was cut short or rewritten"
        if now != stamp:
            return path, "was written to or replaced"
    return None
