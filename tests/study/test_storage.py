"""Storages as they are opened, and how they are refused."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import optuna
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine, make_url

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna.cli import studies
from merge_optuna.errors import StorageError, StudyError
from merge_optuna.study._storage import _filesystem
from tests import processes
from tests.study import workers

optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_sqlite_has_a_write_ahead_log(tmp_path: Path) -> None:
    opened = mo.storage(f"sqlite:///{tmp_path}/s.db")
    connections = [opened.engine.connect() for _ in range(3)]  # type: ignore[attr-defined]
    for connection in connections:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
        assert found == ["wal", 1, 10_000]  # synchronous: 1 is NORMAL
        connection.close()
    assert opened.get_heartbeat_interval() == 60  # type: ignore[attr-defined]


def test_a_waiting_trial_is_taken_once(tmp_path: Path) -> None:
    """Somebody else comes between reading that it waits and writing that it runs."""
    url = f"sqlite:///{tmp_path}/s.db"
    one, other = mo.storage(url), mo.storage(url)
    study = optuna.create_study(storage=one)
    study.enqueue_trial({"x": 1})
    (trial,) = study.trials
    running, taken = optuna.trial.TrialState.RUNNING, []

    def take(storage: optuna.storages.BaseStorage) -> None:
        taken.append(storage.set_trial_state_values(trial._trial_id, running))

    meanwhile = threading.Thread(target=take, args=[other])

    def before(conn: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE trials"):
            meanwhile.start()
            meanwhile.join(0.5)

    event.listen(one.engine, "before_cursor_execute", before)  # type: ignore[attr-defined]
    take(one)
    meanwhile.join()
    assert sorted(taken) == [False, True]


def test_journal(tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/s.log"
    study = optuna.create_study(study_name="s", storage=mo.storage(url))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    again = optuna.load_study(study_name="s", storage=mo.storage(url, create=False))
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


_ROUNDS = 4


def _open_together(number: int, folder: Path) -> None:
    for i in range(_ROUNDS):
        (folder / str(i)).mkdir(exist_ok=True)
        workers.wait_for(number, folder / str(i))
        opened = mo.storage(f"sqlite:///{folder}/{i}.db")
        optuna.create_study(study_name="s", storage=opened, load_if_exists=True)


def test_processes_that_start_together(tmp_path: Path) -> None:
    """Optuna's tables are made by all of them at once: most of them failed without a retry."""
    several = [processes.call(_open_together, 3, tmp_path, cwd=tmp_path) for _ in range(3)]
    ended = [running.wait() for running in several]
    assert [one.code for one in ended] == [0] * 3, [one.err for one in ended]
    for i in range(_ROUNDS):
        assert optuna.get_all_study_names(mo.storage(f"sqlite:///{tmp_path}/{i}.db")) == ["s"]


def _die_at_table(number: int, file: Path) -> None:
    """Opens a storage and dies when the table of this number has been made."""
    seen = 0

    def count(connection: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal seen
        seen += statement.lstrip().startswith("CREATE")
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", count)
    mo.storage(f"sqlite:///{file}")


@pytest.mark.parametrize("number", [1, 2, 3, 12])
def test_killed_while_the_tables_are_made(tmp_path: Path, number: int) -> None:
    """Half of them would be without the index that keeps the names of studies apart."""
    file = tmp_path / "a.db"
    ended = processes.call(_die_at_table, number, file, cwd=tmp_path).wait()
    assert ended.code == -signal.SIGKILL
    opened = mo.storage(f"sqlite:///{file}")
    optuna.create_study(study_name="s", storage=opened)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name="s", storage=opened)


# -- refused ----------------------------------------------------------------------------------


def test_a_closed_port() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StorageError) as caught:
        mo.storage(f"postgresql://me:secret@127.0.0.1:{port}/merges")
    message = str(caught.value)
    assert f"127.0.0.1:{port}" in message
    assert "secret" not in message
    if importlib.util.find_spec("psycopg") is None:
        assert "Install merge_optuna[postgres]" in message
    else:
        assert "refused" in message
        assert "is the server running" in message


@pytest.mark.skipif(importlib.util.find_spec("oracledb") is not None, reason="it is installed")
def test_a_missing_driver() -> None:
    with pytest.raises(StorageError, match=r"driver for oracle\S+ is not installed"):
        mo.storage("oracle+oracledb://me@localhost/x")


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_missing_folder(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"no folder {tmp_path}/gone. Create it"):
        mo.storage(f"{scheme}:///{tmp_path}/gone/s.db")


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_missing_file_is_not_made_by_a_reader(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"no file {tmp_path}/s.db"):
        mo.storage(f"{scheme}:///{tmp_path}/s.db", create=False)
    assert not list(tmp_path.iterdir())


