"""Experts with heads of their own over a base that has none, beside plain state dicts."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

import merge_optuna as mo
from merge_optuna.recipes import _heads
from tests import toys

FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Roberta": {"max_position_embeddings": 34, "pad_token_id": 1},
    "DistilBert": {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 48},
    "GPT2": {"n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 32, "pad_token_id": 0},
    "Llama": {"pad_token_id": 0},
}
LABELS = {"mr": 2, "subj": 3, "ssec": 6}


class Family:
    """A base without a head and experts with 2, 3 and 6 labels, as models and as checkpoints."""

    def __init__(self, name: str, root: Path, *, base_head: str | None = None) -> None:
        body: Any = toys.encoder(
            name, head=base_head or "SequenceClassification", **FAMILIES[name]
        )
        with torch.random.fork_rng():
            torch.manual_seed(7)
            bare = AutoModel.from_config(body.config)
        self.base: Any = body if base_head else toys.noised(bare, 7, 0.1)
        self.base.eval().save_pretrained(root / "base")
        self.experts: dict[str, Any] = {}
        for i, (expert, labels) in enumerate(LABELS.items()):
            made: Any = toys.encoder(name, i, **FAMILIES[name], num_labels=labels)
            made.base_model.load_state_dict(self.base.base_model.state_dict(), strict=False)
            self.experts[expert] = toys.noised(made, 10 + i, 0.05)
            self.experts[expert].save_pretrained(root / expert)
        self.checkpoints = [mo.Checkpoint(root / n, name=n) for n in ("base", *LABELS)]

    def body(self, expert: str) -> dict[str, Tensor]:
        return dict(self.experts[expert].base_model.state_dict())


@pytest.fixture(autouse=True)
def _nothing_was_said() -> None:
    """Another test may have had the same checkpoints."""
    _heads._say_left_out.cache_clear()


@pytest.fixture(params=FAMILIES)
def family(request: Any, tmp_path: Path) -> Family:
    return Family(request.param, tmp_path)


def by_hand(family: Family, weight: float) -> dict[str, Tensor]:
    """Task arithmetic of state dicts; what experts lack stays, e.g. the pooler."""
    base = family.base.base_model.state_dict()
    bodies = [family.body(expert) for expert in LABELS]
    return {
        name: tensor + sum(weight * (b[name] - tensor) for b in bodies if name in b)
        for name, tensor in base.items()
    }


def test_the_body_is_merged_and_the_heads_are_left_out(family: Family, tmp_path: Path) -> None:
    base, *experts = family.checkpoints
    recipe = mo.recipes.task_arithmetic(base, experts, weight=0.3)
    with pytest.warns(UserWarning, match="The heads of mr, subj, ssec are left out"):
        merged = mo.Engine().load(recipe)
    expected = by_hand(family, 0.3)
    assert type(merged) is type(family.base)
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    written = AutoModel.from_pretrained(mo.write(recipe, tmp_path / "out"))
    for name, tensor in written.state_dict().items():
        assert torch.equal(tensor, merged.state_dict()[name])


@pytest.mark.parametrize("method", ["dare_ties", "ties", "breadcrumbs", "slerp", "model_stock"])
def test_as_if_the_bodies_had_been_saved(method: str, tmp_path: Path) -> None:
    """The same bits as of the experts' bodies, by the plain path and fused."""
    family = Family("Bert", tmp_path)
    bodies = family.checkpoints[:1]
    for expert in LABELS:
        folder = tmp_path / f"body of {expert}"
        family.experts[expert].base_model.save_pretrained(folder)
        bodies.append(mo.Checkpoint(folder, name=expert))
    make = getattr(mo.recipes, method)
    sets = (family.checkpoints, bodies)
    if method == "slerp":
        recipes = [make(one[0], one[1]) for one in sets]
    else:
        recipes = [make(one[0], one[1:]) for one in sets]
    for fused in (True, False):
        ours, theirs = (dict(mo.engine.tensors(recipe, fused=fused)) for recipe in recipes)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_live_body_takes_experts_and_merges_of_them(family: Family) -> None:
    base, *experts = family.checkpoints
    engine = mo.Engine()
    live = engine.load(mo.recipes.task_arithmetic(base, experts, weight=0.3))
    stays = {n: t for n, t in family.base.state_dict().items() if "pooler" in n}
    for expert, checkpoint in zip(LABELS, experts, strict=True):
        assert engine.load(checkpoint) is live
        expected = {**stays, **family.body(expert)}
        for name, tensor in live.state_dict().items():
            assert torch.equal(tensor, expected[name]), name
    engine.load(mo.recipes.linear(experts))
    for name, tensor in live.state_dict().items():
        if name not in stays or name in family.body("mr"):
            mean = sum(family.body(expert)[name] for expert in LABELS) / 3
            torch.testing.assert_close(tensor, mean, rtol=0, atol=1e-6)


def test_heads_of_other_shapes_stay_with_their_models(family: Family) -> None:
    """No base at all: the live model is the first expert's, and keeps its head."""
    engine, (_, mr, subj, ssec) = mo.Engine(), family.checkpoints
    live: Any = engine.load(mo.recipes.linear([mr, subj, ssec]))
    with pytest.raises(mo.errors.CheckpointError, match=r"in 'subj' or in the live model: "):
        engine.load(subj)
    engine.load(subj, body=True)
    body = family.body("subj")
    for name, tensor in live.base_model.state_dict().items():
        assert torch.equal(tensor, body[name])
    inside = {f"{live.base_model_prefix}.{name}" for name in body}
    for name, tensor in family.experts["mr"].state_dict().items():
        assert name in inside or torch.equal(live.state_dict()[name], tensor)
    engine.load(mr)
    assert all(
        torch.equal(t, family.experts["mr"].state_dict()[n]) for n, t in live.state_dict().items()
    )


