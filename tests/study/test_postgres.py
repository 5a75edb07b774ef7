"""A PostgreSQL server that restarts, loses answers, and is given passwords.

Needs psycopg and the server's programs; it is started on a free port of this machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import StorageError

optuna.logging.set_verbosity(optuna.logging.ERROR)

SECRET = "s3cret-word"
SPACE = {"x": FloatDistribution(-1, 1), "y": FloatDistribution(-1, 1)}


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    given = shutil.which("initdb")
    return found[-1].parent if found else given and Path(given).parent  # type: ignore[return-value]


PROGRAMS = _programs()
USER = "nobody" if os.geteuid() == 0 else None
"""Whom the server runs as: root must not."""
pytestmark = pytest.mark.skipif(
    PROGRAMS is None or importlib.util.find_spec("psycopg") is None,
    reason="needs PostgreSQL's programs and psycopg",
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Server:
    folder: Path
    port: int

    def control(self, *arguments: str) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        about = ["-D", str(self.folder / "data"), "-w", "-l", "log", "-o", options]
        _run(self.folder, "pg_ctl", *about, *arguments)

    def stop(self) -> None:
        self.control("stop", "-m", "immediate")

    def start(self) -> None:
        self.control("start")

    def url(self, *, port: int = 0, password: str = SECRET, database: str = "postgres") -> str:
        return f"postgresql://me:{password}@127.0.0.1:{port or self.port}/{database}"


def _run(folder: Path, program: str, *arguments: str) -> None:
    assert PROGRAMS is not None
    command = [str(PROGRAMS / program), *arguments]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, user=USER)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to other users
    (folder / "password").write_text(SECRET)
    if USER is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, USER)
    login = ["-U", "me", "-A", "scram-sha-256", "--pwfile", "password"]
    _run(folder, "initdb", "-D", "data", "--no-sync", *login)
    made = Server(folder, free_port())
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


def sphere(trial: optuna.Trial) -> float:
    return sum(trial.suggest_float(name, -1, 1) ** 2 for name in SPACE)


# -- a server that is away ------------------------------------------------------------------------


def test_a_restart_in_the_middle_of_a_search(server: Server) -> None:
    sampler = mo.samplers.DESampler(SPACE, seed=0, population_size=5)
    study = optuna.create_study(
        study_name="restart", storage=mo.storage(server.url()), sampler=sampler
    )

    starting = threading.Timer(4, server.start)

    def stop(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.number == 10:
            server.stop()
            starting.start()

    with pytest.warns(UserWarning, match=r"is away \(.*Waiting for it, up to 120 s") as told:
        study.optimize(sphere, n_trials=30, callbacks=[stop])
    starting.join()
    texts = [str(warning.message) for warning in told]
    assert sum("is away" in text for text in texts) == 1, "it says so once"
    assert not any(SECRET in text for text in texts)
    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(finished) == 30

    # bit for bit what a search in memory finds, unless a trial was created and nobody told
    alone = optuna.create_study(sampler=mo.samplers.DESampler(SPACE, seed=0, population_size=5))
    alone.optimize(sphere, n_trials=30)
    assert [t.params for t in finished] == [t.params for t in alone.trials]


def test_it_gives_up(server: Server) -> None:
    study = optuna.create_study(study_name="up", storage=mo.storage(server.url(), patience=4))
    trial = study.ask()
    server.stop()
    try:
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"refused.*is the server running") as caught:
            trial.set_user_attr("a", 1)
        assert 4 <= time.monotonic() - started < 60
        assert SECRET not in str(caught.value)
        started = time.monotonic()
        with pytest.raises(StorageError):
            trial.set_user_attr("a", 1)
        assert time.monotonic() - started < 4, "once given up, it does not wait again"
    finally:
        server.start()
    trial.set_user_attr("a", 1)
    assert study.trials[0].user_attrs == {"a": 1}


# -- answers that are lost ----------------------------------------------------------------------


class Proxy:
    """Passes everything on, but not the answer to the first COMMIT after some text."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.after: bytes | None = None
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._socket.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._server))
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.after is not None and self.after in data:
                    self.after = b"COMMIT"
                if self.after == b"COMMIT" and b"COMMIT" in data:
                    self.after, self.lost = None, self.lost + 1
                    client.shutdown(socket.SHUT_RDWR)  # _answer has nobody to tell any more
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    @staticmethod
    def _answer(client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


OPERATIONS: dict[str, Callable[[optuna.Study, optuna.Trial], object]] = {
    "parameter": lambda study, trial: trial.suggest_float("x", 0, 1),
    "attribute": lambda study, trial: trial.set_user_attr("a", 1),
    "report": lambda study, trial: trial.report(0.5, 1),
    "value": lambda study, trial: study.tell(trial, 0.25),
    "failure": lambda study, trial: study.tell(trial, state=TrialState.FAIL),
    "study": lambda study, trial: study.set_user_attr("b", 2),
    "read": lambda study, trial: study.get_trials(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_was_done_is_not_done_twice(operation: str, server: Server, proxy: Proxy) -> None:
    """The answer to the commit is lost: it comes to what it would have come to."""
    results = []
    for lost in (False, True):
        storage = mo.storage(server.url(port=proxy.port), patience=20)
        study = optuna.create_study(
            study_name=f"{operation} {lost}",
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        trial = study.ask()
        proxy.after = b"COMMIT" if lost else None
        OPERATIONS[operation](study, trial)
        assert proxy.after is None
        read = optuna.load_study(study_name=study.study_name, storage=server.url())
        (stored,) = read.trials
        said = [stored.params, stored.values, stored.state, stored.user_attrs]
        results.append([*said, stored.intermediate_values, read.user_attrs])
        optuna.delete_study(study_name=study.study_name, storage=server.url())
    assert proxy.lost == 1
    assert results[0] == results[1]


def test_a_trial_that_was_created_and_nobody_told(server: Server, proxy: Proxy) -> None:
    """It stays running without an owner; the search is the same and waits for it once."""
    study = optuna.create_study(
        study_name="created",
        storage=mo.storage(server.url(port=proxy.port), patience=20),
        sampler=mo.samplers.DESampler(SPACE, seed=0, population_size=5),
    )
    study.optimize(sphere, n_trials=2)
    proxy.after = b"INSERT INTO trials "
    study.optimize(sphere, n_trials=18)
    assert proxy.lost == 1
    alone = optuna.create_study(sampler=mo.samplers.DESampler(SPACE, seed=0, population_size=5))
    alone.optimize(sphere, n_trials=20)
    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert [t.params for t in finished] == [t.params for t in alone.trials]
    (other,) = [t for t in study.trials if t.state != TrialState.COMPLETE]
    assert (other.state, other.params, other.system_attrs) == (TrialState.RUNNING, {}, {})
    assert mo.remaining(study, 21) == 1


def test_another_process_failed_it(server: Server) -> None:
    """An error of the caller that is no lost answer."""
    study = optuna.create_study(study_name="other", storage=mo.storage(server.url()))
    trial = study.ask()
    study.tell(trial.number, state=TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("a", 1)


# -- how it is refused --------------------------------------------------------------------------


def test_a_wrong_password(server: Server) -> None:
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        mo.storage(server.url(password="w0rd-of-mine"))
    assert "w0rd-of-mine" not in str(caught.value)
    assert f"me:***@127.0.0.1:{server.port}" in str(caught.value)


def test_a_database_that_is_not_there(server: Server) -> None:
    with pytest.raises(StorageError, match='database "nowhere" does not exist') as caught:
        mo.storage(server.url(database="nowhere"))
    assert SECRET not in str(caught.value)


def test_the_url_that_is_shown(server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(study_name="url", storage=mo.storage(server.url()))
    shown = compat.url_of(study)
    assert shown == f"postgresql+psycopg://me:***@127.0.0.1:{server.port}/postgres"


# -- what the dashboard shows ---------------------------------------------------------------------


def test_cards_of_several_processes_are_written_at_once(server: Server) -> None:
    study = optuna.create_study(study_name="shown", storage=mo.storage(server.url()))
    mo.optimize(study, sphere, 3, progress=False)
    made = mo.reports.figures(study)
    attrs = compat.study_system_attrs(study)
    shown = get_plotly_graph_objects(attrs)
    assert shown == {key: figure.to_json() for key, figure in made.items()}

    keys, torn, stop = [f"merge_optuna:test:{i}" for i in range(9)], [], threading.Event()

    def write(mark: str) -> None:
        own = optuna.load_study(study_name="shown", storage=mo.storage(server.url()))
        for _ in range(10):
            compat.replace_study_system_attrs(own, dict.fromkeys(keys, mark), ["merge_optuna:t"])

    def read() -> None:
        own = optuna.load_study(study_name="shown", storage=mo.storage(server.url()))
        while not stop.is_set():
            found = compat.study_system_attrs(own)
            marks = {found.get(key) for key in keys}
            torn.extend([marks] if len(marks) > 1 else [])

    threads = [threading.Thread(target=write, args=(mark,)) for mark in "abc"]
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    assert not torn
    assert {compat.study_system_attrs(study)[key] for key in keys} < {"a", "b", "c"}
