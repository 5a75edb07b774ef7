"""Paths through merges that change from trial to trial: as those of new models."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import merge_optuna as mo
from merge_optuna.errors import InfeasibleRecipe
from tests import toys


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "other", "third")):
        toys.save(toys.noised(toys.llama(0, layers=3), seed), root / name)
    return [mo.Checkpoint(root / name, name=name) for name in ("one", "other", "third")]


def recipe(models: list[mo.Checkpoint], weights: Any, path: str) -> mo.Recipe:
    merged = mo.recipes.linear(models[:2], weight=weights)
    return mo.recipes.path(path, [merged, models[2]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 15)[None]).logits.clone()


def test_every_merge_is_that_of_a_new_engine(models: list[mo.Checkpoint]) -> None:
    engine, first = mo.Engine(), None
    trials = [([1.0, 0.0], "A0-A1-B2"), ([0.3, 0.7], "A2-A1×0.9"), ([0.3, 0.7], "B0-A1-A1-A2")]
    for weights, path in [*trials, *trials[::-1]]:
        wanted = recipe(models, weights, path)
        live = engine.load(wanted)
        first = first or live
        assert live is first
        assert torch.equal(logits(live), logits(mo.Engine().load(wanted)))


def test_after_a_merge_without_result(models: list[mo.Checkpoint]) -> None:
    engine = mo.Engine()
    fine = recipe(models, [0.5, 0.5], "A0-A1-A2")
    expected = logits(engine.load(fine))
    with pytest.raises(InfeasibleRecipe):
        engine.load(recipe(models, [1.0, -1.0], "A0-A1-A2"))
    assert torch.equal(logits(engine.load(fine)), expected)


def test_what_an_evaluator_changes_is_put_back(models: list[mo.Checkpoint]) -> None:
    engine = mo.Engine()
    engine.load(recipe(models, [0.5, 0.5], "A0-A1-A2"))
    wanted = recipe(models, [0.2, 0.8], "A0-A1-B2")
    live: Any = engine.load(wanted)
    expected = logits(live)
    with torch.no_grad():
        live.model.layers[1].mlp.up_proj.weight.zero_()
    assert not torch.equal(logits(live), expected)
    with pytest.warns(UserWarning, match="layer 1"):
        again = engine.load(wanted)
    assert torch.equal(logits(again), expected)
    live.model.layers[0].mlp.up_proj.weight.data.zero_()
    other = recipe(models, [0.9, 0.1], "A0-A1-B2")  # filled in anyway
    assert torch.equal(logits(engine.load(other)), logits(mo.Engine().load(other)))


def test_a_config_of_equal_value_in_its_place(models: list[mo.Checkpoint]) -> None:
    """Modules that no longer share theirs would be told of another number of layers one by one."""
    engine = mo.Engine()
    live: Any = engine.load(recipe(models, [0.5, 0.5], "A0-A1"))
    live.config = copy.deepcopy(live.config)
    longer = recipe(models, [0.5, 0.5], "A0-A1-B2-A2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Any = engine.load(longer)
    assert found.model.config.num_hidden_layers == found.config.num_hidden_layers == 4
    assert torch.equal(logits(found), logits(mo.Engine().load(longer)))
