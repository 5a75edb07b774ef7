"""Adapters as sources, against peft's own merge and a float64 reference."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import peft
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, CheckpointMismatch
from tests import hub, memory, processes, toys
from tests.adapters import lora_family, merged_by_peft, save_adapter, saved

# peft asks transformers in an old way
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

ATTENTION = ["q_proj", "v_proj"]

CASES: dict[str, tuple[Callable[[], nn.Module], LoraConfig]] = {
    "llama": (toys.llama, LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION)),
    "every linear layer, rsLoRA": (
        toys.llama,
        LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", use_rslora=True),
    ),
    "patterns": (
        toys.llama,
        LoraConfig(
            r=2,
            lora_alpha=4,
            target_modules=["q_proj", "v_proj", "down_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 5, "down_proj": 3},
            alpha_pattern={r"layers.\d.self_attn.v_proj": 7, "down_proj": 1},
        ),
    ),
    "head replaced": (
        toys.llama,
        LoraConfig(r=2, target_modules=ATTENTION, modules_to_save=["lm_head", "norm"]),
    ),
    "embedding": (toys.llama, LoraConfig(r=2, target_modules=["embed_tokens", "lm_head"])),
    "tied embedding": (
        lambda: toys.llama(tied=True),
        LoraConfig(r=2, target_modules=["embed_tokens", "k_proj"]),
    ),
    "Conv1D": (
        toys.gpt2,
        LoraConfig(r=2, lora_alpha=3, target_modules=["c_attn", "c_proj", "c_fc"]),
    ),
    "classifier": (
        toys.bert,
        LoraConfig(
            r=2, target_modules=["query", "value"], task_type="SEQ_CLS", lora_alpha=3, bias="all"
        ),
    ),
    "biases of the adapted": (
        toys.bert,
        LoraConfig(r=2, target_modules=["query", "dense"], bias="lora_only"),
    ),
    "names of the live model": (toys.vit, LoraConfig(r=2, target_modules=["q_proj", "fc1"])),
    "convolution": (toys.vit, LoraConfig(r=2, target_modules=["projection"])),
}


def tensors(checkpoint: mo.Checkpoint) -> dict[str, Tensor]:
    return {name: checkpoint.tensor(name) for name in checkpoint.names()}


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal within the rounding of a sum of a few products in float32."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == torch.float32
        torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_adapter_is_what_peft_merges(
    tmp_path: Path, case: tuple[Callable[[], nn.Module], LoraConfig]
) -> None:
    make, config = case
    model = make()
    base = mo.Checkpoint(toys.save(model, tmp_path / "base"))
    adapter = save_adapter(model, config, tmp_path / "adapter")
    theirs = saved(merged_by_peft(model, adapter), tmp_path / "merged")

    ours = mo.Checkpoint(adapter, base=base)

    assert ours.names() == base.names()
    assert type(ours.store).__name__ == "LoraStore"
    assert_close(tensors(ours), theirs)
    changed = [n for n in base.names() if not torch.equal(theirs[n], base.tensor(n))]
    assert changed
    for name in base.names():
        assert ours.shape(name) == base.shape(name)
        if name not in changed:
            assert ours.tensor(name).data_ptr() == base.tensor(name).data_ptr()


@pytest.fixture
def simple(tmp_path: Path) -> tuple[nn.Module, mo.Checkpoint, Path]:
    """A Llama, its checkpoint, and a LoRA adapter on its attention that names it."""
    model = toys.llama()
    base = mo.Checkpoint(toys.save(model, tmp_path / "base"), name="base")
    config = LoraConfig(r=2, lora_alpha=3, target_modules=ATTENTION)
    return model, base, save_adapter(model, config, tmp_path / "adapter", base=base.ref)


def rewritten(adapter: Path, folder: Path, rename: Callable[[str], str]) -> Path:
    """The adapter under other names."""
    shutil.copytree(adapter, folder)
    state = load_file(adapter / "adapter_model.safetensors")
    save_file({rename(k): t for k, t in state.items()}, folder / "adapter_model.safetensors")
    return folder


def configured(adapter: Path, folder: Path, **settings: object) -> Path:
    """The adapter with other settings."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


