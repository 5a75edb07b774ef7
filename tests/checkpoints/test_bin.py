"""Checkpoints from before safetensors: ``pytorch_model.bin``, whole and sharded."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import merge_optuna as mo
from merge_optuna.errors import CheckpointError
from tests import toys
from tests.checkpoints.test_reading import anonymous_memory

BIN = "pytorch_model.bin"


def as_bin(folder: Path, *, shards: int = 1, legacy: bool = False) -> dict[str, Tensor]:
    """Replaces the safetensors file of a folder by what transformers 4 wrote."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save = {"_use_new_zipfile_serialization": not legacy}
    if shards == 1:
        torch.save(tensors, folder / BIN, **save)
        return tensors
    where = {}
    for i in range(shards):
        name = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        shard = dict(list(tensors.items())[i::shards])
        torch.save(shard, folder / name, **save)
        where |= dict.fromkeys(shard, name)
    (folder / f"{BIN}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return tensors


@pytest.mark.parametrize("shards", [1, 3], ids=["single", "sharded"])
def test_a_bin_checkpoint_is_what_was_saved(tmp_path: Path, shards: int) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m", dtype=torch.bfloat16)
    safe = mo.Checkpoint(folder)

    tensors = as_bin(folder, shards=shards)

    checkpoint = mo.Checkpoint(folder)
    assert set(checkpoint.names()) == set(tensors)
    assert all(torch.equal(checkpoint.tensor(n), t) for n, t in tensors.items())
    assert checkpoint.digest == safe.digest
    loaded = type(toys.llama()).from_pretrained(folder).state_dict()
    assert all(torch.equal(checkpoint.tensor(n), loaded[n]) for n in checkpoint.names())


def test_safetensors_win_even_sharded(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(0), tmp_path / "m", sharded=True)
    safe = mo.Checkpoint(folder)
    torch.save(toys.llama(1).state_dict(), folder / BIN)

    loaded = type(toys.llama()).from_pretrained(folder).state_dict()

    checkpoint = mo.Checkpoint(folder)
    assert checkpoint.digest == safe.digest
    assert all(torch.equal(checkpoint.tensor(n), loaded[n]) for n in checkpoint.names())


def test_merging_bin_and_safetensors(tmp_path: Path) -> None:
    base, expert = toys.family(tmp_path, experts=1)
    before = mo.Engine().load(mo.recipes.linear([base, expert])).state_dict()
    before = {name: t.clone() for name, t in before.items()}
    as_bin(tmp_path / "base")

    recipe = mo.recipes.linear([mo.Checkpoint(tmp_path / "base", name="base"), expert])

    after = mo.Engine().load(recipe).state_dict()
    assert all(torch.equal(after[name], t) for name, t in before.items())


def test_bin_files_are_mapped(tmp_path: Path) -> None:
    """Read whole, they belong to the page cache, and no file stays open."""
    torch.save({"a": torch.ones(1 << 12, 1 << 12)}, tmp_path / BIN)
    tensor = mo.Checkpoint(tmp_path).tensor("a")
    before = anonymous_memory()
    assert float(tensor.sum()) == 1 << 24
    assert anonymous_memory() - before < 8 << 20
    fds = [Path(fd).resolve() for fd in Path("/proc/self/fd").iterdir()]
    assert tmp_path / BIN not in fds


def test_before_pytorch_16(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m")
    digest = mo.Checkpoint(folder).digest
    as_bin(folder, legacy=True)
    with pytest.warns(UserWarning, match=r"pytorch_model.bin .* cannot be mapped.* GB of memory"):
        assert mo.Checkpoint(folder).digest == digest


def test_transposed_tensors_and_what_is_no_tensor(tmp_path: Path) -> None:
    tensor = torch.randn(3, 5)
    torch.save({"t": tensor.T, "p": torch.nn.Parameter(tensor), "epoch": 3}, tmp_path / BIN)

    checkpoint = mo.Checkpoint(tmp_path)

    assert checkpoint.names() == ("p", "t")
    assert torch.equal(checkpoint.tensor("t"), tensor.T)
    assert checkpoint.tensor("t").is_contiguous()
    assert type(checkpoint.tensor("p")) is Tensor
    assert not checkpoint.tensor("p").requires_grad


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "cut", [lambda n: 0, lambda n: 1, lambda n: 100, lambda n: n // 2, lambda n: n - 1]
)
def test_truncated_file(tmp_path: Path, legacy: bool, cut: Callable[[int], int]) -> None:
    tensors = {"a": torch.randn(100, 100), "b": torch.randn(7)}
    torch.save(tensors, tmp_path / BIN, _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / BIN).read_bytes()
    (tmp_path / BIN).write_bytes(data[: cut(len(data))])
    refused(tmp_path, str(tmp_path / BIN), "damaged or cut short", "download it again")


def test_garbage(tmp_path: Path) -> None:
    (tmp_path / BIN).write_bytes(b"<html>Not found</html>" * 100)
    refused(tmp_path, BIN, "damaged or cut short, or no file of tensors", "2,200 bytes")


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "args": Path("/")}, tmp_path / BIN)
    refused(tmp_path, BIN, "holds Python objects", "could run code", "save_pretrained()")


def test_a_training_state(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / BIN)
    refused(tmp_path, BIN, "no tensors at its top level, only state_dict, epoch")


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2)])
def test_no_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / BIN)
    refused(tmp_path, BIN, "no tensors at its top level")


def refused(folder: Path, *words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError, match=".*".join(map(re.escape, words))):
            mo.Checkpoint(folder)
