"""The process that looks after ``merge-optuna run``: deaths, signals, trials that hang."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest

import merge_optuna as mo
from merge_optuna.errors import StorageError
from merge_optuna.study import counts, fail_overdue

ROOT = Path(mo.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

# A worker that does what its file says; one line is written per start.
FAIL = """
def fail(storage, study, trial, reason):
    open("failed", "a").write(f"{storage} {study} {trial} {reason}\\n")
    return True
"""
PROGRAM = """
import os, signal, sys, time
from merge_optuna import _supervision as supervision

{fail}
supervision._GRACE = supervision._LAST_WORDS = 2.0
if supervision.can_supervise(sys.argv[1:]):
    supervision.supervise([sys.executable, *sys.orig_argv[1:]], fail)
supervision.follow()
starts = open("starts", "a+")
starts.write(f"{os.getpid()}\\n")
starts.seek(0)
start = len(starts.readlines())
starts.close()
report = supervision.report
"""


def program(lines: str, fail: str = FAIL) -> str:
    return PROGRAM.replace("{fail}", fail) + lines


def run(
    folder: Path, lines: str, ctrl_c: signal.Handlers = signal.SIG_DFL, *, fail: str = FAIL
) -> subprocess.Popen[str]:
    (folder / "program.py").write_text(program(lines, fail))
    return subprocess.Popen(
        [sys.executable, "program.py", "run"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=functools.partial(_as_at_a_terminal, ctrl_c),
    )


def _as_at_a_terminal(ctrl_c: signal.Handlers) -> None:
    """Whatever nohup, cron or a shell in the background has these tests ignore."""
    signal.signal(signal.SIGINT, ctrl_c)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def until(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def starts(folder: Path) -> int:
    file = folder / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_exit_code_is_that_of_the_worker(code: int, tmp_path: Path) -> None:
    assert ended(run(tmp_path, f"print('out'); sys.exit({code})")) == (code, "out\n", "")
    assert starts(tmp_path) == 1


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    code, _, err = ended(
        run(
            tmp_path,
            """
report(study=("url", "toy"))
report(trial=start, seconds=None)
if start == 1:
    os.kill(os.getpid(), signal.SIGBUS)
if start == 2:
    report(trial=None)
    os.kill(os.getpid(), signal.SIGKILL)
""",
        )
    )
    assert (code, starts(tmp_path)) == (0, 3)
    assert err.strip().splitlines()[0] == (
        "The process of the search died of SIGBUS in trial 1: a file that it reads was cut short, "
        "or the disk is full or gone. It is started again."
    )
    assert err.strip().splitlines()[-1] == (
        "The process of the search died of SIGKILL: probably the machine ran out of memory. It is "
        "started again."
    )


def test_one_that_dies_at_every_start_is_given_up(tmp_path: Path) -> None:
    code, _, err = ended(run(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)"))
    assert (code, starts(tmp_path)) == (-signal.SIGSEGV, 3)
    assert err.count("It is started again.") == 2
    assert err.endswith(
        "That is 3 times in a row without a trial that came to an end: the search stops.\n"
    )


def test_trials_between_deaths_let_it_go_on(tmp_path: Path) -> None:
    lines = "report(trial=start, seconds=None); report(trial=None)\n"
    lines += "if start < 7: os.kill(os.getpid(), signal.SIGKILL)"
    code, _, _ = ended(run(tmp_path, lines))
    assert (code, starts(tmp_path)) == (0, 7)


# Locks what it has locked: neither a signal handler of Python nor another thread gets a turn, and
# no time of the processor is spent.
HANG = (
    "import ctypes; lock = ctypes.create_string_buffer(64); "
    "[ctypes.PyDLL(None).pthread_mutex_lock(lock) for _ in range(2)]"
)


def test_a_trial_that_hangs_is_ended_with_its_worker(tmp_path: Path) -> None:
    code, _, err = ended(
        run(
            tmp_path,
            f"""
report(study=("url", "toy"))
report(trial=start, seconds=0.1)
if start == 1:
    {HANG}
if start == 2:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    {HANG}
report(trial=None)
""",
        )
    )
    assert (code, starts(tmp_path)) == (0, 3)
    reason = "It took longer than trial_timeout=0.1 seconds."
    assert (tmp_path / "failed").read_text() == f"url toy 1 {reason}\nurl toy 2 {reason}\n"
    assert f"Trial 1 could not be interrupted. {reason} It is started again." in err


def test_a_baseline_that_hangs_is_ended_with_its_worker(tmp_path: Path) -> None:
    """There is no trial to fail; the next worker sees that the owner is dead."""
    lines = f"""
