"""Each damage has one message that names the file and the remedy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import CheckpointError
from tests import toys

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    toys.save(toys.llama(), root / "single")
    toys.save(toys.llama(), root / "sharded", sharded=True)
    return root


@pytest.fixture
def single(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved / "single", tmp_path / "single")


@pytest.fixture
def sharded(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved / "sharded", tmp_path / "sharded")


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        mo.Checkpoint(folder, name="ja")
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    return message


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none", "No folder", str(tmp_path / "none"), "Check the path")


def test_file_instead_of_a_folder(single: Path) -> None:
    refused(single / "model.safetensors", "model.safetensors", "is a file", "Pass the folder")


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    refused(tmp_path, str(tmp_path), "not a checkpoint", "tf_model.h5", "save_pretrained()")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, "not a checkpoint", "found: nothing")


def test_an_adapter_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "not a checkpoint", "adapter_model.safetensors")


def header_of(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


@pytest.mark.parametrize(
    "cut",
    [
        lambda data: 0,
        lambda data: 5,
        lambda data: 8,
        lambda data: header_of(data) // 2,
        header_of,
        lambda data: header_of(data) + 1000,
        lambda data: len(data) - 1,
    ],
    ids=["empty", "length", "after-length", "header", "after-header", "data", "last-byte"],
)
def test_truncated_file(single: Path, cut: Callable[[bytes], int]) -> None:
    file = single / "model.safetensors"
    data = file.read_bytes()
    kept = cut(data)
    file.write_bytes(data[:kept])
    refused(single, str(file), "damaged or cut short", f"{kept:,} bytes", "download it again")


def test_truncated_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-1])
    refused(sharded, shard.name, "cut short")


def test_garbage(single: Path) -> None:
    (single / "model.safetensors").write_bytes(b"<html>Not found</html>" * 100)
    refused(single, "model.safetensors", "damaged")


def test_link_to_nothing(single: Path) -> None:
    (single / "model.safetensors").unlink()
    (single / "model.safetensors").symlink_to("../blobs/gone")
    refused(single, "model.safetensors", "links to a file that is not there", "Download")


def test_missing_shards(sharded: Path) -> None:
    shards = sorted(sharded.glob("*.safetensors"))
    shards[0].unlink()
    shards[2].unlink()
    refused(sharded, INDEX, "2 shards", shards[0].name, shards[2].name, "Download")


def test_index_with_a_tensor_that_its_shard_lacks(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = index["weight_map"]["model.norm.weight"]
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, INDEX, "1 tensors", "model.extra.weight", "Download")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_index_without_a_weight_map(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    refused(sharded, INDEX, "no weight_map", "Restore")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ('{"a": 1,}', "not valid JSON"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ("[" * 100_000, "nested more than 100 deep"),
        ("\xff", "no text in UTF-8"),
    ],
)
def test_broken_json(single: Path, sharded: Path, content: str, said: str) -> None:
    (single / "config.json").write_text(content, encoding="latin-1")
    refused(single, str(single / "config.json"), said)
    (sharded / INDEX).write_text(content, encoding="latin-1")
    refused(sharded, INDEX, said)


def test_json_that_is_no_object(single: Path, sharded: Path) -> None:
    (single / "config.json").write_text("[]")
    refused(single, str(single / "config.json"), "no JSON object", "Restore")
    (sharded / INDEX).write_text("null")
    refused(sharded, INDEX, "no JSON object", "Restore")


def test_unknown_data_type(single: Path) -> None:
    file = single / "model.safetensors"
    data = file.read_bytes()
    end = header_of(data)
    header = json.loads(data[8:end])
    shape = header["model.norm.weight"]["shape"]
    # as many bytes as before: 8 bits where there were 32
    header["model.norm.weight"] |= {"dtype": "F8_E8M0", "shape": [shape[0] * 4]}
    encoded = json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data[end:])
    refused(single, "model.norm.weight", "F8_E8M0", "BF16")


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
def test_names_that_would_break_parameter_names(single: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"must be without '/', not {name!r}")):
        mo.Checkpoint(single, name=name)
    with pytest.raises(CheckpointError, match="must be without '/'"):
        mo.Checkpoint.from_module(nn.Linear(1, 1), name=name)


def test_a_module_of_another_process() -> None:
    module = mo.Checkpoint.from_module(nn.Linear(2, 2), name="mine")
    again = mo.Checkpoint(module.ref, name="mine", digest=module.digest)
    with pytest.raises(CheckpointError, match=r"'mine' was a module in memory.*from_module"):
        again.names()


Header = dict[str, dict[str, object]]


@pytest.mark.parametrize(
    "break_",
    [
        lambda header: header["a"].update(data_offsets=[0, 4]),
        lambda header: header["a"].update(shape=[5]),
        lambda header: header["b"].update(data_offsets=[0, 8]),
        lambda header: header["b"].update(data_offsets=[24, 32]),
        lambda header: header["b"].update(data_offsets=[16, 8]),
        lambda header: header["b"].update(shape=[-2]),
        lambda header: header["b"].update(shape=2),
        lambda header: header["b"].update(shape=[True, 2]),
        lambda header: header["b"].update(data_offsets=[16]),
        lambda header: header["b"].update(dtype=None),
        lambda header: header["b"].pop("dtype"),
        lambda header: header.update(b=3),
        lambda header: header.pop("b"),
    ],
)
def test_header_that_does_not_fit_the_data(
    tmp_path: Path, break_: Callable[[Header], object]
) -> None:
    """Each of these is refused by the safetensors library as well."""
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.ones(2)}, file)
    data = file.read_bytes()
    header = json.loads(data[8 : header_of(data)])
    break_(header)
    encoded = json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data[header_of(data) :])

    with pytest.raises(SafetensorError), safe_open(file, "pt"):
        pass
    refused(tmp_path, str(file), "damaged or cut short", "download it again")


@pytest.mark.parametrize("header", [b"[]", b"null", b"\xff\xfe", b"{", b'{"a":1}', b"{} x"])
def test_header_that_is_no_header(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(SafetensorError), safe_open(file, "pt"):
        pass
    refused(tmp_path, str(file), "damaged or cut short", "download it again")
