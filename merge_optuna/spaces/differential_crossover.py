"""Evolver's mutation and crossover of models.

Du et al.: Knowledge Fusion by Evolving Weights of Language Models, arXiv 2406.12208.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import RecipeError
from merge_optuna.methods.descent import Ancestor, Crossover, Granularity
from merge_optuna.recipes import Recipe, check_sources
from merge_optuna.samplers import EvolverSampler
from merge_optuna.samplers.breeding import CHILD
from merge_optuna.samplers.evolver import MEMBER, POPULATION, Merged, Mutants
from merge_optuna.spaces._genealogy import Genealogy
from merge_optuna.spaces._weights import Ancestors, evolving

_DONORS = {"difference": 2, "toward": 1}


Population = Mapping[str, Ancestor]
"""What a trial is about: under "child" the individual that it has made, unless it is the models as
they are; with a merger also who is merged, by the name of the slot."""


class DifferentialCrossover(Genealogy[Population]):
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

    def sampler(
        self, *, seed: int | None = None, objectives: int = 1, **overrides: Any
    ) -> EvolverSampler:
        """Evolver; see :class:`mo.samplers.EvolverSampler` for the options."""
        self.check_objectives(objectives)
        options = {"scoring": self.breeding.scoring, **overrides}
        return EvolverSampler(self.distributions(), seed=seed, **options)

    @classmethod
    def declared(cls, recipes: Mapping[str, Recipe], options: Mapping[str, Any]) -> Self:
        """See :meth:`Space.declared`."""
        models, merger = recipes["models"], recipes.get("merger")
        exclude, config = models.exclude, models.config
        return cls(models.models, merger=merger, exclude=exclude, config=config, **options)

    def fine_tuned_from(self) -> Checkpoint | Recipe | None:
        """See :meth:`Space.fine_tuned_from`: that of the merger, if there is one."""
        return None if self.merger is None else self.merger.base

    def untuned(self) -> Recipe | None:
        """See :meth:`Space.untuned`: the merger of the unchanged models, if there is one."""
        return self.merger

    def leaves(self) -> tuple[Checkpoint, ...]:
        """See :meth:`Space.leaves`."""
        return super().leaves() if self.merger is None else self.merger.leaves()

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """See :meth:`Space.checkpoints`."""
        return super().checkpoints() if self.merger is None else self.merger.checkpoints()

    # -- individuals ------------------------------------------------------------------------

    def source(self, name: str) -> Population:
        """See :meth:`Genealogy.source`."""
        models = self._ancestors.models
        return {CHILD: models[name]} if self.merger is None else models

    def child(self, params: Mapping[str, Any], parents: Mapping[str, Population]) -> Population:
        """See :meth:`Genealogy.child`."""
        roles, donors = self.breeding.roles, self.breeding.donors
        rates = params["F"], params["CR"], params["mask_seed"]
        crossover = Crossover(*rates, self.granularity, donors)
        if self.merger is None:
            family = [parents[role][CHILD] for role in roles]
            return {CHILD: self._ancestors.child(crossover, family)}
        models = self._ancestors.models
        merged = {slot: parents[MEMBER + slot].get(CHILD, one) for slot, one in models.items()}
        child = self._ancestors.child(crossover, [merged[params[role]] for role in roles])
        return {**merged, params["target"]: child, CHILD: child}

    def recipe_for(self, individual: Population) -> Recipe:
        """See :meth:`Genealogy.recipe_for`."""
        if self.merger is None:
            return self._ancestors.recipe(individual[CHILD])
        models = [
            model
            if individual[name].operation is None
            else self._ancestors.recipe(individual[name]).with_fields(name=name)
            for name, model in zip(self.names, self.recipe.models, strict=True)
        ]
        return self.merger.with_fields(models=tuple(models))


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
