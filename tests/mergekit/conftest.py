"""A mergekit 0.1.5 in another Python, named by MERGE_OPTUNA_MERGEKIT."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

VARIABLE = "MERGE_OPTUNA_MERGEKIT"
VERSION = "0.1.5"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.mergekit)
        if not os.environ.get(VARIABLE):
            reason = f"set {VARIABLE} to a Python that has mergekit {VERSION}"
            item.add_marker(pytest.mark.skip(reason=reason))


class Mergekit:
    """mergekit in a subprocess that stays, since its imports take seconds."""

    def __init__(self, python: str, log: Path) -> None:
        self.python = python
        self._log = log
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("runner.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        self._reply()

    def merge(
        self, config: dict[str, Any], out: Path, uniforms: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The merged tensors by name."""
        if error := self._asked(config, out, uniforms):
            pytest.fail(f"mergekit: {error}")
        return read(out)

    def error(self, config: dict[str, Any], out: Path) -> str | None:
        """The error with which it refuses, if it does."""
        return self._asked(config, out, None)

    def _asked(
        self, config: dict[str, Any], out: Path, uniforms: dict[str, Tensor] | None
    ) -> str | None:
        file = None
        if uniforms is not None:
            file = out.with_suffix(".uniforms")
            save_file(uniforms, file)
        request = {"config": config, "out": str(out), "uniforms": file and str(file)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> str | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(f"mergekit has ended:\n{self._log.read_text()[-3000:]}")
        error: str | None = json.loads(line)["error"]
        return error

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def read(folder: Path) -> dict[str, Tensor]:
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


@pytest.fixture(scope="session")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mergekit]:
    python = os.environ[VARIABLE]
    code = "import importlib.metadata as m; print(m.version('mergekit'))"
    version = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    assert version.stdout.strip() == VERSION
    process = Mergekit(python, tmp_path_factory.mktemp("mergekit") / "log")
    yield process
    process.close()
