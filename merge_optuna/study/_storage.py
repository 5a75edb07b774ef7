"""Opens storages with the settings that a long search needs."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_optuna.errors import StorageError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

_HEARTBEAT = 60
_BUSY_TIMEOUT = 60.0
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smbfs", "smb3", "afs", "ceph", "lustre", "gpfs", "beegfs"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph"),
}
_MOUNTS = Path("/proc/mounts")


def storage(url: str, *, create: bool = True) -> BaseStorage:
    """Opens an Optuna storage by URL.

    Args:
        url: ``sqlite:///file.db`` – write-ahead log, ``synchronous=NORMAL`` (survives a killed
            process; a power cut may lose the last trials), a busy timeout and a heartbeat;
            ``postgresql://user@host/db`` – for several machines, needs ``merge_optuna[postgres]``;
            ``journal:///file.log`` – Optuna's append-only file, quicker than SQLite; or any other
            URL that Optuna knows.
        create: Whether to make the file of an SQLite or journal storage if it is not there.

    Returns:
        What ``optuna.create_study(storage=)`` takes.

    Raises:
        StorageError: If the storage cannot be opened, or is SQLite on a network file system,
            where its locks do not work.
    """
    if url.startswith("journal:///"):
        file = Path(url.removeprefix("journal:///"))
        _check_file(url, file, create=create)
        return _journal(file)
    if url.startswith("sqlite:///") and url != "sqlite:///:memory:":
        file = Path(url.removeprefix("sqlite:///").partition("?")[0])
        _check_file(url, file, create=create)
        return _sqlite(url, file)
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return _database(url, {"pool_pre_ping": True})


def _sqlite(url: str, file: Path) -> RDBStorage:
    mounts = _MOUNTS.read_text() if _MOUNTS.is_file() else ""
    filesystem = _filesystem(file.resolve().parent, mounts)
    if filesystem in _NETWORK:
        raise StorageError(
            f"{file} lies on a network file system ({filesystem}), where SQLite's locks do not "
            "work. Use a local disk, PostgreSQL, or journal:///."
        )
    opened = _database(url, {"connect_args": {"timeout": _BUSY_TIMEOUT}})
    from sqlalchemy import event

    @event.listens_for(opened.engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        # 20 times quicker asks at 64 parameters than with the default rollback journal.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    opened.engine.dispose()  # connections made before the listener would go without it
    return opened


def _database(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    import optuna
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        shown = make_url(url).render_as_string(hide_password=True)
        return _rdb(url, engine_kwargs)
    except ArgumentError as error:
        raise StorageError(
            f"{url!r} is not a storage URL. Use e.g. sqlite:///search.db."
        ) from error
    except ImportError as error:
        hint = " Install merge_optuna[postgres]." if "+psycopg:" in url else ""
        raise StorageError(f"The driver for {shown} is not installed ({error}).{hint}") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise StorageError(
            f"Cannot open the storage {shown}: {reason}. Is the address right, is the server "
            "running, may you write there?"
        ) from error


def _rdb(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    import optuna
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    deadline = time.monotonic() + _BUSY_TIMEOUT
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeat
                return optuna.storages.RDBStorage(
                    url,
                    engine_kwargs=engine_kwargs,
                    heartbeat_interval=_HEARTBEAT,
                    grace_period=3 * _HEARTBEAT,
                )
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # Of several processes that make the tables at once all but one see this.
            made_by_other = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not made_by_other or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _journal(file: Path) -> BaseStorage:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(file)))


def _check_file(url: str, file: Path, *, create: bool) -> None:
    if not file.parent.is_dir():
        raise StorageError(
            f"Cannot open the storage {url}: there is no folder {file.parent}. Create it first."
        )
    if not create and not file.is_file():
        raise StorageError(
            f"Cannot open the storage {url}: there is no file {file.absolute()}. Check the path; "
            "a relative one has three slashes, an absolute one four."
        )


def _filesystem(folder: Path, mounts: str) -> str | None:
    """Type of the file system that holds a folder, by a text like that of ``/proc/mounts``."""
    found, kind = "", None
    for line in mounts.splitlines():
        _, escaped, filesystem, *_ = line.split()
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped)
        if folder.is_relative_to(point) and len(point) >= len(found):
            found, kind = point, filesystem
    return kind
