"""Opens storages with the settings that a long search needs."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StorageError, few
from merge_optuna.study._journal import START, Journal
from merge_optuna.study._kept_file import KeptFile

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_SQLITE_START = b"SQLite format 3\0"
_BUSY_TIMEOUT = 10.0  # seconds until SQLite says that it is locked, and is asked again
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smbfs", "smb3", "afs", "ceph", "lustre", "gpfs", "beegfs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph"),
}
_MOUNTS = Path("/proc/mounts")


def storage(url: str, *, create: bool = True, patience: float = 120.0) -> BaseStorage:
    """Opens an Optuna storage by URL.

    Whatever goes wrong with it later is a :class:`StorageError` with cause and remedy. A file
    that is deleted, moved or replaced while it is in use ends the search and is not made anew.

    Args:
        url: ``sqlite:///file.db`` – write-ahead log, ``synchronous=NORMAL`` (survives a killed
            process; a power cut may lose the last trials), a busy timeout and a heartbeat;
            ``postgresql://user@host/db`` – for several machines, needs ``merge_optuna[postgres]``;
            ``journal:///file.log`` – Optuna's append-only file, quicker than SQLite, in which an
            unfinished last record (full disk, killed process) is cut off and kept beside; or any
            other URL that Optuna knows. The path of an SQLite or journal file that is there is
            taken as well.
        create: Whether to make the file of an SQLite or journal storage if it is not there.
        patience: Seconds that a database may be away or locked during a search, e.g. while its
            server restarts. A server must be there when it is opened.

    Returns:
        What ``optuna.create_study(storage=)`` takes.

    Raises:
        StorageError: If the storage cannot be opened, is of another program or of another
            version of Optuna, or is SQLite on a network file system, where its locks do not work.
    """
    url = _url_of(url)
    if url.startswith("journal:///"):
        file = Path(url.removeprefix("journal:///"))
        _check_file(url, file, create=create)
        return Journal(file)
    if url.startswith("sqlite:///") and url != "sqlite:///:memory:":
        file = Path(url.removeprefix("sqlite:///").partition("?")[0])
        _check_file(url, file, create=create)
        return _sqlite(url, file, patience)
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return _database(url, compat.without_password(url), {"pool_pre_ping": True}, patience)


def _url_of(place: str) -> str:
    """The URL of a storage, which may be given as a file that is there.

    Raises:
        StorageError: If the file is no storage.
    """
    file = Path(place)
    if "://" in place or not file.is_file():
        return place
    try:
        with open(file, "rb") as opened:
            start = opened.read(len(_SQLITE_START))
    except OSError as error:
        raise StorageError(f"Cannot read the storage {place}: {error.strerror}.") from error
    if start == _SQLITE_START:
        return f"sqlite:///{place}"
    if start.startswith(START):
        return f"journal:///{place}"
    raise StorageError(
        f"{file.absolute()} is neither an SQLite database nor a journal of Optuna. Check the "
        "path; a new storage is given as a URL, e.g. sqlite:///search.db."
    )


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
    """A block that runs ``study.optimize``, which hides why it cannot end a trial.

    Raises:
        StorageError: Instead of the AssertionError or UnboundLocalError that Optuna comes to when
            the storage fails while a trial is told.
    """
    try:
        yield
    except (AssertionError, UnboundLocalError) as error:
        hidden: BaseException | None = error
        while hidden is not None and not isinstance(hidden, StorageError):
            hidden = hidden.__cause__ or hidden.__context__
        if hidden is None:
            raise
        raise hidden from hidden.__cause__


def _sqlite(url: str, file: Path, patience: float) -> BaseStorage:
    mounts = _MOUNTS.read_text() if _MOUNTS.is_file() else ""
    filesystem = _filesystem(file.resolve().parent, mounts)
    if filesystem in _NETWORK:
        raise StorageError(
            f"{file} lies on a network file system ({filesystem}), where SQLite's locks do not "
            "work. Use a local disk, PostgreSQL, or journal:///."
        )
    _check_tables(file)
    arguments = {"connect_args": {"timeout": min(_BUSY_TIMEOUT, patience / 4)}}
    return _database(url, str(file.absolute()), arguments, patience, file)


def _database(
    url: str, place: str, engine_kwargs: dict[str, Any], patience: float, file: Path | None = None
) -> BaseStorage:
    from merge_optuna.study._database import opened  # and with it SQLAlchemy

    kept = None if file is None else KeptFile.of(file)
    return opened(url, place, engine_kwargs, file=kept, patience=patience)


def _check_file(url: str, file: Path, *, create: bool) -> None:
    if file.is_dir():
        raise StorageError(f"Cannot open the storage {url}: {file.absolute()} is a folder.")
    if not file.parent.is_dir():
        raise StorageError(
            f"Cannot open the storage {url}: there is no folder {file.parent}. Create it first."
        )
    if not create and not file.is_file():
        raise StorageError(
            f"Cannot open the storage {url}: there is no file {file.absolute()}. Check the path; "
            "a relative one has three slashes, an absolute one four."
        )
    try:
        if not file.exists():
            file.touch()
        with open(file, "rb") as opened:
            opened.read(1)
    except OSError as error:
        raise StorageError(
            f"Cannot open the storage {url}: {error.strerror}. May you write there, or is the "
            "disk full? Of a read-only one, open a copy."
        ) from error


def _check_tables(file: Path) -> None:
    """Checks that a file is not of another program, before Optuna adds its tables to it."""
    with open(file, "rb") as opened:
        if opened.read(len(START)) == START:
            raise StorageError(f"{file.absolute()} is a journal. Use journal:///{file}")
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            is_complete = "version_info" in _tables(connection) and bool(
                connection.execute("SELECT * FROM version_info").fetchall()
            )
            tables = _tables(connection)
        finally:
            connection.close()
    except sqlite3.Error:
        return  # it is said once it is opened
    if is_complete and not tables >= {"studies", "trials"}:
        gone = sorted({"studies", "trials"} - tables)
        raise StorageError(
            f"{file.absolute()} has lost the table {' and the table '.join(gone)}. Restore a copy."
        )
    if tables and "version_info" not in tables and not tables <= compat.tables_of_optuna():
        raise StorageError(
            f"{file.absolute()} is an SQLite database of another program, with the tables "
            f"{few(sorted(tables), 5)}. Use another file."
        )


def _tables(connection: sqlite3.Connection) -> set[str]:
    """The tables that are there now; another process may be making them, the version last."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in rows} - {"sqlite_sequence"}


def _filesystem(folder: Path, mounts: str) -> str | None:
    """Type of the file system that holds a folder, by a text like that of ``/proc/mounts``."""
    found, kind = "", None
    for line in mounts.splitlines():
        _, escaped, filesystem, *_ = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped)
        if folder.is_relative_to(point) and len(point) >= len(found):
            found, kind = point, filesystem
    return kind
