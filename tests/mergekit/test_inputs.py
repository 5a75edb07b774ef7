"""How many models a method takes, and with which base: accepted and refused as by mergekit."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import merge_optuna as mo
from merge_optuna.errors import MergeOptunaError
from merge_optuna.mergekit._methods import TRANSLATIONS
from tests import toys

from .conftest import Mergekit, read
from .test_yaml import assert_agree

PARAMETERS = {"weight": 0.5, "t": 0.3, "density": 1.0}
_BY_RANK = ("arcee_fusion",)  # what lies at the quartile falls on either side by rounding
_BASES = ("none", "listed", "not listed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    toys.family(folder, lambda: toys.llama(layers=1))
    return folder


def shape(root: Path, method: str, models: int, base: str) -> dict[str, Any]:
    names = list(toys.EXPERTS[: models - (base == "listed")])
    names += ["base"] * (base == "listed")
    return {
        "merge_method": method,
        "models": [{"model": str(root / name)} for name in names],
        "parameters": PARAMETERS,
        "dtype": "float32",
    } | ({} if base == "none" else {"base_model": str(root / "base")})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", TRANSLATIONS)
def test_what_mergekit_takes_is_taken(
    mergekit: Mergekit, root: Path, tmp_path: Path, method: str
) -> None:
    """All models, bases and numbers of them; what is taken is the same."""
    differ = []
    for models, base in itertools.product((1, 2, 3), _BASES):
        config = shape(root, method, models, base)
        out = tmp_path / f"{models} {base}"
        theirs = mergekit.error(config, out)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                recipe = mo.Recipe.from_mergekit(yaml.safe_dump(config))
            ours = mo.write(recipe, tmp_path / f"{models} {base} ours")
        except MergeOptunaError as error:
            if theirs is None:
                differ.append(f"{models} models, base {base}: {error}")
            continue
        if theirs is not None:
            differ.append(f"{models} models, base {base}, mergekit: {theirs}")
        elif method not in _BY_RANK:
            assert_agree(read(ours), read(out))
    assert not differ
