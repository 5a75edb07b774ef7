"""Storages for the sampler tests; imports neither torch nor pytest (the drivers use it too)."""

from __future__ import annotations

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
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    database.engine.dispose()
    return optuna.storages.get_storage(database)
