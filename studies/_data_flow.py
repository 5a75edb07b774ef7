"""Merging in parameter space, in data-flow space and in both, compared on small decoders."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from _encodings import by_depth, largest, one_plus_one
from _path_picture import Drawn, picture
from _rows import by_rows
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer

import merge_optuna as mo
from merge_optuna.study import Cost, Entry, Estimate, Kind, Leaderboard, Run

Array = NDArray[np.float64]
DATA = "MERGE_OPTUNA_DATA"  # environment variable: a folder with the following files
TEXTS = {
    "shakespeare": "lm_tinyshakespeare/input.txt",
    "wizardofoz": "lm_wizard_of_oz/input.txt",
    "gsm8k": "math_gsm8k",
    "tinystories": "lm_tinystories/tinystories_sample.txt",
}
LENGTH = 128  # tokens of a passage
PASSAGES = {"dev": 12, "test": 60}  # of each domain
BASE, BEST, SIMPLE = "base", "the best source", "uniform average"
GREEDY = "DFS: greedy exchange of layers"
TUNED = GREEDY, "ta"  # baselines, though tuned on dev


# -- Texts --------------------------------------------------------------------------------


def text_of(data: Path, domain: str, split: str) -> str:
    """The first 80 % of a text for training, then 10 % each for dev and test."""
    place = data / TEXTS[domain]
    if place.is_dir():
        with gzip.open(place / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return "\n".join(f"{row['question']}\n{row['answer']}" for row in rows)
    text = place.read_text(encoding="utf-8")
    shares = {"train": (0, 0.8), "dev": (0.8, 0.9), "test": (0.9, 1)}[split]
    first, last = (int(len(text) * share) for share in shares)
    return text[first:last]


def passages(data: Path, domain: str, split: str, tokenizer: Any) -> torch.Tensor:
    """(n, 128) tokens, evenly spread over a text; the first is that of the beginning."""
    text = text_of(data, domain, split)
    count = PASSAGES[split]
    ids = []
    for i in range(count):
        part = text[i * len(text) // count :][: 8 * LENGTH]
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ids.append([*start, *tokenizer(part, add_special_tokens=False).input_ids][:LENGTH])
    return torch.tensor(ids)


def sha256(content: bytes) -> str:
    """Its hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


