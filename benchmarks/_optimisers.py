"""The optimisers beside others on the 24 noiseless functions of BBOB, at equal evaluations.

Ours run through ``merge_optuna.testing.textbook``, the bare loop that one worker of a study
reproduces bit for bit (``_check`` sees to it). Seed s meets instance s + 1 of every function, the
same for all optimisers; their random numbers have nothing in common. What is compared is log10 of
f - f_opt, not below 1e-8: the mean over the seeds of ours minus the other's, which is a paired
difference of geometric means, with a 95 % bootstrap interval over the seeds.

Of 72 intervals some exclude 0 even for two copies of one optimiser, and with 15 seeds a bootstrap
interval does so more often than 5 %. How many is found by flipping the signs of the differences
at random, which changes nothing if the two are alike. ``interval`` of all functions together
draws seeds anew within each function: it speaks of these 24 functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cmaes
import numpy as np
import optuna
import scipy.optimize
from _search import (
    HIGH,
    LOW,
    Enough,
    Problem,
    Vector,
    in_processes,
    space,
    suggest,
)
from numpy.typing import NDArray

import merge_optuna as mo
from merge_optuna.testing import textbook

s = mo.samplers

FUNCTIONS = range(1, 25)
FRACTIONS = (0.1, 0.3, 1.0)
F, CR = 0.5, 0.9
PARTICLES = 40
FLIPS = 400

Objective = Callable[[Vector], float]


# -- optimisers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What an optimiser is given, beside the function."""

    n: int
    budget: int
    seed: int

    @property
    def factor(self) -> int:
        """``popsize`` of scipy, whose populations are multiples of n."""
        return min(10, max(1, round(100 / self.n)))


def _ours(algorithm: Callable[[Task], Any]) -> Callable[[Objective, Task], None]:
    def run(f: Objective, task: Task) -> None:
        evaluate = lambda params: f(np.fromiter(params.values(), float))  # noqa: E731
        textbook(algorithm(task), space(task.n), evaluate, seed=task.seed, n_trials=task.budget)

    return run


def _de(mutation: Any) -> Callable[[Task], Any]:
    """As scipy does it."""
    return lambda task: s.DE(
        mutation, s.Fixed(F, CR), size=task.factor * task.n, bounds=s.Resample()
    )


def _lshade(task: Task) -> Any:
    return s.DE(
        s.CurrentToPBest(0.11, archive=2.6),
        s.SHADE(memory=6, terminal=True),
        18 * task.n,
        s.LinearReduction(task.budget),
    )


def _scipy(strategy: str) -> Callable[[Objective, Task], None]:
    def run(f: Objective, task: Task) -> None:
        scipy.optimize.differential_evolution(
            f,
            [(LOW, HIGH)] * task.n,
            strategy=strategy,
            maxiter=task.budget,
            popsize=task.factor,
            mutation=F,
            recombination=CR,
            tol=0,
            atol=-1,  # with 0 it stops when all values are equal
            rng=10_000 + task.seed,
            polish=False,
            init="random",
            updating="deferred",
        )

    return run


def _plain_pso(f: Objective, task: Task) -> None:
    """Synchronous, global best, inertia 0.7298 and 1.49618 twice, at rest, absorbing bounds."""
    rng, shape = np.random.default_rng(10_000 + task.seed), (PARTICLES, task.n)
    x, v = rng.uniform(LOW, HIGH, shape), np.zeros(shape)
    pbest, values = x.copy(), np.array([f(p) for p in x])
    while True:
        r1, r2 = rng.random(shape), rng.random(shape)
        v = 0.7298 * v + 1.49618 * (r1 * (pbest - x) + r2 * (pbest[values.argmin()] - x))
        x = x + v
        v[(x < LOW) | (x > HIGH)] = 0
        x = np.clip(x, LOW, HIGH)
        now = np.array([f(p) for p in x])
        pbest[now < values], values = x[now < values], np.minimum(now, values)


