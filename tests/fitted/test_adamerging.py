"""AdaMerging: its entropy, its gradient, and what it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, EvaluationError, RecipeError
from merge_optuna.evaluators import Arguments
from merge_optuna.fitted._adamerging import Merged
from merge_optuna.recipes import Depth
from tests import toys
from tests.trained import Task, read_rows, task

__all__ = ["task"]

LENGTHS = [7, 4, 9, 2]


def sentences(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 64, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    return {"input_ids": ids, "attention_mask": mask}


def entropy(model: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Mean over examples, or over the tokens of all of them, one sentence at a time."""
    found = []
    for ids, length in zip(batch["input_ids"], LENGTHS, strict=True):
        with torch.no_grad():
            logits = model(input_ids=ids[:length].unsqueeze(0)).logits[0]
        p = torch.softmax(logits.double(), -1).reshape(-1, logits.shape[-1])
        found += (-(p * p.log()).sum(-1)).tolist()
    return float(np.mean(found))


@pytest.mark.parametrize("make", [toys.bert, toys.llama, toys.gpt2])
@pytest.mark.parametrize("per", ["model", "layer", mo.depth(2)])
def test_entropy_is_that_of_the_recipe(
    make: Callable[[], nn.Module], per: str | Depth, tmp_path: Path
) -> None:
    """At any coefficients the live function and the merged checkpoint agree."""
    base, *experts = toys.family(tmp_path, make, experts=2, scale=0.1)
    plain = mo.recipes.task_arithmetic(base, experts)
    grouping = plain.alignment.layout.grouping(per)
    merged = Merged(plain, grouping, mo.Engine())
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.rand(2, len(grouping.labels), generator=generator)
    recipe = mo.recipes.task_arithmetic(
        base, experts, weight=[mo.per_group(row, per=per) for row in coefficients.tolist()]
    )
    wanted = entropy(mo.Engine().load(recipe), sentences())
    found = merged.entropy(coefficients, Arguments((), sentences()), None)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("make", [toys.bert, toys.gpt2])