class Nats(mo.evaluators.Evaluator):
    """Nats per token, the mean over the domains: an evaluator, a passage is an example.

    Attributes:
        domains: (n, 128) tokens by domain, as many of each.
    """

    directions = ("minimize",)
    metric_names = ("nats",)
    deterministic = True  # so that a path found again is not scored again

    def __init__(self, domains: dict[str, torch.Tensor]) -> None:
        self.domains = domains
        self.digest = {name: sha256(ids.numpy().tobytes()) for name, ids in domains.items()}

    def __len__(self) -> int:
        return sum(map(len, self.domains.values()))

    def __call__(self, model: nn.Module) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Domain by domain."""
        first = 0
        for ids in self.domains.values():
            with torch.inference_mode():
                logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
                loss = nn.functional.cross_entropy(
                    logits.transpose(1, 2), ids[:, 1:], reduction="none"
                )
            yield np.arange(first, first + len(ids)), loss.mean(1).double().numpy()
            first += len(ids)

    def value(self, scores: Array) -> float:
        """The mean over all passages, which is that over the domains."""
        return float(np.mean(scores))

    def scores(self, model: nn.Module) -> Array:
        """Nats per token of every passage, (domains, n)."""
        return np.stack([scores for _, scores in self(model)])


# -- Searches -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The models to merge, and the texts.

    Attributes:
        name: Of the study.
        data: Folder of the texts.
        folder: Folder of the checkpoints.
        models: Folder by name, the base first.
        domains: Names of the texts that models are scored on.
    """

    name: str
    data: Path
    folder: Path
    models: tuple[tuple[str, str], ...]
    domains: tuple[str, ...] = tuple(TEXTS)

    @cached_property
    def checkpoints(self) -> dict[str, mo.Checkpoint]:
        """By name, the base first."""
        return {n: mo.Checkpoint(self.folder / place, name=n) for n, place in self.models}

    @cached_property
    def experts(self) -> list[mo.Checkpoint]:
        """All but the base, the best on dev first."""
        found = [model for name, model in self.checkpoints.items() if name != BASE]
        return sorted(found, key=lambda model: self.score(model, "dev").mean())

    def evaluator(self, split: str) -> Nats:
        """Of the dev or test passages."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder / self.models[0][1])
        return Nats({d: passages(self.data, d, split, tokenizer) for d in self.domains})

    def score(self, model: mo.Checkpoint | mo.Recipe, split: str) -> Array:
        """Nats per token of every passage, (domains, n)."""
        return self.evaluator(split).scores(mo.Engine().load(model))


@dataclass(frozen=True)
class Result:
    """What one run has found.

    Attributes:
        dev: Nats per token on dev.
        test: The same of every test passage, (domains, n).
        path: If it is one.
        models: The models that the letters of the path stand for, and their depths.
        evaluations: How many models were scored.
        seconds: They took.
        reached: The best dev value after so many evaluations, those of the last search.
    """

    dev: float
    test: list[list[float]]
    path: str = ""
    models: tuple[tuple[str, int], ...] = ()
    evaluations: int = 1
    seconds: float = 0.0
    reached: dict[str, float] = field(default_factory=dict)


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


def half(task: Task) -> Task:
    """With half of the evaluations."""
    return replace(task, evaluations=task.evaluations // 2)


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


def ps_dfs(**options: Any) -> Callable[[Task], mo.Recipe]:
    """Half of the budget for PS, the other for a path through its result and the best expert."""

    def search(task: Task) -> mo.Recipe:
        space = mo.spaces.LayerPath([ps(half(task)), task.pool.experts[0]], **options)
        return task.run(space, task.evaluations - task.evaluations // 2)

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


def exchanged(pool: Pool) -> tuple[mo.Recipe, int]:
    """Layers of the best expert exchanged for the second's, greedily; and how many were scored.

    No scales, no layer twice: what a search in data-flow space should find at least.
    """
    space = mo.spaces.LayerPath(pool.experts[:2], scales="none")
    objective = mo.MergeObjective(space, pool.evaluator("dev"))
    study = mo.greedy_path(objective, progress=False)
    return mo.recipe_of(study), len(study.trials)


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


# -- The study ----------------------------------------------------------------------------


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


# -- Tables and the picture ---------------------------------------------------------------


def nats(rows: Array) -> float:
    """Nats per token, the mean over the domains, of (n, 2) nats and number of the domain."""
    domains = rows[:, 1].astype(np.int64)
    passages = np.bincount(domains)
    return float(np.mean(np.bincount(domains, rows[:, 0])[passages > 0] / passages[passages > 0]))


def run_of(result: Result, seed: int | None) -> Run:
    """As a leaderboard takes it."""
    test = np.array(result.test)  # (domains, passages)
    domain = np.repeat(np.arange(len(test)), test.shape[1])
    cost = Cost(evaluations=result.evaluations, seconds=result.seconds or None)
    return Run(result.dev, np.column_stack([test.ravel(), domain]), seed, cost)


def kind_of(name: str) -> Kind:
    """Of a row: what is as simple as task arithmetic is a baseline, even tuned on dev."""
    if name in TUNED:
        return "tuned baseline"
    return "search" if name in METHODS else "baseline"


def board(single: dict[str, Result], found: dict[str, list[Result]]) -> Leaderboard:
    """Everything, side by side."""
    entries = [
        Entry(name, [run_of(result, None)], kind_of(name)) for name, result in single.items()
    ]
    for method, results in found.items():
        runs = [run_of(result, seed) for seed, result in enumerate(results)]
        entries.append(Entry(METHODS[method].label, runs, kind_of(method)))
    return Leaderboard.of(entries, value=nats, metric="nats", direction="minimize")


PATHS = (
    *("dfs", GREEDY, "by_depth", "largest", "ea", "path_ga", "path_tpe", "path_three"),
    *("path_none", "path_blocks", "prior", "from_greedy", "dfs_128"),
)
ORDERS = {  # the first is expected to be better
    "Choices by depth against every other path:": [("path", other) for other in PATHS],
    "Weights, paths, and both, with the same evaluations:": [
        ("ps_path", "ps"),
        ("ps_path_kept", "ps"),
        ("joint", "ps"),
        ("ps", "path"),
        ("path", BEST),
        ("path", SIMPLE),
    ],
    "The orderings of the paper, with CMA-ES:": [
        ("ps_dfs", "ps"),
        ("ps_dfs", "ps_half"),
        ("ps", "dfs"),
        ("dfs", BEST),
        ("dfs", "dfs_none"),
    ],
    "The same, paths by the genetic algorithm:": [
        ("ps_dfs_ga", "ps"),
        ("ps_dfs_ga", "ps_half"),
        ("ps", "dfs_ga"),
        ("dfs_ga", BEST),
        ("dfs_ga", "dfs_ga_none"),
    ],
    "And others:": [
        ("dfs_ga", "dfs"),
        ("dfs", GREEDY),
        ("dfs_ga", GREEDY),
        ("dfs_base", "dfs"),
        ("dfs_ga", SIMPLE),
        ("ps", BEST),
        ("ps", "untuned DARE-TIES"),
        ("ps", SIMPLE),
        ("ps", "ta"),
        ("ta", SIMPLE),
    ],
}


def verdict(difference: Estimate) -> str:
    """Whether the first is better, by the interval of the difference."""
    if difference.high < 0:
        found = "holds"
    elif difference.low > 0:
        found = "does not hold, it is the other way round"
    else:
        found = "not shown: too close to tell"
    return found if difference.seeds else f"one seed only: {found}"


def judged(pairs: Sequence[tuple[str, str]], table: Leaderboard, best: str) -> list[str]:
    """Lines of differences on test, of what was run.

    Args:
        pairs: Of methods or baselines.
        table: Where they stand.
        best: The name of the best source.
    """
    values = {row.name: row.test.value for row in table.rows if row.test is not None}
    lines = []
    for pair in pairs:
        first, second = (METHODS[name].label if name in METHODS else name for name in pair)
        rival = best if second == BEST else second
        if first in values and rival in values:
            difference = table.difference(first, rival)
            share = 100 * difference.value / values[rival]
            lines.append(
                f"- {first} − {second}: {difference:+.3f}, {share:+.1f} %: "
                f"**{verdict(difference)}**"
            )
    return lines


def tables(
    pool: Pool, single: dict[str, Result], found: dict[str, list[Result]], title: str
) -> str:
    """Markdown."""
    table = board(single, found)
    best = min((name for name, _ in pool.models), key=lambda name: single[name].dev)
    lines = [f"# {title}", "", caption(pool, found), "", table.to_markdown()]
    lines += [*by_domain(pool, single, found), ""]
    lines += [f"Differences on test; below 0 the first is better. The best source is {best}."]
    for heading, pairs in ORDERS.items():
        if judgements := judged(pairs, table, best):
            lines += ["", heading, "", *judgements]
    lines += ["", *early(found)]
    lines += ["", "Paths of the searches, seed by seed:", ""]
    lines += [f"- {name}: `{result.path}`" for name, result in single.items() if result.path]
    for method, results in found.items():
        for seed, result in enumerate(results):
            if result.path:
                names = ", ".join(f"{'ABC'[i]} {n}" for i, (n, _) in enumerate(result.models))
                lines.append(f"- {METHODS[method].label}, seed {seed} ({names}): `{result.path}`")
    return "\n".join([*lines, "", "![paths](paths.svg)", ""])


def early(found: dict[str, list[Result]]) -> list[str]:
    """Lines of a table: the best on dev after so many evaluations, the mean over seeds."""
    rows = {name: results for name, results in found.items() if all(r.reached for r in results)}
    counts = sorted({int(n) for results in rows.values() for r in results for n in r.reached})
    counts = [n for n in counts if n % 25 == 0 and n <= 400]
    if not rows or not counts:
        return []
    lines = [
        f"| best on dev after | {' | '.join(map(str, counts))} |",
        "|---" * (1 + len(counts)) + "|",
    ]
    for name, results in rows.items():
        means = [np.mean([r.reached.get(str(n), np.nan) for r in results]) for n in counts]
        cells = " | ".join("" if np.isnan(mean) else f"{mean:.3f}" for mean in means)
        lines.append(f"| {METHODS[name].label} | {cells} |")
    return lines


def by_domain(pool: Pool, single: dict[str, Result], found: dict[str, list[Result]]) -> list[str]:
    """Lines of a table: test by domain, the mean over the seeds, and by seed."""
    lines = [f"| test | {' | '.join(pool.domains)} | by seed |"]
    lines.append("|---" * (2 + len(pool.domains)) + "|")
    rows = {name: [result] for name, result in single.items()}
    rows |= {METHODS[method].label: results for method, results in found.items()}
    for name, results in rows.items():
        scores = np.array([result.test for result in results])  # (seeds, domains, passages)
        domains = " | ".join(f"{value:.2f}" for value in scores.mean((0, 2)))
        seeds = ", ".join(f"{value:.3f}" for value in scores.mean((1, 2)) if len(scores) > 1)
        lines.append(f"| {name} | {domains} | {seeds} |")
    return lines


def caption(pool: Pool, found: dict[str, list[Result]]) -> str:
    """What the numbers are."""
    seconds = [r.seconds / r.evaluations for results in found.values() for r in results]
    n = len(pool.domains)
    return (
        f"Nats per token, lower is better: the mean over {n} domains, on {n * PASSAGES['dev']} "
        f"dev and {n * PASSAGES['test']} test passages of {LENGTH} tokens; searches see the dev "
        "passages only. Rows of searches are means over seeds of the sampler (and of DARE's "
        "masks). An ordering holds if the whole interval of the difference says so, over seeds "
        "and passages; where DFS without scales collapses in the paper, it only has to be worse "
        "here. "
        f"A trial took {np.median(seconds):.2f} s (median of the runs)."
    )


def drawn(found: dict[str, list[Result]]) -> list[list[Drawn]]:
    """All paths, a row for every method."""
    return [
        [
            Drawn(f"{METHODS[method].label}, seed {seed}", result.path, result.models)
            for seed, result in enumerate(results)
            if result.path
        ]
        for method, results in found.items()
    ]