report(study=("url", "toy"))
report(baseline="source a", seconds=0.1)
if start == 1:
    {HANG}
report(trial=None)
"""
    code, _, err = ended(run(tmp_path, lines))
    assert (code, starts(tmp_path)) == (0, 2)
    assert not (tmp_path / "failed").exists()
    reason = "It took longer than trial_timeout=0.1 seconds."
    assert f"The baseline 'source a' could not be interrupted. {reason} It is started" in err


def test_trials_that_hang_and_cannot_be_failed(tmp_path: Path) -> None:
    """Their workers are ended all the same."""
    code, _, err = ended(
        run(
            tmp_path,
            f"""
report(study=(["sqlite:///:memory:", "sqlite:///gone.db"][start % 2], "toy"))
report(trial=start, seconds=0.1)
if start < 3:
    {HANG}
report(trial=None)
""",
            fail="from merge_optuna.cli import _fail_overdue as fail",
        )
    )
    assert (code, starts(tmp_path)) == (0, 3), err
    said = err.strip().splitlines()
    for trial, why in (
        (1, "Cannot open the storage sqlite:///gone.db: there is no file "),
        (2, "There is no study 'toy' in sqlite:///:memory:, nor any other."),
    ):
        cannot = f"Trial {trial} cannot be failed in the storage. {why}"
        assert sum(line.startswith(cannot) for line in said) == 1
        assert (
            said.count(
                f"Trial {trial} could not be interrupted. It took longer than trial_timeout=0.1 "
                "seconds. It is started again."
            )
            == 1
        )
    assert said[-1].startswith("Trial 2 could not be interrupted.")


def test_a_trial_whose_worker_held_a_lock(tmp_path: Path) -> None:
    """It is failed once the worker is dead."""
    fail = """
from merge_optuna.errors import StorageError

def fail(storage, study, trial, reason):
    with open("failed", "a+") as file:
        file.seek(0)
        first = not file.read()
        file.write(f"{storage} {study} {trial} {reason}\\n")
    if first:
        raise StorageError("The database is locked.")
    return True
"""
    lines = f"""
report(study=("url", "toy"))
report(trial=start, seconds=0.1)
if start == 1:
    {HANG}
report(trial=None)
"""
    code, _, err = ended(run(tmp_path, lines, fail=fail))
    assert (code, starts(tmp_path)) == (0, 2)
    late = "url toy 1 It took longer than trial_timeout=0.1 seconds.\n"
    assert (tmp_path / "failed").read_text() == late * 2
    assert "locked" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_handed_on(number: signal.Signals, tmp_path: Path) -> None:
    process = run(tmp_path, "time.sleep(600)")
    until(lambda: starts(tmp_path) == 1)
    os.kill(process.pid, number)
    assert ended(process) == (-number, "", "")
    assert starts(tmp_path) == 1


WAIT = """
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
open("waiting", "w").close()
while not seen:
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(100 + len(seen))
"""


@pytest.mark.parametrize("sent_to", ["the command", "the terminal"])
def test_ctrl_c_arrives_once(sent_to: str, tmp_path: Path) -> None:
    if sent_to == "the command":
        process = run(tmp_path, WAIT)
        until((tmp_path / "waiting").exists)
        os.kill(process.pid, signal.SIGINT)
        assert ended(process)[0] == 101
        return
    # A terminal sends it to both.
    (tmp_path / "program.py").write_text(program(WAIT))
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, "program.py", "run"], ENVIRONMENT)
    until((tmp_path / "waiting").exists)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 101
    os.close(terminal)


def test_ctrl_c_is_ignored_where_it_was(tmp_path: Path) -> None:
    process = run(
        tmp_path,
        """
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
open("waiting", "w").close()
time.sleep(1)
""",
        signal.SIG_IGN,
    )
    until((tmp_path / "waiting").exists)
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process) == (0, "", "")


@pytest.mark.parametrize("lines", ["time.sleep(600)", HANG])
def test_a_killed_command_takes_its_worker_along(lines: str, tmp_path: Path) -> None:
    process = run(tmp_path, lines)
    until(lambda: starts(tmp_path) == 1)
    worker = int((tmp_path / "starts").read_text())
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL
    until(lambda: not Path(f"/proc/{worker}").exists())


def test_children_of_a_worker_are_no_workers(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("""
from merge_optuna import _supervision as supervision
supervision.report(trial=None)
supervision.follow()
""")
    lines = """
import subprocess
report(trial=7, seconds=None)
subprocess.run([sys.executable, "child.py"], check=True)
if start == 1:
    os.kill(os.getpid(), signal.SIGKILL)
