"""What the spaces of PSO-Merging share: the models that a swarm begins with, and its constants."""

from __future__ import annotations

from collections.abc import Sequence

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError
from merge_optuna.recipes import Recipe, check_sources, dare_linear
from merge_optuna.samplers import Inertia

DROP_RATE = 0.8
"""The paper's share of a task vector that is dropped in a sparsified expert."""
INERTIA = Inertia(w=0.2, c1=2.0, c2=2.0)
"""The paper's constants of a swarm."""
_SPARSE = "sparse-"


def first_models(
    space: str,
    base: Checkpoint | Recipe,
    experts: Sequence[Checkpoint | Recipe],
    sparsified: bool,
    drop_rate: float,
    *,
    seed: int,
    exclude: Sequence[str],
) -> list[Checkpoint | Recipe]:
    """The base, the experts and, named ``sparse-<expert>``, the sparsified experts.

    Raises:
        RecipeError: If there is no expert, something else than models, or the drop rate is not in
            [0, 1).
    """
    check_sources(space, base, experts)
    if not experts:
        raise RecipeError(f"{space} needs at least one expert: {space}(base, [a, b]).")
    if not 0 <= drop_rate < 1:
        raise RecipeError(f"drop_rate must be in [0, 1), not {drop_rate}.")
    if not sparsified:
        return [base, *experts]
    sparse = [
        dare_linear(
            base,
            [expert],
            density=1 - drop_rate,
            seed=seed,
            exclude=exclude,
            name=f"{_SPARSE}{expert.name or f'expert{i}'}",
        )
        for i, expert in enumerate(experts)
    ]
    return [base, *experts, *sparse]
