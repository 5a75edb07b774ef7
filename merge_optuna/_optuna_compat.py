"""Every private name of Optuna that this package uses, in one place (written for Optuna 5.0)."""

from __future__ import annotations

import functools
import json
import re
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna._hypervolume.hssp import _solve_hssp
from optuna._hypervolume.wfg import compute_hypervolume
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._heartbeat import is_heartbeat_enabled
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import NOT_FOUND_MSG, JournalOperation
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.study._multi_objective import _get_pareto_front_trials_by_trials
from optuna.trial import TrialState

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import BaseTrial, FrozenTrial, Trial

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="BaseStorage")

_USER = JournalOperation.SET_TRIAL_USER_ATTR
_SYSTEM = JournalOperation.SET_TRIAL_SYSTEM_ATTR
_STUDY_SYSTEM = JournalOperation.SET_STUDY_SYSTEM_ATTR

JOURNAL_OPERATIONS = tuple(JournalOperation)
"""Codes of the operations that a journal can hold."""

UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, AssertionError, NameError)
"""What Optuna raises when it decodes something that it cannot have written."""

_SECRET = re.compile(r"((?:password|passwd|pwd|sslpassword)=)[^&]*", re.IGNORECASE)

FIXED_PARAMS = "fixed_params"
"""System attribute of a trial made by ``study.enqueue_trial``: the values it was given."""


def storage_of(study: Study) -> BaseStorage:
    """The storage behind a study (for a database: Optuna's caching wrapper)."""
    return study._storage


def study_id(study: Study) -> int:
    """The number of a study within its storage."""
    return study._study_id


def all_trials(study: Study) -> list[FrozenTrial]:
    """All trials, freshly read and not copied: never change them. ``trials[n].number == n``."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def numbered(trials: Sequence[FrozenTrial], number: int) -> FrozenTrial | None:
    """The trial with this number; None if it is missing, maybe deleted by hand from a database."""
    if 0 <= number < len(trials) and trials[number].number == number:
        return trials[number]
    return next((trial for trial in trials if trial.number == number), None)


class _AtHand(Sequence["FrozenTrial"]):
    """Trials 0 … size-1 of a study, looked up one by one: a list of thousands takes a millisecond.

    Raises:
        KeyError: for one that has not been read yet.
    """

    def __init__(self, size: int, lookup: Callable[[int], FrozenTrial]) -> None:
        self._size, self._lookup = size, lookup

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self._lookup(n) for n in range(*number.indices(self._size))]
        return self._lookup(number)


def trials_at_hand(study: Study, until: int) -> Sequence[FrozenTrial] | None:
    """The trials up to number ``until`` as this process has read them last, without reading.

    ``study.ask`` reads all trials just before it creates one. None if the storage keeps nothing.
    Looking up a trial that has not been read raises a KeyError.
    """
    storage, study_id = study._storage, study._study_id
    if isinstance(storage, _CachedStorage | InMemoryStorage):
        return _AtHand(until + 1, lambda number: storage._studies[study_id].trials[number])
    if isinstance(storage, JournalStorage):
        known, ids = (
            storage._replay_result,
            storage._replay_result._study_id_to_trial_ids[study_id],
        )
        return _AtHand(until + 1, lambda n: known._trials[ids[n] if n < len(ids) else -1])
    return None


# -- several objectives ------------------------------------------------------------------------


def pareto_trials(study: Study) -> list[FrozenTrial]:
    """As ``study.best_trials``, of any number of objectives, and not copied: never change them.

    A trial without constraints counts as feasible; a trial is one if none of its are above 0.
    """
    trials = all_trials(study)
    return _get_pareto_front_trials_by_trials(trials, study.directions, consider_constraint=True)


def hypervolume(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The volume that points (n, d) dominate below a reference (d,); all are to be minimised.

    None of them may lie beyond the reference.
    """
    return float(compute_hypervolume(losses, reference))


