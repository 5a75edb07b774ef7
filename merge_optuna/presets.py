"""The published searches, with their papers' constants."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from merge_optuna.errors import RecipeError, StudyError
from merge_optuna.recipes import Recipe, check_sources, dare_ties, free, linear, ties
from merge_optuna.search import MergeStudy
from merge_optuna.spaces import (
    DROP_RATE,
    AffineSwarm,
    DifferentialCrossover,
    LayerPath,
    SplitSlerp,
)
from merge_optuna.study import MergeObjective, UnchangedGeneration

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from torch import nn

    from merge_optuna.checkpoints import Checkpoint
    from merge_optuna.evaluators import Evaluator
    from merge_optuna.recipes.groups import Per

__all__ = ["data_flow", "evolutionary_merge", "evolver", "m2n2", "pso_merging"]


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
    objective = MergeObjective(recipe, evaluator, device=device, dtype=dtype)
    return _study(objective, "evolutionary-merge", recipe.sampler(seed=seed), n_trials, overrides)


def data_flow(
    base: Checkpoint | Recipe | None,
    experts: Sequence[Checkpoint | Recipe],
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    generations: int = 100,
    population_size: int = 128,
    n_trials: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    **overrides: Any,
) -> MergeStudy:
    """Evolutionary model merge in the data-flow space (Akiba et al. 2024, arXiv 2403.13187).

    A path through the layers of all models, laid out three times, with a number for each that
    says whether it is on the path (``layout="paper"``), and scales in [0.4, 1.5]; CMA-ES with a
    population of 128 for 100 generations, from the layers of the first expert. With a tenth of
    that :class:`mo.spaces.LayerPath` as it is finds better paths. After a search in parameter
    space, its result can be the first expert: ``mo.recipe_of(study)``.

    Args:
        base: One more model to go through, the last, if given; the paper has none.
        experts: The models; the first gives embedding, head and tokenizer.
        evaluator: Scores a model on dev data.
        generations: Budget.
        population_size: Of CMA-ES.
        n_trials: Budget; when omitted the path that the search begins with, and ``generations`` of
            the whole population.
        seed: Of the search.
        device: Of the live models.
        dtype: Of the live models.
        overrides: Further arguments of :class:`mo.spaces.LayerPath`, e.g. ``max_hops``, and of
            :class:`mo.MergeStudy`.
    """
    check_sources("data_flow", base, experts)
    _check_count("generations", generations)
    models = [*experts, *([] if base is None else [base])]
    known = inspect.signature(LayerPath).parameters
    options = {k: overrides.pop(k) for k in list(overrides) if k in known}
    space = LayerPath(models, **{"layout": "paper", "repeats": 3, **options})
    objective = MergeObjective(space, evaluator, device=device, dtype=dtype)
    total = 1 + generations * population_size if n_trials is None else n_trials
    sampler = space.sampler(seed=seed, population_size=population_size)
    return _study(objective, "data-flow", sampler, total, {"first": [space.start()], **overrides})


def m2n2(
    base: Checkpoint | None,
    experts: Sequence[Checkpoint],
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    archive_size: int = 20,
    mutation_std: float = 0.0,
    n_trials: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    **overrides: Any,
) -> MergeStudy:
    """M2N2, natural niches (Abrantes, Lange & Tang 2025, arXiv 2508.16204).

    Children are spherical interpolations of two models with a split point; an archive of 20 whose
    members compete for examples (α = 1); second parents by attraction; 10,000 children of
    pre-trained models, 50,000 from scratch.

    Args:
        base: One more model to start from, if given; the paper has none.
        experts: The models that evolution starts from.
        evaluator: Scores a model on dev data, example by example.
        archive_size: How many individuals compete.
        mutation_std: 0.01 for models that have not been trained; else none.
        n_trials: Budget, the first models included; the paper's when omitted.
        seed: Of the search.
        device: Of the live model.
        dtype: Of the live model.
        overrides: Further arguments of :class:`mo.MergeStudy`.
    """
    check_sources("m2n2", base, experts)
    seeds = [*([] if base is None else [base]), *experts]
    space = SplitSlerp(seeds, mutation_std=mutation_std)
    children = 50_000 if mutation_std else 10_000
    objective = MergeObjective(space, evaluator, device=device, dtype=dtype)
    total = children + len(seeds) if n_trials is None else n_trials
    sampler = space.sampler(seed=seed, archive_size=archive_size)
    return _study(objective, "m2n2", sampler, total, overrides)


def evolver(
    base: Checkpoint | None,
    experts: Sequence[Checkpoint],
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    merger: Literal["average", "ties"] | Recipe | None = None,
    generations: int = 20,
    until_unchanged: bool = False,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    **overrides: Any,
) -> MergeStudy:
    """Evolver, differential evolution on weights (Du et al. 2024, arXiv 2406.12208).

    F = CR = 0.5 for every parameter, 20 generations of as many children as there are experts.
    The difference is that of two other experts; of one and the target where there are only two.

    Args:
        base: What the task vectors of ``merger="ties"`` are taken from; else not needed.
        experts: The population, two at least.
        evaluator: Scores a model on dev data.
        merger: What is scored: each child (None), or the population merged with it, by the
            average, by TIES, or by any recipe of the experts ("X_Evolver").
        generations: Budget.
        until_unchanged: Stop after a generation in which no child was accepted.
        seed: Of the search.
        device: Of the live model.
        dtype: Of the live model.
        overrides: Further arguments of :class:`mo.MergeStudy`.
    """
    check_sources("evolver", base, experts)
    _check_count("generations", generations)
    if merger == "average":
        merger = linear(experts)
    elif merger == "ties":
        if base is None:
            raise RecipeError("merger='ties' needs the base that the experts were tuned from.")
        merger = ties(base, experts)
    space = DifferentialCrossover(experts, merger=merger)
    rules = [UnchangedGeneration(len(experts))] if until_unchanged else []
    objective = MergeObjective(space, evaluator, device=device, dtype=dtype)
    first = len(experts) if merger is None else 1
    total = first + generations * len(experts)
    given = {"callbacks": rules, **overrides}
    return _study(objective, "evolver", space.sampler(seed=seed), total, given)


def pso_merging(
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    evaluator: Evaluator | Callable[[nn.Module], float],
    *,
    steps: int = 5,
    n_trials: int | None = None,
    drop_rate: float = DROP_RATE,
    sparsified: bool = True,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    **overrides: Any,
) -> MergeStudy:
    """PSO-Merging (Zhang, Zhang & Feng 2025, arXiv 2508.19839).

    A swarm of 2n+1 particles that begins with the base, the n experts and the experts with 80 % of
    their task vector dropped; w = 0.2, c1 = c2 = 2; each is evaluated in 5 steps.

    Args:
        base: What the experts were fine-tuned from.
        experts: The models to merge.
        evaluator: Scores a model on dev data. The paper has the plain mean over its tasks, with
            50 examples of each.
        steps: How often each particle is evaluated, as it begins included. The paper has 5 for
            large language models and 50 for Flan-T5.
        n_trials: Budget; ``steps`` of the whole swarm when omitted.
        drop_rate: Which share of a task vector is dropped.
        sparsified: Whether there are sparsified experts; n+1 particles without.
        seed: Of the search and of what is dropped.
        device: Of the live model.
        dtype: Of the live model.
        overrides: Further arguments of :class:`mo.MergeStudy`, e.g. ``name`` or ``pruner``.
    """
    check_sources("pso_merging", base, experts)
    _check_count("steps", steps)
    space = AffineSwarm(base, experts, sparsified=sparsified, drop_rate=drop_rate, seed=seed)
    objective = MergeObjective(space, evaluator, device=device, dtype=dtype)
    total = steps * len(space.names) if n_trials is None else n_trials
    return _study(objective, "pso-merging", space.sampler(seed=seed), total, overrides)


def _study(
    objective: MergeObjective,
    name: str,
    sampler: BaseSampler,
    n_trials: int,
    overrides: Mapping[str, Any],
) -> MergeStudy:
    """The search, as far as the caller wants it to be the paper's."""
    return MergeStudy(
        objective=objective,
        n_trials=n_trials,
        **{"name": name, "sampler": sampler, **overrides},
    )


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise StudyError(f"{name} must be at least 1, not {value}.")
