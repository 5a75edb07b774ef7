"""The models and data that the pages speak of, made once per process."""

from __future__ import annotations

import contextlib
import runpy
from pathlib import Path

import pytest
import torch

from tests.docs.blocks import ROOT
from tests.trained import read_rows, task, write_rows

__all__ = ["task"]


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as examples/small_models.py makes it, of models that have learned nothing."""
    folder = tmp_path_factory.mktemp("pages")
    with contextlib.chdir(folder), torch.random.fork_rng():
        threads = torch.get_num_threads()
        runpy.run_path(str(ROOT / "examples" / "small_models.py"))["main"](
            {"base": 2, "japanese": 2, "math": 2}
        )
        torch.set_num_threads(threads)
    for name in ("dev", "test"):
        write_rows(folder / f"{name}.jsonl", read_rows(folder / f"{name}.jsonl")[:12])
    return folder
