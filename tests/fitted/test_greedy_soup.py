"""Greedy soup against the loop of the paper, by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, EvaluationError
from tests import toys
from tests.trained import Task, task

__all__ = ["task"]


def net(values: list[float]) -> nn.Module:
    module = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([values]))
    return module


def experts(rows: list[list[float]]) -> list[mo.Checkpoint]:
    return [mo.Checkpoint.from_module(net(row), name=f"e{i}") for i, row in enumerate(rows)]


def by_hand(rows: list[list[float]], score: Callable[[np.ndarray], float]) -> list[int]:
    """Recipe 1 of the paper: which models are kept, in the order in which they join."""
    weights = [np.float32(row) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: score(weights[i]), reverse=True)
    kept = [order[0]]
    for i in order[1:]:
        with_it = np.mean([weights[j] for j in [*kept, i]], axis=0)
        if score(with_it) >= score(np.mean([weights[j] for j in kept], axis=0)):
            kept.append(i)
    return kept


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(6))
def test_against_the_loop(seed: int, direction: str) -> None:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=5)
    rows = (target + rng.normal(size=(6, 5))).tolist()
    sign = 1 if direction == "maximize" else -1
    wanted = by_hand(rows, lambda w: -float(((w - target) ** 2).sum()))

    def distance(model: nn.Module) -> float:
        return -sign * float(((model.weight.detach()[0].numpy() - target) ** 2).sum())

    models = experts(rows)
    evaluator = mo.evaluators.Function(distance, direction=direction)
    soup = mo.greedy_soup(models, evaluator)
    assert soup == mo.recipes.linear([models[i] for i in wanted])


def test_cases_are_not_all_alike() -> None:
    """The loop above keeps some, and not always the same number."""
    sizes = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        target = rng.normal(size=5)
        rows = (target + rng.normal(size=(6, 5))).tolist()
        sizes.add(len(by_hand(rows, lambda w, t=target: -float(((w - t) ** 2).sum()))))
    assert len(sizes) > 1
    assert max(sizes) < 6


def test_an_equal_score_joins_and_a_worse_one_does_not() -> None:
    """Scores of e0, e1, e2 alone: 1, 1, 0; of their averages: 1 while the first entry is 1."""
    models = experts([[1.0, 0.0], [1.0, 8.0], [0.0, 0.0]])
    soup = mo.greedy_soup(models, lambda model: float(model.weight[0, 0] == 1))
    assert soup.models == tuple(models[:2])


def test_2n_minus_1_evaluations() -> None:
    seen = []
    mo.greedy_soup(experts([[float(i)] for i in range(5)]), lambda m: seen.append(1) or 0.0)
    assert len(seen) == 2 * 5 - 1


def test_nan_never_joins() -> None:
    models = experts([[1.0], [2.0], [4.0]])

    def score(model: nn.Module) -> float:
        w = float(model.weight)
        return float("nan") if w in (1.0, 3.0) else w  # e0 alone, and the mean of e1 and e2

    assert mo.greedy_soup(models, score).models == (models[2],)
    with pytest.raises(EvaluationError, match="No expert has a score"):
        mo.greedy_soup(models, lambda model: float("nan"))


def test_trained_models(task: Task) -> None:
    """The soup is no worse than the best expert, and can be written."""
    _, a, b = task.checkpoints()
    evaluator = mo.evaluators.Classification(task.dev)
    soup = mo.greedy_soup([a, b], evaluator)
    objective = mo.MergeObjective(task.recipe(), evaluator)
    alone = [objective.score(m) for m in (a, b)]
    average = objective.score(mo.recipes.linear([a, b]))
    assert objective.score(soup) == max(*alone, average)
    assert set(soup.models) == ({a, b} if average >= max(alone) else {[a, b][np.argmax(alone)]})


def test_what_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    scored = []

    def score(model: nn.Module) -> float:
        scored.append(model)
        return 0.0

    other = mo.Checkpoint.from_module(net([1.0, 2.0]), name="other")
    with pytest.raises(CheckpointMismatch):
        mo.greedy_soup([*experts([[1.0]]), other], score)

    class Two:
        directions = ("maximize", "minimize")
        metric_names = ("a", "b")

        def __len__(self) -> int:
            return 1

        def __call__(self, model: nn.Module) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            yield np.zeros(1, np.int64), np.zeros((1, 2))

        def value(self, scores: np.ndarray) -> tuple[float, ...]:
            return tuple(scores[0])

    with pytest.raises(EvaluationError, match="one objective, not 2: a, b"):
        mo.greedy_soup(experts([[1.0]]), Two())
    llama = mo.Checkpoint(toys.save(toys.llama(), tmp_path / "llama"), name="llama")
    with pytest.raises(EvaluationError):  # tokens, not classes
        mo.greedy_soup(
            [llama], mo.evaluators.Classification((torch.ones(2, 3, dtype=torch.long), [0, 1]))
        )
    assert not scored
