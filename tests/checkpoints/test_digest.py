"""What is recorded is what was read: all bytes, and what of config and tokenizer counts."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import merge_optuna as mo
from merge_optuna.checkpoints import _files
from merge_optuna.errors import CheckpointError
from tests import toys
from tests.adapters import lora_family

OLD = time.time() - 3600


def edited(folder: Path, file: str, **values: Any) -> None:
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(content | values))


def digest(folder: Path) -> str:
    return mo.Checkpoint(folder, name="m").digest


# -- weights ------------------------------------------------------------------------------


def test_any_element_of_a_large_tensor_counts(tmp_path: Path) -> None:
    tensor = torch.zeros(1 << 15)  # 128 KiB, of which d128686 read 16
    digests = set()
    places = range(0, tensor.numel(), 331)
    for at in places:
        changed = tensor.clone()
        changed[at] = 100
        save_file({"a": changed}, tmp_path / "model.safetensors")
        digests.add(digest(tmp_path))
    assert len(digests) == len(places)


def test_two_tensors_that_change_places_count(tmp_path: Path) -> None:
    a, b = torch.ones(5), torch.zeros(5)
    save_file({"a": a, "b": b}, tmp_path / "model.safetensors")
    before = digest(tmp_path)
    save_file({"a": b, "b": a}, tmp_path / "model.safetensors")
    assert digest(tmp_path) != before


# -- config and tokenizer -----------------------------------------------------------------

CONFIG = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "rms_norm_eps": 0.1,
    "hidden_act": "gelu",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "max_position_embeddings": 128,
    "vocab_size": 63,
    "eos_token_id": 5,
    "attention_bias": True,
    "architectures": ["MistralForCausalLM"],
    "something_new": 1,
}
OTHERS: dict[str, Callable[[Path], object]] = {
    "generation config": lambda f: edited(f, "generation_config.json", temperature=0.1),
    "tokenizer": lambda f: edited(f, "tokenizer.json", model={"vocab": {"a": 1}}),
    "special tokens": lambda f: edited(f, "tokenizer_config.json", eos_token="</s>"),
    "chat template": lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"),
    "further template": lambda f: (f / "additional_chat_templates/rag.jinja").write_text("x"),
    "merges": lambda f: (f / "merges.txt").write_text("a b"),
    "processor": lambda f: edited(f, "preprocessor_config.json", size=3),
    "tokenizer gone": lambda f: (f / "tokenizer.json").unlink(),
}
COSMETIC: dict[str, Callable[[Path], object]] = {
    "where it was": lambda f: edited(f, "config.json", _name_or_path="elsewhere"),
    "version": lambda f: edited(f, "config.json", transformers_version="9.9"),
    "data type": lambda f: edited(f, "config.json", torch_dtype="float16", dtype="float16"),
    "cache": lambda f: edited(f, "config.json", use_cache=False),
    "layout": lambda f: (f / "config.json").write_text(
        json.dumps(json.loads((f / "config.json").read_text()), indent=7, sort_keys=True)
    ),
    "tokenizer's place": lambda f: edited(f, "tokenizer_config.json", name_or_path="elsewhere"),
    "read me": lambda f: (f / "README.md").write_text("# Mine"),
    "script": lambda f: (f / "train.py").write_text("1"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = toys.save(toys.llama(), tmp_path / "m")
    edited(folder, "tokenizer.json", model={"vocab": {"a": 0}})
    edited(folder, "tokenizer_config.json", eos_token="<eos>", name_or_path="here")
    (folder / "additional_chat_templates").mkdir()
    return folder


@pytest.mark.parametrize("key", CONFIG)
def test_what_a_config_says_of_the_model_counts(key: str, model: Path) -> None:
    refused_after(model, lambda f: edited(f, "config.json", **{key: CONFIG[key]}))


@pytest.mark.parametrize("what", OTHERS)
def test_tokenizer_and_the_like_count(what: str, model: Path) -> None:
    refused_after(model, OTHERS[what])


def refused_after(folder: Path, change: Callable[[Path], object]) -> None:
    """A recorded recipe opens before a change and does not after it."""
    recorded = mo.recipes.linear([mo.Checkpoint(folder, name="m")]).to_yaml()
    assert mo.Recipe.from_yaml(recorded).frame.names()
    change(folder)
    with pytest.raises(CheckpointError, match=r"config, tokenizer or other texts differ.*'m' was"):
        mo.Recipe.from_yaml(recorded).frame.names()


@pytest.mark.parametrize("what", COSMETIC)
def test_what_changes_nothing_does_not_count(what: str, model: Path) -> None:
    before = digest(model)
    COSMETIC[what](model)
    assert digest(model) == before


def test_code_counts_where_the_config_names_it(model: Path) -> None:
    edited(model, "config.json", auto_map={"AutoModel": "modeling.My"})
    before = digest(model)
    (model / "modeling.py").write_text("class My: ...")
    assert digest(model) != before


def test_the_message_says_what_differs(model: Path) -> None:
    recorded = mo.Checkpoint(model, name="m").digest
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(CheckpointError, match="has changed: the weights differ: its digest is"):
        mo.Checkpoint(model, name="m", digest=recorded).names()
    edited(model, "config.json", hidden_act="relu")
    with pytest.raises(CheckpointError, match="the weights and config, tokenizer or other texts"):
        mo.Checkpoint(model, name="m", digest=recorded).names()


def test_a_newer_form_is_named(model: Path) -> None:
    with pytest.raises(CheckpointError, match="recorded by a newer version of merge_optuna"):
        mo.Checkpoint(model, name="m", digest=f"3:{'0' * 32}").names()


# -- other kinds of sources ---------------------------------------------------------------


def test_adapters_parts_layers_and_modules(tmp_path: Path) -> None:
    model = toys.llama()
    base, lora = lora_family(tmp_path, model, ["q_proj"])[:2]
    net = mo.Checkpoint.from_module(model, name="net")
    on_net = mo.Checkpoint(lora.ref, base=net)
    bert = toys.save(toys.bert(), tmp_path / "bert")
    part = mo.Checkpoint(bert, part="bert")

    edited(Path(base.ref), "config.json", rms_norm_eps=0.5)
    assert mo.Checkpoint(base.ref).digest != base.digest
    assert mo.Checkpoint(lora.ref, base=mo.Checkpoint(base.ref)).digest != lora.digest
    assert mo.Checkpoint(base.ref).layers(0, 1).digest != base.layers(0, 1).digest
    edited(Path(lora.ref), "adapter_config.json", lora_alpha=7)
    assert mo.Checkpoint(lora.ref, base=net).digest != on_net.digest
    edited(bert, "config.json", hidden_act="relu")
    assert mo.Checkpoint(bert, part="bert").digest != part.digest
    model.config.rms_norm_eps = 0.5
    assert mo.Checkpoint.from_module(model, name="net").digest != net.digest


# -- the cache ----------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose file is worth keeping the hashes of."""
    monkeypatch.setenv("MERGE_OPTUNA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m").mkdir()
    written(tmp_path / "m", 0)
    return tmp_path / "m"


