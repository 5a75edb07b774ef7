"""A search with two objectives: one expert knows the first two topics, the other the last two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

import merge_optuna as mo
from tests.trained import TOPICS, Row, Task, read_rows, right


class Halves(mo.evaluators.Classification):
    """Right answers to art and food, and errors in law and war."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.dev, batch_size=40)
        two = ("maximize", "minimize"), ("right", "errors")
        self.directions, self.metric_names = two  # type: ignore[assignment]
        self.first = np.array([is_first(row) for row in read_rows(task.dev)])

    def __call__(self, model: nn.Module) -> Iterator[Any]:
        for ids, scores in super().__call__(model):
            yield ids, np.stack([scores, self.first[ids]], axis=1)

    def value(self, scores: np.ndarray) -> Any:
        was_right, first = scores[:, 0], scores[:, 1] == 1
        return float(was_right[first].mean()), float(1 - was_right[~first].mean())


def is_first(row: Row) -> bool:
    return row["label"] in TOPICS[:2]


def by_hand(model: nn.Module, data: list[Row]) -> list[float]:
    """The values of a model, text by text."""
    answers, first = right(model, data), np.array([*map(is_first, data)])
    return [float(answers[first].mean()), float(1 - answers[~first].mean())]


def objective(task: Task) -> mo.MergeObjective:
    return mo.MergeObjective(task.recipe(), Halves(task))
