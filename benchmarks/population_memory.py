"""Whether memory grows with a population: M2N2, Evolver and PSO-Merging on 110 M parameters.

    python benchmarks/population_memory.py --folder models --json memory.json

Every line is a process of its own that searches among three models (bfloat16, memory-mapped) and
then loads the last individual into a live model. Nobody is evaluated: scores are drawn at random,
keyed by the trial. It prints the peak of anonymous memory (RssAnon) over search and load, the
seconds of the load, and of how many ancestors it was made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import _models
import numpy as np
import optuna
import torch

import merge_optuna as mo
from merge_optuna.methods.descent import Descent
from merge_optuna.samplers import NichesSampler

_EXAMPLES = 200
_MIB = 1 << 20

# (what, size of the archive or number of generations, models that the cache has room for)
CASES = [
    ("m2n2", 5, 0),
    ("m2n2", 40, 0),
    ("evolver", 5, 0),
    ("evolver", 40, 0),
    ("evolver", 5, 2),
    ("evolver", 40, 2),
    ("pso", 5, 0),
    ("pso", 40, 0),
]


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the models are made")
    parser.add_argument("--shape", default="110m", choices=_models.SHAPES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        what, size, room = arguments.case
        print(json.dumps(measure(arguments.folder, arguments.shape, what, int(size), int(room))))
        return
    _models.make(arguments.folder, arguments.shape)
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for case in CASES:
            found.setdefault(" ".join(map(str, case)), []).append(_in_a_process(arguments, case))
    _print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def _in_a_process(arguments: argparse.Namespace, case: tuple[str, int, int]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--folder", str(arguments.folder)]
    command += ["--shape", arguments.shape, "--case", *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(case, result, file=sys.stderr)
    return result


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    print("| search | peak RssAnon, MiB | ancestors | seconds of a load |\n|---|---|---|---|")
    for case, results in found.items():
        peak = statistics.median(result["peak"] for result in results) / _MIB
        seconds = statistics.median(result["seconds"] for result in results)
        print(f"| {case} | {peak:.0f} | {results[0]['ancestors']} | {seconds:.2f} |")


# -- one case ---------------------------------------------------------------------------------


def measure(folder: Path, shape: str, what: str, size: int, room: int) -> dict[str, Any]:
    """Searches, loads the last individual three times, and watches the memory."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base, *models = [mo.Checkpoint(f, name=f.name) for f in _models.make(folder, shape)]
    with Watch() as watch:
        cache = room * 4 * _models.elements(shape)
        space, sampler, n_trials = _search(what, size, base, models, cache)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(lambda trial: _score(space, trial), n_trials=n_trials)
        recipe = space.rebuild(study, study.trials[-1])
        engine = mo.Engine()
        engine.load(recipe)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            engine.load(recipe)
            seconds.append(time.perf_counter() - started)
    facts = {"peak": watch.peak, "seconds": min(seconds), "ancestors": 0, "trials": n_trials}
    if isinstance(recipe.individual, Descent):
        facts["ancestors"] = len(recipe.individual.order(cached=False)) - len(models)
    if isinstance(sampler, NichesSampler):
        living = [space.individual(study, t.number) for t in sampler.archive(study)]
        facts["archive"] = sum(one.nbytes for one in living)
    return facts


def _search(
    what: str, size: int, base: mo.Checkpoint, models: list[mo.Checkpoint], cache: int
) -> tuple[Any, Any, int]:
    """A space, its sampler, and the number of trials."""
    if what == "m2n2":
        niches = mo.spaces.SplitSlerp(models)
        return niches, niches.sampler(seed=0, archive_size=size), 400
    if what == "evolver":
        space = mo.spaces.DifferentialCrossover(models, cache_bytes=cache)
        return space, space.sampler(seed=0), len(models) * (1 + size)
    swarm = mo.spaces.AffineSwarm(base, models)
    return swarm, swarm.sampler(seed=0), len(swarm.names) * (1 + size)


def _score(space: Any, trial: optuna.Trial) -> float:
    """Rises slowly, so that children are accepted now and then."""
    space(trial)
    rng = np.random.default_rng(trial.number)
    scores = (rng.random(_EXAMPLES) < 0.5 + 0.001 * trial.number).astype(np.float64)
    mo.set_scores(trial, scores)
    return float(scores.mean())


class Watch:
    """The peak of anonymous memory of this process, sampled every two milliseconds."""

    def __enter__(self) -> Watch:
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        status = Path("/proc/self/status")
        while not self._done.wait(0.002):
            line = next(x for x in status.read_text().splitlines() if x.startswith("RssAnon"))
            self.peak = max(self.peak, int(line.split()[1]) * 1024)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


if __name__ == "__main__":
    main()
