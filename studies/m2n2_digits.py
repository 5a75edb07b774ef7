"""Two networks that know five digits each become one: the small experiment of the M2N2 paper.

    python studies/m2n2_digits.py                      # from a pair that it trains itself, 10 runs
    python studies/m2n2_digits.py --start given --data DIR    # from a pair of the authors' code
    python studies/m2n2_digits.py --start scratch      # from random networks, 3 runs
    python studies/m2n2_digits.py --methods m2n2,ga --runs 1 --passes 1000

The networks have 19,210 parameters and read scikit-learn's digits; the search sees 1,437 of them
("train"), the other 360 are the test, which the best network of a run is scored on once, in the
end. Natural niches (Abrantes, Lange & Tang, arXiv 2508.16204) run with and without each of their
parts, beside a genetic algorithm, MAP-Elites, a line search and CMA-ES on the raw weights. All but
the last are studies and recipes as for any other model. A finished run is kept in
``runs/m2n2_digits`` and not made again. Tables, figures and the numbers in them go to
``studies/m2n2_digits``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import optuna
import torch
from _rows import by_rows
from cmaes import SepCMA
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna.study import Entry, Leaderboard, Run

OUT = Path(__file__).with_suffix("")
RUNS = Path("runs/m2n2_digits")
DATA = "MERGE_OPTUNA_DATA"  # environment variable: a folder with the following file
GIVEN = Path("m2n2_digits", "pretrained_pair.npz")
PAIR = ("digits_0_4", "digits_5_9")  # arrays in it
SEED = 42  # of the first run
STD = 0.01  # of new weights and of mutations
POPULATION = 20  # of CMA-ES
HALVES = ("low", "high")  # 0 to 4 and 5 to 9
CACHE = 32 << 20  # bytes of parents' weights, 436 networks

Vector: TypeAlias = NDArray[np.float32]
Curve: TypeAlias = list[tuple[int, float]]  # evaluations, training accuracy of the best so far


@dataclass(frozen=True)
class Start:
    """Where a search begins, and how long it is."""

    title: str
    passes: int
    runs: int
    mutation_std: float = 0.0


STARTS = {
    "given": Start("From the given pair", 10_000, 10),
    "made": Start("From a pair trained by the study", 10_000, 10),
    "scratch": Start("From scratch", 50_000, 3, mutation_std=STD),
}


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        label: how it is called.
        search: what runs it.
        options: of the sampler.
        published: test accuracy in the paper's figures, in %, by start.
        starts: where it can begin.
    """

    label: str
    search: Callable[[Task], Result]
    options: dict[str, Any] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    starts: tuple[str, ...] = tuple(STARTS)


@dataclass(frozen=True)
class Task:
    """One run of one method."""

    method: str
    start: str
    run: int
    passes: int
    data: Path | None = None
    storage: str = "memory"

    @property
    def seed(self) -> int:
        """Of everything in it that is random."""
        return SEED + self.run

    @property
    def place(self) -> Path:
        """Where its result is kept."""
        return RUNS / f"{self.start}-{self.passes}" / f"{self.method}-{self.run}.json"

    @cached_property
    def seeds(self) -> list[Vector]:
        """The two networks that it begins with."""
        if self.start == "given":
            if self.data is None:
                raise SystemExit(
                    f"--start given needs --data DIR or {DATA}: a folder with {GIVEN}"
                )
            pair = np.load(self.data / GIVEN)
            return [pair[name] for name in PAIR]
        torch.manual_seed(self.seed)
        networks = [new_network(), new_network()]
        if self.start == "made":
            for network, low in zip(networks, (True, False), strict=True):
                train(network, Digits.train().half(low))
        return [network.flat() for network in networks]

    @cached_property
    def checkpoints(self) -> list[mo.Checkpoint]:
        """The same as sources of recipes."""
        return [
            mo.Checkpoint.from_module(Network(torch.tensor(flat)), name=name)
            for flat, name in zip(self.seeds, "ab", strict=True)
        ]

    @cached_property
    def space(self) -> mo.spaces.SplitSlerp:
        """Their children."""
        std = STARTS[self.start].mutation_std
        return mo.spaces.SplitSlerp(self.checkpoints, mutation_std=std, cache_bytes=CACHE)


