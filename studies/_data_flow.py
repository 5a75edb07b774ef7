"""Merging in parameter space, in data-flow space and in both, compared on small decoders."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import optuna
import torch
from _passages import DATA, TEXTS, Pool
from _path_methods import METHODS, Task, exchanged
from _path_picture import picture
from _path_tables import GREEDY, SIMPLE, Result, drawn, tables
from _rows import by_rows

import merge_optuna as mo


def baselines(pool: Pool) -> dict[str, mo.Recipe | mo.Checkpoint]:
    """What takes no search."""
    base, *_ = pool.checkpoints.values()
    experts = pool.experts
    return {
        **pool.checkpoints,
        SIMPLE: mo.recipes.linear(experts),
        "task arithmetic, λ = 0.4": mo.recipes.task_arithmetic(base, experts, lambda_=0.4),
        "TIES, λ = 1": mo.recipes.ties(base, experts, density=0.2),
        "untuned DARE-TIES": mo.recipes.dare_ties(base, experts, weight=0.5, density=0.5),
    }


def made(task: Task) -> Result:
    """Runs a task, unless it was run."""
    if task.place.exists():
        return Result(**json.loads(task.place.read_text()))
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    started = time.perf_counter()
    recipe = METHODS[task.method].search(task)
    seconds = time.perf_counter() - started
    result = scored(task.pool, recipe, task.budget, seconds)
    result = replace(result, reached=reached(task.values))
    task.place.parent.mkdir(parents=True, exist_ok=True)
    half = task.place.with_suffix(".part")  # a kill leaves no broken file that reads as done
    half.write_text(json.dumps(asdict(result)))
    half.replace(task.place)
    print(f"{task.method} {task.seed}: dev {result.dev:.3f} {result.path}", flush=True)
    return result


def reached(values: Sequence[float]) -> dict[str, float]:
    """The best value after 25, 50, 100, … evaluations."""
    counts = [25 * 2**i for i in range(10) if 25 * 2**i < len(values)]
    return {str(n): min(values[:n]) for n in (*counts, len(values)) if n}


def scored(
    pool: Pool, model: mo.Recipe | mo.Checkpoint, evaluations: int = 1, seconds: float = 0.0
) -> Result:
    """What a model is worth; the only use of the test passages."""
    dev, test = pool.score(model, "dev").mean(), pool.score(model, "test")
    path, models = "", tuple[tuple[str, int], ...]()
    if isinstance(model, mo.Recipe) and model.path is not None:
        path = f"{model.path:.2f}"
        frames = (m.frame if isinstance(m, mo.Recipe) else m for m in model.models)
        models = tuple(
            (name, frame.depth) for name, frame in zip(model.model_names, frames, strict=True)
        )
    return Result(float(dev), test.tolist(), path, models, evaluations, seconds)


def finish(pool: Pool, arguments: argparse.Namespace, out: Path, title: str) -> None:
    """Runs everything, if wanted, and writes the tables."""
    if not arguments.tables:
        compare(pool, arguments, out)
    if not arguments.rows:
        report(pool, out, title)


def tasks_of(pool: Pool, arguments: argparse.Namespace) -> list[Task]:
    """Every run: the rows with most seeds first, of these all with a seed before the next."""
    rows = arguments.rows.split(",") if arguments.rows else list(METHODS)
    tasks = [
        Task(pool, name, seed, arguments.evaluations)
        for name in rows
        if pool.name in (METHODS[name].pools or (pool.name,))
        for seed in range(min(METHODS[name].seeds, arguments.seeds))
    ]
    return sorted(tasks, key=lambda task: (-METHODS[task.method].seeds, task.seed))


def compare(pool: Pool, arguments: argparse.Namespace, out: Path) -> None:
    """Runs every method with every seed, and writes what they have come to."""
    if not arguments.kept:
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as workers:
            list(workers.map(made, tasks_of(pool, arguments)))
        if arguments.rows:
            return
    tasks = [task for task in tasks_of(pool, arguments) if task.kept]
    results = list(map(made, tasks))
    found = {
        method: [r for task, r in zip(tasks, results, strict=True) if task.method == method]
        for method in METHODS
        if any(task.method == method for task in tasks)
    }
    single = {name: scored(pool, model) for name, model in baselines(pool).items()}
    single[GREEDY] = scored(pool, *exchanged(pool))
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(by_rows({"baselines": single, "searches": found}))


def report(pool: Pool, out: Path, title: str) -> None:
    """Writes the tables and the picture from ``results.json``."""
    data = json.loads((out / "results.json").read_text())
    single = {name: Result(**result) for name, result in data["baselines"].items()}
    found = {
        name: [Result(**result) for result in runs] for name, runs in data["searches"].items()
    }
    (out / "results.md").write_text(tables(pool, single, found, title))
    (out / "paths.svg").write_text(picture(drawn(found)))


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all these studies have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get(DATA)
    made.add_argument(
        "--data", type=Path, default=data, help=f"folder of texts (default: ${DATA})"
    )
    made.add_argument("--rows", help="run these only, and write no tables: path,dfs,…")
    made.add_argument("--seeds", type=int, default=5, help="at most")
    made.add_argument("--evaluations", type=int, default=800)
    made.add_argument("--jobs", type=int, default=1, help="runs at once, with a thread each")
    made.add_argument("--kept", action="store_true", help="report the runs that are there only")
    made.add_argument(
        "--tables", action="store_true", help="write the tables from results.json, run nothing"
    )
    return made


def data_of(arguments: argparse.Namespace, *places: str) -> Path:
    """The folder of the texts, if everything is there that is needed."""
    data: Path = arguments.data or Path()
    missing = [place for place in (*TEXTS.values(), *places) if not (data / place).exists()]
    if missing and not arguments.tables:
        raise SystemExit(f"--data DIR or {DATA} must be a folder with {', '.join(missing)}")
    return data
