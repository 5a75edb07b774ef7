"""The live model is, bit for bit, what from_pretrained() makes of the written checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, CheckpointMismatch, InfeasibleRecipe, RecipeError
from tests import toys

Make = Callable[[], nn.Module]
MODELS: dict[str, Make] = {
    "llama": toys.llama,
    "llama-tied": lambda: toys.llama(tied=True),
    "gpt2": toys.gpt2,
    "bert": toys.bert,
    "vit": toys.vit,
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def dare_ties(base: mo.Checkpoint, *experts: mo.Checkpoint, **values: Any) -> mo.Recipe:
    """A recipe with all that a recipe may have: random masks, values by layer and by name."""
    settings: dict[str, Any] = {
        "weight": {"*.0.*": 0.4, "*": mo.per_group([0.9, 0.6, 0.3, 0.5])},
        "density": mo.per_group([0.3, 0.8], per=mo.depth(2)),
    }
    return mo.recipes.dare_ties(base, experts, **settings | values)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of everything a model computes with, also what no checkpoint holds."""
    everything = dict(model.named_parameters(remove_duplicate=False))
    everything |= dict(model.named_buffers(remove_duplicate=False))
    return {name: tensor.detach().clone() for name, tensor in everything.items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    differing = [
        name for name in a if a[name].dtype != b[name].dtype or not torch.equal(a[name], b[name])
    ]
    assert differing == []


def output(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if hasattr(model.config, "image_size"):
            images = torch.randn(2, 3, 8, 8, generator=generator)
            return model(pixel_values=images.to(model.dtype)).logits
        return model(torch.randint(3, 60, (2, 9), generator=generator)).logits


def plain(seed: int) -> nn.Module:
    """A module that transformers does not know, with a tied weight and integer state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Embedding(11, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 11)
        )
    model[3].weight = model[0].weight
    return model.eval()


# -- live = from_pretrained(written) ----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@every_model
def test_live_is_what_from_pretrained_makes_of_the_written(
    tmp_path: Path, make: Make, dtype: torch.dtype
) -> None:
    recipe = dare_ties(*toys.family(tmp_path, make, experts=2, dtype=dtype))

    live = mo.Engine().load(recipe)
    mo.write(recipe, tmp_path / "out")

    loaded = type(make()).from_pretrained(tmp_path / "out")
    assert loaded.dtype == dtype
    assert not loaded.training
    assert not live.training
    assert_same(tensors_of(live), tensors_of(loaded))
    assert torch.equal(output(live), output(loaded))
    base = type(make()).from_pretrained(tmp_path / "base")
    assert not torch.equal(output(live), output(base))
    assert not any(parameter.requires_grad for parameter in live.parameters())


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@every_model
def test_a_base_in_memory(tmp_path: Path, make: Make, dtype: str | None) -> None:
    """Also rotary frequencies, which no checkpoint holds and bfloat16 would spoil."""
    base = mo.Checkpoint.from_module(make(), name="base")
    ja = mo.Checkpoint.from_module(toys.noised(make(), 1), name="ja")
    recipe = dare_ties(base, ja)

    live = mo.Engine(dtype=dtype).load(recipe)
    mo.write(recipe, tmp_path / "out", dtype=dtype)

    loaded = type(make()).from_pretrained(tmp_path / "out")
    assert loaded.dtype == getattr(torch, dtype or "float32")
    assert_same(tensors_of(live), tensors_of(loaded))
    assert torch.equal(output(live), output(loaded))


@every_model
def test_a_data_type_of_its_own(tmp_path: Path, make: Make) -> None:
    recipe = dare_ties(*toys.family(tmp_path, make, experts=2))
    live = mo.Engine(dtype=torch.bfloat16).load(recipe)
    mo.write(recipe, tmp_path / "out", dtype=torch.bfloat16)
    assert_same(tensors_of(live), tensors_of(type(make()).from_pretrained(tmp_path / "out")))


def test_the_data_type_of_the_tensors_counts_not_that_of_the_config(tmp_path: Path) -> None:
    checkpoints = toys.family(tmp_path, experts=1, dtype=torch.bfloat16)
    config = (tmp_path / "base" / "config.json").read_text()
    assert '"bfloat16"' in config
    (tmp_path / "base" / "config.json").write_text(config.replace("bfloat16", "float32"))
    recipe = dare_ties(mo.Checkpoint(tmp_path / "base", name="base"), checkpoints[1])

    live = mo.Engine().load(recipe)
    mo.write(recipe, tmp_path / "out")

    assert live.dtype == torch.bfloat16
    assert_same(tensors_of(live), tensors_of(type(live).from_pretrained(tmp_path / "out")))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_plain_module(tmp_path: Path, dtype: torch.dtype | None) -> None:
    a, b = (mo.Checkpoint.from_module(plain(seed), name=f"m{seed}") for seed in (0, 1))
    recipe = mo.recipes.linear([a, b], weight=[0.25, 0.75])

    live = mo.Engine(dtype=dtype).load(recipe)
    mo.write(recipe, tmp_path / "out", dtype=dtype)

    written = load_file(tmp_path / "out" / "model.safetensors")
    loaded = plain(2).to(dtype)
    missing = loaded.load_state_dict(written, strict=False)
    assert missing.missing_keys == ["3.weight"]  # tied: in the file once
    assert missing.unexpected_keys == []
    assert_same(tensors_of(live), tensors_of(loaded))
    mean = 0.25 * plain(0)[2].weight + 0.75 * plain(1)[2].weight
    tolerance = 1e-6 if dtype is None else 2**-8
    assert torch.allclose(live[2].weight.float(), mean, rtol=tolerance, atol=1e-7)


@every_model
def test_a_checkpoint_as_it_is(tmp_path: Path, make: Make) -> None:
    (base,) = toys.family(tmp_path, make, experts=0)
    live = mo.Engine().load(base)
    assert_same(tensors_of(live), tensors_of(type(make()).from_pretrained(tmp_path / "base")))


@pytest.mark.parametrize("make", [MODELS["llama-tied"], toys.gpt2], ids=["llama", "gpt2"])
def test_tied_weights_stay_tied(tmp_path: Path, make: Make) -> None:
    recipe = dare_ties(*toys.family(tmp_path, make, experts=2))
    live = mo.Engine().load(recipe)
    head, embedding = live.get_output_embeddings().weight, live.get_input_embeddings().weight
    assert head is embedding
    mo.write(recipe, tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


# -- refilled in place ------------------------------------------------------------------------


@every_model
def test_no_trace_of_the_recipe_before(tmp_path: Path, make: Make) -> None:
    base, ja, math = toys.family(tmp_path, make, experts=2)
    recipes: list[mo.Recipe | mo.Checkpoint] = [
        dare_ties(base, ja, math),
        mo.recipes.slerp(ja, math, t=0.3),
        math,
        mo.recipes.linear([math, ja], exclude=["*.0.*"]),
    ]
    fresh = [tensors_of(mo.Engine().load(recipe)) for recipe in recipes]
    engine = mo.Engine()
    first = engine.load(recipes[0])
    for i in (1, 0, 2, 3, 1, 1, 0, 3):
        live = engine.load(recipes[i])
        assert live is first
        assert_same(tensors_of(live), fresh[i])


def test_parameters_keep_their_memory(tmp_path: Path) -> None:
    """So that an optimised or captured model stays valid."""
    base, ja = toys.family(tmp_path, experts=1)
    engine = mo.Engine()
    before = {name: p.data_ptr() for name, p in engine.load(base).named_parameters()}
    assert {name: p.data_ptr() for name, p in engine.load(ja).named_parameters()} == before


def test_sources_are_not_written_to(tmp_path: Path) -> None:
    checkpoints = toys.family(tmp_path, experts=2)
    module = mo.Checkpoint.from_module(toys.llama(3), name="module")
    digests = [c.full_digest() for c in (*checkpoints, module)]
    engine = mo.Engine()
    engine.load(module)
    engine.load(dare_ties(module, *checkpoints))
    again = [mo.Checkpoint(c.ref, name=c.name).full_digest() for c in checkpoints]
    assert [*again, module.full_digest()] == digests
    assert [c.full_digest() for c in checkpoints] == again


def test_an_infeasible_recipe_leaves_the_engine_usable(tmp_path: Path) -> None:
    base, ja, math = toys.family(tmp_path, experts=2)
    weights = [mo.per_group([1, 1, 1, 1]), mo.per_group([1, 1, -1, 1])]
    infeasible = mo.recipes.linear([ja, math], weight=weights)
    engine = mo.Engine()
    engine.load(base)
    with pytest.raises(InfeasibleRecipe, match="cannot be normalised"):
        engine.load(infeasible)
    assert_same(tensors_of(engine.load(math)), tensors_of(mo.Engine().load(math)))


# -- what comes from the base -----------------------------------------------------------------


def test_a_head_that_differs_comes_from_the_base(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, toys.bert, experts=1)
    three = toys.bert(5, labels=("a", "b", "c"))
    other = mo.Checkpoint(toys.save(three, tmp_path / "other"), name="other")
    live = mo.Engine().load(mo.recipes.task_arithmetic(base, [ja, other], weight=0.5))

    assert torch.equal(live.classifier.weight, base.tensor("classifier.weight"))
    assert torch.equal(live.classifier.bias, base.tensor("classifier.bias"))
    name = "bert.pooler.dense.weight"
    theta = [c.tensor(name).double() for c in (base, ja, other)]
    expected = theta[0] + 0.5 * (theta[1] - theta[0]) + 0.5 * (theta[2] - theta[0])
    assert torch.allclose(live.bert.pooler.dense.weight.double(), expected, atol=1e-6)


def test_excluded_tensors_come_from_the_base(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    live = mo.Engine().load(mo.recipes.linear([base, ja], exclude=["layers.1.", "norm"]))
    state = live.state_dict()
    for name in base.names():
        from_base = torch.equal(state[name], base.tensor(name))
        assert from_base == ("layers.1." in name or "norm" in name)


# -- errors -----------------------------------------------------------------------------------


def test_an_unbound_recipe(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    space = mo.recipes.task_arithmetic(base, [ja], lambda_=mo.free(0, 1))
    with pytest.raises(RecipeError, match=r"free numbers. Bind them first: recipe\.suggest"):
        mo.Engine().load(space)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (toys.llama, lambda: toys.llama(layers=3)),
        (lambda: toys.llama(layers=3), toys.llama),
        (toys.llama, lambda: toys.llama(tied=True)),
        (lambda: toys.llama(tied=True), toys.llama),
        (toys.bert, lambda: toys.bert(labels=("a", "b", "c"))),
        (toys.bert, toys.vit),
    ],
    ids=["deeper", "shallower", "tied", "untied", "labels", "other"],
)
def test_another_architecture(first: Make, second: Make) -> None:
    a, b = (mo.Checkpoint.from_module(make(), name=n) for n, make in (("a", first), ("b", second)))
    engine = mo.Engine()
    before = tensors_of(engine.load(a))
    with pytest.raises(CheckpointError, match=r"in 'b' or in the live model: .*a new mo\.Engine"):
        engine.load(b)
    assert_same(tensors_of(engine.load(a)), before)


@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_a_checkpoint_that_is_not_its_architecture(tmp_path: Path, change: str) -> None:
    """transformers would fill what is missing with random numbers."""
    folder = toys.save(toys.llama(), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["model.norm.weight"]
    else:
        tensors["model.norm.bias"] = torch.zeros(32)
    save_file(tensors, folder / "model.safetensors")
    engine = mo.Engine()
    with pytest.raises(CheckpointError, match=r"1 tensors.*model\.norm\..*save_pretrained\(\)"):
        engine.load(mo.Checkpoint(folder))
    engine.load(mo.Checkpoint.from_module(toys.bert(), name="fits"))


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    base = mo.Checkpoint(toys.save(toys.llama(), tmp_path / "base"))
    deeper = mo.Checkpoint(toys.save(toys.llama(layers=3), tmp_path / "deeper"))
    with pytest.raises(CheckpointMismatch, match="tensors differ"):
        mo.Engine().load(mo.recipes.linear([base, deeper]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, r"missing or names no architecture.*mo\.Checkpoint\.from_module"),
        ("{}", "names no architecture"),
        ('{"architectures": ["Grok9"]}', "has no Grok9, which .* needs. Update transformers"),
    ],
)
def test_a_folder_without_an_architecture(tmp_path: Path, config: str | None, words: str) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m")
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=words):
        mo.Engine().load(mo.Checkpoint(folder))


@pytest.mark.parametrize("dtype", ["bf16", "load", "int8", torch.int64, 3])
def test_data_types(dtype: Any) -> None:
    with pytest.raises(RecipeError, match=r"dtype must be 'float32', 'bfloat16' or"):
        mo.Engine(dtype=dtype)
