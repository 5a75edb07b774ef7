"""Gram matrices and RegMean against inputs recorded one example at a time, and least squares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import merge_optuna as mo
from merge_optuna import methods
from merge_optuna.errors import CheckpointMismatch, EvaluationError, InfeasibleRecipe
from tests import toys

Example = dict[str, Tensor]


def sentences(lengths: list[int], seed: int = 0) -> Example:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 64, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids, "attention_mask": mask}


def recorded(model: nn.Module, batch: Example, layer: nn.Module) -> np.ndarray:
    """All inputs of a layer, (tokens, in), sentence by sentence without padding."""
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        with torch.no_grad():
            model(input_ids=ids[: int(mask.sum())].unsqueeze(0))
    hook.remove()
    return torch.cat([x.flatten(0, -2) for x in seen]).double().numpy()


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (
            toys.llama,
            {"lm_head", "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.k_proj"},
        ),
        (toys.bert, {"classifier", "bert.pooler.dense", "bert.encoder.layer.1.output.dense"}),
        (toys.gpt2, {"transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"}),
    ],
    ids=["llama", "bert", "gpt2"],
)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_gram_matrices(make: Callable[[], nn.Module], layers: set[str], batch_size: int) -> None:
    model = make()
    batch = sentences([7, 2, 5, 1, 3])
    checkpoint = mo.Checkpoint.from_module(model, name="m")
    found = mo.statistics.gram(checkpoint, [batch], batch_size=batch_size)
    for name in layers:
        x = recorded(model, batch, model.get_submodule(name))
        gram = found.tensor(f"{name}.weight").double().numpy()
        axis = 2 if make is toys.gpt2 else 0  # the axis of the outputs
        assert gram.shape[axis] == 1
        np.testing.assert_allclose(gram.squeeze(axis), x.T @ x / len(x), rtol=1e-4, atol=1e-5)


def test_every_linear_layer_and_nothing_else_has_one() -> None:
    found = {}
    for make in (toys.llama, toys.gpt2, toys.bert):
        model = make()
        checkpoint = mo.Checkpoint.from_module(model, name="m")
        found[make] = set(mo.statistics.gram(checkpoint, [sentences([4, 4])]).names())
        linear = {
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
        }
        assert found[make] == linear - {"lm_head.weight" if make is toys.gpt2 else ""}
    assert "lm_head.weight" in found[toys.llama]


def test_a_tied_head_is_averaged() -> None:
    model = mo.Checkpoint.from_module(toys.llama(tied=True), name="m")
    names = mo.statistics.gram(model, [sentences([4])]).names()
    assert not any("embed" in name or "head" in name for name in names)


def test_names_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """transformers renames a ViT's layers while it loads them."""
    checkpoint = mo.Checkpoint(toys.save(toys.vit(), tmp_path / "vit"), name="m")
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = mo.statistics.gram(checkpoint, pixels)
    expected = {
        name
        for name in checkpoint.names()
        if len(checkpoint.shape(name)) == 2 and name.endswith("weight")
    }
    assert set(found.names()) == expected
    for name in expected:
        assert found.shape(name) == (1, checkpoint.shape(name)[1], checkpoint.shape(name)[1])


def test_nan_is_refused() -> None:
    model = toys.bert()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[5, 0] = torch.nan
    checkpoint = mo.Checkpoint.from_module(model, name="m")
    with pytest.raises(EvaluationError, match="not finite"):
        mo.statistics.gram(checkpoint, [{"input_ids": torch.tensor([[5, 6]])}])


# -- RegMean --------------------------------------------------------------------------------


