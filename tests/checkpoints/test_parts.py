"""Components of a diffusers pipeline: one is merged, the others stay as they are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, ExportError
from tests import toys
from tests.hub import files_of, put_into_cache

UNET = "diffusion_pytorch_model"


def tensors(seed: int, names: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"down_blocks.{i}.conv.weight": torch.randn(8, 4, 3, 3, generator=generator)
        for i in range(names)
    }


def pipeline(folder: Path, seed: int, variant: str = "") -> Path:
    """A pipeline as diffusers saves one."""
    clip = CLIPTextConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1)
    torch.manual_seed(seed)
    toys.save(CLIPTextModel(clip), folder / "text_encoder")
    if variant:
        saved = folder / "text_encoder" / "model.safetensors"
        saved.rename(saved.with_name(f"model{variant}.safetensors"))
    for name, kind in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"_class_name": kind}))
    save_file(tensors(seed), folder / "unet" / f"{UNET}{variant}.safetensors")
    save_file(tensors(seed + 100), folder / "vae" / f"{UNET}{variant}.safetensors")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
        "safety_checker": [None, None],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return pipeline(tmp_path / "base", 0)


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    return pipeline(tmp_path / "expert", 1)


def test_a_part_is_its_component(base: Path) -> None:
    unet = mo.Checkpoint(base, part="unet", name="base")
    assert unet.part == "unet"
    assert unet.ref == str(base)
    assert unet.folder == base / "unet"
    assert unet.digest == mo.Checkpoint(base / "unet").digest
    assert unet.digest != mo.Checkpoint(base, part="vae").digest
    expected = tensors(0)
    assert all(torch.equal(unet.tensor(n), t) for n, t in expected.items())
    assert unet.config == {"_class_name": "UNet2DConditionModel"}


def test_the_merge_is_of_the_part_and_the_rest_is_the_base(
    tmp_path: Path, base: Path, expert: Path
) -> None:
    (base / "v1-5-pruned.safetensors").write_bytes(b"the whole pipeline, unmerged")
    (base / "README.md").write_text("the base")
    recipe = mo.recipes.linear(
        [mo.Checkpoint(base, part="unet", name="a"), mo.Checkpoint(expert, part="unet", name="b")]
    )
    before = {**files_of(base)}

    folder = mo.write(recipe, tmp_path / "out")

    merged = load_file(folder / "unet" / f"{UNET}.safetensors")
    a, b = tensors(0), tensors(1)
    assert merged.keys() == a.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor.double(), (a[name].double() + b[name].double()) / 2)
    written = files_of(folder)
    same = before.keys() - {f"unet/{UNET}.safetensors", "README.md", "v1-5-pruned.safetensors"}
    made = {f"unet/{UNET}.safetensors", "README.md", "recipe.yaml", "recipe.svg"}
    made.add(".merge_optuna.json")
    assert written.keys() == same | made
    for name in same - {"unet/config.json"}:
        assert written[name] == before[name]
    assert json.loads(written["unet/config.json"]) == {"_class_name": "UNet2DConditionModel"}
    assert f"unet of `{base}`" in written["README.md"].decode()
    assert files_of(base) == before
    # the recipe that lies there makes the same again, and the result is a pipeline
    again = mo.Recipe.from_yaml(folder / "recipe.yaml")
    assert again == recipe
    mo.write(again, tmp_path / "again")
    assert files_of(tmp_path / "again" / "unet") == files_of(folder / "unet")
    assert mo.Checkpoint(folder, part="unet").names() == recipe.frame.names()
    mo.write(again, folder, force=True)


def test_a_text_encoder_is_a_transformers_model(tmp_path: Path, base: Path, expert: Path) -> None:
    sources = [
        mo.Checkpoint(f, part="text_encoder", name=n) for n, f in (("a", base), ("b", expert))
    ]
    live = mo.Engine().load(mo.recipes.linear(sources))
    folder = mo.write(mo.recipes.linear(sources), tmp_path / "out")
    assert isinstance(live, CLIPTextModel)
    again = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
    assert all(torch.equal(again[n], t) for n, t in live.state_dict().items())
    assert files_of(folder / "unet") == files_of(base / "unet")


@pytest.mark.parametrize("shard", [5_000_000_000, 2000], ids=["single", "sharded"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_file_names_are_those_of_diffusers(tmp_path: Path, variant: str, shard: int) -> None:
    """With the same names, so that ``variant="fp16"`` finds every component or none."""
    base = pipeline(tmp_path / "base", 0, variant)
    unet = mo.Checkpoint(base, part="unet")

    folder = mo.write(unet, tmp_path / "out", max_shard_size=shard)

    names = {path.name for path in (folder / "unet").iterdir()}
    if shard == 2000:
        shards = {f"{UNET}{variant}-{i:05}-of-00003.safetensors" for i in (1, 2, 3)}
        assert names == {*shards, f"{UNET}.safetensors.index{variant}.json", "config.json"}
    else:
        assert names == {f"{UNET}{variant}.safetensors", "config.json"}
    assert mo.Checkpoint(folder, part="unet").digest == unet.digest
    assert files_of(folder / "vae") == files_of(base / "vae")
    assert mo.Checkpoint(folder, part="text_encoder").names()


def test_full_precision_wins_over_half(base: Path) -> None:
    halves = {name: t.half() for name, t in tensors(7).items()}
    save_file(halves, base / "unet" / f"{UNET}.fp16.safetensors")
    assert mo.Checkpoint(base, part="unet").dtype("down_blocks.0.conv.weight") == torch.float32


def test_a_lone_component_merges_with_a_part(tmp_path: Path, base: Path, expert: Path) -> None:
    alone = shutil.copytree(expert / "unet", tmp_path / "alone")
    (alone / f"{UNET}.safetensors").unlink()
    torch.save(tensors(1), alone / f"{UNET}.bin")
    sources = [mo.Checkpoint(base, part="unet", name="a"), mo.Checkpoint(alone, name="b")]

    folder = mo.write(mo.recipes.linear(sources), tmp_path / "out")
    reverse = mo.write(mo.recipes.linear(sources[::-1]), tmp_path / "reverse")

    assert (folder / "model_index.json").is_file()
    merged = load_file(folder / "unet" / f"{UNET}.safetensors")
    lone = load_file(reverse / f"{UNET}.safetensors")
    assert all(torch.equal(lone[name], tensor) for name, tensor in merged.items())


def test_a_pipeline_on_the_hub(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    put_into_cache(tmp_path / "cache", "org/sd", files_of(base))

    unet = mo.Checkpoint("org/sd", part="unet")
    folder = mo.write(unet, tmp_path / "out")

    assert unet.digest == mo.Checkpoint(base, part="unet").digest
    made = {"README.md", ".merge_optuna.json"}
    assert files_of(folder).keys() == files_of(base).keys() | made
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_a_module_of_a_model_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = toys.save(toys.bert(), tmp_path / "bert")
    put_into_cache(tmp_path / "cache", "org/bert", files_of(folder))
    encoder = mo.Checkpoint("org/bert", part="bert")
    assert encoder.digest == mo.Checkpoint(folder, part="bert").digest
    assert "embeddings.word_embeddings.weight" in encoder.names()


def test_the_tokenizer_of_a_pipeline_is_a_part(tmp_path: Path, base: Path, expert: Path) -> None:
    sources = [mo.Checkpoint(f, part="unet", name=f.name) for f in (base, expert)]
    with pytest.raises(ExportError, match=r"tokenizer='expert' does not apply"):
        mo.write(mo.recipes.linear(sources), tmp_path / "out", tokenizer="expert")


def refused(folder: Path, *words: str, part: str | None) -> None:
    with pytest.raises(CheckpointError, match=".*".join(map(re.escape, words))):
        mo.Checkpoint(folder, part=part)


def test_errors(tmp_path: Path, base: Path) -> None:
    refused(base, "is a diffusers pipeline", "part='unet'", part=None)
    refused(
        base, "no part 'transformer'", "text_encoder, tokenizer, unet, vae", part="transformer"
    )
    refused(base, "no part 'safety_checker'", part="safety_checker")
    refused(base, "tokenizer", "is not a checkpoint", "vocab.json", part="tokenizer")
    llama = toys.save(toys.llama(), tmp_path / "llama")
    (llama / "model.safetensors").rename(llama / "model.fp16.safetensors")
    refused(llama, "is not a checkpoint", "model.fp16.safetensors", part=None)
    plain = toys.save(toys.llama(), tmp_path / "plain")
    words = ("no part 'unet'", "no model_index.json", "embed_tokens", "Leave part= out")
    refused(plain, *words, part="unet")
    refused(tmp_path / "none", "No folder", part="unet")
