"""How many evaluations of a small network a search by M2N2 records per second.

    python benchmarks/evolution.py [--noise 0.01]

Side by side, in turns, on one thread: the method as a plain loop that records nothing; the same
loop telling Optuna five parameters and the packed scores of every evaluation; and this package's
objective, space and sampler. Prints medians over the rounds; --json writes all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.storages import BaseStorage
from sklearn.datasets import load_digits
from torch import Tensor, nn

import merge_optuna as mo

Vector = NDArray[Any]
PEERS = ("loop", "ask and tell", "merge_optuna")


class Digits:
    """Accuracy on four fifths of scikit-learn's digits, as an evaluator."""

    directions = ("maximize",)
    metric_names = ("accuracy",)

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        size = len(images) * 4 // 5
        self.images = torch.tensor(images[:size], dtype=torch.float32)
        self.labels = torch.tensor(labels[:size])

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, model: nn.Module) -> Iterator[tuple[Vector, Vector]]:
        """See the protocol."""
        with torch.inference_mode():
            right = model(self.images).argmax(1) == self.labels
        yield np.arange(len(self)), right.double().numpy()

    def value(self, scores: Vector) -> float:
        """Accuracy."""
        return float(scores.mean())


class Network(nn.Module):
    """64 → 256 → 10 with weights stored in × out: 19,210 parameters."""

    def __init__(self) -> None:
        super().__init__()
        shapes = (64, 256), (256,), (256, 10), (10,)
        self.w1, self.b1, self.w2, self.b2 = (
            nn.Parameter(torch.randn(shape) / shape[0] ** 0.5) for shape in shapes
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        hidden = torch.relu_(torch.addmm(self.b1, images, self.w1))
        return torch.addmm(self.b2, hidden, self.w2)


def trained(data: Digits, digits: range) -> Network:
    """A network that knows some of the digits."""
    network, known = Network(), torch.isin(data.labels, torch.tensor(digits))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(data.images[known]), data.labels[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


class Loop:
    """M2N2 on flat vectors: an archive of 20, alpha 1, attraction, a split point."""

    def __init__(self, data: Digits, seeds: list[Network], noise: float) -> None:
        self.data, self.noise, self.rng = data, noise, np.random.default_rng(0)
        self.network = Network().requires_grad_(False)
        self.weights, self.scores, self.size = np.empty((21, 19_210), np.float32), np.empty(0), 0
        for seed in seeds:
            flat = nn.utils.parameters_to_vector(seed.parameters()).detach().numpy()
            self.insert(flat, self.score(flat))

    def run(self, evaluations: int) -> None:
        """So many evaluations."""
        for _ in range(evaluations):
            child = self.child()
            self.insert(child, self.score(child))

    def child(self) -> Vector:
        """A child of two members."""
        scores = self.scores[: self.size]
        worth = self.worth(scores)
        a = self.draw((scores * worth).sum(1))
        gains = (np.maximum(0, scores - scores[a]) * worth).sum(1)
        gains[a] = 0
        b = self.draw(gains)
        split, ratio = self.rng.random(2)
        x, y = self.weights[a], self.weights[b]
        child, here = np.empty_like(x), int(split * len(x))
        xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
        omega = np.arccos(np.clip(xy / np.sqrt(xx * yy), -1, 1))
        for part, t in ((slice(here), ratio), (slice(here, None), 1 - ratio)):
            f, g = 1 - t, t
            if np.sin(omega) > 1e-6:
                f, g = (np.sin(s * omega) / np.sin(omega) for s in (f, g))
            child[part] = np.float32(f) * x[part] + np.float32(g) * y[part]
        if self.noise:
            child += self.rng.standard_normal(len(x), np.float32) * np.float32(self.noise)
        return child

    def score(self, flat: Vector) -> Vector:
        """Whether each image is recognised."""
        nn.utils.vector_to_parameters(torch.from_numpy(flat), self.network.parameters())
        return next(self.data(self.network))[1]

    def insert(self, weights: Vector, scores: Vector) -> None:
        """The newcomer, in place of the worst one."""
        if not self.size:
            self.scores = np.empty((21, len(scores)))
        self.weights[self.size], self.scores[self.size] = weights, scores
        self.size += 1
        if self.size > 20:
            worst = int(np.argmin((self.scores * self.worth(self.scores)).sum(1)))
            self.size -= 1
            self.weights[worst], self.scores[worst] = weights, scores

    @staticmethod
    def worth(scores: Vector) -> Vector:
        """What every image is worth: c / z."""
        z = scores.sum(0)
        return scores.max(0) / np.where(z == 0, 1, z)

    def draw(self, weights: Vector) -> int:
        """A number with these chances."""
        sums = np.cumsum(weights if weights.any() else np.ones_like(weights))
        return int(np.searchsorted(sums, self.rng.random() * sums[-1], side="right"))


class Told(Loop):
    """The same loop, recorded in an Optuna study."""

    def __init__(
        self, data: Digits, seeds: list[Network], noise: float, storage: BaseStorage
    ) -> None:
        super().__init__(data, seeds, noise)
        self.study = optuna.create_study(
            storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler()
        )

    def run(self, evaluations: int) -> None:
        """So many evaluations."""
        for _ in range(evaluations):
            trial = self.study.ask()
            trial.suggest_categorical("origin", ["a", "b", "child"])
            trial.suggest_int("parent_a", 0, 2**31 - 1)
            trial.suggest_int("parent_b", 0, 2**31 - 1)
            trial.suggest_float("split", 0, 1)
            trial.suggest_float("ratio", 0, 1)
            child = self.child()
            scores = self.score(child)
            mo.set_scores(trial, scores)
            self.study.tell(trial, float(scores.mean()))
            self.insert(child, scores)


class Ours:
    """The search as a user of this package writes it."""

    def __init__(
        self, data: Digits, seeds: list[Network], noise: float, storage: BaseStorage
    ) -> None:
        models = [
            mo.Checkpoint.from_module(seed, name=name)
            for name, seed in zip("ab", seeds, strict=True)
        ]
        space = mo.spaces.SplitSlerp(models, mutation_std=noise)
        self.objective = mo.MergeObjective(space, data)
        self.study = optuna.create_study(
            storage=storage, direction="maximize", sampler=space.sampler(seed=0)
        )

    def run(self, evaluations: int) -> None:
        """So many evaluations."""
        self.study.optimize(self.objective, n_trials=evaluations)


def measure(options: argparse.Namespace, url: str | None) -> dict[str, list[float]]:
    """Evaluations per second of each peer in each round."""

    def storage() -> BaseStorage:
        if url is None:
            return optuna.storages.InMemoryStorage()
        return mo.storage(url)

    torch.manual_seed(0)
    data = Digits()
    seeds = [trained(data, digits) for digits in (range(5), range(5, 10))]
    noise = options.noise
    peers: list[Callable[[int], None]] = [
        Loop(data, seeds, noise).run,
        Told(data, seeds, noise, storage()).run,
        Ours(data, seeds, noise, storage()).run,
    ]
    for run in peers:  # compiles the kernels, fills the archive
        run(max(options.filled, 50))
    rates: dict[str, list[float]] = {name: [] for name in PEERS}
    for _ in range(options.rounds):
        for name, run in zip(PEERS, peers, strict=True):
            began = time.perf_counter()
            run(options.evaluations)
            rates[name].append(options.evaluations / (time.perf_counter() - began))
    return rates


def main() -> None:
    """Measures in memory and in a journal file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise", type=float, default=0.0, help="mutation_std; 0: none")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--evaluations", type=int, default=200, help="in a round")
    parser.add_argument("--filled", type=int, default=300, help="evaluations before the first")
    parser.add_argument("--storages", nargs="+", default=["memory", "journal"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    results = {}
    with TemporaryDirectory() as folder:
        for kind in options.storages:
            url = f"journal:///{folder}/log" if kind == "journal" else None
            rates = results[kind] = measure(options, url)
            of_loop = np.median(np.divide(rates["merge_optuna"], rates["loop"]))
            of_told = np.median(np.divide(rates["merge_optuna"], rates["ask and tell"]))
            medians = "  ".join(f"{name} {np.median(rates[name]):.0f}" for name in PEERS)
            print(f"{kind:8} per second: {medians}; of loop {of_loop:.2f}, of told {of_told:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"load": os.getloadavg(), "rates": results}, indent=1))


if __name__ == "__main__":
    main()
