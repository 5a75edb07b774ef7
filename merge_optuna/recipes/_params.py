"""What a trial may have chosen: every parameter of a space, in its range."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from merge_optuna.errors import RecipeError, few, shown


def check_params(space: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> None:
    """Checks the parameters of a trial, which may be of another study, or damaged.

    Args:
        space: The distribution of every parameter that must be there.
        params: What the trial has chosen; others are left alone.

    Raises:
        RecipeError: Naming what is missing, or the parameter, its value and its range.
    """
    if not isinstance(params, Mapping):
        raise RecipeError(f"Parameters are a table of names and numbers, not {shown(params)}.")
    missing = [name for name in space if name not in params]
    if missing:
        raise RecipeError(
            f"{len(missing)} parameters are missing: {few(missing)}. Do they belong to this "
            "recipe?"
        )
    for name, distribution in space.items():
        if not _contains(distribution, params[name]):
            raise RecipeError(
                f"{name} is {shown(params[name])}, but must be {_in_words(distribution)}. Was the "
                "trial made with another space, or changed?"
            )


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    match distribution:
        case CategoricalDistribution():
            return value in distribution.choices
        case IntDistribution() | FloatDistribution():
            kind = Integral if isinstance(distribution, IntDistribution) else Real
            is_number = isinstance(value, kind) and not isinstance(value, bool)
            return is_number and distribution.low <= value <= distribution.high
        case _:
            return True


def _in_words(distribution: BaseDistribution) -> str:
    match distribution:
        case CategoricalDistribution():
            return f"one of {few([shown(choice) for choice in distribution.choices])}"
        case IntDistribution():
            return f"a whole number in [{distribution.low}, {distribution.high}]"
        case FloatDistribution():
            return f"a number in [{distribution.low:g}, {distribution.high:g}]"
        case _:
            return "of its space"
