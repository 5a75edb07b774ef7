"""The published searches, with their papers' constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from merge_optuna.recipes import dare_ties, free
from merge_optuna.study import MergeObjective, MergeStudy

if TYPE_CHECKING:
    from torch import nn

    from merge_optuna.checkpoints import Checkpoint
    from merge_optuna.evaluators import Evaluator
    from merge_optuna.recipes.groups import Per


def evolutionary_merge(
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    per: Per = "layer",
    n_trials: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    **overrides: Any,
) -> MergeStudy:
    """Evolutionary model merge in parameter space (Akiba et al. 2024, arXiv 2403.13187).

    DARE-TIES whose weights and densities, both in [0, 1] and not normalised, are free for every
    expert and layer; CMA-ES from 0.5 with σ = 1/6; 1000 trials.

    Args:
        base: What task vectors are taken from.
        experts: The models to merge.
        evaluator: Scores a model on dev data.
        per: Granularity, see :func:`mo.free`. The paper has ``"layer"``; ``mo.depth(5)`` needs
            far fewer dimensions.
        n_trials: Budget.
        seed: Of the search and of the masks.
        device: Of the live model.
        dtype: Of the live model.
        overrides: Further arguments of :class:`mo.MergeStudy`, e.g. ``name`` or ``pruner``.
    """
    recipe = dare_ties(
        base, experts, weight=free(0, 1, per=per), density=free(0, 1, per=per), seed=seed
    )
    arguments: dict[str, Any] = {
        "name": "evolutionary-merge",
        "sampler": recipe.sampler(seed=seed),
        **overrides,
    }
    objective = MergeObjective(recipe, evaluator, device=device, dtype=dtype)
    return MergeStudy(objective=objective, n_trials=n_trials, **arguments)