def _plain_cmaes(f: Objective, task: Task) -> None:
    """The package that ours uses too, in the unit box, with a random stream of its own."""
    start = 0
    while True:
        engine = cmaes.CMA(
            mean=np.full(task.n, 0.5),
            sigma=1 / 6,
            bounds=np.array([[0.0, 1.0]] * task.n),
            population_size=s.CmaEs().population_size(task.n),
            seed=10_000 + 100 * task.seed + start,
        )
        while not engine.should_stop():
            xs = [engine.ask() for _ in range(engine.population_size)]
            engine.tell([(x, f(LOW + (HIGH - LOW) * x)) for x in xs])
        start += 1


OURS: dict[str, Callable[[Task], Any]] = {
    "DE rand/1/bin": _de(s.Rand()),
    "DE best/1/bin": _de(s.Best()),
    "PSO": lambda task: s.PSO(size=PARTICLES),
    "CMA-ES": lambda task: s.CmaEs(),
    "L-SHADE": _lshade,
}
OPTIMISERS: dict[str, Callable[[Objective, Task], None]] = {
    **{name: _ours(algorithm) for name, algorithm in OURS.items()},
    "scipy rand1bin": _scipy("rand1bin"),
    "scipy best1bin": _scipy("best1bin"),
    "plain PSO": _plain_pso,
    "cmaes.CMA": _plain_cmaes,
}
PAIRS = {
    "de-rand": ("DE rand/1/bin", "scipy rand1bin"),
    "de-best": ("DE best/1/bin", "scipy best1bin"),
    "pso": ("PSO", "plain PSO"),
    "cmaes": ("CMA-ES", "cmaes.CMA"),
    "lshade": ("L-SHADE", "DE rand/1/bin"),
}


# -- pairs ------------------------------------------------------------------------------------


def measure(options: Any) -> Iterator[dict[str, Any]]:
    """The pairs, and Optuna's samplers beside ours; yields what there is so far."""
    _check()
    found: dict[str, Any] = {"seeds": options.seeds, "fractions": FRACTIONS}
    budgets = {n: e * n for n, e in zip(options.dimensions, options.evaluations, strict=True)}
    names = dict.fromkeys(name for pair in options.pairs for name in PAIRS[pair])
    runs, found["seconds"] = {}, {}
    for name in names:
        began = time.perf_counter()
        jobs = [(name, f, n, b, options.seeds) for n, b in budgets.items() for f in FUNCTIONS]
        values = in_processes(_runs, jobs, options.jobs)
        runs[name] = {f"{j[2]}/{j[1]}": v for j, v in zip(jobs, values, strict=True)}
        found["seconds"][name] = round(time.perf_counter() - began, 1)
        print(f"  {name}: {found['seconds'][name]:.0f} s", flush=True)
    found["budgets"] = budgets
    found["pairs"] = {pair: compare(pair, runs, list(budgets)) for pair in options.pairs}
    found["precisions"] = runs
    yield found
    if options.optuna:
        for so_far in _beside_optuna(options):
            found["optuna"] = so_far
            yield found


def _runs(job: tuple[str, int, int, int, int]) -> NDArray[np.float64]:
    """(seeds, fractions) precisions of one optimiser on one function."""
    name, function, n, budget, seeds = job
    found = []
    for seed in range(seeds):
        problem = Problem(function, n, seed, budget)
        with suppress(Enough):
            OPTIMISERS[name](problem, Task(n, budget, seed))
        found.append(problem.precisions([round(budget * part) for part in FRACTIONS]))
    return np.array(found)


def compare(pair: str, runs: dict[str, Any], dimensions: list[int]) -> dict[str, Any]:
    """A pair in each dimension and in all of them."""
    ours, other = (runs[name] for name in PAIRS[pair])
    found: dict[str, Any] = {"ours": PAIRS[pair][0], "other": PAIRS[pair][1]}
    print(f"{found['ours']} beside {found['other']}: log10 precision, ours minus the other's")
    for which in [[n] for n in dimensions] + [dimensions] * (len(dimensions) > 1):
        cells = [f"{n}/{f}" for n in which for f in FUNCTIONS]
        differences = np.array([np.subtract(ours[cell], other[cell]) for cell in cells])
        key = f"n {which[0]}" if len(which) == 1 else "all"
        found[key] = _compared(cells, differences)
        print(_line(key, found[key]), flush=True)
    return found


