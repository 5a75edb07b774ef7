"""The scripts that upgrade the tables of Optuna: twenty modules."""

from __future__ import annotations

import functools

from alembic.util import pyfiles


def load_once() -> None:
    """Lets alembic load each of them once per process, not some times per storage.

    That is two thirds of the processor time of opening one.
    """
    pyfiles.load_module_py = functools.cache(pyfiles.load_module_py)