def hypervolume_subset(
    losses: NDArray[np.float64], size: int, reference: NDArray[np.float64]
) -> list[int]:
    """Which ``size`` of n ≥ size points dominate most together, chosen greedily.

    At least 1 - 1/e of what the best subset dominates (Guerreiro et al. 2016, Greedy Hypervolume
    Subset Selection in Low Dimensions).
    """
    chosen = _solve_hssp(losses, np.arange(len(losses)), size, reference)
    return [int(i) for i in chosen]


# -- trials and their attributes ----------------------------------------------------------------


def suggest(trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    """As the ``suggest_*`` of this distribution, which they would make anew and compare."""
    return trial._suggest(name, distribution)  # type: ignore[attr-defined]


def system_attrs(study: Study, trial: Trial | FrozenTrial) -> dict[str, Any]:
    """The system attributes as they are stored now; a FrozenTrial may be older."""
    return study._storage.get_trial_system_attrs(trial._trial_id)


def set_system_attr(study: Study, trial: Trial | FrozenTrial, key: str, value: Any) -> None:
    """Store a system attribute of a running trial; ``value`` is anything JSON can hold."""
    study._storage.set_trial_system_attr(trial._trial_id, key, value)


def set_attrs(
    study: Study, trial: Trial | FrozenTrial, *, user: Mapping[str, Any], system: Mapping[str, Any]
) -> None:
    """Store several attributes of a running trial.

    In a journal all at once: every write locks the file and waits for the disk.
    """
    storage, trial_id = study._storage, trial._trial_id
    if isinstance(storage, JournalStorage):
        of = {"trial_id": trial_id}
        entries = [(_USER, {**of, "user_attr": {key: value}}) for key, value in user.items()]
        entries += [(_SYSTEM, {**of, "system_attr": {key: x}}) for key, x in system.items()]
        _append(storage, entries)
        return
    for key, value in user.items():
        storage.set_trial_user_attr(trial_id, key, value)
    for key, value in system.items():
        storage.set_trial_system_attr(trial_id, key, value)


def _append(storage: JournalStorage, entries: Sequence[tuple[int, dict[str, Any]]]) -> None:
    with storage._thread_lock:
        by = {"worker_id": storage._replay_result.worker_id}
        storage._backend.append_logs(
            [{"op_code": code, **by, **fields} for code, fields in entries]
        )
        refused = None
        for _ in entries:  # each is refused on its own if somebody else has finished the trial
            try:
                storage._sync_with_backend()
                break
            except UpdateFinishedTrialError as error:
                refused = error
        if refused is not None:
            raise refused


def constraint_attrs(violations: Mapping[str, float]) -> dict[str, float]:
    """The system attributes as which ``trial.set_constraint`` keeps constraints.

    It keeps the first value: that of a trial whose copy a retry has made, with its attributes.
    """
    return {f"{_CONSTRAINTS_KEY}:{name}": violation for name, violation in violations.items()}


def study_system_attrs(study: Study) -> dict[str, Any]:
    """The system attributes of a study as they are stored now."""
    return study._storage.get_study_system_attrs(study._study_id)


def set_study_system_attr(study: Study, key: str, value: Any) -> None:
    """Store a system attribute of a study; ``value`` is anything JSON can hold."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def replace_study_system_attrs(
    study: Study, attrs: Mapping[str, Any], prefixes: Sequence[str]
) -> None:
    """Store system attributes of a study in the place of all those whose keys begin so, at once.

    In a database it is one transaction, in a journal one write.

    Args:
        study: The study.
        attrs: What JSON can hold, by key. Keys that begin with no prefix must be new.
        prefixes: How the keys of those begin that are replaced. Where none can be deleted, those
            that are not among ``attrs`` become empty texts.
    """
    storage, study_id = study._storage, study._study_id
    database = getattr(storage, "_backend", None)
    if isinstance(database, RDBStorage):
        replace = functools.partial(_replace_rows, database, study_id, attrs, prefixes)
        if isinstance(database, WatchedDatabase):
            database.watch("set_study_system_attrs", replace)
        else:
            replace()
        return
    before = storage.get_study_system_attrs(study_id)
    gone = [key for key in before if key.startswith(tuple(prefixes)) and before[key] != ""]
    changed = {key: value for key, value in attrs.items() if before.get(key) != value}
    changed |= {key: "" for key in gone if key not in attrs}
    if isinstance(storage, JournalStorage):
        of = {"study_id": study_id}
        entries = [{**of, "system_attr": {key: value}} for key, value in changed.items()]
        _append(storage, [(_STUDY_SYSTEM, entry) for entry in entries])
        return
    for key, value in changed.items():
        storage.set_study_system_attr(study_id, key, value)


def _replace_rows(
    database: RDBStorage, study_id: int, attrs: Mapping[str, Any], prefixes: Sequence[str]
) -> None:
    from optuna.storages._rdb import models
    from optuna.storages._rdb.storage import _create_scoped_session

    table = models.StudySystemAttributeModel
    with _create_scoped_session(database.scoped_session) as session:
        # One process at a time: by this lock on a server, by the deletion in SQLite.
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        of_study = session.query(table).filter(table.study_id == study_id)
        for prefix in prefixes:
            of_study.filter(table.key.startswith(prefix, autoescape=True)).delete(False)
        rows = [
            {"study_id": study_id, "key": k, "value_json": json.dumps(attrs[k])} for k in attrs
        ]
        session.bulk_insert_mappings(table, rows)


def trial_id(trial: Trial | FrozenTrial) -> int:
    """The number of a trial within its storage."""
    return trial._trial_id


def stored_trial(trial: Trial) -> FrozenTrial:
    """A trial as it is stored now."""
    return trial.study._storage.get_trial(trial._trial_id)


def is_in_memory(study: Study) -> bool:
    """Whether a study ends with this process."""
    return isinstance(study._storage, InMemoryStorage)


def journal_size(study: Study) -> int | None:
    """Bytes of the journal that a study is kept in; None if it is kept in no such file."""
    backend = getattr(study._storage, "_backend", None)
    return (
        Path(backend._file_path).stat().st_size
        if isinstance(backend, JournalFileBackend)
        else None
    )


def fail(study: Study, trial: FrozenTrial) -> bool:
    """Fail a running trial; False if somebody else has finished it."""
    try:
        return study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False


def was_stopped(study: Study) -> bool:
    """Whether ``study.stop()`` has ended the last ``study.optimize``."""
    return study._stop_flag


def given_name(study: Study) -> str | None:
    """The name of a study, unless Optuna has made one up."""
    name = study.study_name
    return None if name.startswith(DEFAULT_STUDY_NAME_PREFIX) else name


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether Optuna accepts ``value``; it silently replaces one that it does not."""
    try:
        internal = distribution.to_internal_repr(value)
    except ValueError:  # not a choice, not a number
        return False
    return distribution._contains(internal)


def url_of(study: Study) -> str | None:
    """What ``mo.storage`` takes to open this storage again, without the password if it has one.

    None if it is not in a database or journal file.
    """
    return place_of(study._storage)


def place_of(storage: BaseStorage) -> str | None:
    """As :func:`url_of`, of a storage."""
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, JournalFileBackend):
        return f"journal:///{backend._file_path}"
    engine = getattr(backend, "engine", None)
    if engine is None:
        return None
    return without_password(engine.url.render_as_string(hide_password=False))