"""
    code, _, err = ended(run(tmp_path, lines))
    assert code == 0
    assert "SIGKILL in trial 7" in err


def test_a_database_that_is_locked_does_not_hold_it_up(tmp_path: Path) -> None:
    """Meanwhile no signal is taken."""
    url = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(study_name="toy", storage=mo.storage(url))
    study.ask()
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(StorageError, match="locked"):
            fail_overdue(url, "toy", 0, "late")
        assert time.monotonic() - begun < 30
    assert fail_overdue(url, "toy", 0, "late")
    assert not fail_overdue(url, "toy", 0, "late"), "it has come to an end"
    assert study.trials[0].user_attrs == {"reason": "late"}


# -- the command ------------------------------------------------------------------------------

COMMAND = """
from merge_optuna import _supervision
_supervision._GRACE = 1.0
from merge_optuna.cli import main
main()
"""


def start(folder: Path, *argv: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, argv)],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def search(
    folder: Path, evaluate: str, arguments: str, baselines: Sequence[str] | bool = False
) -> Path:
    """A file for ``merge-optuna run`` that needs neither transformers nor its second of imports.

    Args:
        folder: Where to.
        evaluate: Code of the function that scores a model.
        arguments: Further ones of mo.MergeStudy, as code.
        baselines: Of mo.MergeStudy.
    """
    file, given = folder / "search.py", f"{arguments}, baselines={baselines}"
    file.write_text(f"""
import pathlib, time
import torch
import merge_optuna as mo

torch.set_num_threads(1)
torch.manual_seed(0)
a, b = (mo.Checkpoint.from_module(torch.nn.Linear(3, 2), name=name) for name in "ab")
recipe = mo.recipes.linear([a, b], weight=[1, mo.free(0, 1)])

{evaluate}

mo.Engine().load(recipe.bind(recipe.start()))  # imports what it needs: no trial takes long
study = mo.MergeStudy("toy", mo.MergeObjective(recipe, evaluate), {given})
""")
    return file


def test_a_search_with_trials_that_hang(tmp_path: Path) -> None:
    """One waits in Python, one in a call that never returns; both are tried again."""
    evaluate = f"""
def evaluate(model):
    calls = pathlib.Path("calls")
    with calls.open("a") as opened:
        opened.write(".")
    if calls.stat().st_size == 2:
        time.sleep(600)
    if calls.stat().st_size == 4:
        {HANG}
    return 1.0
"""
    file = search(tmp_path, evaluate, "n_trials=3, trial_timeout=5.0")
    code, _, err = ended(start(tmp_path, "run", file))
    assert code == 0, err
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    assert counts(study) == {"complete": 3, "pruned": 0, "failed": 2, "running": 0}
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    reason = "It took longer than trial_timeout=5 seconds."
    reasons = [t.user_attrs.get("reason") for t in study.trials]
    assert reasons == [None, reason, None, reason, None], err
    for failed in (1, 3):
        assert study.trials[failed].params == study.trials[failed + 1].params
    assert f"Trial 1 failed: {reason}" in err
    assert f"Trial 3 could not be interrupted. {reason} It is started again." in err
    assert "3/3" in err


def test_a_baseline_that_kills_its_process_is_left_out(tmp_path: Path) -> None:
    """Twice; then the search goes on without it."""
    evaluate = """
def evaluate(model):
    import os, signal
    if torch.equal(model.weight, b.tensor("weight")):
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
"""
    file = search(tmp_path, evaluate, "n_trials=1", ["source", "greedy soup"])
    code, _, err = ended(start(tmp_path, "run", file))
    assert code == 0, err
    assert err.count("died of SIGKILL in the baseline 'source b': probably") == 2
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    found = mo.baselines(study)
    reasons = {row.name: row.reason for row in found if row.reason is not None}
    assert reasons == {"source b": "Its process has died 2 times in it."}
    assert found["greedy soup"].value == 1.0
    assert len(study.trials) == 1


def test_ctrl_c_through_the_supervisor(tmp_path: Path) -> None:
    evaluate = 'evaluate = lambda model: pathlib.Path("begun").touch() or 1.0'
    process = start(tmp_path, "run", search(tmp_path, evaluate, "n_trials=500"))
    until((tmp_path / "begun").exists)
    os.kill(process.pid, signal.SIGINT)
    code, out, err = ended(process)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    done = counts(study)
    assert done["running"] == 0
    assert f"Stopped: {done['complete']} of 500 trials are done and kept. Go on with:" in err
