"""What it costs that results come late: evaluations to a target with eight trials in flight.

Eight trials of one study are in flight all the time, and the one told next is drawn at random.
Alone, the same sampler with the same seed runs as the bare loop that it reproduces bit for bit.
The target is what the loop reaches at --evaluations with other seeds, in the median. Runs that
have not reached it after three times as many are censored: that they take longer is all the
median uses, and a seed with both of its runs censored says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import optuna
from _search import Enough, Problem, in_processes, interval, space, suggest

import merge_optuna as mo
from merge_optuna.testing import textbook

s = mo.samplers

FUNCTIONS = {1: "sphere", 10: "ellipsoid", 8: "Rosenbrock"}
DIMENSIONS = (5, 10)
PATIENCE = 3
SAMPLERS = ("DE rand/1/bin", "SHADE", "L-SHADE", "PSO", "CMA-ES", "CMA-ES separable", "GA")
_CALIBRATION = range(1000, 1009)  # seeds


def _algorithms(n: int, evaluations: int) -> dict[str, Any]:
    """Populations of 16 or 20; L-SHADE has its own."""
    return {
        "DE rand/1/bin": s.DE(s.Rand(), s.Fixed(), size=20),
        "SHADE": s.DE(s.CurrentToPBest(), s.SHADE(), size=20),
        "L-SHADE": s.DE(
            s.CurrentToPBest(0.11, archive=2.6),
            s.SHADE(memory=6, terminal=True),
            18 * n,
            s.LinearReduction(PATIENCE * evaluations),
        ),
        "PSO": s.PSO(size=20),
        "CMA-ES": s.CmaEs(size=16),
        "CMA-ES separable": s.CmaEs(variant="separable", size=16),
        "GA": s.GA(size=20),
    }


def measure(options: Any) -> Iterator[list[dict[str, Any]]]:
    """One row for each sampler; yields those there are so far."""
    rows = []
    for name in options.samplers:
        began = time.perf_counter()
        problems = [(f, n) for n in DIMENSIONS for f in FUNCTIONS]
        jobs = [(name, f, n, options.workers_evaluations * n, options) for f, n in problems]
        found = in_processes(_one, jobs, options.jobs)
        row = {"sampler": name, "problems": found, **_ratio([r for p in found for r in p["runs"]])}
        row["seconds"] = round(time.perf_counter() - began)
        rows.append(row)
        print(_line(row), flush=True)
        yield rows


def _one(job: tuple[str, int, int, int, Any]) -> dict[str, Any]:
    """One sampler on one problem."""
    name, function, n, evaluations, options = job
    algorithm, limit = _algorithms(n, evaluations)[name], PATIENCE * evaluations
    calibration = []
    for seed in _CALIBRATION:
        problem = Problem(function, n, seed - _CALIBRATION[0], limit)
        _alone(algorithm, n, problem, seed, evaluations)
        calibration.append(problem.precisions([evaluations])[0])
    target = float(np.median(calibration))
    runs = []
    for seed in range(options.workers_seeds):
        alone, together = (Problem(function, n, seed, limit, target) for _ in range(2))
        with suppress(Enough):
            _alone(algorithm, n, alone, seed, limit)
        with suppress(Enough):
            _together(algorithm, n, together, seed, options.workers)
        runs.append([alone.evaluations, together.evaluations])
    found = {"function": FUNCTIONS[function], "dimension": n, "log10_target": target}
    found |= {"runs": runs, **_ratio(runs)}
    print(f"  {name}, {_problem(found)}", flush=True)
    return found


def _alone(algorithm: Any, n: int, problem: Problem, seed: int, evaluations: int) -> None:
    evaluate: Callable[[Any], float] = lambda p: problem(np.fromiter(p.values(), float))  # noqa: E731
    textbook(algorithm, space(n), evaluate, seed=seed, n_trials=evaluations)


def _together(algorithm: Any, n: int, problem: Problem, seed: int, workers: int) -> None:
    slots = isinstance(algorithm, s.PopulationAlgorithm)
    plumbing = s.PopulationSampler if slots else s.ArchiveSampler
    study = optuna.create_study(sampler=plumbing(algorithm, space(n), seed=seed))
    rng, names = np.random.default_rng([seed, workers]), list(space(n))
    flying = [study.ask() for _ in range(workers)]
    while True:
        trial = flying.pop(int(rng.integers(workers)))
        study.tell(trial, problem(suggest(trial, names)))
        flying.append(study.ask())


def _ratio(runs: list[list[int | None]]) -> dict[str, Any]:
    """Median of together / alone over the seeds, None being a censored run."""
    ratios = [
        np.inf if together is None else 0.0 if alone is None else together / alone
        for alone, together in runs
        if alone is not None or together is not None
    ]
    return {
        "median": float(np.median(ratios)) if ratios else None,
        "interval": interval(ratios, _median) if ratios else None,
        "censored_alone": sum(alone is None for alone, _ in runs),
        "censored_together": sum(together is None for _, together in runs),
        "censored_both": len(runs) - len(ratios),
    }


def _median(ratios: Any, axis: int) -> Any:
    """Of an odd number of values in the middle, so that inf - inf does not come up."""
    ordered = np.sort(ratios, axis=axis)
    return np.take(ordered, ordered.shape[axis] // 2, axis=axis)


def _problem(found: dict[str, Any]) -> str:
    where = f"{found['function']} in {found['dimension']} dimensions"
    return f"{where} to 10^{found['log10_target']:.1f}: {_text(found)}"


def _line(row: dict[str, Any]) -> str:
    return f"{row['sampler']}, all problems: {_text(row)} ({row['seconds']} s)"


def _text(found: dict[str, Any]) -> str:
    if found["median"] is None:
        return "all runs censored"
    low, high = found["interval"]
    return (
        f"x {found['median']:.2f} [{low:.2f}, {high:.2f}] of alone; censored alone "
        f"{found['censored_alone']}, together {found['censored_together']}, both "
        f"{found['censored_both']}"
    )
