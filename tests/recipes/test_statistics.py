"""Recipes whose method needs statistics: still values, and checked before the work starts."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, CheckpointMismatch, InfeasibleRecipe, RecipeError
from tests import toys

BATCH = {"input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 3]])}
Family = list[mo.Checkpoint]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Family:
    # The word embeddings are larger than a chunk of the engine.
    make = partial(toys.bert, vocab_size=1200)
    return toys.family(tmp_path_factory.mktemp("family"), make, scale=0.2)[1:]


@pytest.fixture(scope="module")
def statistics(models: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp("statistics")
    return [mo.statistics.fisher(m, [BATCH], folder=root / m.name) for m in models]


def test_fisher_merge(models: Family, statistics: Family) -> None:
    """Σ a·(F + 1e-10)·θ / Σ a·(F + 1e-10), in float64."""
    weight = [0.5, 2.0, 1.0]
    recipe = mo.recipes.fisher(models, statistics=statistics, weight=weight)
    plain = dict(mo.engine.tensors(recipe, fused=False))
    for name, tensor in mo.engine.tensors(recipe):
        assert torch.equal(tensor, plain[name])
        theta = np.array([m.tensor(name).double().numpy() for m in models])
        importance = np.array(
            [
                a * (s.tensor(name).double().numpy() + 1e-10)
                for a, s in zip(weight, statistics, strict=True)
            ]
        )
        wanted = (importance * theta).sum(0) / importance.sum(0)
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(
        dict(mo.engine.tensors(recipe))["classifier.weight"],
        dict(mo.engine.tensors(mo.recipes.linear(models, weight=weight)))["classifier.weight"],
        atol=1e-3,
    )


def test_what_statistics_lack_is_averaged(
    models: Family, statistics: Family, tmp_path: Path
) -> None:
    """A buffer, say; here the word embeddings in one of them."""
    whole = Path(statistics[1].ref)
    tensors = load_file(whole / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "word" not in name}
    save_file(kept, tmp_path / "model.safetensors")
    shutil.copy(whole / "config.json", tmp_path)
    some = [statistics[0], mo.Checkpoint(tmp_path, name="part"), statistics[2]]
    weight = [0.5, 2.0, 1.0]
    mean = dict(mo.engine.tensors(mo.recipes.linear(models, weight=weight)))
    full = dict(mo.engine.tensors(mo.recipes.fisher(models, statistics=statistics, weight=weight)))
    for name, tensor in mo.engine.tensors(
        mo.recipes.fisher(models, statistics=some, weight=weight)
    ):
        assert torch.equal(tensor, (mean if "word" in name else full)[name])


def test_round_trips(models: Family, statistics: Family, tmp_path: Path) -> None:
    recipe = mo.recipes.fisher(models, statistics=statistics, weight=mo.free(0, 1, per="layer"))
    text = recipe.to_yaml(tmp_path / "recipe.yaml")
    for again in (mo.Recipe.from_yaml(text), mo.Recipe.from_json(recipe.to_json())):
        assert (again, hash(again), again.digest) == (recipe, hash(recipe), recipe.digest)
        assert [s.ref for s in again.statistics] == [s.ref for s in statistics]
        assert again.to_yaml() == text
    bound = recipe.bind(recipe.start())
    assert bound.statistics == recipe.statistics
    assert recipe.params_of(bound) == recipe.start()
    again = mo.Recipe.from_yaml(bound.to_yaml())
    for (_, a), (_, b) in zip(mo.engine.tensors(bound), mo.engine.tensors(again), strict=True):
        assert torch.equal(a, b)


def test_statistics_are_part_of_the_digest(models: Family, tmp_path: Path) -> None:
    other = {"input_ids": BATCH["input_ids"] + 1}
    recipes = [
        mo.recipes.fisher(models[:1], statistics=[mo.statistics.fisher(models[0], [data])])
        for data in (BATCH, other)
    ]
    assert recipes[0] != recipes[1]
    assert recipes[0].digest != recipes[1].digest


def test_only_shares_of_weights_are_searched(models: Family, statistics: Family) -> None:
    space = mo.recipes.fisher(models, statistics=statistics, weight=mo.free(0, 1))
    assert list(space.distributions()) == ["share/ja", "share/math"]
    assert space.start() == pytest.approx({"share/ja": 1 / 3, "share/math": 1 / 2})
    space = mo.recipes.fisher(models, statistics=statistics, weight=mo.free(0.1, 1))
    with pytest.raises(RecipeError, match=r"In fisher only the proportions .* for all\.$"):
        space.distributions()


def test_statistics_of_another_model_are_refused(models: Family, statistics: Family) -> None:
    turned = mo.recipes.fisher(models, statistics=statistics[::-1])
    with pytest.raises(CheckpointMismatch, match=r"'code-fisher'.*belong to 'ja'.*in the order"):
        next(mo.engine.tensors(turned))
    free = mo.recipes.fisher(models, statistics=statistics[::-1], weight=mo.free(0, 1))
    with pytest.raises(CheckpointMismatch, match="belong to 'ja'"):
        mo.MergeObjective(free, lambda model: 0.0)


def test_a_mixture_takes_the_statistics_of_its_models(models: Family, statistics: Family) -> None:
    """As the evolved models of a population do."""
    child = mo.recipes.linear(models[:2], name="child")
    recipe = mo.recipes.fisher([child, models[2]], statistics=[statistics[1], statistics[2]])
    assert len(dict(mo.engine.tensors(recipe))) == len(models[0].names())
    wrong = mo.recipes.fisher([child, models[2]], statistics=[statistics[2], statistics[1]])
    with pytest.raises(CheckpointMismatch, match="belong to 'child'"):
        next(mo.engine.tensors(wrong))


def test_other_mistakes(models: Family, statistics: Family) -> None:
    with pytest.raises(RecipeError, match=r"each of its 3 models, not 2.*mo\.statistics\.fisher"):
        mo.recipes.fisher(models, statistics=statistics[:2])
    with pytest.raises(RecipeError, match="linear takes no statistics"):
        mo.Recipe(method="linear", models=tuple(models), statistics=tuple(statistics))
    renamed = [mo.Checkpoint(m.ref, name=f"{m.name}-again") for m in models]
    with pytest.raises(CheckpointMismatch, match=r"'ja-again' .* holds none"):
        next(mo.engine.tensors(mo.recipes.fisher(models, statistics=renamed)))
    with pytest.raises(CheckpointMismatch, match=r"'ja-fisher' .* holds statistics of a model"):
        next(mo.engine.tensors(mo.recipes.linear(statistics)))
    namesake = mo.Checkpoint(statistics[0].ref, name="ja")
    with pytest.raises(RecipeError, match="Several models are called ja"):
        mo.recipes.fisher(models[:1], statistics=[namesake])
    with pytest.raises(RecipeError, match=r"weight must be in \[0, ∞\), not -1"):
        mo.recipes.fisher(models, statistics=statistics, weight=-1)
    with pytest.raises(RecipeError, match="tokenizer does not go with statistics"):
        mo.Recipe(
            method="fisher",
            models=tuple(models),
            statistics=tuple(statistics),
            tokenizer="union",
        )
    none = mo.recipes.fisher(models, statistics=statistics, weight=0)
    with pytest.raises(InfeasibleRecipe):
        next(mo.engine.tensors(none))


def test_moved_statistics_are_passed_again(models: Family, tmp_path: Path) -> None:
    made = mo.statistics.fisher(models[0], [BATCH], folder=tmp_path / "here")
    text = mo.recipes.fisher(models[:1], statistics=[made]).to_yaml()
    (tmp_path / "here").rename(tmp_path / "there")
    recipe = mo.Recipe.from_yaml(text)
    with pytest.raises(CheckpointError, match=r"'ja-fisher' was recorded at .* nothing is now"):
        next(mo.engine.tensors(recipe))
    moved = mo.Checkpoint(tmp_path / "there", name=made.name)
    for inner in (recipe, mo.recipes.linear([recipe, models[1]])):
        found = inner.with_sources({made.name: moved})
        assert found.digest == inner.digest
        next(mo.engine.tensors(found))
