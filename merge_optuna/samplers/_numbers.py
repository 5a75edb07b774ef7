"""Checks of the numbers that options are."""

from __future__ import annotations

import math

from merge_optuna.errors import StudyError


def check_at_least(low: int, name: str, value: int | None) -> None:
    """Raise :class:`StudyError` unless the value is so much, or None."""
    if value is not None and value < low:
        raise StudyError(f"{name} must be at least {low}, got {value}.")


def check_positive(name: str, value: float, *, zero: bool = False) -> None:
    """Raise :class:`StudyError` unless the value is positive (or zero, if that is allowed)."""
    if not (0 < value < math.inf or (zero and value == 0)):
        must = "not be negative" if zero else "be positive"
        raise StudyError(f"{name} must {must}, got {value}.")


def check_share(name: str, value: float | None) -> None:
    """Raise :class:`StudyError` unless the value is in [0, 1] or None."""
    if value is not None and not 0 <= value <= 1:
        raise StudyError(f"{name} must be in [0, 1], got {value}.")