Simple = tuple[nn.Module, mo.Checkpoint, Path]


def test_nothing_is_rounded_to_the_base_s_bfloat16(tmp_path: Path) -> None:
    """Against W + alpha / r · B · A in float64; rounded to bfloat16 the error is 1e-3."""
    model = toys.llama().to(torch.bfloat16)
    base = mo.Checkpoint(toys.save(model, tmp_path / "base", dtype=torch.bfloat16))
    config = LoraConfig(r=4, lora_alpha=6, target_modules=ATTENTION)
    adapter = save_adapter(toys.llama(), config, tmp_path / "adapter")
    state = load_file(adapter / "adapter_model.safetensors")
    module = "model.layers.1.self_attn.v_proj"
    a = state[f"base_model.model.{module}.lora_A.weight"].double()
    b = state[f"base_model.model.{module}.lora_B.weight"].double()
    expected = base.tensor(f"{module}.weight").double() + 6 / 4 * (b @ a)

    ours = mo.Checkpoint(adapter, base=base)

    assert ours.dtype(f"{module}.weight") == torch.bfloat16
    assert (ours.tensor(f"{module}.weight").double() - expected).abs().max() < 1e-6
    assert (expected.bfloat16().double() - expected).abs().max() > 1e-4


def test_an_adapter_in_a_bin_file_is_the_same(tmp_path: Path, simple: Simple) -> None:
    _, base, adapter = simple
    folder = tmp_path / "bin"
    folder.mkdir()
    shutil.copy(adapter / "adapter_config.json", folder)
    torch.save(load_file(adapter / "adapter_model.safetensors"), folder / "adapter_model.bin")

    ours, other = mo.Checkpoint(folder), mo.Checkpoint(adapter)

    assert ours.digest == other.digest
    assert all(torch.equal(ours.tensor(name), other.tensor(name)) for name in base.names())


@pytest.mark.parametrize("removed", ["base_model.model.model.", "base_model.model."])
def test_the_adapter_may_come_from_a_model_with_another_prefix(
    tmp_path: Path, simple: Simple, removed: str
) -> None:
    _, base, adapter = simple
    headless = rewritten(
        adapter, tmp_path / "headless", lambda k: "base_model.model." + k.removeprefix(removed)
    )
    wrapped = rewritten(
        adapter, tmp_path / "wrapped", lambda k: k.replace("model.model.", "model.vlm.model.")
    )

    expected = tensors(mo.Checkpoint(adapter))

    for folder in (headless, wrapped):
        ours = mo.Checkpoint(folder)
        assert all(torch.equal(ours.tensor(name), expected[name]) for name in base.names())


def test_the_experts_of_a_mixture(tmp_path: Path) -> None:
    """Adapters made when each expert was a module of its own have the names of the checkpoint."""
    name = "model.layers.0.mlp.experts.{}.gate_proj"
    weights = {f"{name.format(i)}.weight": torch.randn(6, 4) for i in range(3)}
    (tmp_path / "base").mkdir()
    save_file(weights, tmp_path / "base" / "model.safetensors")
    a, b = torch.randn(2, 4), torch.randn(6, 2)
    (tmp_path / "adapter").mkdir()
    save_file(
        {
            f"base_model.model.{name.format(1)}.lora_A.weight": a,
            f"base_model.model.{name.format(1)}.lora_B.weight": b,
        },
        tmp_path / "adapter" / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))

    ours = mo.Checkpoint(tmp_path / "adapter", base=mo.Checkpoint(tmp_path / "base"))

    weights[f"{name.format(1)}.weight"] += 4 * (b @ a)
    assert_close(tensors(ours), weights)


