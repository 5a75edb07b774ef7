"""The methods that are compared in ``dfs_*.py``: searches for weights, for paths, and for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _encodings import by_depth, largest, one_plus_one
from _passages import Pool

import merge_optuna as mo


@dataclass(frozen=True)
class Task:
    """One run of one method.

    Attributes:
        values: What its last search has found, evaluation by evaluation.
    """

    pool: Pool
    method: str
    seed: int
    evaluations: int
    values: list[float] = field(default_factory=list, compare=False)

    @property
    def budget(self) -> int:
        """The evaluations of this method."""
        return round(self.evaluations * METHODS[self.method].share)

    @property
    def place(self) -> Path:
        """Where its result is kept."""
        return Path("runs") / self.pool.name / f"{self.method}-{self.evaluations}-{self.seed}.json"

    @property
    def kept(self) -> bool:
        """Whether it was run, and with all seeds before, so that seeds can be paired."""
        return all(replace(self, seed=seed).place.exists() for seed in range(self.seed + 1))

    def run(self, space: Any, evaluations: int, sampler: Any = None) -> mo.Recipe:
        """The best of a search in memory: a database would be written to for every parameter."""
        objective = mo.MergeObjective(space, self.pool.evaluator("dev"))
        search = mo.MergeStudy(
            f"{self.method}-{evaluations}-{self.seed}",
            objective,
            n_trials=evaluations,
            sampler=sampler or space.sampler(seed=self.seed),
            baselines=False,  # all searches have the same: they are scored once, for the tables
        )
        study = search.run(progress=False)
        self.values[:] = [t.value if t.value is not None else np.inf for t in study.trials]
        return mo.recipe_of(study)

    def value(self, recipe: mo.Recipe) -> float:
        """Nats per token on dev, of loops that are no Optuna studies."""
        return float(self.pool.score(recipe, "dev").mean())


def weights(task: Task) -> mo.Recipe:
    """DARE-TIES, a weight and a density for every expert and layer, as in the paper."""
    base, *_ = task.pool.checkpoints.values()
    free = mo.free(0, 1, per="layer")
    return mo.recipes.dare_ties(
        base, task.pool.experts, weight=free, density=free, seed=task.seed, name="merged"
    )


def ps(task: Task) -> mo.Recipe:
    """A search in parameter space."""
    return task.run(weights(task), task.evaluations)


def ta(task: Task) -> mo.Recipe:
    """Task arithmetic, a weight for every expert: few numbers, so it gets a part of the budget."""
    base, *_ = task.pool.checkpoints.values()
    space = mo.recipes.task_arithmetic(base, task.pool.experts, weight=mo.free(0, 1))
    return task.run(space, task.budget)


def pair(task: Task) -> list[mo.Checkpoint]:
    """The models of a path: the best expert, from which it begins, and the second best."""
    return task.pool.experts[:2]


Sampled = Callable[[mo.spaces.LayerPath, int], Any]


def dfs(sampler: Sampled | None = None, **options: Any) -> Callable[[Task], mo.Recipe]:
    """A path, searched by the space's own sampler or another."""

    def search(task: Task) -> mo.Recipe:
        space = mo.spaces.LayerPath(pair(task), **options)
        own = None if sampler is None else sampler(space, task.seed)
        return task.run(space, task.budget, own)

    return search


def genetic(space: mo.spaces.LayerPath, seed: int) -> Any:
    """A genetic algorithm around the start."""
    around = [space.start()]
    return mo.samplers.GASampler(space.distributions(), initial_population=around, seed=seed)


def tpe(space: mo.spaces.LayerPath, seed: int) -> Any:
    """Optuna's, as it is."""
    return optuna.samplers.TPESampler(seed=seed)


def encoded(encoding: Callable[..., Any], repeats: int) -> Callable[[Task], mo.Recipe]:
    """A path in another encoding."""

    def search(task: Task) -> mo.Recipe:
        space, sampler = encoding(pair(task), repeats)
        return task.run(space, task.budget, sampler(task.seed))

    return search


def evolved(task: Task) -> mo.Recipe:
    """A path by the (1+1)-EA."""
    space = mo.spaces.LayerPath(pair(task))
    recipe, task.values[:] = one_plus_one(space, task.value, task.seed, task.budget)
    return recipe


def informed(task: Task) -> mo.Recipe:
    """A path whose first probabilities come from one pass over dev."""
    models = pair(task)
    prior = mo.layer_prior(models, task.pool.evaluator("dev"))
    return task.run(mo.spaces.LayerPath(models, prior=prior), task.budget)


