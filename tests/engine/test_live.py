"""The live model is, bit for bit, what from_pretrained() makes of the written checkpoint."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna.engine._build import build
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
FAMILIES: dict[str, Make] = {
    **MODELS,
    "t5": toys.t5,
    "llava": toys.llava,
    "mamba2": partial(toys.decoder, "Mamba2"),  # its config.json holds infinity
    "roberta": partial(toys.encoder, "Roberta"),
    **{
        name.lower(): partial(toys.decoder, name)
        for name in ("Mixtral", "Qwen2Moe", "Qwen3Moe", "Mistral", "Qwen2", "Qwen3", "Phi3")
    },
    **{name.lower(): partial(toys.decoder, name) for name in ("Gemma", "Gemma2", "Gemma3")},
}
every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def dare_ties(base: mo.Checkpoint, *experts: mo.Checkpoint, **values: Any) -> mo.Recipe:
    """A recipe with all that a recipe may have: random masks, values by layer and by name."""
    layers = mo.recipes.linear([base, *experts]).alignment.layout.order
    by_layer = list(itertools.islice(itertools.cycle([0.9, 0.6, 0.3, 0.5]), len(layers)))
    settings: dict[str, Any] = {
        "weight": {"*.0.*": 0.4, "*": mo.per_group(by_layer)},
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
    with torch.no_grad():
        return model(**toys.inputs(model)).logits


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
@every_family
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


# -- checkpoints of other times and hands -----------------------------------------------------


def test_the_model_is_built_from_names_and_config_alone(tmp_path: Path) -> None:
    """A frame need not be a folder: adapters and stacks of layers are not."""
    base, _ = toys.family(tmp_path, experts=1)
    expected = tensors_of(mo.Engine().load(base))
    shutil.rmtree(tmp_path / "base")
    model, _ = build(base, None, torch.device("cpu"))
    assert {n: t.shape for n, t in tensors_of(model).items()} == {
        n: t.shape for n, t in expected.items()
    }


def test_building_takes_no_memory_for_weights(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(tied=True), tmp_path / "m")
    rows = 500_000
    renamed(folder, lambda t: t | {"model.embed_tokens.weight": torch.zeros(rows, 32)})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    frame = mo.Checkpoint(folder)

    before = anonymous_memory()
    model, views = build(frame, None, torch.device("cpu"))
    assert views["model.embed_tokens.weight"].nbytes == 64_000_000
    assert anonymous_memory() - before < 16_000_000
    model.model.embed_tokens.weight.fill_(1.0)
    assert anonymous_memory() - before > 60_000_000


def anonymous_memory() -> int:
    """Bytes that this process holds beside mapped files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0])


def test_the_model_knows_its_folder(tmp_path: Path) -> None:
    """Tokenizers and image processors are looked for there."""
    folder = toys.save(toys.bert(), tmp_path / "bert")
    model = mo.Engine().load(mo.Checkpoint(folder))
    wanted = type(model).from_pretrained(folder)
    assert model.name_or_path == wanted.name_or_path == str(folder)
    assert model.config.name_or_path == wanted.config.name_or_path


def test_generation_config(tmp_path: Path) -> None:
    model = toys.llama()
    model.generation_config.update(max_new_tokens=7, temperature=0.5, do_sample=True)
    base = mo.Checkpoint(toys.save(model, tmp_path / "base"), name="base")
    live = mo.Engine().load(base)
    mo.write(base, tmp_path / "out")
    loaded = type(live).from_pretrained(tmp_path / "out")
    assert live.generation_config.max_new_tokens == 7
    assert live.generation_config.to_dict() == loaded.generation_config.to_dict()
    assert live.config.to_diff_dict() == loaded.config.to_diff_dict()


def test_generation_settings_of_an_old_config(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "base")
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_beams": 3}))
    live = mo.Engine().load(mo.Checkpoint(folder))
    loaded = type(live).from_pretrained(folder)
    assert live.generation_config.num_beams == 3
    assert live.generation_config.to_dict() == loaded.generation_config.to_dict()


def renamed(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrites the tensors of a checkpoint."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file(change(tensors), file, metadata={"format": "pt"})


@pytest.mark.parametrize("case", ["prefix-left-out", "prefix-in-excess", "gamma", "old-buffers"])
def test_names_that_transformers_understands(tmp_path: Path, case: str) -> None:
    """As the first GPT-2, BERT and Llama checkpoints have them."""
    make: Make = {
        "prefix-left-out": toys.gpt2,
        "prefix-in-excess": lambda: toys.bert().bert,
        "gamma": toys.bert,
        "old-buffers": toys.llama,
    }[case]
    changes: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
        "prefix-left-out": lambda t: {n.removeprefix("transformer."): v for n, v in t.items()},
        "prefix-in-excess": lambda t: {f"bert.{n}": v for n, v in t.items()},
        "gamma": lambda t: {
            n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): v
            for n, v in t.items()
        },
        "old-buffers": lambda t: (
            t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        ),
    }
    checkpoints = toys.family(tmp_path, make, experts=2)
    expected = tensors_of(mo.Engine().load(mo.recipes.ties(*checkpoints[:1], checkpoints[1:])))
    for checkpoint in checkpoints:
        renamed(tmp_path / checkpoint.name, changes[case])
    again = [mo.Checkpoint(c.ref, name=c.name) for c in checkpoints]
    assert set(load_file(tmp_path / "base" / "model.safetensors")) != set(again[0].names())
    assert again[0].names() == checkpoints[0].names()
    recipe = mo.recipes.ties(again[0], again[1:])

    live = mo.Engine().load(recipe)
    mo.write(recipe, tmp_path / "out")

    assert_same(tensors_of(live), expected)
    assert_same(tensors_of(live), tensors_of(type(live).from_pretrained(tmp_path / "out")))


