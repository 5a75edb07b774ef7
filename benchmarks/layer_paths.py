"""What a search in the data-flow space costs beside the evaluation of its models.

    python benchmarks/layer_paths.py --layers 32 --trials 20

For two decoders of so many layers: how long it takes to put a new path in place, beside making the
same model anew from the written checkpoint, and how much memory is allocated for it (Python's
allocations, and tensors); and the seconds of a trial of the whole space, 384 parameters, that are
spent in Optuna and the space on SQLite and in memory, beside Optuna's RandomSampler. Prints
medians over trials; --json writes all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import numpy as np
import optuna
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import merge_optuna as mo
from merge_optuna.recipes import Hop, LayerPath

REPEATS = 3


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=32, help="of each of two models")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--paths", type=int, default=100)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with TemporaryDirectory() as folder:
        models = [model(Path(folder), i, arguments) for i in range(2)]
        found = {
            **placing(models, arguments, Path(folder)),
            **{f"trial: {k}": v for k, v in trials(models, arguments, Path(folder)).items()},
        }
    for name, values in found.items():
        print(f"{name:45} {statistics.median(values):10.4f}   (max {max(values):.4f})")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def model(folder: Path, seed: int, arguments: argparse.Namespace) -> mo.Checkpoint:
    """A decoder with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=arguments.width,
        intermediate_size=3 * arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(folder / f"m{seed}")
    return mo.Checkpoint(folder / f"m{seed}", name=f"m{seed}")


def path(rng: np.random.Generator, layers: int) -> LayerPath:
    """As many hops as a model has layers."""
    numbers = rng.integers(0, (2, layers), size=(layers, 2)).tolist()
    scales = rng.uniform(0.4, 1.5, layers).tolist()
    return LayerPath(tuple(Hop(m, i, w) for (m, i), w in zip(numbers, scales, strict=True)))


def placing(
    models: list[mo.Checkpoint], arguments: argparse.Namespace, folder: Path
) -> dict[str, list[float]]:
    """Milliseconds, and MiB that are alive at the peak."""
    rng = np.random.default_rng(0)
    ways = [path(rng, arguments.layers) for _ in range(arguments.paths)]
    live = mo.engine.LivePath(models)
    live.load(ways[0])
    times, peaks = [], []
    for way in ways:
        started = time.perf_counter()
        live.load(way)
        times.append(1000 * (time.perf_counter() - started))
    tensors = sum(1 for _ in _tensors())
    for way in ways:
        tracemalloc.start()
        live.load(way)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    grown = [float(sum(1 for _ in _tensors()) - tensors)]
    mo.write(mo.recipes.path(ways[0], models), folder / "written")
    anew = []
    for _ in range(5):
        started = time.perf_counter()
        AutoModelForCausalLM.from_pretrained(folder / "written")
        anew.append(1000 * (time.perf_counter() - started))
    return {
        "a path in place, ms": times,
        "the same model from its checkpoint, ms": anew,
        "a path in place, MiB of Python objects": peaks,
        "tensors that are alive after all, more": grown,
    }


def _tensors() -> list[Any]:
    import gc

    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]


def trials(
    models: list[mo.Checkpoint], arguments: argparse.Namespace, folder: Path
) -> dict[str, list[float]]:
    """Seconds of a trial that are not spent on a model."""
    space = mo.spaces.LayerPath(models, REPEATS)
    size = len(space.distributions())
    found: dict[str, list[float]] = {}
    studies = {
        f"{name}, {kind}, {size} parameters, s": optuna.create_study(
            storage=None if kind == "memory" else mo.storage(f"sqlite:///{folder}/{name}.db"),
            sampler=sampler,
        )
        for name, sampler in (
            ("CMA-ES", space.sampler(seed=0, population_size=128)),
            ("random", optuna.samplers.RandomSampler(seed=0)),
        )
        for kind in ("SQLite", "memory")
    }
    for _ in range(arguments.trials):  # in turns
        for name, study in studies.items():
            started = time.perf_counter()
            trial = study.ask()
            space(trial)
            study.tell(trial, float(trial.number % 7))
            found.setdefault(name, []).append(time.perf_counter() - started)
    return found


if __name__ == "__main__":
    main()
