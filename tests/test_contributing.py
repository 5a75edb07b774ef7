"""The fast tests of every room, as CONTRIBUTING.md names them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import merge_optuna as mo

ROOT = Path(mo.__file__).parents[1]
LINE = re.compile(r"^\| `(\w+)/` \| `pytest -n 0 (.*)` \|$", re.MULTILINE)
ROOMS = dict(LINE.findall((ROOT / "CONTRIBUTING.md").read_text()))


def test_every_room_has_a_fast_subset() -> None:
    folders = {path.parent.name for path in (ROOT / "merge_optuna").glob("*/__init__.py")}
    assert set(ROOMS) == {name for name in folders if not name.startswith("_")}


@pytest.mark.parametrize("room", ROOMS)
def test_it_names_what_there_is(room: str) -> None:
    named = ROOMS[room].split()
    assert named
    for path in named:
        assert (ROOT / path).exists(), path
        assert path.startswith(f"tests/{room}"), path
