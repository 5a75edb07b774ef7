from __future__ import annotations

from pathlib import Path

import pytest

from tests.trained import task

__all__ = ["task"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads what another one has left."""
    monkeypatch.setenv("MERGE_OPTUNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
