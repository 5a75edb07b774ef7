"""TSV-Merge beside its formulas in float64; its singular vectors are computed once per study."""

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


def reference(base: Any, models: Sequence[Any], weight: Sequence[float], scale: float) -> Any:
    k = max(1, min(base.shape) // len(models))
    parts = [np.linalg.svd(np.float64(m) - base, full_matrices=False) for m in models]
    left = nearest(np.hstack([u[:, :k] for u, _, _ in parts]))
    right = nearest(np.vstack([v[:k] for _, _, v in parts]))
    values = np.concatenate([w * s[:k] for w, (_, s, _) in zip(weight, parts, strict=True)])
    return base + scale * left @ np.diag(values) @ right


def nearest(matrix: Any) -> Any:
    p, _, q = np.linalg.svd(matrix, full_matrices=False)
    return p @ q


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """A base and three experts."""
    return toys.family(tmp_path_factory.mktemp("models"))


def test_each_tensor(models: list[Checkpoint]) -> None:
    base, *experts = models
    weight, lambda_ = [0.5, 1.25, 1.0], 0.75
    recipe = mo.recipes.tsv_m(base, experts, weight=weight, lambda_=lambda_)
    for name, found in engine.tensors(recipe):
        origin = base.tensor(name).double().numpy()
        thetas = [one.tensor(name).double().numpy() for one in experts]
        deltas = [theta - origin for theta in thetas]
        if found.dim() == 2 and "layers" in name:
            wanted = reference(origin, thetas, weight, lambda_)
        else:
            scaled = [w * delta for w, delta in zip(weight, deltas, strict=True)]
            wanted = origin + lambda_ * np.mean(scaled, axis=0)
        error = np.linalg.norm(found.double().numpy() - wanted)
        assert error <= 1e-4 * np.linalg.norm(wanted - origin), name


def test_one_expert_is_itself(models: list[Checkpoint]) -> None:
    base, expert, *_ = models
    for name, found in engine.tensors(mo.recipes.tsv_m(base, [expert])):
        torch.testing.assert_close(found, expert.tensor(name), atol=1e-5, rtol=0)


def test_a_task_matrix_of_low_rank_gets_no_other_directions(tmp_path: Path) -> None:
    """As of a LoRA: what float32 makes of its other singular vectors is noise."""
    base = toys.llama()
    experts = []
    for seed in (1, 2):
        expert, rng = toys.llama(), torch.Generator().manual_seed(seed)
        weight = expert.get_parameter("model.layers.0.mlp.up_proj.weight")
        rows, columns = weight.shape
        column = torch.randn(rows, 1, generator=rng)
        weight.data += column @ torch.randn(1, columns, generator=rng) * 0.1
        experts.append(expert)
    models = [Checkpoint(toys.save(m, tmp_path / str(i))) for i, m in enumerate([base, *experts])]
    name = "model.layers.0.mlp.up_proj.weight"
    merged = dict(engine.tensors(mo.recipes.tsv_m(models[0], models[1:])))[name]
    change = merged - models[0].tensor(name)
    values = torch.linalg.svdvals(change)
    assert int((values > 1e-4 * values[0]).sum()) == 2


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
    space = mo.recipes.tsv_m(base, experts).free()
    live = mo.Engine()
    numbers = [dict.fromkeys(space.distributions(), 0.25 * (1 + i)) for i in range(3)]
    first = [live.load(space.bind(numbers[0])), counted][1]
    matrices = sum(len(base.shape(name)) == 2 and "layers" in name for name in base.names())
    assert first == matrices * (len(experts) + 2)
    for params in numbers[1:]:
        model = live.load(space.bind(params))
        plain = dict(engine.tensors(space.bind(params)))
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.data, plain[name], atol=0, rtol=0)
    # Only those of the plain path, which keeps nothing from one merge to the next.
    assert counted == first + 2 * first