def written(folder: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    save_file({"a": torch.randn(1 << 19, generator=generator)}, folder / "model.safetensors")


def aged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file had been there for long: its times cannot be set back wholly."""
    monkeypatch.setattr("merge_optuna.checkpoints._files._FRESH", 0.0)
    os.utime(path, (OLD, OLD))


def reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether opening a folder reads the tensors."""
    from merge_optuna.checkpoints._tensor_files import SafetensorsFile

    read, original = [], SafetensorsFile.hash
    with monkeypatch.context() as patch:
        patch.setattr(
            SafetensorsFile,
            "hash",
            lambda self, name: (read.append(name), original(self, name))[1],
        )
        digest(folder)
    return bool(read)


def test_a_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(large / "model.safetensors", monkeypatch)
    assert reads(large, monkeypatch)
    assert not reads(large, monkeypatch)
    moved = large.rename(large.with_name("moved"))
    assert not reads(moved, monkeypatch)
    shutil.copytree(moved, large)
    assert reads(large, monkeypatch)


def test_a_file_that_was_just_written_is_read_again(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reads(large, monkeypatch)
    assert reads(large, monkeypatch)


def test_no_time_can_be_set_back_far_enough(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large / "model.safetensors"
    aged(file, monkeypatch)
    before = digest(large)
    with open(file, "r+b") as open_file:  # the same inode and size
        open_file.seek(-4, os.SEEK_END)
        open_file.write(b"abcd")
    os.utime(file, (OLD, OLD))
    assert digest(large) != before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 7}', b'{"a": "x"}', b'{"b": ""}'])
def test_damaged_entries_are_made_again(
    damage: bytes, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(large / "model.safetensors", monkeypatch)
    before = digest(large)
    [entry] = (large.parent / "cache/digests").iterdir()
    entry.write_bytes(damage)
    assert digest(large) == before
    assert not reads(large, monkeypatch)


def test_it_works_without_a_cache(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(large / "model.safetensors", monkeypatch)
    before = digest(large)
    (large.parent / "file").touch()
    monkeypatch.setenv("MERGE_OPTUNA_CACHE", str(large.parent / "file/below"))
    assert digest(large) == before


def test_the_cache_is_bounded(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merge_optuna.checkpoints._files._MOST", 3)
    for seed in range(5):
        written(large, seed)
        aged(large / "model.safetensors", monkeypatch)
        digest(large)
    assert len(list((large.parent / "cache/digests").iterdir())) == 3
    assert not reads(large, monkeypatch)


def test_the_hubs_name_of_a_file_serves_on_every_disk(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = large.parent / "blobs"
    blobs.mkdir()
    blob = blobs / ("0123456789abcdef" * 4)
    (large / "model.safetensors").rename(blob)
    (large / "model.safetensors").symlink_to(blob)
    aged(blob, monkeypatch)
    assert reads(large, monkeypatch)
    shutil.copy2(blob, blob.with_name("copy"))
    blob.with_name("copy").replace(blob)  # another inode, as on another machine
    assert not reads(large, monkeypatch)
    before = digest(large)
    with open(blob, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"abcd")
    assert digest(large) != before


def test_small_files_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGE_OPTUNA_CACHE", str(tmp_path / "cache"))
    folder = toys.save(toys.llama(), tmp_path / "m")
    aged(folder / "model.safetensors", monkeypatch)
    digest(folder)
    assert not (tmp_path / "cache").exists()
    assert (folder / "model.safetensors").stat().st_size < _files.WORTH_KEEPING


def test_layers_of_one_model_are_read_again_once(tmp_path: Path) -> None:
    model = mo.Checkpoint(toys.save(toys.llama(layers=3), tmp_path / "m"), name="m")
    parts = [model, *(model.layers(i, i + 1) for i in range(3))]
    (tmp_path / "m" / "model.safetensors").touch()
    with pytest.warns(UserWarning, match="the content is the same") as warned:
        assert mo.checkpoints.renew(parts[1:])
    assert len(warned) == 1
    assert [part.renew() for part in parts] == [True, False, False, False]  # each is told once
