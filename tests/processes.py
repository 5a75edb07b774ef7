"""Real processes for tests, without five seconds of imports each.

They are forked from a server that has imported the heavy libraries (``tests/preloaded.py``) and
run nothing of merge_optuna.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preloaded"])


@dataclass(frozen=True)
class Result:
    """Exit code (minus the signal of a killed process), standard output and error."""

    code: int
    out: str
    err: str


class Running:
    """A process under way; what it prints goes to files."""

    def __init__(self, target: Callable[[], None], cwd: Path, env: Mapping[str, str]) -> None:
        self._out = Path(tempfile.mkdtemp())
        self._process: ForkServerProcess = _context.Process(
            target=_child, args=(target, str(cwd), dict(env), str(self._out)), daemon=True
        )
        self._process.start()

    def wait(self, timeout: float = 900) -> Result:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"Still running after {timeout} s:\n{self.err}")
        return Result(self._process.exitcode, (self._out / "1").read_text(), self.err)

    @property
    def alive(self) -> bool:
        return self._process.exitcode is None

    @property
    def err(self) -> str:
        return (self._out / "2").read_text() if (self._out / "2").exists() else ""

    def kill(self) -> None:
        self._process.kill()

    def interrupt(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGINT)


def command(*argv: object, cwd: Path, env: Mapping[str, str] | None = None) -> Running:
    """Starts ``merge-optuna argv``."""
    return Running(_Command(["merge-optuna", *map(str, argv)]), cwd, env or {})


def script(path: Path, *argv: object, cwd: Path) -> Running:
    """Starts ``python path argv``."""
    return Running(_Script([str(path), *map(str, argv)]), cwd, {})


def call(function: Callable[..., None], *args: object, cwd: Path) -> Running:
    """Starts a function of a module with arguments that can be pickled."""
    return Running(functools.partial(function, *args), cwd, {})


@dataclass(frozen=True)
class _Command:
    argv: Sequence[str]

    def __call__(self) -> None:
        from merge_optuna.cli import main

        sys.argv = list(self.argv)
        main()


@dataclass(frozen=True)
class _Script:
    argv: Sequence[str]

    def __call__(self) -> None:
        sys.argv = list(self.argv)
        sys.path.insert(0, str(Path(self.argv[0]).parent))  # as python does for a script
        runpy.run_path(self.argv[0], run_name="__main__")


def _child(target: Callable[[], None], cwd: str, env: dict[str, str], out: str) -> None:
    for number in (1, 2):
        file = os.open(f"{out}/{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
    os.chdir(cwd)
    os.environ.update(env)
    torch.set_num_threads(1)  # several processes with two threads each crawl on two cores
    target()
