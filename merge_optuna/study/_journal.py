"""Optuna's journal file, such that no interrupted write makes it unreadable.

A record is one line of JSON. A full disk or a killed process leaves the last one unfinished; what
is appended to it makes one broken line of two records, after which Optuna reads nothing more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StorageError, UnknownStudy
from merge_optuna.study._kept_file import FORBIDDEN, FULL, KeptFile, unusable

R = TypeVar("R")

_CHUNK = 1 << 16
START = b'{"op_code":'
"""How every journal begins."""
_SQLITE = b"SQLite format 3\0"
_CAUSES = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "your disk quota is used up. Free some space",
    errno.EFBIG: "files may not grow further here (ulimit -f). Allow larger ones",
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.EROFS: "the disk is read-only. Copy it to another one",
}


class Journal(compat.WatchedJournal):
    """A journal whose errors say which line of which file is to blame."""

    def __init__(self, file: Path) -> None:
        self._file = JournalFile(file)
        super().__init__(self._file)

    def get_study_id_from_name(self, study_name: str) -> int:
        """The number of a study.

        Raises:
            UnknownStudy: If there is none of this name.
        """
        try:
            return super().get_study_id_from_name(study_name)
        except KeyError as error:
            names = [study.study_name for study in self.get_all_studies()]
            raise UnknownStudy.among(names, study_name, self._file.place) from error

    def watch(self, operation: str, run: Callable[[], R]) -> R:
        """Runs an operation.

        Raises:
            UnknownStudy: If somebody has deleted the study.
        """
        try:
            return run()
        except KeyError as error:
            if not compat.record_not_found(error):
                raise
            raise UnknownStudy.gone(self._file.place) from error

    def unreadable(self, error: Exception) -> StorageError:
        """What to say of a record that Optuna cannot apply."""
        return self._file.damaged(f"{type(error).__name__}: {error}")


class JournalFile(JournalFileBackend):
    """An append-only file in which every line is a whole record, whoever is killed when.

    A write that fails is cut back to the last whole line; what a killed process has left is cut
    off by the next write, under the lock, and kept beside the file.

    Raises:
        StorageError: If the file is no journal.
    """

    def __init__(self, file: Path) -> None:
        # A relative path as its target would make a stale lock look as if it were not there.
        self._symlink = JournalFileSymlinkLock(str(file.absolute()))
        with _explained(file):
            super().__init__(str(file), self._symlink)
            self._kept = KeptFile.of(file)
            _check_start(file)
        self._starts = [0]  # of each line read so far and of the next one
        self._line = 0

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return str(self._kept.path.absolute())

    def damaged(self, why: str) -> StorageError:
        """What to say of the line that was read last."""
        return StorageError(
            f"Line {self._line} of the journal {self.place} is damaged, or was written by a newer "
            f"version of Optuna ({why}). Restore a copy of the file, or end all processes that "
            f"use it and leave out this one record: sed -i.bak {self._line}d "
            f"{shlex.quote(self.place)}"
        )

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records from this number on, without one that is being written."""
        self._kept.check()
        with _explained(self._kept.path), open(self._kept.path, "rb") as file:
            known = min(log_number_from, len(self._starts) - 1)
            if os.fstat(file.fileno()).st_size < self._starts[known]:
                raise StorageError(
                    f"The journal {self.place} is shorter than it was: somebody has cut it off "
                    "while it was in use. Restore a copy and start again."
                )
            file.seek(self._starts[known])
            for number, line in enumerate(file, start=known):
                if not line.endswith(b"\n"):
                    return
                self._line = number + 1
                record = self._record(line)
                if number + 1 == len(self._starts):
                    self._starts.append(self._starts[number] + len(line))
                if number >= log_number_from:
                    yield record

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds records, by whole lines.

        Raises:
            StorageError: If they cannot be written.
        """
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._kept.check()
        with _explained(self._kept.path):
            self._symlink.acquire()
            try:
                self._append(lines.encode())
            finally:
                # Whoever waits for half a minute takes the lock for a dead one's, and away.
                with contextlib.suppress(RuntimeError):
                    self._symlink.release()

    def _append(self, lines: bytes) -> None:
        file = os.open(self._kept.path, os.O_RDWR | os.O_APPEND)  # and never creates it
        try:
            self._mend(file)
            try:
                while lines:
                    lines = lines[os.write(file, lines) :]
                os.fsync(file)
            except BaseException:
                os.ftruncate(file, _end_of_lines(file))
                raise
        finally:
            os.close(file)

    def _mend(self, file: int) -> None:
        """Cuts off what a killed process or a full disk has left of the last record."""
        size = os.fstat(file).st_size
        if size == 0 or os.pread(file, 1, size - 1) == b"\n":
            return
        end = _end_of_lines(file)
        beside = Path(f"{self._kept.path}.torn-{end}")
        beside.write_bytes(os.pread(file, size - end, end))
        os.ftruncate(file, end)
        warnings.warn(
            f"The last record of the journal {self.place} was unfinished: the disk was full, or a "
            f"process was killed while it wrote. These {size - end} bytes were cut off and are "
            f"kept in {beside.name}; nothing else is lost.",
            stacklevel=2,
        )

    def _record(self, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:  # JSON, UTF-8
            raise self.damaged(f"it is not JSON: {error}") from error
        if not isinstance(record, dict) or "op_code" not in record or "worker_id" not in record:
            raise self.damaged("it is not a record of Optuna")
        if record["op_code"] not in compat.JOURNAL_OPERATIONS:
            raise self.damaged(f"unknown operation {record['op_code']!r}")
        return record


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Says what has gone wrong with a file."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        cause = _CAUSES.get(error.errno or 0, f"{error.strerror}. Check file and disk")
        raise unusable(f"journal {file.absolute()}", cause) from error


def _check_start(file: Path) -> None:
    """Checks that a file may be a journal, before anything is appended to it or cut off."""
    with open(file, "rb") as opened:
        start = opened.read(len(_SQLITE))
    if start == _SQLITE:
        raise StorageError(
            f"{file.absolute()} is an SQLite database, not a journal. Use sqlite:///{file}"
        )
    if not start.startswith(START) and not START.startswith(start):
        raise StorageError(
            f"{file.absolute()} is not a journal of Optuna: it does not begin with a record. "
            "Check the path."
        )


def _end_of_lines(file: int) -> int:
    """Number of bytes up to and with the last newline."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - _CHUNK)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
