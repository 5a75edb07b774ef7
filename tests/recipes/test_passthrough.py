"""Layers stacked into one model, against modules whose layers are put together by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, CheckpointMismatch, RecipeError
from tests import toys

R = mo.recipes
ARCHITECTURES: dict[str, tuple[Callable[[int], nn.Module], str, type]] = {
    "llama": (lambda seed: toys.llama(seed, layers=4), "model.layers", AutoModelForCausalLM),
    "llama, tied": (
        lambda seed: toys.llama(seed, layers=4, tied=True),
        "model.layers",
        AutoModelForCausalLM,
    ),
    "gpt2": (lambda seed: toys.gpt2(seed, layers=4), "transformer.h", AutoModelForCausalLM),
    "bert": (
        lambda seed: toys.bert(seed, layers=4),
        "bert.encoder.layer",
        AutoModelForSequenceClassification,
    ),
}
Pair = tuple[list[nn.Module], list[mo.Checkpoint], str, type]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two models of four layers, as modules and as checkpoints, and where their layers are."""
    make, layers, loader = ARCHITECTURES[request.param]
    modules = [make(1), make(2)]
    root = tmp_path_factory.mktemp("pair")
    checkpoints = [
        mo.Checkpoint(toys.save(module, root / name), name=name)
        for module, name in zip(modules, "ab", strict=True)
    ]
    return modules, checkpoints, layers, loader


def by_hand(
    modules: Sequence[nn.Module], layers: str, blocks: Sequence[tuple[int, int]]
) -> nn.Module:
    """The first model with other blocks, (model, layer) each, and what follows from the last."""
    made = copy.deepcopy(modules[blocks[0][0]])
    stack = nn.ModuleList(
        copy.deepcopy(modules[model].get_submodule(layers)[layer]) for model, layer in blocks
    )
    parent, _, name = layers.rpartition(".")
    setattr(made.get_submodule(parent), name, stack)
    for i, block in enumerate(stack):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = i
    made.config.num_hidden_layers = len(blocks)
    last = modules[blocks[-1][0]].state_dict()
    behind = ("model.norm.", "transformer.ln_f.", "bert.pooler.", "classifier.")
    if not made.config.tie_word_embeddings:  # a tied head is the embedding of the first
        behind += ("lm_head.",)
    made.load_state_dict({n: t for n, t in last.items() if n.startswith(behind)}, strict=False)
    return made


def outputs(model: nn.Module) -> Tensor:
    ids = torch.tensor([[3, 5, 7, 11, 13], [2, 4, 8, 16, 32]])
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids).logits
    return logits


BLOCKS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (0, 2), (1, 2), (1, 3)]


def stacked(checkpoints: Sequence[mo.Checkpoint]) -> mo.Recipe:
    """The recipe of ``BLOCKS``."""
    a, b = checkpoints
    return R.passthrough([a.layers(0, 3), b.layers(1, 4), a.layers(2, 3), b.layers(2, 4)])


def test_written_and_loaded(pair: Pair, tmp_path: Path) -> None:
    modules, checkpoints, layers, loader = pair
    model = loader.from_pretrained(mo.write(stacked(checkpoints), tmp_path / "out"))
    assert len(model.get_submodule(layers)) == model.config.num_hidden_layers == len(BLOCKS)
    expected = outputs(by_hand(modules, layers, BLOCKS))
    torch.testing.assert_close(outputs(model), expected, rtol=0, atol=0)
    assert not torch.allclose(outputs(modules[0]), expected, atol=1e-2)


def test_live(pair: Pair) -> None:
    """The live model has as many layers, and is refilled by stacks of the same height."""
    modules, checkpoints, layers, _ = pair
    engine = mo.Engine()
    model = engine.load(stacked(checkpoints))
    expected = outputs(by_hand(modules, layers, BLOCKS))
    torch.testing.assert_close(outputs(model), expected, rtol=0, atol=0)
    a, b = checkpoints
    assert engine.load(R.passthrough([b, a, b.layers(3, 4)])) is model
    blocks = [*((1, i) for i in range(4)), *((0, i) for i in range(4)), (1, 3)]
    torch.testing.assert_close(
        outputs(model), outputs(by_hand(modules, layers, blocks)), rtol=0, atol=0
    )


def test_all_layers_of_a_model_in_parts_are_that_model(pair: Pair) -> None:
    _, (a, _), _, _ = pair
    parts = [a.layers(0, 1), a.layers(1, 2), a.layers(1, 4).layers(1, 3)]
    merged = dict(mo.engine.tensors(R.passthrough(parts)))
    assert merged.keys() == set(a.names())
    assert all(torch.equal(merged[name], a.tensor(name)) for name in a.names())


