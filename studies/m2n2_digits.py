"""Two networks that know five digits each become one: the small experiment of the M2N2 paper.

    python studies/m2n2_digits.py                      # from a pair that it trains itself, 10 runs
    python studies/m2n2_digits.py --start given --data DIR    # from the pair in DIR
    python studies/m2n2_digits.py --start scratch      # from random networks, 3 runs
    python studies/m2n2_digits.py --methods m2n2,ga --runs 1 --passes 1000

The networks have 19,210 parameters and read scikit-learn's digits; the search sees 1,437 of them,
the other 360 are the test. Natural niches (Abrantes, Lange & Tang, arXiv 2508.16204) run with and
without each of their parts, beside a genetic algorithm, MAP-Elites, a line search and CMA-ES on
the raw weights. A finished run is kept in ``runs/m2n2_digits`` and not made again. Tables, figures
and the numbers in them go to ``studies/m2n2_digits``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import optuna
import torch
from cmaes import SepCMA
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

import merge_optuna as mo

OUT = Path(__file__).with_suffix("")
RUNS = Path("runs/m2n2_digits")
DATA = "MERGE_OPTUNA_DATA"  # environment variable: a folder with pretrained_pair.npz
PAIR = ("digits_0_4", "digits_5_9")
SEED = 42  # of the first run
STD = 0.01  # of new weights and of mutations
POPULATION = 20

Vector: TypeAlias = NDArray[np.float32]
Curve: TypeAlias = list[tuple[int, float]]  # evaluations, test accuracy of the best so far


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
                raise SystemExit(f"--start given needs --data DIR or {DATA}: a folder with {PAIR}")
            pair = np.load(self.data / "pretrained_pair.npz")
            return [pair[name] for name in PAIR]
        torch.manual_seed(self.seed)
        networks = [new_network(), new_network()]
        if self.start == "made":
            for network, low in zip(networks, (True, False), strict=True):
                train(network, Digits.train().half(low))
        return [network.flat() for network in networks]


@dataclass(frozen=True)
class Result:
    """What one run has found; accuracies in %."""

    train: float
    test: float
    curve: Curve
    seconds: float
    evaluations: int


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


def evolve(task: Task) -> Result:
    """A search in an Optuna study, as for any other model."""
    return search(
        task, lambda space: space.sampler(seed=task.seed, **METHODS[task.method].options)
    )


def map_elites(task: Task) -> Result:
    """The best network for every pair of accuracies on two halves of the digits."""
    return search(
        task,
        lambda space: mo.samplers.MAPElitesSampler(
            space, seed=task.seed, **METHODS[task.method].options
        ),
    )


def search(task: Task, make_sampler: Callable[[Any], optuna.samplers.BaseSampler]) -> Result:
    """Crosses the two networks and their children until the passes are used up."""
    seeds = [
        mo.Checkpoint.from_module(Network(torch.tensor(flat)), name=name)
        for flat, name in zip(task.seeds, "ab", strict=True)
    ]
    space = mo.spaces.SplitSlerp(seeds, mutation_std=STARTS[task.start].mutation_std)
    digits, test = Digits.train(), Digits.test()
    objective = mo.MergeObjective(space, digits)
    study = optuna.create_study(
        study_name=f"{task.method}-{task.start}-{task.seed}",
        storage=None if task.storage == "memory" else mo.storage(task.storage),
        directions=objective.directions,
        sampler=make_sampler(space),
        load_if_exists=True,
    )
    described = with_halves(objective, digits)
    wanted = mo.remaining(study, len(seeds) + task.passes)  # the seeds are no passes
    began = time.perf_counter()
    study.optimize(described if task.method.startswith("map") else objective, n_trials=wanted)
    seconds = time.perf_counter() - began

    sources = {seed.name: seed for seed in seeds}
    curve: Curve = []
    best = -1.0
    for trial in study.get_trials(deepcopy=False):
        if trial.value is not None and trial.value > best:
            best = trial.value
            network = objective.engine.load(mo.recipe_of(study, trial.number, sources=sources))
            curve.append((max(0, trial.number - 1), test.accuracy(network)))
    return Result(100 * best, curve[-1][1], curve, seconds, wanted)


def with_halves(
    objective: mo.MergeObjective, digits: Digits
) -> Callable[[optuna.Trial], float | tuple[float, ...]]:
    """An objective that also says how good a network is on either half of the digits."""
    odd = digits.labels % 2 == 1

    def described(trial: optuna.Trial) -> float | tuple[float, ...]:
        value = objective(trial)
        trial.set_user_attr("odd", float(digits.right[odd].mean()))
        trial.set_user_attr("even", float(digits.right[~odd].mean()))
        return value

    return described


class Best:
    """The best weights seen in a search without a study."""

    def __init__(self) -> None:
        self.digits, self.test, self.network = Digits.train(), Digits.test(), Network()
        self.train, self.count, self.curve = -1.0, 0, Curve()
        self.began = time.perf_counter()

    def evaluate(self, flat: NDArray[Any]) -> float:
        """Training accuracy in %."""
        with torch.no_grad():
            new = torch.from_numpy(np.asarray(flat, dtype=np.float32))
            nn.utils.vector_to_parameters(new, self.network.parameters())
        value = self.digits.accuracy(self.network)
        self.count += 1
        if value > self.train:
            self.train = value
            self.curve.append((self.count, self.test.accuracy(self.network)))
        return value

    def result(self) -> Result:
        """What it has come to."""
        seconds = time.perf_counter() - self.began
        return Result(self.train, self.curve[-1][1], self.curve, seconds, self.count)


def cma_es(task: Task) -> Result:
    """CMA-ES on the raw weights, with a diagonal covariance: a full one would take 3 GB."""
    best = Best()
    engine = SepCMA(
        np.asarray(task.seeds[0], np.float64), STD, population_size=POPULATION, seed=task.seed
    )
    while best.count < task.passes:
        asked = [engine.ask() for _ in range(POPULATION)]
        engine.tell([(x, -best.evaluate(x)) for x in asked])
    return best.result()


def line_search(task: Task) -> Result:
    """Every point, in equal steps, on the arc between the two networks."""
    best = Best()
    a, b = (flat.astype(np.float64) for flat in task.seeds)
    omega = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    for t in np.linspace(0, 1, task.passes):
        best.evaluate((np.sin((1 - t) * omega) * a + np.sin(t * omega) * b) / np.sin(omega))
    return best.result()


def fixed(t: float) -> Callable[[Task], Result]:
    """One of the networks that a search begins with, or their average."""

    def evaluate(task: Task) -> Result:
        a, b = task.seeds
        best = Best()
        best.evaluate((1 - t) * a + t * b)
        return best.result()

    return evaluate


_PAIR = ("given", "made")
_MAP = {"descriptors": {"odd": (0, 1, 10), "even": (0, 1, 10)}}
METHODS = {
    "a": Method("network of 0 to 4", fixed(0.0), starts=_PAIR),
    "b": Method("network of 5 to 9", fixed(1.0), starts=_PAIR),
    "average": Method("their average", fixed(0.5), starts=_PAIR),
    "line_search": Method(
        "slerp, line search", line_search, published={"given": 58}, starts=_PAIR
    ),
    "cma_es": Method(
        "CMA-ES on the weights", cma_es, published={"scratch": 86}, starts=("scratch",)
    ),
    "ga": Method(
        "genetic algorithm",
        evolve,
        {"alpha": 0.0, "attraction": False},
        {"given": 52, "scratch": 68},
    ),
    "map_elites": Method("MAP-Elites", map_elites, _MAP, {"given": 62, "scratch": 60}),
    "no_crossover": Method(
        "M2N2, no crossover",
        evolve,
        {"crossover": False},
        {"scratch": 77},
        starts=("scratch",),
    ),
    "no_split": Method("M2N2, no split point", evolve, {"split_point": False}, {"given": 58}),
    "no_attraction": Method("M2N2, no attraction", evolve, {"attraction": False}, {"given": 66}),
    "m2n2": Method("M2N2", evolve, {}, {"given": 68, "scratch": 87}),
}


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
    speed = result.evaluations / result.seconds
    print(f"{task.start} {task.method} {task.run}: test {result.test:.1f} %, {speed:.0f}/s")


# -- Tables and figures -----------------------------------------------------------------------


def report(start: str, passes: int, out: Path) -> str:
    """Writes what is known about a start: JSON, two figures and a table, which is returned."""
    rows: dict[str, list[Result]] = {}
    for name, method in METHODS.items():
        places = sorted((RUNS / f"{start}-{passes}").glob(f"{name}-*.json"))
        if places and start in method.starts:
            rows[name] = [Result(**json.loads(place.read_text())) for place in places]
    out.mkdir(parents=True, exist_ok=True)
    numbers = {
        name: [json.dumps(result.__dict__) for result in results] for name, results in rows.items()
    }
    lines = [f'"{name}": [\n  ' + ",\n  ".join(runs) + "\n ]" for name, runs in numbers.items()]
    (out / f"{start}.json").write_text("{\n " + ",\n ".join(lines) + "\n}\n")

    title = f"{STARTS[start].title}, {passes:,} passes"
    curves = {
        METHODS[name].label: mean_curve(results, passes)
        for name, results in rows.items()
        if len(results[0].curve) > 1
    }
    if curves:
        (out / f"{start}.svg").write_text(svg(title, curves))
        plot(title, curves).write_html(out / f"{start}.html", include_plotlyjs="cdn")
    table = [
        f"## {title}\n",
        "accuracy in % | test, mean | lowest to highest | train, mean | paper | runs | per second",
        "--- | ---: | ---: | ---: | ---: | ---: | ---:",
    ]
    for name, results in rows.items():
        tests = [result.test for result in results]
        mean_train = np.mean([result.train for result in results])
        paper = METHODS[name].published.get("given" if start == "made" else start, "")
        speed = np.median([result.evaluations / result.seconds for result in results])
        table.append(
            f"{METHODS[name].label} | **{np.mean(tests):.1f}** | {min(tests):.1f} to "
            f"{max(tests):.1f} | {mean_train:.1f} | {paper} | {len(tests)} | "
            + (f"{speed:.0f}" if results[0].evaluations > 1 else "")
        )
    text = "\n".join(table) + "\n"
    (out / f"{start}.md").write_text(text + (f"\n![curves]({start}.svg)\n" if curves else ""))
    return text


def mean_curve(results: Sequence[Result], passes: int) -> Curve:
    """The mean over runs at 200 numbers of evaluations."""
    at = np.unique(np.geomspace(min(10, passes), passes, 200).astype(int))
    values = np.empty((len(results), len(at)))
    for row, result in zip(values, results, strict=True):
        counts = [count for count, _ in result.curve]
        tests = np.array([value for _, value in result.curve])
        row[:] = tests[np.maximum(np.searchsorted(counts, at, side="right") - 1, 0)]
    return [(int(x), float(y)) for x, y in zip(at, values.mean(axis=0), strict=True)]


AXES = ("evaluations", "test accuracy of the best on training digits, %")
COLOURS = ("#2a78d6", "#eb6834", "#1baf7a", "#8a63d2", "#c9a227", "#e34948", "#52606d")


def plot(title: str, curves: dict[str, Curve]) -> Any:
    """The curves as an interactive figure."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"title": title, "template": "plotly_white"})
    for (label, curve), colour in zip(reversed(curves.items()), COLOURS, strict=False):
        x, y = zip(*curve, strict=True)
        figure.add_scatter(x=x, y=y, name=label, line={"color": colour})
    figure.update_xaxes(type="log", title=AXES[0])
    figure.update_yaxes(title=AXES[1])
    return figure