def test_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text("hello " * 1000)
    with pytest.raises(StorageError, match="not a database"):
        mo.storage(f"sqlite:///{tmp_path}/s.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="may you write there"):
        mo.storage(f"sqlite:///{tmp_path}/locked/s.db")


@pytest.mark.parametrize("url", ["search.db", "sqlite//x.db", "", "nosuch:///x"])
def test_not_a_url(url: str) -> None:
    with pytest.raises(StorageError, match=r"sqlite:///search\.db|not installed"):
        mo.storage(url)


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/me/fast ext4 rw 0 0
//nas/share /mnt/my\\040gr\u00fc\u00dfe cifs rw 0 0
tmpfs /home/me/fast/over tmpfs rw 0 0
server:/x /home/me/fast/over nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data", "ext4"),
        ("/home/you", "nfs4"),
        ("/homes", "ext4"),
        ("/home/me/fast/db", "ext4"),
        ("/home/me/fastest", "nfs4"),
        ("/mnt/my gr\u00fc\u00dfe/db", "cifs"),
        ("/home/me/fast/over", "nfs"),  # the later mount hides the earlier one
    ],
)
def test_which_file_system_holds_a_folder(folder: str, kind: str) -> None:
    assert _filesystem(Path(folder), MOUNTS) == kind


def test_this_machine_says_what_mount_says(tmp_path: Path) -> None:
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        pytest.skip("no /proc/mounts")
    found = _filesystem(tmp_path.resolve(), mounts.read_text())
    told = subprocess.run(["df", "-T", tmp_path], capture_output=True, text=True, check=True)
    assert found == re.split(r"\s+", told.stdout.splitlines()[1])[1]


def _write_and_die(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=mo.storage(url))
    for i in range(20):
        study.tell(study.ask(), i)
    os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_is_lost_by_a_kill(tmp_path: Path) -> None:
    """``synchronous=NORMAL`` survives the death of the process (not of the machine)."""
    url = f"sqlite:///{tmp_path}/s.db"
    assert processes.call(_write_and_die, url, cwd=tmp_path).wait().code == -signal.SIGKILL
    study = optuna.load_study(study_name="s", storage=mo.storage(url))
    assert [t.value for t in study.trials] == list(range(20))


# -- passwords ----------------------------------------------------------------------------------

URLS = [
    "postgresql://me:{}@127.0.0.1:1/merges",
    "postgresql://127.0.0.1:1/merges?user=me&password={}",
    "postgresql://me:{}@127.0.0.1:port/merges",
    "postgresql//me:{}@host/merges",
    "postgres:me:{}@host/merges",
    "oracle+oracledb://me:{}@localhost/x",
    "nosuch://me:{}@localhost/x",
    "mysql+pymysql://me:{}@127.0.0.1:1/x",
    "sqlite://me:{}@host/x",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("password", ["s3cret", "p@ss/w:rd", "{x}"])
def test_no_password_is_told(url: str, password: str, capsys: pytest.CaptureFixture[str]) -> None:
    if password == "p@ss/w:rd" and "?" in url:
        password = "p@ss:w"  # a slash there is none of a password
    with pytest.raises(StorageError) as caught:
        mo.storage(url.format(password))
    told = str(caught.value) + "".join(capsys.readouterr())
    for part in (password, password[2:]):
        assert part not in told, told
    assert "***" in told


def test_no_password_in_a_model_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose command opens the storage again."""
    study = optuna.create_study(storage=optuna.storages.RDBStorage("sqlite://"))
    engine = study._storage._backend.engine  # type: ignore[attr-defined]
    monkeypatch.setattr(
        engine, "url", make_url("postgresql://me:s3cret@host/x?sslpassword=t0ken&sslmode=require")
    )
    told = compat.url_of(study)
    assert told == "postgresql://me:***@host/x?sslmode=require&sslpassword=***"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////data/a:b@c/s.db",
        "journal:///a:b@c.log",
        "sqlite:///s.db",
        "postgresql://me@host:5432/x",
        "postgresql://host/x?sslmode=require",
        "--storage",
        "study:toy",
    ],
)
def test_what_holds_no_password_stays(url: str) -> None:
    assert compat.without_password(url) == url


def test_no_password_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    opened = mo.storage("sqlite:///:memory:")
    with pytest.raises(StudyError, match=r"no study in postgresql://me:\*\*\*@host/x"):
        studies.named(opened, "postgresql://me:s3cret@host/x", None)