def test_parts_of_a_merge_are_that_merge(pair: Pair) -> None:
    _, (a, b), _, _ = pair
    whole = R.linear([a, b], weight=[0.3, 0.7])
    parts = [R.linear([a.layers(*r), b.layers(*r)], weight=[0.3, 0.7]) for r in [(0, 3), (3, 4)]]
    merged, expected = (dict(mo.engine.tensors(r)) for r in (R.passthrough(parts), whole))
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


# -- scales ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    root = tmp_path_factory.mktemp("llamas")
    return [
        mo.Checkpoint(toys.save(toys.llama(seed, layers=4), root / name), name=name)
        for seed, name in enumerate("ab")
    ]


def test_a_layer_whose_output_is_scaled_to_nothing_does_nothing(
    llamas: list[mo.Checkpoint],
) -> None:
    a, b = llamas
    off = {"o_proj": 0.0, "down_proj": 0.0, "*": 1.0}
    model = mo.Engine().load(
        R.passthrough([a.layers(0, 2), b.layers(1, 3), a.layers(2, 4)], scale=[1, off, 1])
    )
    plain = mo.Engine().load(a)
    torch.testing.assert_close(outputs(model), outputs(plain), rtol=0, atol=0)


def test_scales_are_searched_where_they_count(llamas: list[mo.Checkpoint]) -> None:
    """A middle part has neither embedding nor head, a part that repeats has its own number."""
    a, b = llamas
    space = R.passthrough(
        [a.layers(0, 2), b.layers(1, 2), b.layers(1, 2)],
        scale=[{"down_proj": mo.free(0, 2, per="layer"), "*": 1}, mo.free(0, 2), mo.free(0, 2)],
    )
    params = {
        "scale/a[0:2]/down_proj/00": 0.25,
        "scale/a[0:2]/down_proj/01": 0.5,
        "scale/b[1:2]": 0.75,
        "scale/b[1:2]#2": 1.5,
    }
    assert set(space.distributions()) == set(params)
    recipe = space.bind(params)
    assert space.params_of(recipe) == params
    merged = dict(mo.engine.tensors(recipe))
    name = "model.layers.{}.mlp.down_proj.weight"
    for i, (source, layer, scale) in enumerate(
        [(a, 0, 0.25), (a, 1, 0.5), (b, 1, 0.75), (b, 1, 1.5)]
    ):
        assert torch.equal(merged[name.format(i)], source.tensor(name.format(layer)) * scale)
    assert torch.equal(merged["model.embed_tokens.weight"], a.tensor("model.embed_tokens.weight"))
    assert torch.equal(merged["lm_head.weight"], b.tensor("lm_head.weight") * 1.5)


# -- as a value -----------------------------------------------------------------------------


def test_round_trip(llamas: list[mo.Checkpoint], tmp_path: Path) -> None:
    recipe = stacked(llamas)
    again = mo.Recipe.from_yaml(recipe.to_yaml())
    assert (again, again.digest) == (recipe, recipe.digest)
    assert again.to_yaml() == recipe.to_yaml()
    other = R.passthrough([llamas[0].layers(0, 2), *recipe.models[1:]])
    renamed = R.passthrough([llamas[0].layers(0, 2, name="a[0:3]"), *recipe.models[1:]])
    assert len({recipe, other, renamed}) == 3
    folder = mo.write(again, tmp_path / "out")
    assert mo.Recipe.from_yaml(folder / "recipe.yaml") == recipe


def test_a_changed_source_is_refused(tmp_path: Path) -> None:
    a = mo.Checkpoint(toys.save(toys.llama(1, layers=3), tmp_path / "a"), name="a")
    text = R.passthrough([a.layers(0, 2), a.layers(1, 3)]).to_yaml()
    toys.save(toys.llama(2, layers=3), tmp_path / "a")
    with pytest.raises(CheckpointError, match="has changed"):
        mo.Recipe.from_yaml(text).alignment  # noqa: B018


def test_modules_in_memory() -> None:
    module = toys.llama(3, layers=3)
    a = mo.Checkpoint.from_module(module, name="a")
    recipe = R.passthrough([a.layers(0, 2), a.layers(1, 3)])
    elsewhere = mo.Recipe.from_yaml(recipe.to_yaml())
    with pytest.raises(CheckpointError, match="was a module in memory"):
        elsewhere.alignment  # noqa: B018
    again = elsewhere.with_sources({"a": mo.Checkpoint.from_module(module, name="a")})
    assert again == recipe
    blocks = [(0, 0), (0, 1), (0, 1), (0, 2)]
    expected = outputs(by_hand([module], "model.layers", blocks))
    torch.testing.assert_close(outputs(mo.Engine().load(again)), expected, rtol=0, atol=0)