def _compared(cells: list[str], differences: Vector) -> dict[str, Any]:
    """From (cells, seeds, fractions)."""
    found: dict[str, Any] = {
        f"at {part}": {"mean": float(d.mean()), "interval": _interval_of_all(d)}
        for part, d in zip(FRACTIONS, np.moveaxis(differences, -1, 0), strict=True)
    }
    at_end = differences[:, :, -1]
    each, flipped = _intervals(at_end), _flipped(at_end)
    verdicts = _verdicts(each)
    for verdict, sign in {"better": -1, "equal": 0, "worse": 1}.items():
        found[verdict] = int(np.sum(verdicts == sign))
    found["worse_by_chance"] = float(flipped.mean())
    found["worse_by_chance_95"] = int(np.quantile(flipped, 0.95))
    found["cells"] = {
        cell: {"mean": float(d.mean()), "interval": [float(e) for e in interval_]}
        for cell, d, interval_ in zip(cells, at_end, each, strict=True)
    }
    return found


def _intervals(differences: Vector) -> Vector:
    """(..., 2) bootstrap intervals of the means over the last axis, the seeds."""
    seeds = differences.shape[-1]
    draws = np.random.default_rng(0).integers(seeds, size=(2000, seeds))
    weights = np.stack([np.bincount(draw, minlength=seeds) for draw in draws]) / seeds
    return np.moveaxis(np.percentile(differences @ weights.T, [2.5, 97.5], axis=-1), 0, -1)


def _verdicts(intervals: Vector) -> Vector:
    """-1 where ours is better, 1 where it is worse, 0 where neither can be said."""
    return np.where(intervals[..., 1] < 0, -1, np.where(intervals[..., 0] > 0, 1, 0))


