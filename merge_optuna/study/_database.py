"""Optuna's database, with patience for one that is away and one sentence for each failure."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import optuna
from alembic.util import CommandError
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StorageError, UnknownStudy
from merge_optuna.study._interrupt import interruptible
from merge_optuna.study._kept_file import FORBIDDEN, FULL, KeptFile, unusable

R = TypeVar("R")

_EXCLUSIVE: ContextVar[bool] = ContextVar("exclusive", default=False)
"""Whether a transaction of SQLite is to lock out other writers before it reads."""

_HEARTBEAT = 60
_TOGETHER = 60.0  # seconds that several processes may take to make the tables
_PAUSES = 0.1, 5.0  # seconds between two tries: at first, at most
_REFUSING = "create_", "delete_", "set_", "_create_", "_set_", "_get_best_"
"""How operations begin whose ValueError or TypeError is an answer to the caller."""
_LOOKUPS = "get_trial_id_from_study_id_trial_number", "get_trial_param"
"""Those whose KeyError is."""
_ONCE = "create_new_study", "delete_study", "add_trial"
"""What is not done again when it is unknown whether it was done: it would fail, or be twice."""
_TELL_AFTER = 2.0
"""Seconds: two SQLite processes may meet any time."""
_AWAY = "08", "57P", "40", "53300"  # SQLSTATE: connection, shutdown, rollback, too many clients
_LOCKED = "it is locked by another process. End that one, or wait for it"
_SQLITE = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR: "the disk fails or is full. Check it, free some space",
    sqlite3.SQLITE_READONLY: FORBIDDEN,
    sqlite3.SQLITE_PERM: FORBIDDEN,
    sqlite3.SQLITE_CANTOPEN: (
        "the file cannot be opened. Check the path, and that you may write there, -wal and -shm "
        "beside it included,"
    ),
    sqlite3.SQLITE_NOTADB: "the file is not a database. Check the path",
    sqlite3.SQLITE_CORRUPT: (
        "the file is damaged. Restore a copy, or save what can be read: "
        "sqlite3 {file} .recover | sqlite3 new.db,"
    ),
}


class Database(compat.WatchedDatabase):
    """An RDBStorage for a long search.

    An operation whose database is away or locked is repeated, with back-off. Each is one
    transaction, and comes to the same if it is done twice. The exceptions: a trial that was
    created although the answer was lost stays running, without an owner, and samplers wait for
    it once for five seconds; what cannot be told from its repetition is not repeated.

    Attributes:
        place: Where it is, in words; without a password.
    """

    def __init__(
        self,
        url: str,
        place: str,
        engine_kwargs: dict[str, Any],
        *,
        file: KeptFile | None,
        patience: float,
    ) -> None:
        """Opens it.

        Args:
            url: Of SQLAlchemy.
            place: Where it is, for messages.
            engine_kwargs: For SQLAlchemy's ``create_engine``.
            file: The file of SQLite.
            patience: Seconds that it may be away or locked.
        """
        self.place = place
        self._file = file
        self._patience = patience
        self._away_since: float | None = None
        self._told = False
        self._repeats = 0
        super().__init__(
            url.replace("{", "{{").replace("}", "}}"),  # Optuna takes it for a template
            engine_kwargs,
            skip_compatibility_check=True,  # check_version says it better
            heartbeat_interval=_HEARTBEAT,
            grace_period=3 * _HEARTBEAT,
        )
        self._settle()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_file"] is not None:
            state["_file"].check()
        super().__setstate__(state)
        self._settle()

    def _settle(self) -> None:
        if self._file is not None:
            event.listen(self.engine, "connect", _set_up_sqlite)
            event.listen(self.engine, "begin", _begin)
            self.engine.dispose()  # connections made before the listener would go without it

    def check_version(self) -> None:
        """Checks that this Optuna can use the tables.

        Raises:
            StorageError: If they are of an older or newer one.
        """
        found = self.get_current_version()
        if found == self.get_head_version():
            return
        known, shown = self.get_all_versions(), compat.without_password(self.url)
        remedy = (
            "pip install -U optuna"
            if found not in known
            else f"Copy it, then: optuna storage upgrade --storage {shown}"
        )
        age = "an older" if found in known else "a newer"
        raise StorageError(
            f"The storage {self.place} was made by {age} Optuna: its tables have version {found}, "
            f"those of Optuna {optuna.__version__} {self.get_head_version()}. {remedy}"
        )

    def get_study_id_from_name(self, study_name: str) -> int:
        """The number of a study.

        Raises:
            UnknownStudy: If there is none of this name.
        """
        try:
            return super().get_study_id_from_name(study_name)
        except UnknownStudy:
            names = [study.study_name for study in self.get_all_studies()]
            # Not chained: that one says that it was deleted, of which nothing is known here.
            raise UnknownStudy.among(names, study_name, self.place) from None

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Of a study, one per objective.

        Raises:
            StorageError: If it has none.
        """
        found = super().get_study_directions(study_id)
        if not found:
            raise unreadable(ValueError("a study without directions"), self.place)
        return found

    # -- each operation -----------------------------------------------------------------------

    def watch(self, operation: str, run: Callable[[], R]) -> R:
        """Runs an operation, again and again while the database is away.

        Raises:
            StorageError: If it stays away, or for any other failure.
            UnknownStudy: If the study is not there.
        """
        pause, started = _PAUSES[0], time.monotonic()
        while True:
            if self._file is not None:
                self._file.check()
            try:
                result = run()
            except (SQLAlchemyError, StorageInternalError) as error:
                unknown = operation in _ONCE and _is_lost(error)
                if unknown or not _is_away(error) or not self._waits(error, started):
                    raise explained(error, self.place) from error
            except KeyError as error:
                if operation in _LOOKUPS:
                    raise
                if compat.record_not_found(error):
                    raise UnknownStudy.gone(self.place) from error
                raise unreadable(error, self.place) from error
            except compat.UNREADABLE as error:
                if operation.startswith(_REFUSING) and isinstance(error, ValueError | TypeError):
                    raise
                raise unreadable(error, self.place) from error
            else:
                self._away_since, self._told = None, False
                return result
            _sleep(pause)
            pause, self._repeats = min(2 * pause, _PAUSES[1]), self._repeats + 1

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Ends a trial, or begins a waiting one; False if somebody else has begun it."""
        repeats, token = self._repeats, _EXCLUSIVE.set(True)
        try:
            return super().set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            # The answer to the first try was lost, not what it did.
            if self._repeats == repeats or not self._has(trial_id, state, values):
                raise
            return True
        finally:
            _EXCLUSIVE.reset(token)

    def record_heartbeat(self, trial_id: int) -> None:
        """Says that a trial is still run.

        Optuna does that in a thread, which could only print a traceback: if the storage has
        failed, the next operation of the trial says it.
        """
        with contextlib.suppress(StorageError):
            super().record_heartbeat(trial_id)

    def _has(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        stored = self.get_trial(trial_id)
        return stored.state == state and stored.values == (None if values is None else [*values])

    def _waits(self, error: Exception, started: float) -> bool:
        """Whether to wait for a database that is away; once given up, not until it is back."""
        if self._away_since is None:
            self._away_since = started
        seconds = time.monotonic() - self._away_since
        if seconds >= _TELL_AFTER and not self._told and seconds < self._patience:
            self._told = True
            warnings.warn(
                f"{time.strftime('%H:%M:%S')}: the storage {self.place} is away "
                f"({_reason(error)}). Waiting for it, up to {self._patience:g} s.",
                stacklevel=2,
            )
        return seconds < self._patience


def opened(
    url: str, place: str, engine_kwargs: dict[str, Any], *, file: KeptFile | None, patience: float
) -> Database:
    """A :class:`Database`, whose tables are made if there are none.

    Raises:
        StorageError: If it cannot be opened.
    """
    try:
        make_url(url)
    except (ArgumentError, ValueError):
        # Not chained: it quotes what it took for the port.
        raise _no_url(place) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeat
            made = _made(url, place, engine_kwargs, file, patience)
        made.check_version()
        return made
    except StorageError:
        raise
    except ArgumentError as error:  # no such dialect
        raise _no_url(place) from error
    except ImportError as error:
        hint = " Install merge_optuna[postgres]." if "+psycopg:" in url else ""
        raise StorageError(f"The driver for {place} is not installed ({error}).{hint}") from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise explained(error, place) from error
    except (*compat.UNREADABLE, CommandError) as error:
        raise unreadable(error, place) from error


def _no_url(place: str) -> StorageError:
    said = f"{place!r} is not a storage URL"
    if "://" not in place:
        said += f", and there is no file {Path(place).absolute()}"
    return StorageError(f"{said}. Use e.g. sqlite:///search.db.")


def _made(
    url: str, place: str, engine_kwargs: dict[str, Any], file: KeptFile | None, patience: float
) -> Database:
    deadline = time.monotonic() + _TOGETHER
    while True:
        try:
            if file is not None:
                compat.make_tables(url, engine_kwargs)
            return Database(url, place, engine_kwargs, file=file, patience=patience)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            # Of several processes that make the tables at once all but one see this.
            made_by_other = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not made_by_other or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def explained(error: Exception, place: str) -> StorageError:
    """What to say of an error of a database or of its driver."""
    original = getattr(_cause(error), "orig", None)
    known = _SQLITE.get(getattr(original, "sqlite_errorcode", 0) & 0xFF)
    if known is not None:
        return unusable(f"storage {place}", known.format(file=place))
    if _is_connection(error):
        remedy = (
            f"{_reason(error)}. Is the address right, is the server running, may you write there?"
        )
    else:
        remedy = (
            f"{_reason(error)}. Is it a database of Optuna, and whole? Restore a copy, or use "
            "another one."
        )
    return StorageError(f"Cannot use the storage {place}: {remedy}")


def unreadable(error: Exception, place: str) -> StorageError:
    """What to say of something in a database that Optuna cannot have written."""
    return StorageError(
        f"The storage {place} holds something that Optuna cannot read ({type(error).__name__}: "
        f"{error}): it is damaged, or was changed by hand or by a newer version. Restore a copy."
    )


def _cause(error: BaseException) -> BaseException:
    """Optuna wraps what SQLAlchemy raises within a transaction."""
    inner = error.__cause__ if isinstance(error, StorageInternalError) else None
    return inner or error


def _reason(error: BaseException) -> str:
    cause = _cause(error)
    lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(cause).__name__


def _is_connection(error: Exception) -> bool:
    cause = _cause(error)
    server = getattr(getattr(cause, "orig", None), "sqlite_errorcode", None) is None
    return server and isinstance(cause, OperationalError | InterfaceError)


def _is_away(error: Exception) -> bool:
    """Whether a database can be expected to answer if it is asked again."""
    cause = _cause(error)
    if not isinstance(cause, DBAPIError):
        return False
    code = getattr(cause.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = getattr(cause.orig, "sqlstate", None)
    return cause.connection_invalidated or (
        _is_connection(error) and (state is None or state.startswith(_AWAY))
    )


def _is_lost(error: Exception) -> bool:
    """Whether the connection broke while it was in use."""
    cause = _cause(error)
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


def _sleep(seconds: float) -> None:
    main = threading.current_thread() is threading.main_thread()
    with interruptible() if main else contextlib.nullcontext():
        time.sleep(seconds)


def _begin(connection: Any) -> None:
    # Python's driver begins a transaction no sooner than at the first write, and SQLite has no
    # SELECT ... FOR UPDATE: two processes would both find a trial waiting, and both run it.
    if _EXCLUSIVE.get():
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_up_sqlite(connection: Any, _: Any) -> None:
    # 20 times quicker asks at 64 parameters than with the default rollback journal.
    _wait_for_wal(connection)
    connection.execute("PRAGMA synchronous=NORMAL")


def _wait_for_wal(connection: Any) -> None:
    """Several processes may open a new file at once, and SQLite waits for no lock here itself."""
    deadline = time.monotonic() + connection.execute("PRAGMA busy_timeout").fetchone()[0] / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