class OneLayer(nn.Module):
    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        out, width = weight.shape
        self.linear = nn.Linear(width, out)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            self.linear.bias.copy_(torch.from_numpy(weight[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def one_layer(tokens: list[int], width: int = 6, out: int = 4) -> tuple[list, list, list]:
    """Weights (in, out), inputs (tokens, in), and checkpoints, one each per model."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(width, out)) for _ in tokens]
    inputs = [rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) for n in tokens]
    models = [
        mo.Checkpoint.from_module(OneLayer(w.T), name=f"m{i}") for i, w in enumerate(weights)
    ]
    return weights, inputs, models


def merged_layer(models: list, inputs: list, alpha: float) -> dict[str, np.ndarray]:
    statistics = [
        mo.statistics.gram(m, torch.from_numpy(x).float(), n=None)
        for m, x in zip(models, inputs, strict=True)
    ]
    recipe = mo.recipes.regmean(models, statistics=statistics, alpha=alpha)
    return {name: t.double().numpy() for name, t in mo.engine.tensors(recipe)}


def test_with_alpha_1_it_is_least_squares() -> None:
    """min_W Σ ||X_i W − X_i W_i||² / tokens, solved on the stacked inputs by numpy."""
    weights, inputs, models = one_layer([60, 90, 40])
    merged = merged_layer(models, inputs, alpha=1.0)
    scaled = [x / np.sqrt(len(x)) for x in inputs]
    targets = [x @ w for x, w in zip(scaled, weights, strict=True)]
    wanted = np.linalg.lstsq(np.concatenate(scaled), np.concatenate(targets), rcond=None)[0]
    np.testing.assert_allclose(merged["linear.weight"].T, wanted, atol=2e-3)

    def loss(w: np.ndarray) -> float:
        return sum(((x @ w - y) ** 2).sum() for x, y in zip(scaled, targets, strict=True))

    assert loss(merged["linear.weight"].T) < loss(wanted) * (1 + 1e-6)
    assert loss(merged["linear.weight"].T) < 0.9 * loss(sum(weights) / 3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_off_diagonals_are_scaled(alpha: float) -> None:
    """(Σ G̃)⁻¹ Σ G̃ W in float64; the bias is averaged."""
    weights, inputs, models = one_layer([60, 3, 40])
    merged = merged_layer(models, inputs, alpha)
    grams = [x.T @ x / len(x) for x in inputs]
    shrunk = [alpha * g + (1 - alpha) * np.diag(np.diag(g)) for g in grams]
    wanted = np.linalg.inv(sum(shrunk)) @ sum(g @ w for g, w in zip(shrunk, weights, strict=True))
    np.testing.assert_allclose(merged["linear.weight"].T, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(merged["linear.bias"], np.mean(weights, axis=0)[0], rtol=1e-5)


def test_conv1d_is_merged_as_the_same_linear_layer() -> None:
    """Also when it is square, so that its shape does not tell which axis the inputs are."""
    rng = np.random.default_rng(0)
    for width, out in [(5, 5), (5, 3), (3, 5), (1, 4), (4, 1), (1, 1)]:
        weights = [torch.from_numpy(rng.normal(size=(width, out))) for _ in range(2)]
        x = [torch.from_numpy(rng.normal(size=(20, width))) for _ in range(2)]
        grams = [a.T @ a / 20 for a in x]
        kernel = methods.get("regmean").kernel
        conv1d = kernel(None, weights, alpha=0.9, statistics=[g.unsqueeze(2) for g in grams])
        linear = kernel(
            None,
            [w.T.contiguous() for w in weights],
            alpha=0.9,
            statistics=[g.unsqueeze(0) for g in grams],
        )
        torch.testing.assert_close(conv1d, linear.T, rtol=1e-12, atol=1e-12)


def test_inputs_that_never_occur_are_averaged() -> None:
    weights, inputs, models = one_layer([30, 20])
    for x in inputs:
        x[:, 2] = 0
    for alpha in (0.5, 1.0):
        merged = merged_layer(models, inputs, alpha)["linear.weight"]
        np.testing.assert_allclose(merged.T[2], np.mean(weights, axis=0)[2], rtol=1e-5)


def test_too_little_data_does_not_blow_up() -> None:
    """Two tokens for 64 inputs: with alpha=1 the system is singular up to rounding."""
    weights, inputs, models = one_layer([2, 2], width=64)
    for alpha in (0.9, 1.0):
        merged = merged_layer(models, inputs, alpha)["linear.weight"]
        assert np.abs(merged).max() <= 2 * max(np.abs(w).max() for w in weights)


def test_what_is_no_gram_matrix_is_refused() -> None:
    """As a damaged file could hold: not positive definite, or barely."""
    weights = [torch.ones(2, 2), torch.zeros(2, 2)]
    kernel = methods.get("regmean").kernel
    indefinite = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
    with pytest.raises(InfeasibleRecipe, match="too few or too alike"):
        kernel(None, weights, alpha=1.0, statistics=[indefinite] * 2)
    c = 1 + 9e-7
    first = torch.tensor([[[0.9, 0.5], [0.5, 0.1]]], dtype=torch.float64)
    second = torch.tensor([[[1.0, c], [c, 1.0]]], dtype=torch.float64) - first
    with pytest.raises(InfeasibleRecipe, match="more than 10 times as large"):
        kernel(None, weights, alpha=1.0, statistics=[first, second])


def test_fisher_statistics_are_no_gram_matrices() -> None:
    model = mo.Checkpoint.from_module(toys.bert(), name="m")
    fisher = mo.statistics.fisher(model, [sentences([4])])
    with pytest.raises(CheckpointMismatch, match="regmean needs gram statistics, but 'm-fisher'"):
        next(mo.engine.tensors(mo.recipes.regmean([model], statistics=[fisher])))


@pytest.mark.parametrize("make", [toys.gpt2, toys.llama, toys.bert])
def test_models_are_merged(make: Callable[[], nn.Module]) -> None:
    """Outputs on the models' own inputs come closer to theirs than those of the average."""
    modules = [toys.noised(make(), i, 0.1) for i in (1, 2)]
    models = [mo.Checkpoint.from_module(m, name=f"m{i}") for i, m in enumerate(modules)]
    data = [sentences([9] * 12, seed=i) for i in range(2)]
    statistics = [mo.statistics.gram(m, [d]) for m, d in zip(models, data, strict=True)]
    last = {toys.gpt2: "transformer.h.0.mlp.c_fc", toys.llama: "model.layers.0.mlp.up_proj"}
    layer = last.get(make, "bert.encoder.layer.0.intermediate.dense")
    merged = {
        "regmean": mo.recipes.regmean(models, statistics=statistics, alpha=0.99),
        "mean": mo.recipes.linear(models),
    }
    error = {}
    for name, recipe in merged.items():
        weight = dict(mo.engine.tensors(recipe))[f"{layer}.weight"].double().numpy()
        own = [m.tensor(f"{layer}.weight").double().numpy() for m in models]
        if make is not toys.gpt2:
            weight, own = weight.T, [w.T for w in own]
        error[name] = sum(
            ((recorded(m, d, m.get_submodule(layer)) @ (weight - w)) ** 2).sum()
            for m, d, w in zip(modules, data, own, strict=True)
        )
    assert error["regmean"] < 0.95 * error["mean"]


def test_alpha_can_be_free() -> None:
    model = mo.Checkpoint.from_module(toys.bert(), name="m")
    statistics = [mo.statistics.gram(model, [sentences([4])])]
    space = mo.recipes.regmean([model], statistics=statistics, alpha=mo.free(0, 1, per="layer"))
    assert list(space.distributions()) == [
        f"alpha/{group}" for group in ("embed", "00", "01", "head")
    ]
    again = mo.Recipe.from_yaml(space.to_yaml())
    assert (again, again.digest) == (space, space.digest)