def test_a_module_that_the_class_lacks_is_written_but_not_evaluated(tmp_path: Path) -> None:
    """As the pooler in the checkpoints of masked language models."""
    checkpoints = toys.family(tmp_path, toys.bert, experts=1)
    for checkpoint in checkpoints:
        renamed(
            tmp_path / checkpoint.name,
            lambda t: t | {"cls.seq_relationship.weight": torch.ones(2, 32)},
        )
    recipe = mo.recipes.linear([mo.Checkpoint(c.ref, name=c.name) for c in checkpoints])
    with pytest.warns(UserWarning, match=r"no place for 1 tensors of 'base': cls\.seq_rel"):
        live = mo.Engine().load(recipe)
    mo.write(recipe, tmp_path / "out")
    assert "cls.seq_relationship.weight" in load_file(tmp_path / "out" / "model.safetensors")
    assert_same(tensors_of(live), tensors_of(type(live).from_pretrained(tmp_path / "out")))


@pytest.mark.parametrize("difference", [0, 1])
def test_tied_tensors_that_are_stored_twice(tmp_path: Path, difference: int) -> None:
    """transformers ties them only if they are equal: then they are merged as one."""
    checkpoints = toys.family(tmp_path, partial(toys.llama, tied=True), experts=2)
    for checkpoint in checkpoints:
        renamed(
            tmp_path / checkpoint.name,
            lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"] + difference},
        )
    recipe = dare_ties(*(mo.Checkpoint(c.ref, name=c.name) for c in checkpoints))
    live = mo.Engine().load(recipe)
    mo.write(recipe, tmp_path / "out")
    loaded = type(live).from_pretrained(tmp_path / "out")
    tied = torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)
    assert tied == (difference == 0)
    assert_same(tensors_of(live), tensors_of(loaded))


def test_names_of_an_architecture_whose_own_are_outdated() -> None:
    """transformers saves the norms of an ESM as gamma and beta, if it was made from a config."""
    names = mo.Checkpoint.from_module(toys.encoder("Esm"), name="m").names()
    assert "esm.encoder.layer.0.LayerNorm.weight" in names
    assert not any(name.endswith(("gamma", "beta")) for name in names)


# -- data types -------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["bfloat16", None])
def test_tensors_of_several_data_types(tmp_path: Path, said: str | None) -> None:
    """Routers and norms kept in float32 inside a bfloat16 model."""
    checkpoints = toys.family(tmp_path, FAMILIES["mixtral"], experts=2, dtype=torch.bfloat16)
    for checkpoint in checkpoints:
        folder = tmp_path / checkpoint.name
        renamed(
            folder,
            lambda t: {n: v.float() if "norm" in n or ".gate." in n else v for n, v in t.items()},
        )
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"dtype": said}))
    recipe = dare_ties(*(mo.Checkpoint(c.ref, name=c.name) for c in checkpoints))

    live = mo.Engine().load(recipe)
    mo.write(recipe, tmp_path / "out")

    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written["model.norm.weight"].dtype == torch.float32
    assert written["model.embed_tokens.weight"].dtype == torch.bfloat16
    loaded = type(live).from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert_same(tensors_of(live), tensors_of(loaded))


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_modules_that_transformers_keeps_in_float32(tmp_path: Path, stored: torch.dtype) -> None:
    """They hold what the written checkpoint holds: numbers that float16 has."""
    recipe = dare_ties(*toys.family(tmp_path, toys.t5, experts=2, dtype=stored))
    live = mo.Engine(dtype="float16").load(recipe)
    mo.write(recipe, tmp_path / "out", dtype="float16")
    loaded = type(live).from_pretrained(tmp_path / "out")
    assert loaded.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert_same(tensors_of(live), tensors_of(loaded))


@pytest.mark.parametrize("words", ["proj", ""], ids=["some", "all"])
def test_tensors_of_eight_bits(tmp_path: Path, words: str) -> None:
    """Stored as they are, without scales; computed with in the type that the config names."""
    checkpoints = toys.family(tmp_path, experts=2, dtype=torch.bfloat16)
    for checkpoint in checkpoints:
        renamed(
            tmp_path / checkpoint.name,
            lambda t: {n: v.to(torch.float8_e4m3fn) if words in n else v for n, v in t.items()},
        )
    recipe = dare_ties(*(mo.Checkpoint(c.ref, name=c.name) for c in checkpoints))
    live = mo.Engine().load(recipe)
    mo.write(recipe, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written["model.layers.0.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn
    loaded = type(live).from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.bfloat16
    assert_same(tensors_of(live), tensors_of(loaded))


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
    before = [_content(c) for c in (*checkpoints, module)]
    engine = mo.Engine()
    engine.load(module)
    engine.load(dare_ties(module, *checkpoints))
    again = [_content(mo.Checkpoint(c.ref, name=c.name)) for c in checkpoints]
    assert [*again, _content(module)] == before
    assert [_content(c) for c in checkpoints] == again


def _content(checkpoint: mo.Checkpoint) -> dict[str, bytes]:
    return {name: checkpoint.tensor(name).numpy().tobytes() for name in checkpoint.names()}


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
        (
            '{"architectures": ["Grok9"], "auto_map": {"AutoModel": "grok.Grok9"}}',
            "comes with the checkpoint, which is not run. Load the model yourself",
        ),
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


@pytest.mark.parametrize("dtype", ["bf16", "load", "int8", "float8_e5m2", torch.int64, 3])
def test_data_types(dtype: Any) -> None:
    with pytest.raises(RecipeError, match=r"dtype must be 'float32', 'bfloat16' or"):
        mo.Engine(dtype=dtype)
