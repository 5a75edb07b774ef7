"""M2N2, PSO-Merging and Evolver as the papers tell them: plain loops on flat float64 vectors.

They know nothing of Optuna, recipes or genealogies, and they keep all the weights. All that is
random comes from a function that the loop calls, which may draw or read what a study has
recorded. Scores and values: the larger, the better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Angle: TypeAlias = Literal["global", "segment"]

# -- M2N2 (arXiv 2508.16204) ------------------------------------------------------------------


class Individual(NamedTuple):
    id: int  # how many were made before it, the seeds included
    x: Vector  # (D,)
    scores: Vector  # (m,)


class Mating(NamedTuple):
    parent_a: int  # ids
    parent_b: int
    ratio: float = 0.0  # t before the split; 0 is parent a
    split: float | None = None  # as a fraction of D; None: the ratio everywhere
    noise: Vector | None = None  # (D,), added in the end


def slerp(x: Vector, y: Vector, t: float, omega: float) -> Vector:
    """The scales of unit vectors, applied to what is not normalised."""
    scale_x, scale_y = 1 - t, t
    if np.sin(omega) > 1e-6:
        scale_x = np.sin((1 - t) * omega) / np.sin(omega)
        scale_y = np.sin(t * omega) / np.sin(omega)
    return scale_x * x + scale_y * y


def angle_between(x: Vector, y: Vector) -> float:
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    if norms == 0:  # no direction, no angle
        return 0.0
    return float(np.arccos(np.clip(x @ y / norms, -1, 1)))


def cross(
    a: Vector, b: Vector, ratio: float, split: float | None = None, angle: Angle = "global"
) -> Vector:
    """Slerp with ``ratio`` before the split point and ``1 - ratio`` from it on."""
    p = len(a) if split is None else int(split * len(a))
    child = np.empty(len(a))
    for part, t in ((slice(0, p), ratio), (slice(p, len(a)), 1 - ratio)):
        whole = part if angle == "segment" else slice(None)
        child[part] = slerp(a[part], b[part], t, angle_between(a[whole], b[whole]))
    return child


def shares(scores: Vector, alpha: float) -> Vector:
    """c_j s_ij / z_j^α, (P, m)."""
    z = scores.sum(axis=0)
    return np.asarray(scores.max(axis=0) * scores / np.where(z == 0, 1.0, z) ** alpha)


def fitness(scores: Vector, alpha: float = 1.0) -> Vector:
    """(P,)."""
    return np.asarray(shares(scores, alpha).sum(axis=1))


def attraction(scores: Vector, a: int, alpha: float = 1.0) -> Vector:
    """(P,) of member ``a`` to everybody."""
    share = shares(scores, alpha)
    return np.asarray(np.maximum(0.0, share - share[a]).sum(axis=1))


def roulette(weights: Vector, u: float) -> int:
    """The place whose interval of the summed weights contains ``u`` in [0, 1)."""
    if weights.sum() == 0:
        weights = np.ones(len(weights))
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums, u * sums[-1], side="right"))


def parents(
    archive: Sequence[Individual],
    u: float,
    v: float,
    *,
    alpha: float = 1.0,
    attracted: bool = True,
) -> tuple[Individual, Individual]:
    """By fitness and by attraction, or both by fitness and then maybe the same one."""
    scores = np.stack([individual.scores for individual in archive])
    chances = fitness(scores, alpha)
    a = roulette(chances, u)
    if not attracted or len(archive) == 1:
        return archive[a], archive[roulette(chances, v)]
    others = [i for i in range(len(archive)) if i != a]
    b = others[roulette(attraction(scores, a, alpha)[others], v)]
    return archive[a], archive[b]


def insert(
    archive: Sequence[Individual], child: Individual, *, size: int = 20, alpha: float = 1.0
) -> list[Individual]:
    """The newcomer takes the place of the worst, which may be itself."""
    archive = [*archive, child]
    if len(archive) > size:
        scores = np.stack([individual.scores for individual in archive])
        archive[int(np.argmin(fitness(scores, alpha)))] = child
        archive.pop()
    return archive


def m2n2(
    seeds: Sequence[Vector],
    evaluate: Callable[[Vector], Vector],
    decide: Callable[[list[Individual]], Mating],
    *,
    size: int = 20,
    alpha: float = 1.0,
    angle: Angle = "global",
    crossover: bool = True,
    keep: Callable[[list[Individual], Individual], list[Individual]] | None = None,
) -> Iterator[tuple[Individual, list[Individual]]]:
    """Yields every individual with the archive after it, the seeds first; there is no end.

    ``evaluate`` gives scores (m,), ``keep`` stands in for :func:`insert`.
    """
    archive: list[Individual] = []
    made = 0
    while True:
        if made < len(seeds):
            x = seeds[made]
        else:
            mating = decide(archive)
            known = {individual.id: individual.x for individual in archive}
            x = known[mating.parent_a]
            if crossover:
                b = known[mating.parent_b]
                x = cross(x, b, mating.ratio, mating.split, angle)
            if mating.noise is not None:
                x = x + mating.noise
        child = Individual(made, x, evaluate(x))
        if keep is None:
            archive = insert(archive, child, size=size, alpha=alpha)
        else:
            archive = keep(archive, child)
        made += 1
        yield child, archive


def drawn(
    rng: np.random.Generator,
    d: int,
    *,
    alpha: float = 1.0,
    attracted: bool = True,
    split_point: bool = True,
    mutation_std: float = 0.0,
    uniform: bool = False,
) -> Callable[[list[Individual]], Mating]:
    """Decisions of a search of its own; ``uniform`` takes any two parents, as MAP-Elites does."""

    def decide(archive: list[Individual]) -> Mating:
        if uniform:
            a, b = (archive[int(rng.integers(len(archive)))] for _ in range(2))
        else:
            u, v = rng.random(2)
            a, b = parents(archive, u, v, alpha=alpha, attracted=attracted)
        split = int(rng.integers(d)) / d + 0.5 / d if split_point else None
        ratio = rng.random()
        noise = mutation_std * rng.standard_normal(d) if mutation_std else None
        return Mating(a.id, b.id, ratio, split, noise)

    return decide


def elites(
    cell: Callable[[Individual], tuple[int, ...]],
) -> Callable[[list[Individual], Individual], list[Individual]]:
    """What MAP-Elites keeps: the best of every cell by the sum of its scores."""

    def keep(archive: list[Individual], child: Individual) -> list[Individual]:
        for i, elite in enumerate(archive):
            if cell(elite) == cell(child):
                better = child.scores.sum() > elite.scores.sum()
                return [*archive[:i], child, *archive[i + 1 :]] if better else archive
        return [*archive, child]

    return keep


# -- PSO-Merging (arXiv 2508.19839) -----------------------------------------------------------


class Swarm(NamedTuple):
    x: Vector  # (P, D), what was evaluated
    values: Vector  # (P,)
    best: Vector  # (D,), the best ever, this step included
    best_value: float


def pso_merging(
    initial: Sequence[Vector],
    evaluate: Callable[[Vector], float],
    r: Callable[[int, int], tuple[float | Vector, float | Vector]],
    *,
    steps: int,
    w: float = 0.2,
    c1: float = 2.0,
    c2: float = 2.0,
) -> Iterator[Swarm]:
    """Yields ``steps`` swarms, the initial one being the first.

    ``initial`` are base, experts and sparsified experts, ``r(step, particle)`` gives r1 and r2
    (numbers, or one per weight) of the move that makes the swarm ``step`` (from 1).
    """
    x = np.stack(initial).astype(np.float64)
    v = np.zeros_like(x)
    own, own_values = x.copy(), np.full(len(x), -np.inf)
    best, best_value = x[0].copy(), -np.inf
    for step in range(steps):
        if step > 0:
            for i in range(len(x)):  # everybody sees the same best: that of the last swarm
                r1, r2 = r(step, i)
                v[i] = w * v[i] + c1 * r1 * (own[i] - x[i]) + c2 * r2 * (best - x[i])
                x[i] = x[i] + v[i]
        values = np.array([evaluate(particle) for particle in x])
        for i, value in enumerate(values):
            if value > own_values[i]:
                own[i], own_values[i] = x[i], value
            if value > best_value:
                best, best_value = x[i].copy(), float(value)
        yield Swarm(x.copy(), values, best, best_value)


# -- Evolver (arXiv 2406.12208) ---------------------------------------------------------------


class Cross(NamedTuple):
    donors: tuple[int, ...]  # (r1, r2) for "difference", (reference,) for "toward"
    mask: Mask  # (D,) where the child is the mutant's
    F: float = 0.5


class Change(NamedTuple):
    target: int
    child: Vector  # (D,)
    value: float  # of what was scored
    accepted: bool
    population: list[Vector]  # after it


def mutant(population: Sequence[Vector], target: int, donors: tuple[int, ...], F: float) -> Vector:
    if len(donors) == 2:  # difference
        r1, r2 = donors
        return population[target] + F * (population[r1] - population[r2])
    (reference,) = donors  # toward
    return population[target] + F * (population[reference] - population[target])


def evolver(
    population: Sequence[Vector],
    evaluate: Callable[[Vector], float],
    decide: Callable[[int, int], Cross],
    *,
    generations: int = 20,
    merge: Callable[[list[Vector]], Vector] | None = None,
    until_unchanged: bool = False,
) -> Iterator[Change]:
    """Yields every child; those behind one that was accepted are made of it already.

    ``decide(generation, target)`` counts both from 0. With ``merge`` what is scored is the merge
    of the whole population with the child in its target's place, and there is one value to beat:
    that of the population as it is.
    """
    population = [np.array(x, dtype=np.float64) for x in population]
    if merge is None:
        values = [evaluate(x) for x in population]
    else:
        values = [evaluate(merge(population))] * len(population)
    for generation in range(generations):
        changed = False
        for target in range(len(population)):
            donors, mask, F = decide(generation, target)
            child = np.where(mask, mutant(population, target, donors, F), population[target])
            changed_population = [*population[:target], child, *population[target + 1 :]]
            scored = child if merge is None else merge(changed_population)
            value = evaluate(scored)
            accepted = value > values[target]
            if accepted:
                population = changed_population
                values = [value] * len(values) if merge is not None else values
                values[target] = value
                changed = True
            yield Change(target, child, value, accepted, list(population))
        if until_unchanged and not changed:
            return
