"""What a checkpoint says, against the safetensors library and the model that was saved."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna.errors import CheckpointError
from tests import toys
from tests.memory import anonymous_memory

MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": toys.llama,
    "llama-tied": lambda: toys.llama(tied=True),
    "gpt2": toys.gpt2,
    "bert": toys.bert,
    "vit": toys.vit,
}


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors in a folder, read by the safetensors library."""
    return {k: t for file in folder.glob("*.safetensors") for k, t in load_file(file).items()}


@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_folder_holds_what_was_saved(
    tmp_path: Path, make: Callable[[], nn.Module], sharded: bool
) -> None:
    folder = toys.save(make(), tmp_path / "m", dtype=torch.bfloat16, sharded=sharded)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == sharded
    expected = stored(folder)

    checkpoint = mo.Checkpoint(folder)

    assert set(checkpoint.names()) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == torch.bfloat16
    assert checkpoint.config == json.loads((folder / "config.json").read_text())
    assert checkpoint.folder == folder


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_module_has_the_names_and_values_of_its_saved_folder(
    tmp_path: Path, make: Callable[[], nn.Module]
) -> None:
    model = make()
    folder = toys.save(model, tmp_path / "m")

    module = mo.Checkpoint.from_module(model, name="m")

    expected = stored(folder)
    assert set(module.names()) == set(expected)
    assert all(torch.equal(module.tensor(name), tensor) for name, tensor in expected.items())
    assert module.digest == mo.Checkpoint(folder).digest
    saved = json.loads((folder / "config.json").read_text())
    assert {**module.config, "dtype": "float32"} == saved
    assert module.folder is None


def test_a_module_is_copied() -> None:
    model = nn.Linear(3, 2)
    checkpoint = mo.Checkpoint.from_module(model, name="m")
    before = checkpoint.tensor("weight").clone()

    with torch.no_grad():
        model.weight.zero_()

    assert torch.equal(checkpoint.tensor("weight"), before)


def test_a_plain_module_has_the_names_of_its_state_and_ties_once() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 5, bias=False))
    model[2].weight = model[0].weight

    checkpoint = mo.Checkpoint.from_module(model, name="m")

    assert checkpoint.names() == (
        "0.weight",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    )
    assert checkpoint.config is None