@dataclass(frozen=True)
class Result:
    """What one run has found.

    Attributes:
        train: accuracy of the best network on the digits that the search sees, in %.
        test: its accuracy on the others.
        curve: how the first of them grew.
        evaluations: of this process, the two networks of the beginning included.
        cpu: seconds of CPU time they took it, with everything that was recorded.
    """

    train: float
    test: float
    curve: Curve
    evaluations: int
    cpu: float


# -- The digits and the network ---------------------------------------------------------------


class Network(nn.Module):
    """64 pixels, 256 hidden units, ten digits. The paper stores its matrices inputs × outputs."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def __init__(self, flat: Tensor | None = None) -> None:
        super().__init__()
        shapes = {"w1": (64, 256), "b1": (256,), "w2": (256, 10), "b2": (10,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        if flat is not None:
            nn.utils.vector_to_parameters(flat, self.parameters())

    def fill(self, flat: NDArray[np.float64]) -> None:
        """Takes other weights."""
        with torch.no_grad():
            new = torch.from_numpy(flat.astype(np.float32))
            nn.utils.vector_to_parameters(new, self.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of pixels (n, 64)."""
        hidden = torch.addmm(self.b1, x, self.w1).relu_()
        return torch.addmm(self.b2, hidden, self.w2)

    def flat(self) -> Vector:
        """All parameters in their order: w1, b1, w2, b2."""
        return nn.utils.parameters_to_vector(self.parameters()).detach().numpy()


class Digits:
    """Accuracy on some of scikit-learn's digits: an evaluator, as any script can have its own.

    Attributes:
        pixels: (n, 64), 0 to 16.
        labels: (n,).
        right: (n,) which the last network has read correctly.
    """

    directions = ("maximize",)
    metric_names = ("accuracy",)

    def __init__(self, pixels: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
        self.pixels = torch.tensor(pixels, dtype=torch.float32)
        self.labels = labels
        self.right = np.zeros(len(labels))
        self._ids = np.arange(len(labels))

    @classmethod
    def train(cls) -> Digits:
        """The first 80 %, which the search sees."""
        pixels, labels = load_digits(return_X_y=True)
        return cls(pixels[:1437], labels[:1437])

    @classmethod
    def test(cls) -> Digits:
        """The rest."""
        pixels, labels = load_digits(return_X_y=True)
        return cls(pixels[1437:], labels[1437:])

    def half(self, low: bool) -> Digits:
        """Those of the digits 0 to 4, or 5 to 9."""
        rows = (self.labels < 5) == low
        return Digits(self.pixels.numpy()[rows], self.labels[rows])

    @cached_property
    def digest(self) -> dict[str, str]:
        """What the data are."""
        parts = {"pixels": self.pixels.numpy(), "labels": self.labels}
        return {name: hashlib.sha256(a.tobytes()).hexdigest()[:16] for name, a in parts.items()}

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, model: nn.Module) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """All in one batch."""
        with torch.inference_mode():
            logits = model(self.pixels)
        self.right = (logits.numpy().argmax(axis=1) == self.labels).astype(np.float64)
        yield self._ids, self.right

    def value(self, scores: NDArray[np.float64]) -> float:
        """The share of digits that are read correctly."""
        return float(np.mean(scores))

    def accuracy(self, network: nn.Module) -> float:
        """In %."""
        ((_, right),) = self(network)
        return 100 * self.value(right)


def new_network() -> Network:
    """With small random weights."""
    return Network(STD * torch.randn(19_210))


def train(network: Network, digits: Digits) -> None:
    """Ten steps of Adam, each with all digits."""
    labels = torch.from_numpy(digits.labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(digits.pixels), labels).backward()
        optimizer.step()


# -- The searches -----------------------------------------------------------------------------


def niches(task: Task) -> Result:
    """M2N2 with some options."""
    return evolve(task, task.space.sampler(seed=task.seed, **METHODS[task.method].options))


