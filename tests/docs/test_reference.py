"""The API reference shows what is public."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import merge_optuna as mo

PAGES = Path(mo.__file__).parents[1] / "docs" / "reference"
MODULE = re.compile(r"automodule:: ([\w.]+)\n(?:   :members: (.*)\n)?")
CLASS = re.compile(r"autoclass:: (\w+)")
SHOWN = {
    module: [*names.split(", "), *CLASS.findall(page.read_text())]
    for page in PAGES.glob("*.md")
    for module, names in MODULE.findall(page.read_text())
}


def test_every_public_name_is_in_the_reference() -> None:
    names = {name for names in SHOWN.values() for name in names}
    packages = {module.partition(".")[2] for module in SHOWN}
    private = {"__version__", "mergekit"}  # read and written by methods of Recipe
    assert set(mo.__all__) - private <= names | packages


@pytest.mark.parametrize("module", SHOWN)
def test_what_it_shows_exists(module: str) -> None:
    shown = importlib.import_module(module)
    assert [name for name in SHOWN[module] if name and not hasattr(shown, name)] == []


def test_every_method_is_in_the_reference() -> None:
    assert (
        set(mo.methods.METHODS) - set(SHOWN["merge_optuna.recipes"]) <= mo.methods.EVOLVED.keys()
    )


def test_every_sampler_is_in_the_reference() -> None:
    assert set(mo.samplers.__all__) == set(filter(None, SHOWN["merge_optuna.samplers"]))