def without_password(url: str) -> str:
    """A URL, or what is meant to be one, for people to read."""
    scheme, slashes, rest = _SECRET.sub(r"\1***", url).partition("//")
    if not slashes:
        scheme, rest = "", url
    login, at, place = rest.rpartition("@")
    if at and ":" in login and not rest.startswith("/"):  # that is a file
        rest = f"{login.partition(':')[0]}:***@{place}"
    return scheme + slashes + rest


def has_heartbeat(study: Study) -> bool:
    """Whether :func:`fail_stale_trials` can tell that a process of another machine is dead."""
    return is_heartbeat_enabled(study._storage)


def fail_stale_trials(study: Study) -> None:
    """Fail the running trials whose heartbeat has stopped, as ``study.optimize`` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


# -- storages that are watched -----------------------------------------------------------------


def _watched(operation: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The same operation, run by the ``watch`` of its storage."""

    @functools.wraps(operation)
    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        once = functools.partial(operation, self, *args, **kwargs)
        return self.watch(operation.__name__, once)  # type: ignore[no-any-return]

    return run


def _watching(*operations: str) -> Callable[[type[S]], type[S]]:
    """A class whose inherited operations of these names go through its ``watch``."""

    def decorate(storage: type[S]) -> type[S]:
        for name in operations:
            setattr(storage, name, _watched(getattr(storage, name)))
        return storage

    return decorate


