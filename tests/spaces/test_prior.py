"""mo.layer_prior against transformers' hidden states, and what it makes of a space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import merge_optuna as mo
from merge_optuna.errors import RecipeError
from merge_optuna.spaces import LayerPath, LayerPrior
from tests import toys
from tests.spaces import routes

HAND = LayerPrior(((0.1, 0.3), (0.2, 0.2)), ((1.0, 1.0), (0.9, 0.7)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("ja", "math")):
        toys.save(toys.noised(toys.llama(0, layers=3), seed), root / name)
    return routes.models(root)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum(-1).div(one.norm(dim=-1) * other.norm(dim=-1)).mean())


def test_it_is_that_of_the_hidden_states(models: list[mo.Checkpoint]) -> None:
    prior = mo.layer_prior(models, routes.Logits())
    ids = torch.randint(3, 60, (6, 7), generator=torch.Generator().manual_seed(0))
    states = []
    for model in models:
        with torch.no_grad():
            live = mo.Engine().load(model)
            states.append(live(input_ids=ids, output_hidden_states=True).hidden_states)
    for found, hidden in zip(prior.influence, states, strict=True):
        # the last hidden state of transformers has the final norm behind it
        expected = [1 - cosine(hidden[i], hidden[i + 1]) for i in range(2)]
        assert found[:2] == pytest.approx(expected, abs=1e-5)
        assert len(found) == 3
    for found, hidden in zip(prior.similarity, states, strict=True):
        expected = [cosine(hidden[i], states[0][i]) for i in range(3)]
        assert found == pytest.approx(expected, abs=1e-5)
    assert LayerPrior.from_data(prior.to_data()) == prior


def test_first_probabilities_and_spreads_by_hand(models: list[mo.Checkpoint]) -> None:
    made = [mo.Checkpoint.from_module(toys.llama(s, layers=2), name=f"m{s}") for s in (0, 1)]
    space = LayerPath(made, 1, prior=HAND)
    rows = dict(space.sampler(seed=0)._algorithm.probabilities)
    # of A the mean influence is 0.2: layer 0 is twice as idle, layer 1 two thirds;
    # of B the mean distance is 0.2: before layer 0 it is half of that, before layer 1 1.5 times
    weights = np.array([[0.6, 0.35 * 2, 0.05 * 2], [0.6, 0.35 / 1.5, 0.05 / 1.5]])
    assert rows["on/1/0"] == pytest.approx(weights[0] / weights[0].sum())
    assert rows["on/1/1"] == pytest.approx(weights[1] / weights[1].sum())
    sigmas = dict(space.sampler(seed=0)._algorithm.sigma0)
    assert sigmas["scale/1/0"] == pytest.approx(2**0.5 / 8 / 1.1)
    assert sigmas["scale/1/1"] == pytest.approx((2 / 3) ** 0.5 / 8 / 1.1)


def test_it_is_part_of_the_space(models: list[mo.Checkpoint]) -> None:
    prior = mo.layer_prior(models, routes.Logits())
    space = LayerPath(models, prior=prior)
    assert space.digest != LayerPath(models).digest
    read = mo.spaces.read(space.to_yaml())
    assert isinstance(read, mo.spaces.Declaration)
    again = read.open()
    assert again.digest == space.digest
    first, other = (one.sampler(seed=0)._algorithm for one in (space, again))  # type: ignore[attr-defined]
    assert first == other
    same = LayerPrior(((0.0,) * 3, (0.0,) * 3), ((1.0,) * 3, (1.0,) * 3))
    plain, idle = (LayerPath(models, prior=p).sampler(seed=0)._algorithm for p in (None, same))
    for (name, row), (_, expected) in zip(idle.probabilities, plain.probabilities, strict=True):
        assert row == pytest.approx(expected), name


def test_what_is_refused(models: list[mo.Checkpoint]) -> None:
    with pytest.raises(RecipeError, match="is of models with 2, 2 layers, and these have 3"):
        LayerPath(models, prior=HAND)
    text = LayerPath(models, prior=mo.layer_prior(models, routes.Logits())).to_yaml()
    broken = text.replace("influence:", "influences:")
    with pytest.raises(RecipeError, match="Not a prior of layers"):
        mo.spaces.read(broken).open()  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="has not run the layers"):
        mo.layer_prior(models, lambda model: 0.0)