def from_exchange(task: Task) -> mo.Recipe:
    """A path that begins with the greedy exchange, whose evaluations are part of the budget."""
    start, used = exchanged(task.pool)
    space = mo.spaces.LayerPath(pair(task), start=start)
    return task.run(space, task.budget - used)


def ps_dfs(share: float = 0.5, **options: Any) -> Callable[[Task], mo.Recipe]:
    """PS, and with a share of the budget a path through its result and the best expert."""

    def search(task: Task) -> mo.Recipe:
        rest = round(task.evaluations * share)
        merged = ps(replace(task, evaluations=task.evaluations - rest))
        space = mo.spaces.LayerPath([merged, task.pool.experts[0]], **options)
        return task.run(space, rest)

    return search


def joint(**options: Any) -> Callable[[Task], mo.Recipe]:
    """Weights and path at once: a path through the merged model, whose weights are free."""

    def search(task: Task) -> mo.Recipe:
        models = [weights(task), task.pool.experts[0]]
        return task.run(mo.spaces.LayerPath(models, **options), task.budget)

    return search


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        label: What it is called.
        search: What it does.
        seeds: How many it is run with.
        share: Its evaluations as a share of those of all rows.
        pools: The studies that have it; all if there are none.
    """

    label: str
    search: Callable[[Task], mo.Recipe]
    seeds: int = 3
    share: float = 1.0
    pools: tuple[str, ...] = ()


PAPER = {"layout": "paper", "repeats": 3}
STORIES = ("dfs_stories",)
METHODS = {
    "path": Method("DFS: choices by depth, CatCMA", dfs(), 5),
    "dfs": Method("DFS: path and scales, CMA-ES", dfs(**PAPER), 5),
    "ps": Method("PS: DARE-TIES, CMA-ES", ps, 5),
    "ps_path": Method("PS + DFS, half each, CatCMA", ps_dfs(), 5),
    "ta": Method("task arithmetic, CMA-ES", ta, share=0.1),
    "by_depth": Method("DFS: numbers laid out by depth, CMA-ES", encoded(by_depth, 3)),
    "largest": Method("DFS: three numbers per depth, CMA-ES", encoded(largest, 3)),
    "ea": Method("DFS: choices by depth, (1+1)-EA", evolved),
    "path_ga": Method("DFS: choices by depth, genetic algorithm", dfs(genetic)),
    "path_tpe": Method("DFS: choices by depth, TPE", dfs(tpe)),
    "path_three": Method("DFS: choices by depth, three rounds, CatCMA", dfs(repeats=3)),
    "path_none": Method("DFS: choices by depth without scales, CatCMA", dfs(scales="none")),
    "path_blocks": Method("DFS: choices by depth and two blocks, CatCMA", dfs(blocks=2)),
    "prior": Method("DFS: choices by depth, with a prior, CatCMA", informed),
    "ps_path_kept": Method("PS + DFS, half each, keep 0.9, CatCMA", ps_dfs(keep=0.9)),
    "from_greedy": Method("DFS: from the greedy exchange, CatCMA", from_exchange),
    "ps_path_last": Method("PS + DFS, 7/8 and 1/8, keep 0.9, CatCMA", ps_dfs(1 / 8, keep=0.9), 5),
    "joint": Method("PS and DFS at once, CatCMA", joint(keep=0.9), 5),
    "dfs_128": Method(
        "DFS: as in the paper, 128 × 100",
        dfs(lambda space, seed: space.sampler(seed=seed, population_size=128), **PAPER),
        1,
        16.0,
        STORIES,
    ),
}
FORMER = {
    "ps_half": "PS, half of the evaluations",
    "dfs_base": "DFS with the base as second model",
    "dfs_none": "DFS without scales",
    "ps_dfs": "PS + DFS, half each",
    "dfs_ga": "DFS, genetic algorithm",
    "dfs_ga_none": "DFS without scales, genetic algorithm",
    "ps_dfs_ga": "PS + DFS, genetic algorithm",
}
METHODS |= {name: Method(label, ps, seeds=0) for name, label in FORMER.items()}


def exchanged(pool: Pool) -> tuple[mo.Recipe, int]:
    """Layers of the best expert exchanged for the second's, greedily; and how many were scored.

    No scales, no layer twice: what a search in data-flow space should find at least.
    """
    space = mo.spaces.LayerPath(pool.experts[:2], scales="none")
    objective = mo.MergeObjective(space, pool.evaluator("dev"))
    study = mo.greedy_path(objective, progress=False)
    return mo.recipe_of(study), len(study.trials)
