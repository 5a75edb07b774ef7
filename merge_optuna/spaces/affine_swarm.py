"""PSO-Merging's particles as coefficients of the models that the swarm begins with.

Zhang, Zhang & Feng: PSO-Merging, arXiv 2508.19839.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.recipes import Recipe, free, linear
from merge_optuna.samplers import Gaussian, NSGA2Sampler, PSOSampler
from merge_optuna.spaces._space import ParameterSpace
from merge_optuna.spaces._swarm import DROP_RATE, INERTIA, first_models

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LIMIT = 1000.0
"""Coefficients stay within ± this."""
_STEP = 0.05  # of a coefficient in a mutation


class AffineSwarm(ParameterSpace):
    """The space of PSO-Merging: particles are Σ c·θ over the models that the swarm begins with.

    These are the base, the experts, and the experts with most of their task vector dropped at
    random (DARE), which is drawn once. With random numbers r1 and r2 that are scalars, positions,
    velocities and bests all stay such combinations, so a trial's parameters are its coefficients
    ``weight/<model>`` and no model but the sources is stored.

    Args:
        base: The model that the experts were fine-tuned from.
        experts: One at least.
        sparsified: Whether the sparsified experts take part, named ``sparse-<expert>``.
        drop_rate: Which share of their task vector is dropped; the rest is rescaled.
        seed: Of what is dropped.
        exclude: Name filters of tensors that come unchanged from the base.
        config: Whose config counts where those of the models give weights another meaning:
            ``"base"``, the first model, or the name of a source.

    Raises:
        RecipeError: If there is no expert, or the drop rate is not in [0, 1).
        CheckpointMismatch: If the models do not fit together.
    """

    kind = "affine_swarm"
    parts = ("particle",)

    def __init__(
        self,
        base: Checkpoint | Recipe,
        experts: Sequence[Checkpoint | Recipe],
        *,
        sparsified: bool = True,
        drop_rate: float = DROP_RATE,
        seed: int = 0,
        exclude: Sequence[str] = (),
        config: str | None = None,
    ) -> None:
        models = first_models(
            "AffineSwarm", base, experts, sparsified, drop_rate, seed=seed, exclude=exclude
        )
        self.recipe = linear(
            models,
            weight=free(-LIMIT, LIMIT),
            normalize=False,
            exclude=exclude,
            config=config,
        )
        _ = self.recipe.alignment  # finds models that do not fit

    @property
    def names(self) -> tuple[str, ...]:
        """How the models that the swarm begins with are called."""
        return self.recipe.model_names

    def fine_tuned_from(self) -> Checkpoint | Recipe:
        """See :meth:`Space.fine_tuned_from`."""
        return self.recipe.models[0]

    def distributions(self) -> dict[str, BaseDistribution]:
        """See :meth:`Space.distributions`."""
        return dict(self.recipe.distributions())

    def initial_population(self) -> list[dict[str, float]]:
        """The coefficients of each model on its own."""
        return [
            {f"weight/{name}": float(name == one) for name in self.names} for one in self.names
        ]

    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> PSOSampler | NSGA2Sampler:
        """The paper's swarm: w = 0.2, c1 = c2 = 2, scalar r1 and r2, from the models at rest.

        A coefficient that would leave ±1000 stays there, with velocity 0, and is warned about.
        For several objectives NSGA-II, from the models and random averages of them.
        """
        if objectives > 1:
            return self._front(seed, **overrides)
        arguments: dict[str, Any] = {
            "coefficients": INERTIA,
            "random": "scalar",
            "population_size": len(self.names),
            "initial_population": self.initial_population(),
            "raw": True,
            **overrides,
        }
        return PSOSampler(self.distributions(), seed=seed, **arguments)

    def _front(
        self, seed: int | None, *, population_size: int = 50, **overrides: Any
    ) -> NSGA2Sampler:
        # Uniform points of ±1000 are no models, and neither are steps of a share of that.
        shares = np.random.default_rng(0).dirichlet(np.ones(len(self.names)), population_size)
        averages = [
            {f"weight/{n}": float(s) for n, s in zip(self.names, row, strict=True)}
            for row in shares
        ]
        arguments: dict[str, Any] = {
            "initial_population": [*self.initial_population(), *averages][:population_size],
            "mutation": Gaussian(_STEP / (2 * LIMIT)),
            **overrides,
        }
        return NSGA2Sampler(
            self.distributions(), seed=seed, population_size=population_size, **arguments
        )

    @classmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """See :meth:`Space.declared`."""
        made = cls.__new__(cls)
        made.recipe = recipes["particle"]
        return made

    def bind(self, params: Mapping[str, Any]) -> Recipe:
        """See :meth:`ParameterSpace.bind`."""
        return self.recipe.bind(params)
