"""What one trial costs, against clocks and sizes that are known."""

from __future__ import annotations

import mmap
import re
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, InfeasibleRecipe
from merge_optuna.study import rehearse
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024


def test_seconds(task: Task) -> None:
    loads: list[float] = []
    evaluations: list[float] = []

    class Slow(mo.Engine):
        """Refills in 0.5 s for the first time."""

        def load(self, recipe: mo.Recipe, **options: str) -> nn.Module:
            began = time.perf_counter()
            time.sleep(0 if loads else 0.5)
            model = super().load(recipe, **options)
            loads.append(time.perf_counter() - began)
            return model

    def evaluate(model: nn.Module) -> float:
        began = time.perf_counter()
        time.sleep(0.2)
        evaluations.append(time.perf_counter() - began)
        return 1.0

    objective = mo.MergeObjective(task.recipe(), evaluate)
    objective.engine = Slow()
    began = time.perf_counter()
    measured = rehearse(objective)
    whole = time.perf_counter() - began
    assert (len(loads), len(evaluations)) == (2, 1)
    # Each is at least what it is made of, and nothing is counted twice.
    assert measured.seconds_first_merge >= loads[0]
    assert measured.seconds_merge >= loads[1]
    assert measured.seconds_evaluate >= evaluations[0]
    parts = vars(measured)
    assert sum(parts[name] for name in parts if name.startswith("seconds_")) <= whole
    once = measured.seconds_first_merge + measured.seconds_evaluate
    each = measured.seconds_merge + measured.seconds_evaluate
    assert measured.hours(1) == pytest.approx(once / 3600)
    assert measured.hours(1001) == pytest.approx((once + 1000 * each) / 3600)
    assert measured.peak_gpu_bytes is None


def test_memory_is_that_of_arrays_not_of_mapped_files(task: Task, tmp_path: Path) -> None:
    size = 64_000_000
    file = tmp_path / "large"
    file.write_bytes(bytes(size))
    lone = rehearse(mo.MergeObjective(task.recipe(), lambda model: 1.0))

    def evaluate(model: nn.Module, *, array: bool) -> float:
        if array:
            made = np.ones(size, np.uint8)
        else:
            with open(file, "rb") as opened:
                made = np.frombuffer(mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
        time.sleep(0.5)  # at least a few samples
        return float(made.sum())

    before = anonymous()
    mapped = rehearse(mo.MergeObjective(task.recipe(), lambda m: evaluate(m, array=False)))
    held = rehearse(mo.MergeObjective(task.recipe(), lambda m: evaluate(m, array=True)))
    for measured in (lone, mapped, held):
        assert measured.peak_anonymous_bytes is not None
        assert measured.peak_rss_bytes is not None
    assert mapped.peak_anonymous_bytes < before + size / 2
    assert held.peak_anonymous_bytes > before + 0.9 * size
    assert held.peak_rss_bytes > held.peak_anonymous_bytes


def test_it_evaluates_the_start(task: Task) -> None:
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1, start=0.25))
    seen: list[float] = []
    weight = "classifier.weight"

    def evaluate(model: nn.Module) -> float:
        seen.append(model.state_dict()[weight].clone().numpy())
        return 1.0

    rehearse(mo.MergeObjective(recipe, evaluate))
    tensors = [c.tensor(weight).numpy().astype(float) for c in (base, *experts)]
    expected = tensors[0] + 0.25 * sum(t - tensors[0] for t in tensors[1:])
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "slow"), [("bfloat16", True), ("bfloat16", False), (None, True)]
)
def test_it_says_where_float32_is_faster(task: Task, dtype: str | None, slow: bool) -> None:
    """As on a CPU whose arithmetic in bfloat16 takes three times as long, or a third."""
    seen: list[tuple[torch.dtype, float]] = []

    def evaluate(model: nn.Module) -> float:
        weight = model.classifier.weight
        seen.append((weight.dtype, float(weight.float().sum())))
        # far enough apart that a busy machine does not turn one into the other
        time.sleep(0.6 if slow == (weight.dtype == torch.bfloat16) else 0.2)
        return 1.0

    measured = rehearse(mo.MergeObjective(task.recipe(), evaluate, dtype=dtype))
    if dtype is None:
        assert [seen_as for seen_as, _ in seen] == [torch.float32]
        assert measured.float32_speedup is None
        return
    assert [seen_as for seen_as, _ in seen] == [torch.bfloat16] * 3 + [torch.float32] * 2
    assert len({weights for _, weights in seen}) == 1, "always the same model"
    assert (measured.float32_speedup is not None) == slow
    if slow:
        assert 1.5 < measured.float32_speedup < 4


def test_recipes_that_cannot_be_merged_are_drawn_again(task: Task) -> None:
    experts = task.checkpoints()[1:]
    drawn = []

    def space(trial: optuna.Trial) -> mo.Recipe:
        drawn.append(trial.suggest_float("x", 0, 1))
        bad = always or len(drawn) == 2
        return mo.recipes.linear(experts, weight=[1.0, -1.0 if bad else 1.0])

    always = False
    rehearse(mo.MergeObjective(space, lambda model: 1.0))
    assert len(drawn) == 3
    always = True
    with pytest.raises(InfeasibleRecipe, match=r"None of 10 recipes .* Choose other ranges"):
        rehearse(mo.MergeObjective(space, lambda model: 1.0))


def test_a_function_is_checked_at_last(task: Task) -> None:
    base, a, _ = task.checkpoints()
    other = mo.Checkpoint.from_module(nn.Linear(2, 2), name="other")
    with pytest.raises(CheckpointError, match="other"):
        rehearse(
            mo.MergeObjective(lambda trial: mo.recipes.ties(base, [a, other]), lambda model: 1.0)
        )
