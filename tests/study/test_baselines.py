"""Baselines: right, scored once, kept in the study, and shown beside its result."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

import merge_optuna as mo
from tests import toys
from tests.trained import Task, read_rows, right, write_rows

Batch = tuple[Any, Any]

optuna.logging.set_verbosity(optuna.logging.ERROR)

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


# -- what they are ----------------------------------------------------------------------------


def states(task: Task) -> list[dict[str, Tensor]]:
    load = AutoModelForSequenceClassification.from_pretrained
    return [load(folder).state_dict() for folder in task.folders]


def test_each_scores_what_it_scores_by_hand(task: Task, tmp_path: Path) -> None:
    """Against weights that are merged by hand and texts that are read one by one."""
    rows = read_rows(task.dev)[:40]
    base, a, b = states(task)
    model = AutoModelForSequenceClassification.from_pretrained(task.folders[0]).eval()

    def scores(state: dict[str, Tensor]) -> np.ndarray:
        model.load_state_dict(state)
        return right(model, rows)

    def plus(scale: float) -> dict[str, Tensor]:
        return {n: t + scale * ((a[n] - t) + (b[n] - t)) for n, t in base.items()}

    half = {n: (a[n] + b[n]) / 2 for n in base}
    expected = {
        "base": scores(base),
        "source a": scores(a),
        "source b": scores(b),
        "uniform average": scores(half),
        "task_arithmetic, untuned": scores(plus(0.5)),  # the middle of [0, 1]
        **{name: scores(plus(x)) for name, x in zip(GRID, LAMBDAS, strict=True)},
    }
    best = max(("source a", "source b"), key=lambda name: expected[name].mean())
    better = expected["uniform average"].mean() >= expected[best].mean()
    expected["greedy soup"] = expected["uniform average"] if better else expected[best]

    dev = mo.evaluators.Classification(write_rows(tmp_path / "dev.jsonl", rows), batch_size=20)
    objective = mo.MergeObjective(task.recipe(), dev)
    found = mo.baselines(objective, progress=False)
    assert [row.name for row in found] == list(expected)
    for row in found:
        assert row.scores is not None
        assert (row.scores == expected[row.name]).mean() > 0.97, "rounding may turn one text"
        assert row.value == pytest.approx(expected[row.name].mean(), abs=0.03)
        assert row.recipe is not None
        assert objective.score(row.recipe) == row.value
        assert mo.Recipe.from_yaml(row.recipe.to_yaml()) == row.recipe
    tuned = {row.name for row in found if row.tuned}
    assert tuned == {*GRID, "greedy soup"}
    assert {row.examples for row in found} == {40}, "the members of the soup are known"


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_soup_is_the_textbook_one(direction: str) -> None:
    sign = 1 if direction == "maximize" else -1

    def evaluate(model: nn.Module) -> float:
        return -sign * abs(weight(model) - 2.1)

    evaluator = mo.evaluators.Function(evaluate, direction=direction)
    values = [0.0, 1.0, 2.0, 4.0]
    objective = around(*values, evaluate=evaluator)
    found = mo.baselines(objective, progress=False)["greedy soup"]
    kept: list[float] = []
    for value in sorted(values[1:], key=lambda v: abs(v - 2.1)):
        if not kept or abs(np.mean([*kept, value]) - 2.1) <= abs(np.mean(kept) - 2.1):
            kept.append(value)
    assert found.value == pytest.approx(-sign * abs(np.mean(kept) - 2.1), rel=1e-6)
    names = dict(zip((1.0, 2.0, 4.0), "abc", strict=True))
    assert found.recipe is not None
    assert [m.name for m in found.recipe.models] == [names[v] for v in kept]
    expected = mo.greedy_soup(objective.space.models, evaluator)  # type: ignore[union-attr]
    assert found.recipe.digest == expected.digest
    assert found.examples == 2, "the members alone were known"


def names(objective: mo.MergeObjective) -> list[str]:
    found = mo.baselines(objective, progress=False)
    assert all(row.reason is None for row in found)
    return [row.name for row in found]


def test_what_they_are_in_every_space() -> None:
    base, a, b = linears(0, 1, 2)
    sources = ["source a", "source b", "uniform average"]
    whole = ["base", *sources]
    spaces = mo.spaces
    free = mo.recipes.ties(base, [a, b], density=mo.free(0.1, 1))
    for space, expected in (
        (free, [*whole, "ties, untuned", *GRID, "greedy soup"]),
        (
            mo.recipes.linear([a, b], weight=mo.free(0, 1)),
            [*sources, "linear, untuned", "greedy soup"],
        ),
        (
            mo.recipes.linear([mo.recipes.ties(base, [a, b]), b], weight=mo.free(0, 1)),
            [*whole, "linear, untuned", *GRID, "greedy soup"],
        ),
        (
            mo.recipes.task_arithmetic(base, [a], weight=mo.free(0, 1)),
            ["base", "source a", "task_arithmetic, untuned", *GRID],
        ),
        (spaces.AffineSwarm(base, [a, b]), [*whole, *GRID, "greedy soup"]),
        (spaces.AffineSwarm(base, [a, b], sparsified=False), [*whole, *GRID, "greedy soup"]),
        (spaces.ParticleSwarm(base, [a, b]), [*whole, *GRID, "greedy soup"]),
        (spaces.SplitSlerp([a, b]), [*sources, "greedy soup"]),
        (
            spaces.DifferentialCrossover([a, b, base], merger=mo.recipes.linear([a, b, base])),
            [*sources[:2], "source base", "uniform average", "linear, untuned", "greedy soup"],
        ),
        (
            lambda trial: free.bind({"density/a": 0.5, "density/b": 0.5}),
            [*whole, *GRID, "greedy soup"],
        ),
    ):
        assert names(mo.MergeObjective(space, weight)) == expected  # type: ignore[arg-type]


def test_of_a_path_and_its_models(tmp_path: Path) -> None:
    """Its models may have other depths, and are scored as they are; so they have no average."""
    models = []
    for seed, layers in ((0, 2), (1, 3)):
        module = toys.llama(seed, layers=layers)
        models.append(mo.Checkpoint.from_module(module, name="ab"[seed]))
    ids = torch.arange(12)[None]

    def logit(model: nn.Module) -> float:
        return float(model(ids).logits[0, -1, 3])

    found = mo.baselines(mo.MergeObjective(mo.spaces.LayerPath(models), logit), progress=False)
    for row, seed, layers in ((found["source a"], 0, 2), (found["source b"], 1, 3)):
        assert row.value == pytest.approx(logit(toys.llama(seed, layers=layers)), rel=1e-5)
    assert found["path, untuned"].value == pytest.approx(found["source a"].value, rel=1e-4)
    reason = found["uniform average"].reason
    assert reason is not None
    assert reason.startswith("CheckpointMismatch: ")
    soup = found["greedy soup"]
    assert soup.reason is None or "CheckpointMismatch" in soup.reason


def test_what_merges_leave_out_is_the_same_for_all() -> None:
    """Excluded tensors come from the base, in the average and the soup too."""
    trio = [toys.bert(seed) for seed in range(3)]
    base, *experts = (
        mo.Checkpoint.from_module(m, name=n) for m, n in zip(trio, ("base", "a", "b"), strict=True)
    )
    space = mo.recipes.ties(base, experts, density=mo.free(0.1, 1), exclude=["classifier"])

    def head(model: nn.Module) -> float:
        return float(model.classifier.weight.sum())  # type: ignore[operator, union-attr, arg-type]

    found = mo.baselines(mo.MergeObjective(space, head), progress=False)
    for row in found:
        own = {"source a": trio[1], "source b": trio[2]}.get(row.name, trio[0])
        if row.name != "greedy soup":
            assert row.value == pytest.approx(head(own), rel=1e-5), row.name
    average = found["uniform average"].recipe
    assert average is not None
    merged = mo.Engine().load(average).state_dict()
    name = "bert.encoder.layer.0.output.dense.weight"
    by_hand = (trio[1].state_dict()[name] + trio[2].state_dict()[name]) / 2
    torch.testing.assert_close(merged[name], by_hand)


def test_of_models_with_heads_that_differ() -> None:
    """An expert whose head is another cannot be put in place: it is scored with the base's."""
    trio = [toys.bert(0), toys.bert(1, labels="abc"), toys.bert(2, labels="abcd")]
    base, *experts = (
        mo.Checkpoint.from_module(m, name=n) for m, n in zip(trio, ("base", "a", "b"), strict=True)
    )
    space = mo.recipes.ties(base, experts, density=mo.free(0.1, 1))
    ids = torch.arange(5, 13)[None]

    def logit(model: nn.Module) -> float:
        return float(model(ids).logits[0, 1])

    found = mo.baselines(mo.MergeObjective(space, logit), progress=False)
    assert all(row.reason is None for row in found)
    mixed = copy.deepcopy(trio[1].state_dict())
    mixed |= {n: t for n, t in trio[0].state_dict().items() if n.startswith("classifier")}
    reference = toys.bert(0)
    reference.load_state_dict(mixed)
    assert found["source a"].value == pytest.approx(logit(reference), rel=1e-5)
