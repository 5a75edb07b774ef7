"""What happens to a storage while it is in use: full disks, kills, files that are taken away."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import merge_optuna as mo
from merge_optuna.errors import StorageError, StudyError
from tests import processes
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

STORAGES = ("sqlite", "journal")


def begin(url: str, **options: float) -> optuna.Study:
    return optuna.create_study(
        study_name="s", storage=mo.storage(url, **options), load_if_exists=True
    )


def trials(url: str) -> list[float]:
    """Values of the finished trials, read anew."""
    study = optuna.load_study(study_name="s", storage=mo.storage(url, create=False))
    return [t.value for t in study.trials if t.value is not None]


def fill(trial: optuna.Trial) -> None:
    """Writes until that fails."""
    for i in range(10_000):
        trial.set_user_attr(f"text {i}", "x" * 700)
    raise AssertionError("the disk was never full")


# -- a full disk --------------------------------------------------------------------------------


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder])
    if mounted.returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
@pytest.mark.parametrize("kind", STORAGES)
def test_a_full_disk(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with disk(folder, "640k"):
        url = f"{kind}:///{folder}/s"
        study, done = begin(url), 5
        for i in range(done):
            study.tell(study.ask(), i)
        trial = study.ask()
        with pytest.raises(StorageError, match=rf"{folder}/s: the disk is full.*Free some space"):
            fill(trial)
        with pytest.raises(StorageError, match="the disk is full"):
            study.set_user_attr("once more", "x" * 200_000)
        assert trials(url) == [*range(done)]
        # the same process goes on, and so does another storage
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        study.tell(trial, -1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing was torn
            again = begin(url)
        again.tell(again.ask(), -2)
        assert trials(url) == [*range(done), -1, -2]
        if kind == "journal":
            plain = JournalStorage(JournalFileBackend(f"{folder}/s"))
            assert len(optuna.load_study(study_name="s", storage=plain).trials) == done + 2
        del study, again


def search(task: Task, url: str | None) -> optuna.Study:
    evaluator = mo.evaluators.Classification(task.dev, batch_size=80)
    objective = mo.MergeObjective(task.recipe(), evaluator)
    return mo.MergeStudy("s", objective, n_trials=12, baselines=False).run(url, progress=False)


def _search(task: Task, url: str) -> None:
    with pytest.raises(StorageError, match="the disk is full"):
        search(task, url)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
@pytest.mark.parametrize(("kind", "size"), [("sqlite", "480k"), ("journal", "32k")])
def test_a_search_goes_on_after_a_full_disk(
    kind: str, size: str, task: Task, tmp_path: Path
) -> None:
    """And comes to what it would have come to."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with disk(folder, size):
        url = f"{kind}:///{folder}/s"
        result = processes.call(_search, task, url, cwd=tmp_path).wait(60)
        assert result.code == 0, result.err
        done = len(trials(url))
        assert 0 < done < 12
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        study = search(task, url)
        finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
        alone = search(task, None)
        assert [(t.params, t.values) for t in finished] == [
            (t.params, t.values) for t in alone.trials
        ]
        del study


def _die_within_a_record(file: str) -> None:
    """A file that must not grow is a disk that is full, and its signal a kill."""
    study = begin(f"journal:///{file}")
    for i in range(5):
        study.tell(study.ask(), i)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = os.path.getsize(file) + 60
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    study.set_user_attr("text", "x" * 1000)


def torn(tmp_path: Path) -> Path:
    file = tmp_path / "s.log"
    result = processes.call(_die_within_a_record, str(file), cwd=tmp_path).wait()
    assert result.code == -signal.SIGXFSZ
    assert not file.read_bytes().endswith(b"\n")
    Path(f"{file}.lock").unlink()  # which is what others wait half a minute for
    return file


def test_a_kill_within_a_record(tmp_path: Path) -> None:
    file = torn(tmp_path)
    before = file.read_bytes()
    end = before.rindex(b"\n") + 1
    url = f"journal:///{file}"
    assert trials(url) == [*range(5)]
    assert file.read_bytes() == before, "who reads does not mend"
    with pytest.warns(UserWarning, match=rf"last record of the journal {file} was unfinished"):
        study = begin(url)
    assert file.read_bytes().startswith(before[:end])
    assert Path(f"{file}.torn-{end}").read_bytes() == before[end:]
    study.tell(study.ask(), 5)
    assert trials(url) == [*range(6)]
    for line in file.read_text().splitlines():
        json.loads(line)
    assert "text" not in study.user_attrs


