"""Whole numbers, in whichever type they come."""

from __future__ import annotations

import operator
from typing import Any


def whole(value: Any) -> int | None:
    """The whole number that a value is, e.g. one of NumPy; None if it is none, as a bool."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
