"""NSGA-II beside Optuna's samplers on test problems of several objectives, at equal evaluations.

ZDT1-4 and 6 (Zitzler, Deb & Thiele 2000) with two objectives, DTLZ1-4 and 7 (Deb, Thiele, Laumanns
& Zitzler 2002) with three, in their own numbers of variables. What is compared is the hypervolume
of all points evaluated, as a share of the box between the ideal point and one that 90 % of uniform
points beat, objective by objective: the mean over the seeds of ours minus the other's, with a 95 %
bootstrap interval. Ours runs as the bare loop that one worker of a study reproduces bit for bit,
Optuna's in studies in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from _search import Vector, in_processes, interval
from optuna.distributions import FloatDistribution
from optuna.samplers import nsgaii

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna.testing import textbook

POPULATION = 50  # the default of both
_PI = math.pi

# -- problems ---------------------------------------------------------------------------------


def _zdt(g: float, h: Callable[[float, float], float], f1: float) -> list[float]:
    return [f1, g * h(f1, g)]


def zdt1(x: Vector) -> list[float]:
    return _zdt(1 + 9 * x[1:].mean(), lambda f, g: 1 - math.sqrt(f / g), x[0])


def zdt2(x: Vector) -> list[float]:
    return _zdt(1 + 9 * x[1:].mean(), lambda f, g: 1 - (f / g) ** 2, x[0])


def zdt3(x: Vector) -> list[float]:
    wave = lambda f, g: 1 - math.sqrt(f / g) - f / g * math.sin(10 * _PI * f)  # noqa: E731
    return _zdt(1 + 9 * x[1:].mean(), wave, x[0])


def zdt4(x: Vector) -> list[float]:
    """Of variables in [-5, 5] but for the first: multimodal."""
    y = 10 * x[1:] - 5
    g = 1 + 10 * len(y) + float(np.sum(y**2 - 10 * np.cos(4 * _PI * y)))
    return _zdt(g, lambda f, g: 1 - math.sqrt(f / g), x[0])


def zdt6(x: Vector) -> list[float]:
    f1 = 1 - math.exp(-4 * x[0]) * math.sin(6 * _PI * x[0]) ** 6
    return _zdt(1 + 9 * x[1:].mean() ** 0.25, lambda f, g: 1 - (f / g) ** 2, f1)


def _rastrigin(x: Vector) -> float:
    y = x[2:] - 0.5
    return 100 * float(len(y) + np.sum(y**2 - np.cos(20 * _PI * y)))


def _on_sphere(g: float, a: float, b: float) -> list[float]:
    a, b = a * _PI / 2, b * _PI / 2
    return [
        (1 + g) * v for v in (math.cos(a) * math.cos(b), math.cos(a) * math.sin(b), math.sin(a))
    ]


def dtlz1(x: Vector) -> list[float]:
    r = (1 + _rastrigin(x)) / 2
    return [r * x[0] * x[1], r * x[0] * (1 - x[1]), r * (1 - x[0])]


def dtlz2(x: Vector) -> list[float]:
    return _on_sphere(float(np.sum((x[2:] - 0.5) ** 2)), x[0], x[1])


def dtlz3(x: Vector) -> list[float]:
    return _on_sphere(_rastrigin(x), x[0], x[1])


def dtlz4(x: Vector) -> list[float]:
    return _on_sphere(float(np.sum((x[2:] - 0.5) ** 2)), x[0] ** 100, x[1] ** 100)


def dtlz7(x: Vector) -> list[float]:
    g = 1 + 9 * x[2:].mean()
    h = 3 - sum(f / (1 + g) * (1 + math.sin(3 * _PI * f)) for f in x[:2])
    return [x[0], x[1], (1 + g) * h]


@dataclass(frozen=True)
class Problem:
    """A function of the unit box.

    Attributes:
        n: number of its variables.
        ideal: below all values of the last objective; of the others it is 0.
    """

    function: Callable[[Vector], list[float]]
    n: int
    ideal: float = 0.0


PROBLEMS = {
    "ZDT1": Problem(zdt1, 30),
    "ZDT2": Problem(zdt2, 30),
    "ZDT3": Problem(zdt3, 30, -0.78),
    "ZDT4": Problem(zdt4, 10),
    "ZDT6": Problem(zdt6, 10),
    "DTLZ1": Problem(dtlz1, 7),
    "DTLZ2": Problem(dtlz2, 12),
    "DTLZ3": Problem(dtlz3, 12),
    "DTLZ4": Problem(dtlz4, 12),
    "DTLZ7": Problem(dtlz7, 22, 2.6),
}


def shares(problem: Problem, values: Vector, evaluations: list[int]) -> list[float]:
    """The hypervolumes of the first so many (evaluations, m) ``values``, in [0, 1]."""
    uniform = np.random.default_rng(0).random((2000, problem.n))
    reference = np.quantile([problem.function(x) for x in uniform], 0.9, axis=0)
    ideal = np.zeros(len(reference))
    ideal[-1] = problem.ideal
    box = float(np.prod(reference - ideal))
    inside = [values[:e][np.all(values[:e] <= reference, axis=1)] for e in evaluations]
    return [compat.hypervolume(points, reference) / box for points in inside]


# -- samplers ---------------------------------------------------------------------------------


def _ours(
    function: Callable[[Vector], list[float]], n: int, evaluations: int, seed: int
) -> Vector:
    found: list[list[float]] = []

    def evaluate(params: dict[str, float]) -> list[float]:
        found.append(function(np.fromiter(params.values(), float)))
        return found[-1]

    algorithm = mo.samplers.NSGA2(POPULATION)
    textbook(algorithm, _space(n), evaluate, seed=seed, n_trials=evaluations)
    return np.array(found)


def _optunas(make: Callable[[int], optuna.samplers.BaseSampler]) -> Callable[..., Vector]:
    def run(
        function: Callable[[Vector], list[float]], n: int, evaluations: int, seed: int
    ) -> Vector:
        names = list(_space(n))
        objectives = len(function(np.full(n, 0.5)))
        study = optuna.create_study(
            directions=["minimize"] * objectives, sampler=make(10_000 + seed)
        )
        study.optimize(
            lambda trial: function(np.array([trial.suggest_float(x, 0, 1) for x in names])),
            n_trials=evaluations,
        )
        return np.array([trial.values for trial in study.get_trials(deepcopy=False)])

    return run


def _uniform(
    function: Callable[[Vector], list[float]], n: int, evaluations: int, seed: int
) -> Vector:
    points = np.random.default_rng(10_000 + seed).random((evaluations, n))
    return np.array([function(x) for x in points])


def _space(n: int) -> dict[str, FloatDistribution]:
    return {f"x{i:02}": FloatDistribution(0, 1) for i in range(n)}


def _same_operators(seed: int) -> optuna.samplers.BaseSampler:
    crossover, mutation = nsgaii.SBXCrossover(eta=20), nsgaii.PolynomialMutation(eta=20)
    return optuna.samplers.NSGAIISampler(
        population_size=POPULATION, crossover=crossover, mutation=mutation, seed=seed
    )


SAMPLERS: dict[str, Callable[..., Vector]] = {
    "NSGA2Sampler": _ours,
    "NSGAIISampler": _optunas(lambda seed: optuna.samplers.NSGAIISampler(seed=seed)),
    "NSGAIISampler, SBX and polynomial": _optunas(_same_operators),
    "TPESampler": _optunas(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "uniform points": _uniform,
}
_SLOW, _SLOW_SEEDS = "TPESampler", 5

# -- the comparison ---------------------------------------------------------------------------


def measure(options: Any) -> Iterator[dict[str, Any]]:
    """Each sampler on each problem; yields what there is so far."""
    at, ours = sorted(options.fronts_at), "NSGA2Sampler"
    found: dict[str, Any] = {"at": at, "seeds": options.seeds, "seconds": {}, "shares": {}}
    for name in options.fronts_samplers:
        began = time.perf_counter()
        jobs = [(name, problem, at, options.seeds) for problem in PROBLEMS]
        runs = in_processes(_runs, jobs, options.jobs)
        found["seconds"][name] = round(time.perf_counter() - began)
        found["shares"][name] = dict(zip(PROBLEMS, runs, strict=True))
        if name != ours and ours in found["shares"]:
            found.setdefault("compared", {})[name] = {
                problem: _compared(found["shares"][ours][problem], run, at)
                for problem, run in found["shares"][name].items()
            }
            _print(name, found)
        yield found


def _runs(job: tuple[str, str, list[int], int]) -> list[list[float]]:
    """(seeds, evaluations) hypervolumes; of a slow sampler few seeds up to the first number."""
    name, key, at, seeds = job
    if name == _SLOW:
        at, seeds = at[:1], min(seeds, _SLOW_SEEDS)
    problem = PROBLEMS[key]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return [
        shares(problem, SAMPLERS[name](problem.function, problem.n, at[-1], seed), at)
        for seed in range(seeds)
    ]


def _compared(ours: list[list[float]], other: list[list[float]], at: list[int]) -> dict[str, Any]:
    found = {}
    for i in range(len(other[0])):
        differences = np.array(ours)[: len(other), i] - np.array(other)[:, i]
        found[f"at {at[i]}"] = {
            "mean": float(differences.mean()),
            "interval": interval(differences),
        }
    return found


def _print(name: str, found: dict[str, Any]) -> None:
    print(f"NSGA2Sampler minus {name} ({found['seconds'][name]} s), in % of the box:")
    for problem, compared in found["compared"][name].items():
        parts = []
        for i, (at, row) in enumerate(compared.items()):
            ours, other = (
                100 * np.mean(found["shares"][s][problem], axis=0)[i]
                for s in ("NSGA2Sampler", name)
            )
            low, high = (100 * end for end in row["interval"])
            verdict = "better" if low > 0 else "worse" if high < 0 else "equal"
            parts.append(
                f"{at}: {ours:6.2f} {other:6.2f} {100 * row['mean']:+6.2f} "
                f"[{low:+6.2f}, {high:+6.2f}] {verdict:6}"
            )
        print(f"  {problem:6} {'   '.join(parts)}", flush=True)