def test_a_module_in_memory_as_the_base(tmp_path: Path) -> None:
    """A convolution with a kernel of its own and a square layer, in a plain module."""
    model = nn.Sequential(nn.Conv2d(3, 4, (2, 3)), nn.Flatten(), nn.Linear(8, 8))
    config = LoraConfig(r=2, target_modules=["0", "2"])
    adapter = save_adapter(model, config, tmp_path / "adapter")
    base = mo.Checkpoint.from_module(model, name="net")

    ours = mo.Checkpoint(adapter, base=base)

    assert_close(tensors(ours), dict(merged_by_peft(model, adapter).state_dict()))
    assert ours.folder is None


def test_square_weights_of_conv1d_are_turned_though_the_config_forgets_it(
    tmp_path: Path,
) -> None:
    model = toys.gpt2()
    base = mo.Checkpoint(toys.save(model, tmp_path / "base"))
    config = LoraConfig(r=2, target_modules=["c_attn", "c_proj"])
    adapter = save_adapter(model, config, tmp_path / "adapter")
    forgetful = configured(adapter, tmp_path / "forgetful", fan_in_fan_out=False)

    ours, expected = (mo.Checkpoint(f, base=base) for f in (forgetful, adapter))

    assert all(torch.equal(ours.tensor(n), expected.tensor(n)) for n in base.names())


def test_streaming_an_adapter_takes_the_memory_of_one_tensor(tmp_path: Path) -> None:
    """Over a base of 100 MB: one tensor of 2048 x 2048 in float32 is 16.8 MB."""
    size, rank, layers = 2048, 8, 12
    zeros = torch.zeros(size, size, dtype=torch.bfloat16)
    (tmp_path / "base").mkdir()
    weights = {f"layers.{i}.weight": zeros.clone() for i in range(layers)}
    save_file(weights, tmp_path / "base" / "model.safetensors")
    del weights
    matrices = {}
    for i in range(layers):
        matrices[f"base_model.model.layers.{i}.lora_A.weight"] = torch.ones(rank, size)
        matrices[f"base_model.model.layers.{i}.lora_B.weight"] = torch.ones(size, rank)
    (tmp_path / "adapter").mkdir()
    save_file(matrices, tmp_path / "adapter" / "adapter_model.safetensors")
    adapter_bytes = sum(t.nbytes for t in matrices.values())
    del matrices
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')

    done = processes.call(
        memory.print_growth_while_streaming,
        str(tmp_path / "adapter"),
        str(tmp_path / "base"),
        cwd=tmp_path,
    ).wait()

    assert done.code == 0, done.err
    one = size * size * 4
    assert one < int(done.out) < one + adapter_bytes + (1 << 20)


