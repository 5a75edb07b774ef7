"""Small modules to evolve, and evaluators that score them example by example."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import merge_optuna as mo
from merge_optuna.evaluators import Evaluator


class Net(nn.Module):
    """Two layers and a scalar, in the order of the flat model; 74 parameters by default."""

    def __init__(self, seed: int, width: int = 8, std: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * std)

        self.w1 = drawn(4, width)
        self.b1 = drawn(width)
        self.w2 = drawn(width, 4)
        self.b2 = drawn(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.w1 + self.b1) @ self.w2 + self.b2.sum()


def nets(count: int = 3, *, width: int = 8, std: float = 1.0) -> list[mo.Checkpoint]:
    return [
        mo.Checkpoint.from_module(Net(seed, width, std), name=f"net{seed}")
        for seed in range(count)
    ]


def flat(model: mo.Checkpoint | nn.Module) -> NDArray[np.float64]:
    """The flat model, (D,) float64."""
    if isinstance(model, mo.Checkpoint):
        tensors = [model.tensor(name) for name in model.names()]
    else:
        tensors = list(model.state_dict().values())
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


def scores_of(x: NDArray[np.float64], examples: int = 40) -> NDArray[np.float64]:
    """(examples,) 0 or 1 for any flat model: smooth in it, and no example like the other."""
    rng = np.random.default_rng(5)
    directions = rng.normal(size=(examples, x.size)) / np.sqrt(x.size)
    return (np.sin(2 * directions @ x + rng.uniform(0, 6, examples)) > 0).astype(np.float64)


class Waves(Evaluator):
    """Scores the weights themselves, by :func:`scores_of`."""

    directions = ("maximize",)
    metric_names = ("solved",)

    def __init__(self, examples: int = 40, *, smooth: bool = False) -> None:
        self.examples = examples
        self.smooth = smooth

    def __len__(self) -> int:
        return self.examples

    def __call__(
        self, model: nn.Module
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        yield np.arange(self.examples), scores_of(flat(model), self.examples)

    def value(self, scores: NDArray[np.float64]) -> float:
        return float(np.mean(scores))
