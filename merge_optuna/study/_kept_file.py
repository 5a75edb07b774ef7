"""The file that a storage is kept in, watched while it is in use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from merge_optuna.errors import StorageError

FULL = "the disk is full. Free some space"
FORBIDDEN = "you may not write there. Make the file and its folder writable"


@dataclass(frozen=True)
class KeptFile:
    """A file as it was when it was opened.

    Without looking, a deleted SQLite file goes on being written where nobody finds it, and a
    deleted journal is begun anew, empty.

    Attributes:
        path: As given; relative to the working folder, as SQLite takes it.
        identity: Its device and inode.
    """

    path: Path
    identity: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> KeptFile:
        """The file that is there now."""
        return cls(path, _identity(path))

    def check(self) -> None:
        """Checks that it is still there.

        Raises:
            StorageError: If it is not, or another file has taken its place.
        """
        try:
            found = _identity(self.path)
        except OSError as error:
            raise StorageError(
                f"The storage {self.path.absolute()} was deleted or moved while it was in use "
                f"({error.strerror}). Put it back, an SQLite file with those in -wal and -shm "
                "beside it, and start again; it is not made anew."
            ) from error
        if found != self.identity:
            raise StorageError(
                f"The storage {self.path.absolute()} was replaced by another file while it was "
                "in use. End all processes that use it, put the right file there and start again."
            )


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def unusable(what: str, cause: str) -> StorageError:
    """What to say of a storage that cannot be used, and how to mend it."""
    return StorageError(
        f"Cannot use the {what}: {cause} and start again; what was finished is kept."
    )
