"""``merge-optuna dashboard`` as a process, from a fork that has loaded everything."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import processes


@contextmanager
def dashboard(url: str, folder: Path) -> Iterator[str]:
    """Starts one for a storage; gives its address."""
    port = _free_port()
    running = processes.command("dashboard", url, "--port", port, cwd=folder)
    try:
        _wait_for(port, running)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_for(port: int, running: processes.Running) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert running.alive, running.err
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("The dashboard does not listen.")
