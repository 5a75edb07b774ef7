"""The writer: what it writes, what it holds in memory, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import merge_optuna as mo
from merge_optuna.checkpoints import TensorSpec, WritePlan, write_checkpoint
from merge_optuna.errors import CheckpointError, ExportError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.uint8,
    torch.bool,
]
TENSORS = {
    **{str(d).removeprefix("torch."): torch.arange(6).reshape(2, 3).to(d) for d in DTYPES},
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "größe": torch.ones(2),
}


@pytest.fixture
def source(tmp_path: Path) -> mo.Checkpoint:
    (tmp_path / "source").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "source" / "model.safetensors")
    return mo.Checkpoint(tmp_path / "source")


def plan(source: mo.Checkpoint, tensors: dict[str, Tensor], shard: int = 10**9) -> WritePlan:
    specs = [TensorSpec(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
    return WritePlan(source, source, specs, {"README.md": "# größer\n"}, shard)


def write(source: mo.Checkpoint, folder: Path, *, shard: int = 10**9, force: bool = False) -> None:
    write_checkpoint(folder, plan(source, TENSORS, shard), whole(TENSORS), force=force)


def whole(tensors: dict[str, Tensor]) -> Callable[[str], list[Tensor]]:
    """Every tensor in one part."""
    return lambda name: [tensors[name]]


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name].double(), b[name].double())
        for name in a
    )


def test_the_safetensors_library_reads_what_is_written(
    tmp_path: Path, source: mo.Checkpoint
) -> None:
    write(source, tmp_path / "deep" / "out")

    folder = tmp_path / "deep" / "out"
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "README.md", ".merge_optuna.json"}
    assert same(load_file(folder / "model.safetensors"), TENSORS)
    assert (folder / "README.md").read_text(encoding="utf-8") == "# größer\n"
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("limit", [1, 40, 60, 100])
def test_shards_and_their_index(tmp_path: Path, source: mo.Checkpoint, limit: int) -> None:
    folder = tmp_path / "out"
    write(source, folder, shard=limit)

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    count = len(shards)
    assert shards == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    held = {name: load_file(folder / name) for name in shards}
    assert same({k: t for part in held.values() for k, t in part.items()}, TENSORS)
    assert index["weight_map"] == {k: name for name, part in held.items() for k in part}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
    sizes = [sum(t.nbytes for t in part.values()) for part in held.values()]
    assert all(size <= limit or len(held[n]) == 1 for size, n in zip(sizes, shards, strict=True))
    assert mo.Checkpoint(folder).shape("float16") == (2, 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_written_at_once_by_several_threads(
    tmp_path: Path, source: mo.Checkpoint, threads: int
) -> None:
    """Every part in the same buffer, which the next overwrites."""

    def parts(name: str) -> Iterator[Tensor]:
        flat = TENSORS[name].contiguous().reshape(-1)
        buffer = torch.empty(2, dtype=flat.dtype)
        for at in range(0, flat.numel(), 2):
            size = min(2, flat.numel() - at)
            buffer[:size] = flat[at : at + size]
            yield buffer[:size]

    write_checkpoint(tmp_path / "out", plan(source, TENSORS, 60), parts, threads=threads)
    found: dict[str, Tensor] = {}
    for file in (tmp_path / "out").glob("*.safetensors"):
        found |= load_file(file)
    assert same(found, TENSORS)


@pytest.mark.parametrize("size", [5, 7])
def test_a_tensor_of_another_size_is_refused(
    tmp_path: Path, source: mo.Checkpoint, size: int
) -> None:
    wanted = plan(source, {"a": torch.zeros(6)})
    with pytest.raises(CheckpointError, match="Expected TensorSpec"):
        write_checkpoint(tmp_path / "out", wanted, lambda name: [torch.zeros(size)])
    assert beside(tmp_path / "out") == {"source"}


# -- the target -----------------------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, source: mo.Checkpoint) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"out' is not empty.*force=True \(--force\)"):
        write(source, tmp_path / "out")
    with pytest.raises(ExportError, match="something else than a checkpoint"):
        write(source, tmp_path / "out", force=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_file_is_refused(tmp_path: Path, source: mo.Checkpoint) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ExportError, match=r"out' is a file. Choose a folder"):
        write(source, tmp_path / "out", force=True)


def test_an_empty_folder_is_used(tmp_path: Path, source: mo.Checkpoint) -> None:
    (tmp_path / "out").mkdir()
    write(source, tmp_path / "out")
    assert same(load_file(tmp_path / "out" / "model.safetensors"), TENSORS)


def test_force_keeps_the_old_folder_until_the_new_one_is_complete(
    tmp_path: Path, source: mo.Checkpoint
) -> None:
    folder = tmp_path / "out"
    old = {"old": torch.arange(3.0)}
    write_checkpoint(folder, plan(source, old), whole(old))

    def parts(name: str) -> Iterator[Tensor]:
        assert same(load_file(folder / "model.safetensors"), old)
        yield TENSORS[name]

    write_checkpoint(folder, plan(source, TENSORS), parts, force=True)

    assert same(load_file(folder / "model.safetensors"), TENSORS)
    assert beside(folder) == {"source", "out"}


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_leaves_the_target_as_it_was(
    tmp_path: Path, source: mo.Checkpoint, threads: int
) -> None:
    folder = tmp_path / "out"
    old = {"old": torch.arange(3.0)}
    write_checkpoint(folder, plan(source, old), whole(old))

    def parts(name: str) -> Iterator[Tensor]:
        if name == list(TENSORS)[3]:
            raise OSError("No space left on device")
        yield TENSORS[name]

    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder, plan(source, TENSORS), parts, force=True, threads=threads)

    assert same(load_file(folder / "model.safetensors"), old)
    assert beside(folder) == {"source", "out"}


# -- kills ----------------------------------------------------------------------------------

_KILLED = """
import sys, time
from pathlib import Path
import torch
from merge_optuna import Checkpoint
from merge_optuna.checkpoints import TensorSpec, WritePlan, write_checkpoint