def svg(title: str, curves: dict[str, Curve]) -> str:
    """The curves as a picture, which needs no browser with scripts and no further package."""
    width, height, left, right, top, bottom = 760, 440, 60, 190, 40, 50
    xs = [x for curve in curves.values() for x, _ in curve]
    ys = [y for curve in curves.values() for _, y in curve]
    low, high = 10 * np.floor(min(ys) / 10), 10 * np.ceil(max(ys) / 10)

    def across(x: float) -> float:
        share = np.log(x / min(xs)) / np.log(max(xs) / min(xs))
        return float(left + share * (width - left - right))

    def down(y: float) -> float:
        return float(height - bottom - (y - low) / (high - low) * (height - top - bottom))

    def text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{more}>{escape(words)}</text>'

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(left, 22, title, "start", ' font-size="15"'),
        text((left + width - right) / 2, height - 10, AXES[0]),
        text(16, height / 2, AXES[1], more=f' transform="rotate(-90 16 {height / 2:.0f})"'),
    ]
    for y in np.arange(low, high + 1, 10):
        path = f"M{left},{down(y):.1f}H{width - right}"
        lines += [
            f'<path d="{path}" stroke="#ddd"/>',
            text(left - 8, down(y) + 4, f"{y:.0f}", "end"),
        ]
    for power in range(10):
        if min(xs) <= 10**power <= max(xs):
            lines.append(text(across(10**power), height - bottom + 18, f"{10**power:,}"))
    ends = sorted(((curve[-1][1], label) for label, curve in curves.items()), reverse=True)
    places: list[float] = []  # of the labels, which must not overlap
    for value, _ in ends:
        places.append(max([down(value) + 4, *(place + 15 for place in places[-1:])]))
    for (label, curve), colour in zip(reversed(curves.items()), COLOURS, strict=False):
        points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in curve)
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        value = curve[-1][1]
        y = places[ends.index((value, label))]
        words = f"{label} {value:.1f}"
        lines.append(text(width - right + 8, y, words, "start", f' fill="{colour}"'))
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--start", choices=STARTS, default="made", help="(%(default)s)")
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get(DATA),
        help=f"folder with pretrained_pair.npz, for --start given; or in {DATA}",
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
