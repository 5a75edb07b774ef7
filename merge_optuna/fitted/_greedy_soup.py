"""Greedy soup (Wortsman et al. 2022, arXiv 2203.05482, recipe 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from merge_optuna._bar import ProgressBar
from merge_optuna.engine import Engine, check_finite
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Evaluator, as_evaluator, name_of, value_of
from merge_optuna.recipes import Recipe, Source, linear

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


def greedy_soup(
    experts: Sequence[Source],
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    exclude: Sequence[str] = (),
    name: str | None = None,
) -> Recipe:
    """The average of those experts that do each other no harm.

    The best expert alone, then the others from good to bad: each joins the average if its score
    does not get worse. It takes 2n − 1 evaluations of n experts.

    Args:
        experts: At least one; of equal ones the first counts as better.
        evaluator: With one objective. Use data that the result will not be tested on.
        device: Of the live model.
        dtype: Of the live model; that of the first expert when omitted.
        exclude: As for ``mo.recipes.linear``.
        name: Prefix of parameter names inside another recipe.

    Returns:
        ``mo.recipes.linear`` of what was kept, in the order in which it joined.

    Raises:
        CheckpointError: If an expert is damaged, holds NaN, or does not fit the others.
        EvaluationError: If the evaluator has several objectives or cannot score the models, or no
            expert has a score.
    """
    evaluator = as_evaluator(evaluator)
    if len(evaluator.directions) != 1:
        raise EvaluationError(
            f"A greedy soup needs one objective, not {len(evaluator.directions)}: "
            f"{', '.join(evaluator.metric_names)} of {name_of(evaluator)}. Pass an evaluator of "
            "one of them, or of one value of all, as mo.evaluators.Tasks({...}, aggregate='mean')."
        )
    sign = -1.0 if evaluator.directions[0] == "minimize" else 1.0
    soup = linear(experts, exclude=exclude, name=name)
    check_finite(soup)
    engine = Engine(device, dtype)
    user = name_of(evaluator)
    check = getattr(evaluator, "check", None)
    if check is not None:
        check(engine.load(soup.frame, user=user))
    bar = ProgressBar(
        total=2 * len(experts) - 1, desc="Greedy soup", delay=2, leave=False, unit="soup"
    )

    def score(models: Sequence[Source]) -> float:
        model = engine.load(linear(models, exclude=exclude), user=user)
        value = value_of(evaluator, model)
        bar.update()
        assert isinstance(value, (int, float))  # one objective
        return -math.inf if math.isnan(value) else sign * value

    with bar:
        kept = chosen_greedily(experts, score)
    return linear(kept, exclude=exclude, name=name)


def chosen_greedily(experts: Sequence[T], score: Callable[[Sequence[T]], float]) -> list[T]:
    """The members of a greedy soup, in the order in which they join.

    Args:
        experts: At least one; of equal ones the first counts as better.
        score: Of the average of some of them, larger is better; −∞ where it has none. It is
            called for each expert alone and then for n − 1 averages.

    Raises:
        EvaluationError: If no expert has a score.
    """
    alone = [score([expert]) for expert in experts]
    first, *others = sorted(range(len(experts)), key=lambda i: -alone[i])
    kept, best = [experts[first]], alone[first]
    if best == -math.inf:
        raise EvaluationError("No expert has a score that is a number.")
    for i in others:
        found = score([*kept, experts[i]])
        if found >= best:
            kept, best = [*kept, experts[i]], found
    return kept