def map_elites(task: Task) -> Result:
    """The best network for every pair of accuracies on two halves of the digits."""
    grid = dict.fromkeys(HALVES, (0, 1, 10))
    space = task.space.distributions()
    sampler = mo.samplers.MAPElitesSampler(space, seed=task.seed, descriptors=grid)
    return evolve(task, sampler, with_halves)


def evolve(
    task: Task,
    sampler: optuna.samplers.BaseSampler,
    described: Callable[[mo.MergeObjective], Any] = lambda objective: objective,
) -> Result:
    """Crosses the two networks and their children until the passes are used up.

    Args:
        task: What is run.
        sampler: Who chooses the parents.
        described: Makes an objective that tells the sampler more.
    """
    objective = mo.MergeObjective(task.space, Digits.train())
    study = optuna.create_study(
        study_name=f"{task.method}-{task.start}-{task.run}",
        storage=None if task.storage == "memory" else mo.storage(task.storage),
        directions=objective.directions,
        sampler=sampler,
        load_if_exists=True,
    )
    first = len(task.seeds)  # are no passes
    wanted = mo.remaining(study, first + task.passes)
    began = time.process_time()
    study.optimize(described(objective), n_trials=wanted)
    cpu = time.process_time() - began

    curve: Curve = []
    best = -1
    for trial in study.get_trials(deepcopy=False)[: first + task.passes]:
        if trial.value is not None and (not curve or 100 * trial.value > curve[-1][1]):
            curve.append((max(0, trial.number - first + 1), 100 * trial.value))
            best = trial.number
    sources = {seed.name: seed for seed in task.checkpoints}
    found = mo.recipe_of(study, best, sources=sources)
    return Result(curve[-1][1], accuracy(objective, found), curve, wanted, cpu)


def with_halves(objective: mo.MergeObjective) -> Callable[[optuna.Trial], Any]:
    """An objective that also says how good a network is on either half of the digits."""
    digits = objective.evaluator
    halves = [digits.labels < 5, digits.labels >= 5]

    def described(trial: optuna.Trial) -> Any:
        value = objective(trial)
        for name, half in zip(HALVES, halves, strict=True):
            trial.set_user_attr(name, float(digits.right[half].mean()))
        return value

    return described


def accuracy(objective: mo.MergeObjective, model: mo.Recipe | mo.Checkpoint) -> float:
    """On the test, in %."""
    return 100 * objective.score(model, Digits.test())


def line_search(task: Task) -> Result:
    """Every point, in equal steps, on the arc between the two networks."""
    space = task.space
    ends = {"parent_a": space.source("a"), "parent_b": space.source("b")}
    points = (
        space.recipe_for(space.child({"split": 1.0, "ratio": t}, ends))
        for t in np.linspace(0, 1, task.passes)
    )
    return best_of(task, points)


def baseline(make: Callable[[mo.Checkpoint, mo.Checkpoint], Any]) -> Callable[[Task], Result]:
    """A network that takes no search."""
    return lambda task: best_of(task, [make(*task.checkpoints)])


def best_of(task: Task, models: Iterable[mo.Recipe | mo.Checkpoint]) -> Result:
    """The first of the best of some networks."""
    objective = mo.MergeObjective(task.space, Digits.train())
    curve: Curve = []
    count, best = 0, None
    began = time.process_time()
    for count, model in enumerate(models, 1):
        train = 100 * objective.score(model)
        if not curve or train > curve[-1][1]:
            curve.append((count, train))
            best = model
    cpu = time.process_time() - began
    return Result(curve[-1][1], accuracy(objective, best), curve, count, cpu)


