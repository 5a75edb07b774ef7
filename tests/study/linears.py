"""The smallest searches: merges of linear layers whose weights are all one number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

import merge_optuna as mo

Batch = tuple[Any, Any]
LAMBDAS = [i / 10 for i in range(1, 11)]
GRID = [f"task arithmetic, λ = {x:g}" for x in LAMBDAS]


def linears(*values: float) -> list[mo.Checkpoint]:
    """Modules in memory whose weights are all one number: base, a, b, ..."""
    made = []
    for name, value in zip(("base", "a", "b", "c"), values, strict=False):
        module = nn.Linear(4, 4, bias=False)
        nn.init.constant_(module.weight, value)
        made.append(mo.Checkpoint.from_module(module, name=name))
    return made


def weight(model: nn.Module) -> float:
    return float(model.weight.mean())  # type: ignore[operator, union-attr, arg-type]


def around(*values: float, evaluate: Any = weight) -> mo.MergeObjective:
    """A search of two weights of task vectors."""
    base, *experts = linears(*values)
    return mo.MergeObjective(
        mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 2)), evaluate
    )


class Near:
    """Four examples: how near the weights are to numbers; larger is better."""

    directions, metric_names = ("maximize",), ("nearness",)

    def __init__(self, *numbers: float) -> None:
        self.numbers = np.array(numbers or (0.0, 1.0, 2.0, 3.0))
        self.calls: list[float] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        self.calls.append(weight(model))
        for ids in np.array_split(np.arange(len(self)), 2):
            yield ids, -np.abs(self.numbers[ids] - weight(model))

    def value(self, scores: np.ndarray) -> float:
        return float(scores.mean())
