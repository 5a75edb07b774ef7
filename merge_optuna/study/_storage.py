"""Opens storages with the settings that a long search needs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_optuna.errors import StorageError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

_HEARTBEAT = 60
_BUSY_TIMEOUT = 60.0
_NETWORK = {"nfs", "nfs4", "cifs", "smbfs", "smb3", "fuse.sshfs", "fuse.glusterfs", "afs", "ceph"}


def storage(url: str) -> BaseStorage:
    """Opens an Optuna storage by URL.

    Args:
        url: ``sqlite:///file.db`` – write-ahead log, ``synchronous=NORMAL`` (survives a killed
            process; a power cut may lose the last trials), a busy timeout and a heartbeat;
            ``postgresql://user@host/db`` – for several machines, needs ``merge_optuna[postgres]``;
            ``journal:///file.log`` – Optuna's append-only file, quicker than SQLite; or any other
            URL that Optuna knows.

    Returns:
        What ``optuna.create_study(storage=)`` takes.

    Raises:
        StorageError: If the storage cannot be opened, or is SQLite on a network file system,
            where its locks do not work.
    """
    if url.startswith("journal:///"):
        return _journal(Path(url.removeprefix("journal:///")))
    if url.startswith("sqlite:///") and url != "sqlite:///:memory:":
        return _sqlite(url, Path(url.removeprefix("sqlite:///").partition("?")[0]))
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return _database(url, {"pool_pre_ping": True})


def _sqlite(url: str, file: Path) -> RDBStorage:
    _check_folder(url, file)
    filesystem = _filesystem(file.absolute().parent)
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeat
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=engine_kwargs,
                heartbeat_interval=_HEARTBEAT,
                grace_period=3 * _HEARTBEAT,
            )
    except ArgumentError as error:
        raise StorageError(
            f"{url!r} is not a storage URL. Use e.g. sqlite:///search.db."
        ) from error
    except ImportError as error:
        hint = " Install merge_optuna[postgres]." if "psycopg" in str(error) else ""
        raise StorageError(f"The driver for {shown} is not installed ({error}).{hint}") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise StorageError(
            f"Cannot open the storage {shown}: {reason}. Is the address right, is the server "
            "running, may you write there?"
        ) from error


def _journal(file: Path) -> BaseStorage:
    _check_folder(f"journal:///{file}", file)
    import optuna
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(file)))


def _check_folder(url: str, file: Path) -> None:
    if not file.parent.is_dir():
        raise StorageError(
            f"Cannot open the storage {url}: there is no folder {file.parent}. Create it first."
        )


def _filesystem(folder: Path) -> str | None:
    """Type of the file system that holds a folder, where the system says so."""
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return None
    found, kind = "", None
    for line in mounts.read_text().splitlines():
        _, point, filesystem, *_ = line.split()
        point = point.encode().decode("unicode_escape")
        if folder.is_relative_to(point) and len(point) >= len(found):
            found, kind = point, filesystem
    return kind
