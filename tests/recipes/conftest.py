"""One family of Llamas for all tests of recipes."""

from __future__ import annotations

import pytest

import merge_optuna as mo
from tests import toys


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    """A base and the experts ja, math and code; three layers."""
    return toys.family(tmp_path_factory.mktemp("family"), lambda: toys.llama(layers=3))