def test_an_adapter_on_the_hub_and_its_base(
    tmp_path: Path, simple: Simple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter says which revision of its base it was trained on."""
    model, base, adapter = simple
    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    old = hub.put_into_cache(cache, "org/base", hub.files_of(base.folder), "v1")
    newer = toys.save(toys.noised(model, 1), tmp_path / "newer")
    hub.put_into_cache(cache, "org/base", hub.files_of(newer))
    named = configured(
        adapter, tmp_path / "named", base_model_name_or_path="org/base", revision="v1"
    )
    commit = hub.put_into_cache(cache, "org/lora", hub.files_of(named))

    ours = mo.Checkpoint("org/lora", name="ja")

    assert (ours.revision, ours.base.ref, ours.base.revision) == (commit, "org/base", old)
    assert ours == mo.Checkpoint(adapter, name="ja")
    assert ours.folder == ours.base.folder
    recipe = mo.recipes.linear([ours])
    again = mo.Recipe.from_yaml(recipe.to_yaml())
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(again.models[0].tensor(name), ours.tensor(name))


def test_a_moved_base_is_passed_by_its_name(tmp_path: Path, simple: Simple) -> None:
    _, base, adapter = simple
    ours = mo.Checkpoint(adapter, base=base, name="ja")
    stored = mo.Recipe.from_yaml(mo.recipes.linear([ours]).to_yaml())
    moved = base.folder.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"'base' was recorded at .*sources=\{'base'"):
        _ = stored.models[0].store

    again = stored.with_sources({"base": moved})

    assert again.models[0].base.ref == str(moved)
    assert again.models[0].tensor("lm_head.weight").shape == (64, 32)


# -- as a source ----------------------------------------------------------------------------


def test_an_adapter_stands_for_its_base_s_model(tmp_path: Path, simple: Simple) -> None:
    model, base, adapter = simple
    (base.folder / "tokenizer.json").write_text("{}")

    ours = mo.Checkpoint(adapter, name="ja")

    assert ours.ref == str(adapter)
    assert ours.base.ref == base.ref
    assert ours.config == base.config
    live = mo.Engine().load(ours)
    assert_close(dict(live.state_dict()), dict(merged_by_peft(model, adapter).state_dict()))
    written = mo.engine.write(ours, tmp_path / "out")
    assert (written / "tokenizer.json").read_text() == "{}"
    loaded = AutoModelForCausalLM.from_pretrained(written).state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in live.state_dict().items())


METHODS: dict[str, Callable[[mo.Checkpoint, list[mo.Checkpoint]], mo.Recipe]] = {
    "linear": lambda base, experts: mo.recipes.linear([base, *experts], weight=[1, 2, 3]),
    "slerp": lambda base, experts: mo.recipes.slerp(*experts, t=0.3),
    "task_arithmetic": lambda base, experts: mo.recipes.task_arithmetic(base, experts),
    "ties": lambda base, experts: mo.recipes.ties(base, experts, density=0.4),
    "ties over the model": lambda base, experts: mo.recipes.ties(
        base, experts, density=0.4, trim_over="model"
    ),
    "dare_linear": lambda base, experts: mo.recipes.dare_linear(base, experts, seed=3),
    "dare_ties": lambda base, experts: mo.recipes.dare_ties(base, experts, seed=3),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_adapters_are_experts_like_whole_models(
    tmp_path: Path, method: Callable[[mo.Checkpoint, list[mo.Checkpoint]], mo.Recipe]
) -> None:
    """The same merge of the models that peft has merged; those files are float32, so equal."""
    model = toys.llama()
    base, *adapters = lora_family(tmp_path, model, ["q_proj", "down_proj"])
    whole = []
    for adapter in adapters:
        folder = tmp_path / f"whole-{adapter.name}"
        mo.engine.write(adapter, folder)
        whole.append(mo.Checkpoint(folder, name=adapter.name))

    ours = dict(mo.engine.tensors(method(base, adapters)))

    theirs = dict(mo.engine.tensors(method(base, whole)))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    live = mo.Engine().load(method(base, adapters)).state_dict()
    assert all(torch.equal(live[name], theirs[name]) for name in theirs)


def test_a_recipe_records_adapter_and_base(tmp_path: Path, simple: Simple) -> None:
    _, base, adapter = simple
    ours = mo.Checkpoint(adapter, name="ja")
    recipe = mo.recipes.ties(base, [ours], density=0.3)

    leaf = recipe.to_data()["models"][0]
    again = mo.Recipe.from_yaml(recipe.to_yaml())

    assert (leaf["ref"], leaf["digest"]) == (ours.ref, ours.digest)
    assert (leaf["base"]["ref"], leaf["base"]["digest"]) == (base.ref, base.digest)
    assert "base" not in recipe.to_data()["base"]
    assert again == recipe
    assert again.digest == recipe.digest
    expected = dict(mo.engine.tensors(recipe))
    for other in (again, pickle.loads(pickle.dumps(recipe)), copy.deepcopy(recipe)):
        assert all(torch.equal(t, expected[name]) for name, t in mo.engine.tensors(other))


def test_a_base_in_memory_is_passed_again_by_its_name(tmp_path: Path, simple: Simple) -> None:
    model, _, adapter = simple
    base = mo.Checkpoint.from_module(model, name="net")
    recipe = mo.recipes.ties(base, [mo.Checkpoint(adapter, base=base, name="ja")])
    stored = mo.Recipe.from_yaml(recipe.to_yaml())
    with pytest.raises(CheckpointError, match=r"was a module in memory. Pass it again"):
        dict(mo.engine.tensors(stored))

    again = stored.with_sources({"net": mo.Checkpoint.from_module(model, name="net")})

    expected = dict(mo.engine.tensors(recipe))
    assert all(torch.equal(t, expected[name]) for name, t in mo.engine.tensors(again))


def test_the_digest_is_of_base_and_adapter(tmp_path: Path, simple: Simple) -> None:
    model, base, adapter = simple
    first = mo.Checkpoint(adapter)
    other_base = mo.Checkpoint(toys.save(toys.noised(model, 1), tmp_path / "base2"))
    other = save_adapter(
        model, LoraConfig(r=2, lora_alpha=3, target_modules=ATTENTION), tmp_path / "b", seed=1
    )
    copied = shutil.copytree(adapter, tmp_path / "copy")
    moved = configured(adapter, tmp_path / "moved", base_model_name_or_path="elsewhere")

    assert mo.Checkpoint(copied).digest == first.digest
    assert mo.Checkpoint(moved, base=base).digest == first.digest
    others = {
        base.digest,
        first.digest,
        mo.Checkpoint(adapter, base=other_base).digest,
        mo.Checkpoint(other, base=base).digest,
        mo.Checkpoint(configured(adapter, tmp_path / "c", lora_alpha=9)).digest,
    }
    assert len(others) == 5


# -- errors ---------------------------------------------------------------------------------


def test_a_base_that_is_not_there(tmp_path: Path, simple: Simple) -> None:
    _, base, adapter = simple
    gone = configured(adapter, tmp_path / "gone", base_model_name_or_path=str(tmp_path / "x"))
    silent = configured(adapter, tmp_path / "silent", base_model_name_or_path=None)

    with pytest.raises(CheckpointError, match=r"was trained on '.*/x', which cannot be .*base=mo"):
        mo.Checkpoint(gone)
    with pytest.raises(CheckpointError, match=r"does not say what its base is.*base=mo"):
        mo.Checkpoint(silent)
    with pytest.raises(CheckpointError, match=r"base=mo.Checkpoint\('folder'\)"):
        mo.Checkpoint(gone, base="folder")
    with pytest.raises(CheckpointError, match=r"is no adapter: it has no adapter_config.json"):
        mo.Checkpoint(base.ref, base=base)


def test_tensors_that_match_none_are_listed(tmp_path: Path, simple: Simple) -> None:
    _, base, adapter = simple
    other = rewritten(adapter, tmp_path / "other", lambda k: k.replace("v_proj", "w_proj"))
    with pytest.raises(CheckpointMismatch, match=re.escape("layers.0.self_attn.w_proj.lora_A")):
        mo.Checkpoint(other, base=base)

    narrow = mo.Checkpoint(toys.save(toys.llama(hidden_size=16), tmp_path / "narrow"))
    with pytest.raises(CheckpointMismatch, match=r"4 tensors .*q_proj.weight \(16, 16\) and A"):
        mo.Checkpoint(adapter, base=narrow)

    model = toys.llama(vocab_size=66)
    config = LoraConfig(r=2, target_modules=ATTENTION, modules_to_save=["embed_tokens"])
    longer = save_adapter(model, config, tmp_path / "longer")
    with pytest.raises(CheckpointMismatch, match=r"embed_tokens.weight \(66, 32\) != \(64, 32\)"):
        mo.Checkpoint(longer, base=base)


def test_a_damaged_adapter(tmp_path: Path, simple: Simple) -> None:
    _, base, adapter = simple
    cut = shutil.copytree(adapter, tmp_path / "cut")
    content = (adapter / "adapter_model.safetensors").read_bytes()
    (cut / "adapter_model.safetensors").write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        mo.Checkpoint(cut)

    (cut / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither adapter_model.safetensors nor"):
        mo.Checkpoint(cut)

    shutil.copy(base.folder / "model.safetensors", cut)
    with pytest.raises(CheckpointError, match=r"holds both an adapter .* and a whole model"):
        mo.Checkpoint(cut)


@pytest.mark.parametrize("changed", ["base", "adapter"])
def test_a_changed_base_or_adapter_is_refused(
    tmp_path: Path, simple: Simple, changed: str
) -> None:
    model, base, adapter = simple
    recipe = mo.recipes.linear([mo.Checkpoint(adapter, name="ja")]).to_yaml()
    if changed == "base":
        toys.save(toys.noised(model, 1), base.folder)
    else:
        config = LoraConfig(r=2, lora_alpha=3, target_modules=ATTENTION)
        save_adapter(model, config, adapter, seed=7, base=base.ref)

    with pytest.raises(CheckpointError, match="has changed"):
        dict(mo.engine.tensors(mo.Recipe.from_yaml(recipe)))


def test_a_merge_does_not_replace_the_base_of_its_adapter(simple: Simple) -> None:
    _, base, adapter = simple
    with pytest.raises(mo.errors.ExportError, match="a source of this merge"):
        mo.engine.write(mo.Checkpoint(adapter), base.folder, force=True)


# -- what only peft can merge ---------------------------------------------------------------

KINDS: dict[str, tuple[Callable[[], nn.Module], peft.PeftConfig]] = {
    "DoRA": (toys.llama, LoraConfig(r=2, target_modules=ATTENTION, use_dora=True)),
    "LoHa": (toys.llama, peft.LoHaConfig(r=2, target_modules=ATTENTION)),
    "LoKr": (toys.bert, peft.LoKrConfig(r=2, target_modules=["query"])),
    "IA3": (
        toys.llama,
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "PiSSA": (toys.llama, LoraConfig(r=2, target_modules=ATTENTION, init_lora_weights="pissa")),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_other_kinds_are_merged_by_peft(
    tmp_path: Path, kind: tuple[Callable[[], nn.Module], peft.PeftConfig]
) -> None:
    make, config = kind
    model = make()
    base = mo.Checkpoint(toys.save(model, tmp_path / "base"))
    adapter = save_adapter(model, config, tmp_path / "adapter")
    theirs = saved(merged_by_peft(model, adapter), tmp_path / "merged")

    ours = mo.Checkpoint(adapter, base=base)

    on_module = mo.Checkpoint(adapter, base=mo.Checkpoint.from_module(model, name="net"))
    for checkpoint in (ours, pickle.loads(pickle.dumps(on_module))):
        with pytest.warns(UserWarning, match="into a copy of its base in float32, .* GB of"):
            assert_close(tensors(checkpoint), theirs)
    assert base == mo.Checkpoint(base.folder)
    assert_close(tensors(base), saved(model, tmp_path / "again"))


def test_without_peft_the_error_says_how_to_get_it(
    tmp_path: Path, simple: Simple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work; a plain LoRA does not need it."""
    _, _, adapter = simple
    model = toys.llama()
    config = LoraConfig(r=2, target_modules=ATTENTION, use_dora=True)
    dora = save_adapter(model, config, tmp_path / "dora", base=str(tmp_path / "base"))
    find = mo.checkpoints._peft.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "peft" else find(name, *a)
    )

    with pytest.raises(CheckpointError, match=r"is DoRA, .* pip install 'merge_optuna\[peft\]'"):
        mo.Checkpoint(dora)
    mo.Checkpoint(adapter)


def test_prompts_change_no_weights(tmp_path: Path, simple: Simple) -> None:
    _, _, adapter = simple
    prompt = configured(adapter, tmp_path / "prompt", peft_type="PROMPT_TUNING")
    with pytest.raises(CheckpointError, match=r"PROMPT_TUNING: .* changes no weight"):
        mo.Checkpoint(prompt)