def cma_es(task: Task) -> Result:
    """CMA-ES on the raw weights, with a diagonal covariance: a full one would take 3 GB.

    19,210 numbers per trial are nothing to put into a database, so that this is no study.
    """
    digits, network = Digits.train(), Network()
    curve: Curve = []
    best = task.seeds[0]
    began = time.process_time()
    mean = best.astype(np.float64)
    engine = SepCMA(mean, STD, population_size=POPULATION, seed=task.seed)
    for generation in range(task.passes // POPULATION):
        values = []
        for i in range(POPULATION):
            x = engine.ask()
            network.fill(x)
            train = digits.accuracy(network)
            if not curve or train > curve[-1][1]:
                curve.append((generation * POPULATION + i + 1, train))
                best = x
            values.append((x, -train))
        engine.tell(values)
    cpu = time.process_time() - began
    network.fill(best)
    test = Digits.test().accuracy(network)
    return Result(curve[-1][1], test, curve, task.passes // POPULATION * POPULATION, cpu)


_PAIR, _SCRATCH = ("given", "made"), ("scratch",)
METHODS = {
    "m2n2": Method("M2N2", niches, {}, {"given": 68, "scratch": 87}),
    "no_attraction": Method("M2N2, no attraction", niches, {"attraction": False}, {"given": 66}),
    "no_split": Method("M2N2, no split point", niches, {"split_point": False}, {"given": 58}),
    "no_crossover": Method(
        "M2N2, no crossover", niches, {"crossover": False}, {"scratch": 77}, _SCRATCH
    ),
    "ga": Method(
        "genetic algorithm",
        niches,
        {"alpha": 0.0, "attraction": False},
        {"given": 52, "scratch": 68},
    ),
    "map_elites": Method("MAP-Elites", map_elites, {}, {"given": 62, "scratch": 60}),
    "cma_es": Method("CMA-ES on the weights", cma_es, {}, {"scratch": 86}, _SCRATCH),
    "line_search": Method("slerp, line search", line_search, {}, {"given": 58}, _PAIR),
    "average": Method("average", baseline(lambda a, b: mo.recipes.linear([a, b])), starts=_PAIR),
    "a": Method("network of 0 to 4", baseline(lambda a, b: a), starts=_PAIR),
    "b": Method("network of 5 to 9", baseline(lambda a, b: b), starts=_PAIR),
}
FIXED = ("line_search", "average", "a", "b")  # nothing in them is random but the pair


def perform(task: Task) -> None:
    """Runs a task unless its result is there already."""
    if task.place.exists():
        return
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    result = METHODS[task.method].search(task)
    task.place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = task.place.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(result.__dict__))
    unfinished.rename(task.place)
    found = f"train {result.train:.1f} %, test {result.test:.1f} %"
    print(f"{task.start} {task.method} {task.run}: {found}, {result.cpu:.0f} s", flush=True)


# -- Tables and figures -----------------------------------------------------------------------


def report(start: str, passes: int, out: Path) -> str:
    """Writes what is known about a start: JSON, a figure and a table, which is returned."""
    rows: dict[str, dict[int, Result]] = {}
    for name, method in METHODS.items():
        for place in sorted((RUNS / f"{start}-{passes}").glob(f"{name}-*.json")):
            if start in method.starts:
                run = int(place.stem.removeprefix(f"{name}-"))
                rows.setdefault(name, {})[run] = Result(**json.loads(place.read_text()))
    title = f"{STARTS[start].title}, {passes:,} passes"
    table = [
        f"## {title}\n",
        "accuracy in % | test | M2N2 is better by | 95 % interval | train | test in the paper | "
        "runs | evaluations per second",
        "--- | ---: | ---: | ---: | ---: | ---: | ---: | ---:",
    ]
    numbers = {}
    for name, runs in rows.items():
        results = list(runs.values())
        test, train = (
            Mean.of([getattr(result, what) for result in results]) for what in ("test", "train")
        )
        others = {} if name == "m2n2" else runs
        if start == "given" and name in FIXED:  # its only run beside every one of M2N2's
            others = dict.fromkeys(rows.get("m2n2", {}), results[0])
        lead, interval = better_by(rows.get("m2n2", {}), others)
        paper = METHODS[name].published.get("given" if start == "made" else start)
        speed = round(float(np.median([r.evaluations / r.cpu for r in results])))
        cells = (
            METHODS[name].label,
            f"**{test}**",
            lead,
            interval and f"{interval[0]:.1f} to {interval[1]:.1f}",
            train,
            paper and f"≈ {paper}",
            len(runs),
            speed if results[0].evaluations > 1 else None,
        )
        table.append(" | ".join("" if cell is None else str(cell) for cell in cells))
        numbers[name] = {
            "test": test.__dict__,
            "train": train.__dict__,
            "m2n2_better_by": lead and {**lead.__dict__, "interval": interval},
            "evaluations_per_second": speed,
            "runs": {
                run: {"test": result.test, "train": result.train} for run, result in runs.items()
            },
            "curve": mean_curve(results, passes) if len(results[0].curve) > 1 else None,
        }
    text = "\n".join(table) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{start}.md").write_text(f"{text}\n{NOTE}\n\n![curves and results]({start}.svg)\n")
    (out / f"{start}.json").write_text(by_rows(rounded(numbers)))
    (out / f"{start}.svg").write_text(svg(title, rows, passes))
    return text


NOTE = (
    "Means over runs ± their standard errors, of the network that is best on train; differences "
    "within a run, with the 95 % interval of their mean (docs/leaderboard.md). Evaluations per "
    "second of CPU time with all that Optuna records, median of the runs, on one core of a busy "
    "machine."
)


@dataclass(frozen=True)
class Mean:
    """The mean of some runs and its standard error, which one run does not have."""

    mean: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """That of some values."""
        n = len(values)
        error = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
        return cls(float(np.mean(values)), error)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" + ("" if self.error is None else f" ± {self.error:.1f}")


def better_by(
    first: dict[int, Result], other: dict[int, Result]
) -> tuple[Mean | None, tuple[float, float] | None]:
    """How much better the first is in the test, run by run, and the interval of the mean."""
    common = [run for run in first if run in other]
    if not common:
        return None, None
    board = Leaderboard.of(
        [
            Entry(name, [Run(runs[run].train, runs[run].test, run) for run in common])
            for name, runs in (("first", first), ("other", other))
        ]
    )
    found = board.difference("first", "other")
    lead = Mean.of([first[run].test - other[run].test for run in common])
    return lead, (found.low, found.high) if found.seeds else None


def rounded(data: Any) -> Any:
    """For a file that people may read."""
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [rounded(value) for value in data]
    return round(data, 3) if isinstance(data, float) else data


def mean_curve(results: Sequence[Result], passes: int) -> Curve:
    """The mean over runs at some 50 numbers of evaluations."""
    at = np.unique(np.geomspace(min(10, passes), passes, 60).astype(int))
    values = np.empty((len(results), len(at)))
    for row, result in zip(values, results, strict=True):
        counts, trains = zip(*result.curve, strict=True)
        row[:] = np.array(trains)[np.maximum(np.searchsorted(counts, at, side="right") - 1, 0)]
    return [(int(x), float(y)) for x, y in zip(at, values.mean(axis=0), strict=True)]


_GREY = "#52606d"
_HUES = ("#2a78d6", "#eb6834", "#1baf7a", "#8a63d2", "#c9a227", "#e34948", "#0f8b8d")
COLOURS = dict(zip_longest(METHODS, _HUES, fillvalue=_GREY))
_TOP, _BOTTOM = 60, 370  # of both panels


def svg(title: str, rows: dict[str, dict[int, Result]], passes: int) -> str:
    """How searches got on and what they came to, as a picture that every browser shows."""
    curves = {
        name: mean_curve(list(runs.values()), passes)
        for name, runs in rows.items()
        if name not in FIXED
    }
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 420" '
            'font-family="sans-serif" font-size="12" fill="#333">',
            '<rect width="1000" height="420" fill="white"/>',
            text(60, 24, title, "start", ' font-size="15"'),
            text(60, 46, "best so far on train, accuracy in %", "start"),
            text(650, 46, "its accuracy on the test in %, mean ± standard error", "start"),
            *(draw_curves(curves) if curves else []),
            *draw_results(rows),
            "</svg>",
            "",
        ]
    )


