"""Evolver's mutation and crossover of models.

Du et al.: Knowledge Fusion by Evolving Weights of Language Models, arXiv 2406.12208.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError
from merge_optuna.methods.descent import Ancestor, Crossover, Granularity
from merge_optuna.recipes import Recipe, check_sources
from merge_optuna.samplers import EvolverSampler
from merge_optuna.samplers.evolver import MEMBER, POPULATION, Merged, Mutants
from merge_optuna.spaces._genealogy import Genealogy
from merge_optuna.spaces._weights import Ancestors, evolving

_DONORS = {"difference": 2, "toward": 1}


@dataclass(frozen=True)
class Bred:
    """What a trial is about.

    Attributes:
        child: The individual that it has made; None for the models as they are.
        population: With a merger, who is merged, by the name of the slot.
    """

    child: Ancestor | None
    population: Mapping[str, Ancestor]


class DifferentialCrossover(Genealogy[Bred]):
    """The space of Evolver: models, and children by differential evolution on their weights.

    A mutant is made of a target and two donors, target + F (a − b), or of one donor,
    target + F (a − target). Every coordinate of it goes into the child with probability CR, drawn
    from ``mask_seed``; the others are the target's.

    A trial has the parameters ``{origin: <name of a model>}`` or ``{origin: "child", target,
    donor_a, donor_b, F, CR, mask_seed}``, parents named by their individual id, their place among
    the finished trials. With a merger, what is scored is the whole population merged, the child in
    the place of its target: trials have ``{origin: "population"}`` or target and donors by the
    names of their slots, and ``member/<slot>`` says who is in each.

    Weights of parents are kept as long as there is room; the others are computed again from their
    ancestors, in one pass over the models.

    Args:
        population: The models, two at least.
        mutation: ``"difference"`` or ``"toward"``; the former from three models on when omitted.
        granularity: What is one coordinate: a ``"parameter"`` as in the paper, the ``"row"`` of a
            matrix, a ``"tensor"`` or a ``"layer"`` group.
        merger: A recipe that merges the population, e.g. ``mo.recipes.linear(population)`` or
            ``mo.recipes.ties(base, population)``; None scores individuals. Statistics are those of
            the models as they are.
        exclude: Name filters of tensors that come unchanged from the first model.
        config: Whose config counts where those of the models give weights another meaning:
            ``"base"``, the first model, or the name of a source.
        cache_bytes: Bytes of parents' weights to keep; four times the number of parameters each.
        cache_folder: Where to keep them; in memory when omitted.

    Raises:
        RecipeError: For less than two models, or an option that is out of range or does not fit.
        CheckpointMismatch: If the models do not fit together.
        StorageError: If the cache folder cannot be written to.
    """

    kind = "differential_crossover"
    parts = ("models", "merger")
    options: ClassVar = {"mutation": (str,), "granularity": (str,)}

    def __init__(
        self,
        population: Sequence[Checkpoint | Recipe],
        *,
        mutation: Literal["difference", "toward"] | None = None,
        granularity: Granularity = "parameter",
        merger: Recipe | None = None,
        exclude: Sequence[str] = (),
        config: str | None = None,
        cache_bytes: int = 1 << 30,
        cache_folder: str | Path | None = None,
    ) -> None:
        check_sources("DifferentialCrossover", None, population)
        models = tuple(population)
        mutation = mutation or ("difference" if len(models) > 2 else "toward")
        if mutation not in _DONORS:
            raise RecipeError(f"mutation must be 'difference' or 'toward', not {mutation!r}.")
        if len(models) <= _DONORS[mutation]:
            remedy = " Use mutation='toward'." if len(models) == 2 else ""
            raise RecipeError(
                f"DifferentialCrossover with mutation={mutation!r} needs at least "
                f"{_DONORS[mutation] + 1} models, not {len(models)}.{remedy}"
            )
        if granularity not in get_args(Granularity):
            choices = ", ".join(map(repr, get_args(Granularity)))
            raise RecipeError(f"granularity must be one of {choices}, not {granularity!r}.")
        self.mutation = mutation
        self.granularity: Granularity = granularity
        self.merger = merger
        super().__init__(evolving(models, exclude, config))
        _check_merger(merger, self.recipe)
        donors = _DONORS[mutation]
        self.breeding: Mutants = (
            Mutants(self.names, donors)
            if merger is None
            else Merged((POPULATION,), donors, models=self.names)
        )
        self._ancestors = Ancestors(self.recipe, cache_bytes, cache_folder)

    def sampler(self, *, seed: int | None = None, **overrides: Any) -> EvolverSampler:
        """Evolver; see :class:`mo.samplers.EvolverSampler` for the options."""
        options = {"scoring": self.breeding.scoring, **overrides}
        return EvolverSampler(self.distributions(), seed=seed, **options)

    @classmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """See :meth:`Space.declared`."""
        models, merger = recipes["models"], recipes.get("merger")
        return cls(
            models.models,
            merger=merger,
            exclude=models.exclude,
            config=models.config,
            **options,
        )

    def leaves(self) -> tuple[Checkpoint, ...]:
        """See :meth:`Space.leaves`."""
        return super().leaves() if self.merger is None else self.merger.leaves()

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """See :meth:`Space.checkpoints`."""
        return super().checkpoints() if self.merger is None else self.merger.checkpoints()

    # -- individuals ------------------------------------------------------------------------

    @cached_property
    def _models(self) -> dict[str, Ancestor]:
        return {name: self._ancestors.model(i) for i, name in enumerate(self.names)}

    def source(self, name: str) -> Bred:
        """See :meth:`Genealogy.source`."""
        return Bred(None if self.merger is not None else self._models[name], self._models)

    def child(self, params: Mapping[str, Any], parents: Mapping[str, Bred]) -> Bred:
        """See :meth:`Genealogy.child`."""
        if self.merger is None:
            population = {name: _born(parent) for name, parent in parents.items()}
            roles = {role: role for role in self.breeding.roles}
        else:
            population = {
                name: parents[MEMBER + name].child or model for name, model in self._models.items()
            }
            roles = {role: params[role] for role in self.breeding.roles}
        crossover = Crossover(
            params["F"],
            params["CR"],
            params["mask_seed"],
            self.granularity,
            donors=self.breeding.donors,
        )
        child = self._ancestors.child(crossover, [population[slot] for slot in roles.values()])
        if self.merger is None:
            return Bred(child, {})
        return Bred(child, {**population, roles["target"]: child})

    def recipe_for(self, individual: Bred) -> Recipe:
        """See :meth:`Genealogy.recipe_for`."""
        if self.merger is None:
            return self._ancestors.recipe(_born(individual))
        models = [
            model
            if individual.population[name].operation is None
            else self._ancestors.recipe(individual.population[name]).with_fields(name=name)
            for name, model in zip(self.names, self.recipe.models, strict=True)
        ]
        return self.merger.with_fields(models=tuple(models))


def _born(one: Bred) -> Ancestor:
    assert one.child is not None  # only a merged population has none
    return one.child


def _check_merger(merger: Recipe | None, population: Recipe) -> None:
    if merger is None:
        return
    if not isinstance(merger, Recipe):
        raise RecipeError(
            f"merger must be a recipe that merges the population, not {merger!r}: e.g. "
            "merger=mo.recipes.linear(population)."
        )
    if merger.models != population.models:
        raise RecipeError(
            f"The merger is of {', '.join(merger.model_names)}, the population of "
            f"{', '.join(population.model_names)}. Give both the same models in the same order."
        )
    if merger.slots:
        raise RecipeError(
            f"The merger has free numbers: {', '.join(slot.name for slot in merger.slots[:5])}. "
            "Give it fixed ones."
        )