def test_it_is_mended_by_the_next_write_of_a_running_process(tmp_path: Path) -> None:
    """Another process may be killed while this one runs."""
    file = tmp_path / "s.log"
    study = begin(f"journal:///{file}")
    study.tell(study.ask(), 0)
    with open(file, "ab") as other:
        other.write(b'{"op_code":4,"worker_')
    assert len(study.trials) == 1
    with pytest.warns(UserWarning, match="These 21 bytes were cut off"):
        trial = study.ask()
    study.tell(trial, 1)
    assert trials(f"journal:///{file}") == [0, 1]


def test_zeros_at_the_end(tmp_path: Path) -> None:
    """What some file systems leave after a power cut."""
    file = tmp_path / "s.log"
    begin(f"journal:///{file}").add_trial(optuna.trial.create_trial(value=0))
    with open(file, "ab") as other:
        other.write(bytes(3 << 16))
    with pytest.warns(UserWarning, match="unfinished"):
        begin(f"journal:///{file}")
    assert trials(f"journal:///{file}") == [0]


@pytest.mark.parametrize("content", [b"notes of mine", b'{"op', b"[1, 2]\n"])
def test_what_is_no_journal_is_left_alone(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "s.log"
    file.write_bytes(content)
    if content == b'{"op':  # the first record, unfinished
        with pytest.warns(UserWarning, match="unfinished"):
            begin(f"journal:///{file}")
        return
    with pytest.raises(StorageError, match="not a journal"):
        begin(f"journal:///{file}")
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


# -- files that are taken away ------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("how", ["deleted", "moved", "folder"])
def test_a_file_that_is_gone_is_not_made_anew(kind: str, how: str, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    file = folder / "s"
    study = begin(f"{kind}:///{file}")
    study.tell(study.ask(), 0)
    trial = study.ask()
    if how == "deleted":
        file.unlink()
    elif how == "moved":
        file.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(folder)
    said = rf"storage {file} was deleted or moved while it was in use.*not made anew"
    for operation in (
        lambda: study.tell(trial, 1),
        lambda: trial.suggest_float("x", 0, 1),
        lambda: study.ask(),
        lambda: study.trials,
        lambda: mo.remaining(study, 9),
    ):
        with pytest.raises(StorageError, match=said):
            operation()
    assert not file.exists()
    with pytest.raises(StudyError):
        study.set_user_attr("a", 1)


@pytest.mark.parametrize("kind", STORAGES)
def test_another_file_in_its_place(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "s"
    study = begin(f"{kind}:///{file}")
    begin(f"{kind}:///{tmp_path}/other")
    os.replace(tmp_path / "other", file)
    with pytest.raises(StorageError, match=f"{file} was replaced by another file"):
        study.ask()


def test_a_journal_that_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "s"
    study = begin(f"journal:///{file}")
    study.tell(study.ask(), 0)
    os.truncate(file, file.read_bytes().index(b"\n") + 1)
    with pytest.raises(StorageError, match=f"{file} is shorter than it was"):
        void(study.trials)


def test_pages_that_are_lost_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "s"
    url = f"sqlite:///{file}"
    study = begin(url)
    for i in range(30):
        trial = study.ask()
        trial.set_user_attr("text", "x" * 700)
        study.tell(trial, i)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(file, "r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * (os.path.getsize(file) - 4096))
    with pytest.raises(StorageError, match=r"is damaged.*sqlite3 \S+/s \.recover"):
        trials(url)


def test_a_working_folder_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = begin("sqlite:///s.db")
    (tmp_path / "f").mkdir()
    monkeypatch.chdir(tmp_path / "f")
    with pytest.raises(StorageError, match="deleted or moved"):
        study.ask()
    assert not list((tmp_path / "f").iterdir())


def void(_: object) -> None:
    pass


@pytest.mark.parametrize("kind", STORAGES)
def test_a_study_that_is_deleted(kind: str, tmp_path: Path) -> None:
    url = f"{kind}:///{tmp_path}/s"
    study = begin(url)
    optuna.delete_study(study_name="s", storage=mo.storage(url))
    with pytest.raises(StudyError, match=f"study was deleted from {tmp_path}/s"):
        study.ask()


@pytest.mark.parametrize("kind", STORAGES)
def test_a_study_that_is_not_there(kind: str, tmp_path: Path) -> None:
    url = f"{kind}:///{tmp_path}/s"
    begin(url)
    with pytest.raises(StudyError, match=f"no study 'x' in {tmp_path}/s, only s. Check") as caught:
        optuna.load_study(study_name="x", storage=mo.storage(url))
    assert isinstance(caught.value, KeyError), "which is what Optuna raises"


@pytest.mark.parametrize("kind", STORAGES)
def test_errors_of_the_caller_stay(kind: str, tmp_path: Path) -> None:
    study = begin(f"{kind}:///{tmp_path}/s")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    study.tell(trial, 0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("a", 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        study.set_user_attr("a", object())
    with pytest.raises(ValueError, match="Cannot tell for trial with number 99"):
        study.tell(99, 1)
    empty = optuna.create_study(storage=mo.storage(f"{kind}:///{tmp_path}/s"))
    with pytest.raises(ValueError, match=r"No trials are completed|does not exist"):
        void(empty.best_trial)
    study.ask().suggest_categorical("c", [1, 2])
    with pytest.raises(ValueError, match="CategoricalDistribution does not support dynamic"):
        study.ask().suggest_categorical("c", [1, 2, 3])
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        optuna.create_study(study_name="s", storage=mo.storage(f"{kind}:///{tmp_path}/s"))


@pytest.mark.parametrize("kind", STORAGES)
def test_braces_in_a_path(kind: str, tmp_path: Path) -> None:
    begin(f"{kind}:///{tmp_path}/{{x}}")
    assert (tmp_path / "{x}").is_file()


@pytest.mark.parametrize("kind", STORAGES)
def test_a_folder_for_a_file(kind: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{tmp_path} is a folder"):
        begin(f"{kind}:///{tmp_path}")


@pytest.mark.parametrize("kind", STORAGES)
def test_a_copy_for_another_process(kind: str, tmp_path: Path) -> None:
    """Pickled, as to a worker: it is watched there too."""
    study = begin(f"{kind}:///{tmp_path}/s")
    study.tell(study.ask(), 0)
    there = pickle.loads(pickle.dumps(mo.storage(f"{kind}:///{tmp_path}/s")))
    other = optuna.load_study(study_name="s", storage=there)
    other.tell(other.ask(), 1)
    assert trials(f"{kind}:///{tmp_path}/s") == [0, 1]
    (tmp_path / "s").unlink()
    with pytest.raises(StorageError, match="deleted or moved"):
        other.ask()
    assert not (tmp_path / "s").exists()


# -- who may not write --------------------------------------------------------------------------


def _as_nobody(folder: str, kind: str) -> None:
    optuna.storages.RDBStorage("sqlite://")  # imports what the other user cannot read
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    warnings.simplefilter("ignore")
    study = optuna.load_study(study_name="s", storage=mo.storage(f"{kind}:///{folder}/s"))
    print(len(study.trials))
    study.ask()


@pytest.mark.parametrize("kind", STORAGES)
def test_a_read_only_file(kind: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        study = begin(f"{kind}:///{folder}/s")
        study.tell(study.ask(), 0)
        if kind == "sqlite":
            del study
        (Path(folder) / "s").chmod(0o444)
        Path(folder).chmod(0o555)
        result = processes.call(_as_nobody, folder, kind, cwd=Path("/")).wait()
        Path(folder).chmod(0o755)
    assert result.code != 0
    last = result.err.strip().splitlines()[-1]
    assert re.search(r"StorageError: .*(you may not write there|cannot be opened)", last), last


# -- a lock that is held --------------------------------------------------------------------------


def _locked(file: Path, seconds: float) -> threading.Thread:
    held = threading.Event()

    def hold() -> None:
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute("BEGIN EXCLUSIVE")
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    return thread


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    study = begin(f"sqlite:///{tmp_path}/s", patience=8)
    thread = _locked(tmp_path / "s", 2.5)
    study.set_user_attr("a", 1)
    thread.join()
    assert study.user_attrs == {"a": 1}


def test_a_lock_that_stays(tmp_path: Path) -> None:
    study = begin(f"sqlite:///{tmp_path}/s", patience=3)
    thread = _locked(tmp_path / "s", 8)
    with (
        pytest.warns(UserWarning, match=r"/s is away \(database is locked\)\. Waiting"),
        pytest.raises(StorageError, match=r"/s: it is locked by another process\. End"),
    ):
        study.set_user_attr("a", 1)
    thread.join()
    study.set_user_attr("a", 2)


# -- the command line ---------------------------------------------------------------------------


def test_a_run_whose_file_is_deleted(task: Task, tmp_path: Path) -> None:
    lines = f"""
class Evaluator(mo.evaluators.Classification):
    def value(self, scores):
        Path("toy.db").unlink(missing_ok=True)
        return super().value(scores)

from pathlib import Path
objective = mo.MergeObjective(recipe, Evaluator("{task.dev}"))
"""
    file = task.file(tmp_path / "search.py", lines=lines, n_trials=5)
    result = processes.command("run", file, cwd=tmp_path).wait()
    assert result.code == 1
    said = result.err.splitlines()[-1]
    assert re.match(rf"Error: The storage {tmp_path}/toy\.db was deleted or moved", said), said
    assert "Traceback" not in result.err
    assert not (tmp_path / "toy.db").exists()