_OPERATIONS = (
    *("delete_study", "get_study_name_from_id", "get_study_directions"),
    *("set_study_user_attr", "set_study_system_attr"),
    *("get_study_user_attrs", "get_study_system_attrs"),
    *("get_trial", "set_trial_state_values", "set_trial_intermediate_value"),
    *("set_trial_user_attr", "set_trial_system_attr"),
)


@_watching(
    *_OPERATIONS,
    *("create_new_study", "get_study_id_from_name", "get_all_studies"),
    *("get_trial_id_from_study_id_trial_number", "get_trial_param", "_set_trial_param"),
    *("get_trial_user_attrs", "get_trial_system_attrs", "record_heartbeat"),
    *("_get_trials", "_get_best_trial_id", "_get_stale_trial_ids"),
)
class WatchedDatabase(RDBStorage):
    """An RDBStorage that runs each operation, those of Optuna's cache too, through ``watch``."""

    @abstractmethod
    def watch(self, operation: str, run: Callable[[], R]) -> R:
        """Runs an operation; ``run()`` is one transaction and can be called again."""

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        # A finished or waiting trial that is there twice counts twice, an empty one does not.
        operation = "create_new_trial" if template_trial is None else "add_trial"
        create = super()._create_new_trial
        return self.watch(operation, lambda: create(study_id, template_trial))


@_watching(*_OPERATIONS, "create_new_trial", "set_trial_param", "get_all_trials")
class WatchedJournal(JournalStorage):
    """A JournalStorage that runs each operation on a study or trial through ``watch``."""

    @abstractmethod
    def watch(self, operation: str, run: Callable[[], R]) -> R:
        """Runs an operation."""

    @abstractmethod
    def unreadable(self, error: Exception) -> Exception:
        """What to raise for a record that cannot be applied, written by whomever."""

    def _sync_with_backend(self) -> None:
        known = self._replay_result
        for record in self._backend.read_logs(known.log_number_read):
            try:
                known.apply_logs([record])
            except UNREADABLE as error:
                if record["worker_id"] == known.worker_id:
                    raise  # it is this call that asks for what cannot be
                known.log_number_read -= 1  # it stays unread, whoever asks next
                raise self.unreadable(error) from error


def record_not_found(error: KeyError) -> bool:
    """Whether a storage means that a study or a trial is not there."""
    return error.args == (NOT_FOUND_MSG,)


def tables_of_optuna() -> set[str]:
    """Names of the tables that Optuna makes in a database."""
    from optuna.storages._rdb import models  # and with it SQLAlchemy

    return set(models.BaseModel.metadata.tables) | {"alembic_version"}


def make_tables(url: str, engine_kwargs: Mapping[str, Any]) -> None:
    """Makes the tables and their indices in an SQLite file, all of them or none.

    Optuna makes them one by one. A process that is killed meanwhile would leave a database without
    the index that keeps the names of studies apart, and nothing would make it later.
    """
    from optuna.storages._rdb import models
    from sqlalchemy import create_engine, event, inspect

    engine = create_engine(url, **engine_kwargs)
    metadata = models.BaseModel.metadata
    if not metadata.tables.keys() <= set(inspect(engine).get_table_names()):
        engine.dispose()
        event.listen(engine, "connect", _begin_by_hand)
        event.listen(engine, "begin", lambda made: made.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.begin() as connection:
            metadata.create_all(connection)
    engine.dispose()


def _begin_by_hand(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 begins no transaction before a CREATE