def _flipped(differences: Vector) -> Vector:
    """How many functions would be "worse" if ours and the other were alike, FLIPS times."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(FLIPS):
        signs = rng.choice([-1.0, 1.0], size=differences.shape)
        found.append(int(np.sum(_verdicts(_intervals(differences * signs)) == 1)))
    return np.array(found)


def _interval_of_all(differences: Vector) -> list[float]:
    rng, (functions, seeds) = np.random.default_rng(2), differences.shape
    draws = rng.integers(seeds, size=(4000, functions, seeds))
    means = np.take_along_axis(differences[None], draws, axis=2).mean(axis=(1, 2))
    return [float(q) for q in np.percentile(means, [2.5, 97.5])]


def _check() -> None:
    """One worker of a study evaluates what the bare loop does."""
    n, trials = 3, 130
    f = lambda x: float(np.sum((x - 1) ** 2))  # noqa: E731
    for name, algorithm in OURS.items():
        made = algorithm(Task(n, trials, 0))
        slots = isinstance(made, s.PopulationAlgorithm)
        plumbing = s.PopulationSampler if slots else s.ArchiveSampler
        sampler = plumbing(made, space(n), seed=5)
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda trial: f(suggest(trial, list(space(n)))), n_trials=trials)
        evaluate = lambda params: f(np.fromiter(params.values(), float))  # noqa: E731
        expected = textbook(made, space(n), evaluate, seed=5, n_trials=trials)
        if [trial.params for trial in study.trials] != expected:
            raise AssertionError(f"{name} does something else in a study.")


def _line(key: str, found: dict[str, Any]) -> str:
    means = "  ".join(
        f"{part:>4.0%} {found[f'at {part}']['mean']:+.3f}"
        f" [{found[f'at {part}']['interval'][0]:+.3f}, {found[f'at {part}']['interval'][1]:+.3f}]"
        for part in FRACTIONS
    )
    return (
        f"  {key:5} after {means}: {found['better']:>2} better, {found['equal']:>2} equal, "
        f"{found['worse']:>2} worse (by chance {found['worse_by_chance']:.1f}, "
        f"in 95 % at most {found['worse_by_chance_95']})"
    )


# -- Optuna's samplers ------------------------------------------------------------------------

_SUBSET = {
    1: "sphere",
    2: "ellipsoid",
    8: "Rosenbrock",
    15: "Rastrigin",
    17: "Schaffer",
    21: "Gallagher",
}


def _samplers(n: int, budget: int, seed: int) -> Iterator[tuple[str, optuna.samplers.BaseSampler]]:
    yield "Random", optuna.samplers.RandomSampler(seed=seed)
    yield "TPE", optuna.samplers.TPESampler(seed=seed)
    yield "GP", optuna.samplers.GPSampler(seed=seed)
    yield "NSGA-II", optuna.samplers.NSGAIISampler(seed=seed)
    rand: dict[str, Any] = {"mutation": s.Rand(), "adaptation": s.Fixed()}
    yield "ours: DE rand/1/bin", s.DESampler(space(n), population_size=20, seed=seed, **rand)
    yield "ours: DESampler", s.DESampler(space(n), seed=seed)
    lshade = s.DESampler.lshade(budget, space(n), population_size=20, seed=seed)
    yield "ours: L-SHADE, 20 slots", lshade
    yield "ours: PSO", s.PSOSampler(space(n), seed=seed)
    yield "ours: CMA-ES", s.CmaEsSampler(space(n), seed=seed)
    yield "ours: GA", s.GASampler(space(n), seed=seed)


def _beside_optuna(options: Any) -> Iterator[list[dict[str, Any]]]:
    """Few evaluations, through studies in memory; the Gaussian process for half of them."""
    budget, seeds, rows = options.optuna, options.optuna_seeds, []
    for n in options.optuna_dimensions:
        names = [name for name, _ in _samplers(n, budget, 0)]
        for name in names:
            slow = name == "GP"
            cost = (budget // 2, min(seeds, 2)) if slow else (budget, seeds)
            began = time.perf_counter()
            jobs = [(name, f, n, budget, *cost) for f in (list(_SUBSET)[:4] if slow else _SUBSET)]
            values = np.array(in_processes(_studies, jobs, options.jobs))
            row: dict[str, Any] = {"dimension": n, "sampler": name, "seeds": cost[1]}
            for i, at in enumerate((budget // 4, budget // 2, budget)):
                if at <= cost[0]:
                    means = values[:, :, i].mean(axis=1)
                    row[f"at {at}"] = {
                        str(j[1]): float(m) for j, m in zip(jobs, means, strict=True)
                    }
            row["seconds"] = time.perf_counter() - began
            rows.append(row)
            print(_optuna_line(row), flush=True)
            yield rows


def _studies(job: tuple[str, int, int, int, int, int]) -> NDArray[np.float64]:
    name, function, n, budget, evaluations, seeds = job
    found = []
    for seed in range(seeds):
        problem = Problem(function, n, seed, budget)
        study = optuna.create_study(sampler=dict(_samplers(n, budget, seed))[name])
        names = list(space(n))
        study.optimize(lambda t: problem(suggest(t, names)), n_trials=evaluations)  # noqa: B023
        found.append(problem.precisions([budget // 4, budget // 2, budget]))
    return np.array(found)


def _optuna_line(row: dict[str, Any]) -> str:
    last = [key for key in row if key.startswith("at ")]
    text = "; ".join(
        f"{key} evaluations: "
        + " ".join(f"{_SUBSET[int(f)]} {v:+.2f}" for f, v in row[key].items())
        for key in last[1:]
    )
    return f"  n {row['dimension']:>2} {row['sampler']:18} {text}  ({row['seconds']:.0f} s)"