def test_a_base_with_another_head(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path, base_head="MaskedLM")
    base, *experts = family.checkpoints
    recipe = mo.recipes.task_arithmetic(base, experts, weight=0.3)
    engine = mo.Engine()
    live: Any = engine.load(recipe)
    expected = by_hand(family, 0.3)
    for name, tensor in live.base_model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    engine.load(experts[1], body=True)
    for name, tensor in live.base_model.state_dict().items():
        assert torch.equal(tensor, family.body("subj")[name])
    for name, tensor in family.base.state_dict().items():
        tied = name.startswith("bert.") or name == "cls.predictions.decoder.weight"
        assert tied or torch.equal(live.state_dict()[name], tensor)


def test_an_expert_without_a_head_on_a_base_that_has_one(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    base, mr, subj, _ = family.checkpoints
    merged: Any = mo.Engine().load(mo.recipes.task_arithmetic(mr, [base, subj], weight=[0.5, 0.2]))
    mine, body = family.body("mr"), family.base.state_dict()
    for name, tensor in merged.bert.state_dict().items():
        other = family.body("subj")[name]
        expected = mine[name] + 0.5 * (body[name] - mine[name]) + 0.2 * (other - mine[name])
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)
    assert torch.equal(merged.classifier.weight, family.experts["mr"].classifier.weight)


def test_recipes_inside_of_recipes(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    base, mr, subj, ssec = family.checkpoints
    inner = mo.recipes.linear([mr, subj], name="both")
    merged = mo.Engine().load(mo.recipes.task_arithmetic(base, [inner, ssec], weight=0.5))
    states = {name: family.body(name) for name in LABELS}
    for name, tensor in merged.state_dict().items():
        own = family.base.state_dict()[name]
        both = (states["mr"][name] + states["subj"][name]) / 2
        expected = own + 0.5 * (both - own) + 0.5 * (states["ssec"][name] - own)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)


def test_it_is_said_once(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    base, *experts = family.checkpoints
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    engine = mo.Engine()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for weight in (0.1, 0.2):
            engine.load(recipe.bind({"weight/mr": weight, "weight/subj": 0.3, "weight/ssec": 0.1}))
            engine.load(experts[0])
            engine.load(mo.recipes.linear(experts))
        again = [mo.Checkpoint(one.ref, name=one.name) for one in family.checkpoints]
        engine.load(mo.recipes.task_arithmetic(again[0], again[1:]))
    assert [str(one.message) for one in caught] == [
        "The heads of mr, subj, ssec are left out: base has none. Evaluators take them as head=."
    ]


def test_records_stay_what_they_are(tmp_path: Path) -> None:
    """A recipe names whole experts, is read again from its text, and moved ones are found."""
    family = Family("Bert", tmp_path)
    base, *experts = family.checkpoints
    recipe = mo.recipes.ties(base, experts, density=0.5)
    before = dict(mo.engine.tensors(recipe))
    assert [c.digest for c in recipe.leaves()] == [c.digest for c in family.checkpoints]
    again = mo.Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.digest == recipe.digest
    (tmp_path / "mr").rename(tmp_path / "moved")
    moved = mo.Recipe.from_yaml(recipe.to_yaml()).with_sources({"mr": tmp_path / "moved"})
    for name, tensor in mo.engine.tensors(moved):
        assert torch.equal(tensor, before[name])


def test_modules_in_memory(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    base, *experts = family.checkpoints
    modules = [mo.Checkpoint.from_module(family.base, name="base")]
    modules += [mo.Checkpoint.from_module(family.experts[n], name=n) for n in LABELS]
    folders = dict(mo.engine.tensors(mo.recipes.ties(base, experts)))
    for name, tensor in mo.engine.tensors(mo.recipes.ties(modules[0], modules[1:])):
        assert torch.equal(tensor, folders[name])


def test_nan_in_an_expert_is_found(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    broken = copy.deepcopy(family.experts["mr"])
    nn.init.constant_(broken.bert.embeddings.word_embeddings.weight, float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    recipe = mo.recipes.task_arithmetic(
        family.checkpoints[0], [mo.Checkpoint(tmp_path / "broken", name="broken")]
    )
    with pytest.raises(mo.errors.CheckpointError, match=r"word_embeddings\.weight of 'broken'"):
        mo.engine.check_finite(recipe)


def test_what_does_not_go_with_it(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path)
    base, mr, *_ = family.checkpoints
    recipe = mo.recipes.task_arithmetic(base, [mr], tokenizer="union")
    with pytest.raises(mo.errors.RecipeError, match=r"mr .*part='bert'"):
        _ = recipe.frame
    narrow: Any = toys.encoder("Bert", hidden_size=16)
    narrow.base_model.save_pretrained(tmp_path / "narrow")
    other = mo.Checkpoint(tmp_path / "narrow", name="narrow")
    with pytest.raises(mo.errors.CheckpointMismatch, match=r"hidden_size 32 != 16"):
        _ = mo.recipes.task_arithmetic(other, [mr]).alignment