def test_gradient_against_finite_differences(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    base, *experts = toys.family(tmp_path, make, experts=2, scale=0.1)
    plain = mo.recipes.task_arithmetic(base, experts)
    grouping = plain.alignment.layout.grouping("layer")
    merged = Merged(plain, grouping, mo.Engine(dtype="float64"))
    coefficients = torch.full(
        (2, len(grouping.labels)), 0.4, dtype=torch.float64, requires_grad=True
    )
    inputs = Arguments((), sentences())
    gradient = torch.autograd.grad(merged.entropy(coefficients, inputs, None), coefficients)[0]
    assert (gradient != 0).all()
    step = 1e-5
    for place in np.ndindex(*coefficients.shape):
        ends = []
        for sign in (1, -1):
            moved = coefficients.detach().clone()
            moved[place] += sign * step
            ends.append(float(merged.entropy(moved, inputs, None)))
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("per", ["model", "layer"])
def test_entropy_decreases(task: Task, per: str) -> None:
    base, *experts = task.checkpoints()
    merged = mo.adamerging(base, experts, task.dev, per=per, steps=16, lr=0.03, batch_size=40)
    assert merged.method == "task_arithmetic"
    assert merged.slots == ()
    start = mo.recipes.task_arithmetic(base, experts, weight=0.3)
    before, after = (mean_entropy(mo.Engine().load(recipe), task) for recipe in (start, merged))
    assert after < 0.95 * before
    assert mo.Recipe.from_yaml(merged.to_yaml()).digest == merged.digest
    weight = merged.values["weight"][0]
    assert isinstance(weight, float) if per == "model" else len(weight.values) == 4


def mean_entropy(model: nn.Module, task: Task) -> float:
    """Over the whole dev set, which has texts of one length."""
    texts = [row["text"] for row in read_rows(task.dev)]
    tokenizer = AutoTokenizer.from_pretrained(task.root / "a")
    with torch.no_grad():
        logits = model(**tokenizer(texts, return_tensors="pt")).logits
    p = torch.softmax(logits.double(), -1)
    return float((-(p * p.log()).sum(-1)).mean())


def test_it_is_the_same_every_time(task: Task) -> None:
    base, *experts = task.checkpoints()
    runs = [mo.adamerging(base, experts, task.dev, steps=2, batch_size=8) for _ in range(2)]
    assert runs[0] == runs[1]


def test_adam_by_hand(tmp_path: Path) -> None:
    """The first step of Adam moves each coefficient by lr against the sign of its gradient."""
    base, *experts = toys.family(tmp_path, toys.bert, experts=2, scale=0.1)
    plain = mo.recipes.task_arithmetic(base, experts)
    merged = Merged(plain, plain.alignment.layout.grouping("model"), mo.Engine())
    start = torch.full((2, 1), 0.3, requires_grad=True)
    value = merged.entropy(start, Arguments((), sentences()), None)
    gradient = torch.autograd.grad(value, start)[0].reshape(-1)
    learned = mo.adamerging(base, experts, [sentences()], per="model", steps=1, lr=0.01)
    wanted = [0.3 - 0.01 * float(torch.sign(g)) for g in gradient]
    assert learned.values["weight"] == pytest.approx(tuple(wanted), abs=1e-5)


def test_tasks_have_their_own_heads(tmp_path: Path) -> None:
    """Experts with heads of different sizes: the encoder is merged, each task keeps its head."""
    base = toys.bert(labels=("x", "y"))
    encoders = [toys.noised(base, i, 0.1) for i in (1, 2)]
    labels = [("a", "b", "c"), ("d", "e", "f", "g", "h")]
    experts = []
    for name, encoder, own in zip("pq", encoders, labels, strict=True):
        model = toys.bert(3, labels=own)
        model.bert.load_state_dict(encoder.bert.state_dict())
        experts.append(mo.Checkpoint(toys.save(model, tmp_path / name), name=name))
    start = mo.Checkpoint(toys.save(base, tmp_path / "base"), name="base")
    ids = sentences()["input_ids"]
    tasks = [
        mo.evaluators.Classification((ids, [0] * len(ids)), head=expert) for expert in experts
    ]
    learned = mo.adamerging(start, experts, tasks, per="model", steps=5, lr=0.05)

    def total(recipe: mo.Recipe) -> float:
        model, found = mo.Engine().load(recipe), 0.0
        for expert in experts:
            own = mo.Engine().load(expert)
            own.bert.load_state_dict(model.bert.state_dict())
            with torch.no_grad():
                p = torch.softmax(own(ids).logits.double(), -1)
            found += float((-(p * p.log()).sum(-1)).mean())
        return found

    assert total(learned) < total(mo.recipes.task_arithmetic(start, experts, weight=0.3))
    assert "classifier.weight" in learned.alignment.copied


def test_what_is_refused(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, toys.bert, experts=2)
    data = [sentences()]
    for steps, lr in ((0, 0.1), (1, 0.0)):
        with pytest.raises(RecipeError, match="steps must be at least 1 and lr above 0"):
            mo.adamerging(base, experts, data, steps=steps, lr=lr)
    with pytest.raises(RecipeError, match="per must be"):
        mo.adamerging(base, experts, data, per="block")
    with pytest.raises(EvaluationError, match="The data is empty"):
        mo.adamerging(base, experts, [])
    llama = mo.Checkpoint.from_module(toys.llama(), name="llama")
    with pytest.raises(CheckpointMismatch):
        mo.adamerging(base, [llama], data)
    base, *experts = toys.family(tmp_path / "vit", toys.vit, experts=2)
    with pytest.raises(EvaluationError, match="no finite gradient at step 0"):
        mo.adamerging(base, experts, torch.full((2, 3, 8, 8), torch.nan))
