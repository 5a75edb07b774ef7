"""Storages for the sampler tests; imports neither torch nor pytest (the drivers use it too)."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event


def make_storage(kind: str, folder: Path) -> BaseStorage:
    """Opens (or creates) ``folder``'s storage, SQLite as mo.storage does but without heartbeat."""
    if kind == "memory":
        return InMemoryStorage()
    if kind == "journal":
        return JournalStorage(JournalFileBackend(str(folder / "journal")))
    exists = (folder / "study.db").exists()  # then the slow checks of its tables are left out
    database = RDBStorage(
        f"sqlite:///{folder}/study.db",
        engine_kwargs={"connect_args": {"timeout": 60}},
        skip_compatibility_check=exists,
        skip_table_creation=exists,
    )

    @event.listens_for(database.engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        _use_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")

    database.engine.dispose()
    return optuna.storages.get_storage(database)


def _use_wal(connection: Any) -> None:
    # SQLite waits for no lock here, whatever its timeout, and several processes come at once.
    deadline = time.monotonic() + 60
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)