def test_what_the_config_says_of_each_layer(tmp_path: Path) -> None:
    """Types of layers and lists of layer numbers follow the layers."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    folder = toys.save(toys.llama(layers=4), tmp_path / "a")
    config = json.loads((folder / "config.json").read_text())
    config |= {"layer_types": kinds, "mlp_only_layers": [1, 3], "no_rope_layers": [1, 1, 0, 1]}
    (folder / "config.json").write_text(json.dumps(config))
    a = mo.Checkpoint(folder, name="a")
    part = a.layers(1, 4).config
    assert part is not None
    assert part["num_hidden_layers"] == 3
    assert part["layer_types"] == kinds[1:]
    assert part["mlp_only_layers"] == [0, 2]
    whole = R.passthrough([a.layers(1, 4), a.layers(0, 2)]).frame.config
    assert whole is not None
    assert whole["num_hidden_layers"] == 5
    assert whole["layer_types"] == [*kinds[1:], *kinds[:2]]
    assert whole["mlp_only_layers"] == [0, 2, 4]
    assert whole["no_rope_layers"] == [1, 0, 1, 1, 1]
    assert a.config == config


# -- errors ---------------------------------------------------------------------------------


def test_layers_that_are_not_there(llamas: list[mo.Checkpoint]) -> None:
    for start, stop in [(0, 5), (3, 1), (-1, 2)]:
        with pytest.raises(CheckpointError, match=r"no layers .* model that has 4, 0 to 3"):
            llamas[0].layers(start, stop)
    with pytest.raises(CheckpointError, match=r"There is no layer in a\[2:2\], b\[0:0\]"):
        _ = R.passthrough([llamas[0].layers(2, 2), llamas[1].layers(0, 0)]).frame


def test_models_without_layers() -> None:
    a = mo.Checkpoint.from_module(nn.Linear(3, 2), name="a")
    with pytest.raises(CheckpointError, match="no numbered layers"):
        a.layers(0, 1)
    one = R.passthrough([a], scale=0.5)
    assert torch.equal(dict(mo.engine.tensors(one))["weight"], a.tensor("weight") * 0.5)


def test_layers_that_do_not_fit(llamas: list[mo.Checkpoint]) -> None:
    a = llamas[0]
    wide = mo.Checkpoint.from_module(toys.llama(intermediate_size=64), name="wide")
    with pytest.raises(CheckpointMismatch, match=r"'wide' do not fit on those of 'a': .*mlp"):
        R.passthrough([a, wide]).alignment  # noqa: B018
    tied = mo.Checkpoint.from_module(toys.llama(tied=True), name="tied")
    with pytest.raises(CheckpointMismatch, match=r"do not both have lm_head\.weight"):
        R.passthrough([a, tied]).alignment  # noqa: B018
    gpt2 = mo.Checkpoint.from_module(toys.gpt2(), name="gpt2")
    with pytest.raises(CheckpointMismatch, match="'gpt2'"):
        R.passthrough([a, gpt2, a]).alignment  # noqa: B018


def test_nothing_can_be_left_out(llamas: list[mo.Checkpoint]) -> None:
    recipe = mo.Recipe(method="passthrough", models=tuple(llamas), exclude=("lm_head",))
    with pytest.raises(RecipeError, match="passthrough leaves nothing out"):
        recipe.alignment  # noqa: B018


def test_layers_look_up_what_they_are_once(tmp_path: Path) -> None:
    """Asked for each tensor, a stack would otherwise take time by the square of its depth."""
    model = mo.Checkpoint(toys.save(toys.llama(layers=3), tmp_path / "model"), name="model")
    recipe = mo.recipes.passthrough([model.layers(i, i + 1) for i in (2, 0, 1, 0)])
    for store in (recipe.models[0].store, recipe.frame.store):
        before = store.specs()
        assert store.specs() is before
        toys.save(toys.llama(layers=3), tmp_path / "model", dtype=torch.float16)
        model.store.reopen()
        assert store.specs().keys() == before.keys()
        assert {dtype for dtype, _ in store.specs().values()} == {torch.float16}
        toys.save(toys.llama(layers=3), tmp_path / "model")
        model.store.reopen()
        assert store.specs() == before