source = Checkpoint(sys.argv[1])
specs = [TensorSpec(f"t{i}", torch.float32, (1000,)) for i in range(6)]
plan = WritePlan(source, source, specs, {}, max_shard_size=8000)

def export(folder, *others):
    def parts(name):
        if name == "t4" and others:  # both exports are half done when the process is killed
            export(*others)
        elif name == "t4":
            print("half", flush=True)
            time.sleep(60)
        yield torch.ones(1000)

    write_checkpoint(Path(folder), plan, parts, force=True)

export(*sys.argv[2:])
"""


def test_a_killed_export_leaves_no_half_checkpoint(tmp_path: Path, source: mo.Checkpoint) -> None:
    new, replaced = tmp_path / "new", tmp_path / "replaced"
    old = {"old": torch.arange(3.0)}
    write_checkpoint(replaced, plan(source, old), whole(old))
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, source.ref, str(new), str(replaced)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    left = {name.rpartition("-")[0] for name in beside(new) - {"source", "replaced"}}
    assert left == {f".new.partial-{process.pid}", f".replaced.partial-{process.pid}"}
    assert same(load_file(replaced / "model.safetensors"), old)

    write(source, new)
    write(source, replaced, force=True)
    assert same(load_file(new / "model.safetensors"), TENSORS)
    assert same(load_file(replaced / "model.safetensors"), TENSORS)
    assert beside(new) == {"source", "new", "replaced"}


@pytest.fixture
def ended() -> int:
    """The id of a process that runs no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_leftovers_of_this_target_are_cleared(
    tmp_path: Path, source: mo.Checkpoint, ended: int
) -> None:
    """Also those of our own process id: in a container every export may have the same."""
    stale = {
        f".out[1].partial-{ended}",
        f".out[1].replaced-{ended}",
        f".out[1].partial-{os.getpid()}",
    }
    others = {
        f".out[1].partial-{os.getppid()}",  # of a process that runs
        ".out[1].partial-notes",
        f".out.partial-{ended}",
        f".out1.partial-{ended}",
    }
    (tmp_path / "out[1]").mkdir()
    for name in stale | others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")

    write(source, tmp_path / "out[1]")

    assert beside(tmp_path / "out[1]") == {"source", "out[1]"} | others


def test_a_replacement_killed_between_its_two_renames_is_undone(
    tmp_path: Path, source: mo.Checkpoint, ended: int
) -> None:
    folder = tmp_path / "out"
    write(source, tmp_path / f".out.replaced-{ended}")

    with pytest.raises(ExportError, match="not empty"):
        write_checkpoint(folder, plan(source, {}), whole({}))

    assert same(load_file(folder / "model.safetensors"), TENSORS)
    assert beside(folder) == {"source", "out"}