def text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def line(path: str, colour: str, width: int) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def draw_curves(curves: dict[str, Curve]) -> Iterator[str]:
    """The left panel."""
    xs = [x for curve in curves.values() for x, _ in curve]
    ys = [y for curve in curves.values() for _, y in curve]
    low, high = 10 * np.floor(min(ys) / 10), 10 * np.ceil(max(ys) / 10)

    def across(x: float) -> float:
        return float(np.interp(np.log(x), np.log([min(xs), max(xs)]), [60, 450]))

    def down(y: float) -> float:
        return float(np.interp(y, [low, high], [_BOTTOM, _TOP]))

    for y in np.arange(low, high + 1, 10):
        yield line(f"M60,{down(y):.1f}H450", "#ddd", 1)
        yield text(52, down(y) + 4, f"{y:.0f}", "end")
    for power in range(10):
        if min(xs) <= 10**power <= max(xs):
            yield text(across(10**power), _BOTTOM + 18, f"{10**power:,}")
    yield text(255, _BOTTOM + 38, "evaluations")
    for name, curve in reversed(curves.items()):
        points = "L".join(f"{across(x):.1f},{down(y):.1f}" for x, y in curve)
        yield line(f"M{points}", COLOURS[name], 2)


def draw_results(rows: dict[str, dict[int, Result]]) -> Iterator[str]:
    """The right panel, which is also the legend."""
    tests = {name: [result.test for result in runs.values()] for name, runs in rows.items()}
    every = [value for values in tests.values() for value in values]
    low, high = 10 * np.floor(min(every) / 10), 10 * np.ceil((max(every) + 0.1) / 10)

    def across(x: float) -> float:
        return float(np.interp(x, [low, high], [650, 900]))

    for x in np.arange(low, high + 1, 10):
        yield line(f"M{across(x):.1f},{_TOP}V{_BOTTOM}", "#ddd", 1)
        yield text(across(x), _BOTTOM + 18, f"{x:.0f}")
    places = np.linspace(_TOP, _BOTTOM, 2 * len(tests) + 1)[1::2]
    for (name, values), y in zip(tests.items(), places, strict=True):
        colour, mean = COLOURS[name], Mean.of(values)
        yield text(638, y + 4, METHODS[name].label, "end", f' fill="{colour}"')
        yield text(912, y + 4, str(mean), "start", f' fill="{colour}"')
        for value in values:
            place = f'cx="{across(value):.1f}" cy="{y:.1f}"'
            yield f'<circle {place} r="3" fill="{colour}" opacity=".35"/>'
        left, right = (mean.mean + side * (mean.error or 0) for side in (-1, 1))
        yield line(f"M{across(left):.1f},{y:.1f}H{across(right):.1f}", colour, 2)
        yield line(f"M{across(mean.mean):.1f},{y - 7:.1f}v14", colour, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--start", choices=STARTS, default="made", help="(%(default)s)")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get(DATA),
        help=f"folder with {GIVEN}, for --start given; or in {DATA}",
    )
    parser.add_argument("--methods", help=f"some of {','.join(METHODS)}; all by default")
    parser.add_argument("--runs", type=int, help="of each method; 10, or 3 from scratch")
    parser.add_argument("--passes", type=int, help="evaluations; 10000, or 50000 from scratch")
    parser.add_argument("--processes", type=int, default=1, help="at once (%(default)s)")
    parser.add_argument("--storage", default="memory", help="URL of a storage; memory by default")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the report (%(default)s)")
    arguments = parser.parse_args()

    start = STARTS[arguments.start]
    passes = arguments.passes or start.passes
    names = arguments.methods.split(",") if arguments.methods else METHODS
    if unknown := set(names) - set(METHODS):
        parser.error(f"no such method: {', '.join(sorted(unknown))}")
    tasks = [
        Task(name, arguments.start, run, passes, arguments.data, arguments.storage)
        for run in range(arguments.runs or start.runs)
        for name in names
        if arguments.start in METHODS[name].starts
        and not (run > 0 and arguments.start == "given" and name in FIXED)
    ]
    if arguments.processes > 1:
        context = get_context("spawn")
        with ProcessPoolExecutor(arguments.processes, mp_context=context) as pool:
            list(pool.map(perform, tasks))
    else:
        for task in tasks:
            perform(task)
    print(report(arguments.start, passes, arguments.out))


if __name__ == "__main__":
    main()
