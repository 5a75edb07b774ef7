"""Sources that stay on the device, and the data type of the computation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import merge_optuna as mo
from merge_optuna.engine import Merger
from merge_optuna.engine._device import Sources
from merge_optuna.errors import RecipeError
from tests import toys

CPU = torch.device("cpu")


def test_sources_stay_on_the_device_while_they_fit(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    names = base.names()
    budget = sum(base.tensor(name).nbytes for name in names[:5])
    sources = Sources(CPU, budget)
    first = {name: sources.tensor(base, name) for name in names}
    again = {name: sources.tensor(base, name) for name in names}
    for i, name in enumerate(names):
        assert torch.equal(first[name], base.tensor(name))
        assert first[name].data_ptr() != base.tensor(name).data_ptr()
        assert (first[name] is again[name]) == (i < 5)
    assert torch.equal(sources.tensor(ja, names[0]), ja.tensor(names[0]))


def test_the_cpu_needs_no_copies(tmp_path: Path) -> None:
    base, _ = toys.family(tmp_path, experts=1)
    for name in base.names():
        assert Sources(CPU).tensor(base, name).data_ptr() == base.tensor(name).data_ptr()


@pytest.mark.parametrize("budget", [0, 20_000, 10**9])
def test_merging_on_a_device_equals_the_cpu(tmp_path: Path, budget: int) -> None:
    """What a GPU runs, torch's kernels on copied sources, here on copies in memory."""
    base, *experts = toys.family(tmp_path, dtype=torch.bfloat16)
    device = Merger(CPU, fused=False, budget=budget)
    for recipe in (
        mo.recipes.ties(base, experts, density=0.4),
        mo.recipes.dare_ties(base, experts, density=0.3, weight=0.4),
        mo.recipes.slerp(*experts[:2], t=0.2),
    ):
        for name, tensor in mo.engine.tensors(recipe):
            assert torch.equal(device.plan(recipe, name).rounded(torch.bfloat16), tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_equals_the_cpu_within_one_rounding(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, dtype=torch.bfloat16)
    recipe = mo.recipes.dare_ties(base, experts, density=0.3, weight=0.4)
    live = mo.Engine("cuda").load(recipe).state_dict()
    for name, tensor in mo.engine.tensors(recipe):
        assert torch.allclose(live[name].cpu().float(), tensor.float(), rtol=2**-7, atol=1e-6)


def test_computing_in_float64(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, experts=2)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=[0.3, 0.7])
    merged = dict(mo.engine.tensors(recipe, compute_dtype="float64"))
    live = mo.Engine(compute_dtype="float64").load(recipe).state_dict()
    mo.write(recipe, tmp_path / "out", compute_dtype="float64")
    written = mo.Checkpoint(tmp_path / "out")
    single = 0
    for name, tensor in mo.engine.tensors(recipe):
        theta, a, b = (c.tensor(name).double() for c in (base, *experts))
        exact = theta + (0.3 * (a - theta) + 0.7 * (b - theta))
        assert torch.equal(merged[name], exact.float())
        assert torch.equal(live[name], merged[name])
        assert torch.equal(written.tensor(name), merged[name])
        single += int((tensor != merged[name]).sum())
    assert single > 0


def test_computing_in_less_is_refused() -> None:
    with pytest.raises(RecipeError, match="compute_dtype must be 'float32' or 'float64'"):
        mo.Engine(compute_dtype="bfloat16")
