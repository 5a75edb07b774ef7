"""Iso-C beside its formulas in float64; its singular vectors are computed once per study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import merge_optuna as mo
from merge_optuna import Checkpoint, engine
from tests import toys


def reference(base: Any, models: Sequence[Any], lambda_: float, isotropy: float) -> Any:
    total = sum(np.float64(m) - base for m in models)
    u, s, v = np.linalg.svd(total, full_matrices=False)
    return base + lambda_ * u @ np.diag((1 - isotropy) * s + isotropy * s.mean()) @ v


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """A base and three experts."""
    return toys.family(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("isotropy", [1.0, 0.4, 0.0])
def test_each_tensor(models: list[Checkpoint], isotropy: float) -> None:
    base, *experts = models
    recipe = mo.recipes.iso_c(base, experts, lambda_=0.75, isotropy=isotropy)
    for name, found in engine.tensors(recipe):
        origin = base.tensor(name).double().numpy()
        thetas = [one.tensor(name).double().numpy() for one in experts]
        if found.dim() == 2 and "layers" in name:
            wanted = reference(origin, thetas, 0.75, isotropy)
        else:
            wanted = origin + 0.75 * (np.mean(thetas, axis=0) - origin)
        error = np.linalg.norm(found.double().numpy() - wanted)
        assert error <= 1e-4 * np.linalg.norm(wanted - origin), name


def test_a_sum_of_low_rank_gets_no_other_directions(tmp_path: Path) -> None:
    """As of a LoRA: what float32 makes of its other singular vectors is noise."""
    base, expert = toys.llama(), toys.llama()
    name = "model.layers.0.mlp.up_proj.weight"
    weight, rng = expert.get_parameter(name), torch.Generator().manual_seed(1)
    rows, columns = weight.shape
    two = torch.randn(rows, 2, generator=rng) @ torch.randn(2, columns, generator=rng) * 0.1
    weight.data += two
    models = [Checkpoint(toys.save(m, tmp_path / str(i))) for i, m in enumerate([base, expert])]
    merged = dict(engine.tensors(mo.recipes.iso_c(models[0], models[1:])))[name]
    values = torch.linalg.svdvals(merged - models[0].tensor(name))
    mean = torch.linalg.svdvals(two)[:2].mean()
    torch.testing.assert_close(values[:2], mean.expand(2), rtol=1e-4, atol=0)
    assert values[2] < 1e-4 * mean


def test_other_values_need_no_decomposition(
    models: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = 0
    svd = torch.linalg.svd

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal counted
        counted += 1
        return svd(*args, **kwargs)

    monkeypatch.setattr(torch.linalg, "svd", counting)
    base, *experts = models
    space = mo.recipes.iso_c(base, experts).free()
    live = mo.Engine()
    numbers = [dict.fromkeys(space.distributions(), 0.25 * (1 + i)) for i in range(3)]
    live.load(space.bind(numbers[0]))
    matrices = sum(len(base.shape(name)) == 2 and "layers" in name for name in base.names())
    assert counted == matrices
    loaded = {}
    for i, params in enumerate(numbers[1:]):
        model = live.load(space.bind(params))
        loaded[i] = {name: p.data.clone() for name, p in model.named_parameters()}
    assert counted == matrices
    for i, params in enumerate(numbers[1:]):
        plain = dict(engine.tensors(space.bind(params), fused=False))
        for name, parameter in loaded[i].items():
            torch.testing.assert_close(parameter, plain[name], atol=0, rtol=0)