def test_tensors_are_mapped_not_read(tmp_path: Path) -> None:
    """A file of 1 GiB (of zeros, so it takes no disk) costs no memory."""
    size = 1 << 28
    header = {"big": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + 4 * size)
    before = anonymous_memory()

    tensor = mo.Checkpoint(tmp_path).tensor("big")

    assert tensor.shape == (size,)
    assert float(tensor[size // 2]) == 0
    assert anonymous_memory() - before < 32 << 20


def test_the_first_file_that_transformers_looks_for_counts(tmp_path: Path) -> None:
    """What is left of an earlier, sharded save does not matter."""
    folder = toys.save(toys.llama(0), tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone"}}')

    checkpoint = mo.Checkpoint(folder)

    loaded = type(toys.llama()).from_pretrained(folder).state_dict()
    assert all(torch.equal(checkpoint.tensor(n), loaded[n]) for n in checkpoint.names())


# -- digest ---------------------------------------------------------------------------------


def test_the_digest_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    model = toys.llama()
    folder = toys.save(model, tmp_path / "m")
    copied = shutil.copytree(folder, tmp_path / "copy")
    sharded = toys.save(model, tmp_path / "sharded", sharded=True)

    digests = {mo.Checkpoint(place).digest for place in (folder, copied, sharded)}

    assert len(digests) == 1
    assert re.fullmatch("2:[0-9a-f]{32}", digests.pop())


def test_one_changed_element_of_any_tensor_changes_the_digest(tmp_path: Path) -> None:
    folder = toys.save(toys.bert(), tmp_path / "m", dtype=torch.bfloat16)
    tensors = stored(folder)
    digests = {mo.Checkpoint(folder).digest}
    for name, tensor in tensors.items():
        for at in {0, tensor.numel() // 2, tensor.numel() - 1}:
            changed = tensor.clone()
            changed.view(-1)[at] += 1
            save_file({**tensors, name: changed}, folder / "model.safetensors")
            digests.add(mo.Checkpoint(folder).digest)
    positions = sum(len({0, t.numel() // 2, t.numel() - 1}) for t in tensors.values())
    assert len(digests) == 1 + positions


def test_tensors_up_to_64_kib_are_read_whole(tmp_path: Path) -> None:
    tensor = torch.zeros(1 << 14)
    digests = set()
    places = range(0, tensor.numel(), 199)
    for at in places:
        changed = tensor.clone()
        changed[at] = 1
        save_file({"a": changed}, tmp_path / "model.safetensors")
        digests.add(mo.Checkpoint(tmp_path).digest)
    assert len(digests) == len(places)


def test_names_shapes_and_dtypes_enter_the_digest(tmp_path: Path) -> None:
    zeros = torch.zeros(4, 4)
    variants = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.reshape(2, 8)},
        {"a": zeros.reshape(16).to(torch.int32)},
    ]
    digests = set()
    for variant in variants:
        save_file(variant, tmp_path / "model.safetensors")
        digests.add(mo.Checkpoint(tmp_path).digest)
    assert len(digests) == len(variants)


def test_equality_is_by_name_and_content(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m")
    copied = shutil.copytree(folder, tmp_path / "copy")
    a = mo.Checkpoint(folder, name="a")

    assert a == mo.Checkpoint(copied, name="a")
    assert hash(a) == hash(mo.Checkpoint(copied, name="a"))
    assert a != mo.Checkpoint(folder, name="b")
    assert a != mo.Checkpoint(toys.save(toys.llama(1), tmp_path / "other"), name="a")
    assert a == mo.Checkpoint.from_module(toys.llama(), name="a")


def test_a_checkpoint_without_a_name_is_called_as_it_always_was(tmp_path: Path) -> None:
    # The name that d128686 gave: names key random masks, so they must not change.
    tensors = {"a": torch.arange(1 << 18, dtype=torch.float32), "b": torch.ones(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = mo.Checkpoint(tmp_path)
    assert checkpoint.name == "276a0148"
    assert mo.Checkpoint(tmp_path, digest=checkpoint.digest).name == checkpoint.name


def test_changed_content_is_refused(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m")
    recorded = mo.Checkpoint(folder, name="ja").digest
    tensors = stored(folder)
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, folder / "model.safetensors")

    reopened = mo.Checkpoint(folder, name="ja", digest=recorded)

    with pytest.raises(CheckpointError, match=f"{folder}.*has changed.*'ja'.*{recorded}"):
        reopened.names()


def test_unchanged_content_is_accepted(tmp_path: Path) -> None:
    folder = toys.save(toys.llama(), tmp_path / "m")
    first = mo.Checkpoint(folder)
    assert mo.Checkpoint(folder, digest=first.digest).names() == first.names()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_checkpoints_and_recipes_can_be_copied(
    tmp_path: Path, copied: Callable[[mo.Recipe], mo.Recipe]
) -> None:
    module = mo.Checkpoint.from_module(toys.llama(1), name="module")
    recipe = mo.recipes.linear([*toys.family(tmp_path, experts=1), module])
    assert recipe.alignment.copied == {}
    again = copied(recipe)
    assert again == recipe
    for ours, theirs in zip(recipe.leaves(), again.leaves(), strict=True):
        assert all(torch.equal(ours.tensor(name), theirs.tensor(name)) for name in ours.names())


# -- the map --------------------------------------------------------------------------------

ALL_DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.complex64,
]


def written(file: Path, entries: dict[str, tuple[str, list[int], bytes]], pad: int) -> None:
    """A safetensors file by hand, its data at ``pad`` bytes after a multiple of eight."""
    header, data = {}, b""
    for name, (dtype, shape, content) in entries.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8 + pad)
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def test_every_data_type_scalars_and_empty_tensors(tmp_path: Path) -> None:
    one_byte = torch.arange(1, 25, dtype=torch.uint8)
    made = {
        str(dtype): one_byte.view(dtype).clone() for dtype in ALL_DTYPES if dtype is not torch.bool
    }
    made |= {"bool": one_byte > 5, "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    save_file(made, tmp_path / "model.safetensors")

    checkpoint = mo.Checkpoint(tmp_path)

    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        found = checkpoint.tensor(name)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert found.reshape(-1).view(torch.uint8).equal(tensor.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("pad", [0, 1, 2, 4])
def test_data_may_start_anywhere(tmp_path: Path, pad: int) -> None:
    """Older writers did not align the header, and a uint8 may stand before a float."""
    floats, halves = torch.randn(3, 5), torch.randn(7).half()
    entries = {
        "odd": ("U8", [3], b"abc"),
        "floats": ("F32", [3, 5], floats.numpy().tobytes()),
        "halves": ("F16", [7], halves.numpy().tobytes()),
    }
    written(tmp_path / "model.safetensors", entries, pad)

    checkpoint = mo.Checkpoint(tmp_path)

    assert bytes(checkpoint.tensor("odd").tolist()) == b"abc"
    assert torch.equal(checkpoint.tensor("floats"), floats)
    assert torch.equal(checkpoint.tensor("halves"), halves)
    assert torch.equal(checkpoint.tensor("floats") * 2, floats * 2)


def test_reading_takes_no_memory_and_leaves_no_file_open(tmp_path: Path) -> None:
    """64 MiB, read whole: what is touched belongs to the page cache."""
    shape = (1 << 12, 1 << 12)
    save_file({"a": torch.ones(shape), "b": torch.ones(3)}, tmp_path / "model.safetensors")
    checkpoint = mo.Checkpoint(tmp_path)
    before = anonymous_memory()

    tensor = checkpoint.tensor("a")
    assert float(tensor.sum()) == shape[0] * shape[1]

    assert anonymous_memory() - before < 8 << 20
    assert tensor.data_ptr() == checkpoint.tensor("a").data_ptr()
    fds = [Path(fd).resolve() for fd in Path("/proc/self/fd").iterdir()]
    assert tmp_path / "model.safetensors" not in fds


def test_a_ctrl_c_is_never_swallowed(tmp_path: Path) -> None:
    """An interrupt arrives as one, at whatever instruction of the reading it hits."""
    checkpoint = mo.Checkpoint(toys.save(toys.llama(), tmp_path / "m"))
    names = checkpoint.names()

    def read_until_interrupted(after: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, after)
        while True:
            for name in names:
                checkpoint.tensor(name)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for i in range(200):
            with pytest.raises(KeyboardInterrupt):
                read_until_interrupted(2e-4 + i * 7e-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
