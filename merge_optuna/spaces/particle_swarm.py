"""PSO-Merging with random numbers of their own for every parameter of the models.

Zhang, Zhang & Feng: PSO-Merging, arXiv 2508.19839.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.methods.descent import Ancestor, Particle
from merge_optuna.recipes import Recipe
from merge_optuna.samplers import Inertia, SwarmSampler
from merge_optuna.samplers.swarm import ROLES, Particles
from merge_optuna.spaces._genealogy import Genealogy
from merge_optuna.spaces._swarm import DROP_RATE, INERTIA, first_models
from merge_optuna.spaces._weights import Ancestors, evolving

_CACHE = 1 << 30


class ParticleSwarm(Genealogy[Ancestor]):
    """The space of a swarm whose r1 and r2 are drawn for every parameter of the models.

    A particle then is no combination of the models that the swarm begins with, as it is in
    :class:`AffineSwarm`, but the child of four individuals: where the particle is (x), where it
    was before, its own best and that of the swarm,

        x + w (x − before) + c1 r1 (pbest − x) + c2 r2 (gbest − x).

    A trial has the parameters ``{origin: <name of a model>}`` or ``{origin: "child", position,
    before, pbest, gbest, seed}``, parents named by their individual id, their place among the
    finished trials; r1 and r2 are drawn from the seed. Weights of parents are kept while there is
    room; the others are computed again from their ancestors, in one pass over the models.

    Args:
        base: The model that the experts were fine-tuned from.
        experts: One at least.
        sparsified: Whether the sparsified experts take part, named ``sparse-<expert>``.
        drop_rate: Which share of their task vector is dropped; the rest is rescaled.
        seed: Of what is dropped.
        w: Inertia weight in [0, 1].
        c1: Pull of the particle's own best.
        c2: Pull of the swarm's best.
        exclude: Name filters of tensors that come unchanged from the base.
        config: Whose config counts where those of the models give weights another meaning:
            ``"base"``, the first model, or the name of a source.
        cache_bytes: Bytes of parents' weights to keep; four times the number of parameters each.
        cache_folder: Where to keep them; in memory when omitted.

    Raises:
        RecipeError: If there is no expert, or the drop rate is not in [0, 1).
        StudyError: If w, c1 or c2 is out of range.
        CheckpointMismatch: If the models do not fit together.
        StorageError: If the cache folder cannot be written to.
    """

    kind = "particle_swarm"
    options: ClassVar = dict.fromkeys(("w", "c1", "c2"), (int, float))

    def __init__(
        self,
        base: Checkpoint | Recipe,
        experts: Sequence[Checkpoint | Recipe],
        *,
        sparsified: bool = True,
        drop_rate: float = DROP_RATE,
        seed: int = 0,
        w: float = INERTIA.w,
        c1: float = INERTIA.c1,
        c2: float = INERTIA.c2,
        exclude: Sequence[str] = (),
        config: str | None = None,
        cache_bytes: int = _CACHE,
        cache_folder: str | Path | None = None,
    ) -> None:
        models = first_models(
            "ParticleSwarm", base, experts, sparsified, drop_rate, seed=seed, exclude=exclude
        )
        self._set(evolving(models, exclude, config), w, c1, c2, cache_bytes, cache_folder)

    def _set(
        self,
        models: Recipe,
        w: float,
        c1: float,
        c2: float,
        cache_bytes: int = _CACHE,
        cache_folder: str | Path | None = None,
    ) -> None:
        _ = Inertia(w, c1, c2)  # finds what is out of range
        super().__init__(models)
        self.w, self.c1, self.c2 = w, c1, c2
        self.breeding = Particles(self.names)
        self._ancestors = Ancestors(self.recipe, cache_bytes, cache_folder)

    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> SwarmSampler:
        """A synchronous swarm; see :class:`mo.samplers.SwarmSampler` for the options."""
        self.check_objectives(objectives)
        return SwarmSampler(self.distributions(), seed=seed, **overrides)

    @classmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """See :meth:`Space.declared`."""
        made = cls.__new__(cls)
        made._set(recipes["models"], **options)
        return made

    def fine_tuned_from(self) -> Checkpoint | Recipe:
        """See :meth:`Space.fine_tuned_from`."""
        return self.recipe.models[0]

    def source(self, name: str) -> Ancestor:
        """See :meth:`Genealogy.source`."""
        return self._ancestors.models[name]

    def child(self, params: Mapping[str, Any], parents: Mapping[str, Ancestor]) -> Ancestor:
        """See :meth:`Genealogy.child`."""
        step = Particle(self.w, self.c1, self.c2, params["seed"])
        return self._ancestors.child(step, [parents[role] for role in ROLES])

    def recipe_for(self, individual: Ancestor) -> Recipe:
        """See :meth:`Genealogy.recipe_for`."""
        return self._ancestors.recipe(individual)
