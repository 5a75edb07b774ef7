"""Weighted average of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.methods._spec import Method, Parameter

T = TypeVar("T")

_MAX_AMPLIFICATION = 10.0


def total_weight(
    weight: Sequence[float], *, remedy: str = "Use weights of one sign, or normalize=False."
) -> float:
    """The sum that weights are divided by.

    Raises:
        InfeasibleRecipe: If it is zero, or so small beside weights of mixed sign that dividing
            would amplify the models more than tenfold.
    """
    total = sum(weight)
    if abs(total) * _MAX_AMPLIFICATION < sum(map(abs, weight)) or total == 0:
        raise InfeasibleRecipe(
            f"The weights {[round(w, 6) for w in weight]} sum to {total:.3g} and cannot be "
            f"normalised. {remedy}"
        )
    return total


def linear_terms(
    models: Sequence[T], weight: Sequence[float], normalize: bool
) -> list[tuple[T, float]]:
    """The models that have a weight, each with its coefficient; the first one if none has."""
    total = total_weight(weight) if normalize else 1.0
    terms = [(one, w / total) for one, w in zip(models, weight, strict=True) if w]
    return terms or [(models[0], 0.0)]


def linear(
    base: None, models: Sequence[Tensor], *, weight: Sequence[float], normalize: bool
) -> Tensor:
    """Weighted average of models: Σ w·θ, divided by Σ w when normalised."""
    (first, c), *others = linear_terms(models, weight, normalize)
    merged = first * c
    for theta, c in others:
        merged += theta * c
    return merged


METHOD = Method(
    name="linear",
    kernel=linear,
    parameters=(
        Parameter("weight", 1.0, "coefficient of each model", per_model=True, search=(0, 1)),
        Parameter(
            "normalize",
            True,
            "divide by the sum of the weights",
            grouped=False,
            details="Free weights are then searched as n − 1 shares: only proportions matter.",
        ),
    ),
    base=False,
    elementwise=True,
    promises=frozenset({"idempotent", "selective", "symmetric"}),
    source="Wortsman et al. 2022, Model soups, arXiv 2203.05482",
)
