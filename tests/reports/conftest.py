"""Searches that are made once for all processes of a run, and a browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from filelock import FileLock

from tests.reports import searches
from tests.reports.browser import Browser, browser, missing


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the searches of this run are, the same for all its processes.

    ``MERGE_OPTUNA_SEARCHES=FOLDER`` keeps them from one run to the next.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "searches"
    made = Path(os.environ.get("MERGE_OPTUNA_SEARCHES", made))
    made.mkdir(parents=True, exist_ok=True)
    return made


@pytest.fixture(scope="session")
def searched(folder: Path) -> Callable[[str], str]:
    """Makes a search, if no other process has, and returns the URL of its storage."""

    def url(name: str) -> str:
        done = folder / f"{name}.done"
        with FileLock(folder / f"{name}.lock"):
            if not done.exists():
                optuna.logging.set_verbosity(optuna.logging.ERROR)
                searches.make(folder, name)
                done.touch()
        return searches.url_of(folder, name)

    return url


@pytest.fixture(scope="session")
def window() -> Iterator[Browser]:
    """A browser; skips where there is none."""
    if reason := missing():
        pytest.skip(reason)
    with browser() as opened:
        yield opened
