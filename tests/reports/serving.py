"""A dashboard as a process, from a fork that has loaded everything."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def dashboard(url: str, folder: Path) -> Iterator[str]:
    """Starts one for a storage; gives its address."""
    port = free_port()
    running = processes.call(_serve, url, port, cwd=folder)
    try:
        _wait_for(port, running)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.kill()


def _serve(url: str, port: int) -> None:
    import optuna_dashboard

    import merge_optuna as mo

    optuna_dashboard.run_server(mo.storage(url), host="127.0.0.1", port=port)


def _wait_for(port: int, running: processes.Running) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert running.alive, running.err
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("The dashboard does not listen.")
