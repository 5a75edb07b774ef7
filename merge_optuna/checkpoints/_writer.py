"""Writes a checkpoint folder: streamed safetensors shards and the files around them.

Everything goes into a temporary folder beside the target, which is renamed at the very end: a
killed export leaves no half checkpoint.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._dtype import model_dtype
from merge_optuna.checkpoints._folder import PIPELINE, TRANSFORMERS, Format
from merge_optuna.checkpoints._parts import copy_around
from merge_optuna.checkpoints._safetensors import DTYPES
from merge_optuna.checkpoints._threads import for_each
from merge_optuna.errors import CheckpointError, ExportError

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MODEL_FILES = ("generation_config.json", "*.py")
PROCESSOR_FILES = ("*preprocessor_config.json", "processor_config.json")
TEXT_FILES = (
    *PROCESSOR_FILES,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates",
)


@dataclass(frozen=True)
class TensorSpec:
    """Name, data type and shape of a tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


@dataclass(frozen=True)
class WritePlan:
    """What goes into a folder besides the tensors' values.

    Attributes:
        frame: The source of config, generation config and custom code.
        tokenizer: The source of tokenizer, processor and chat template files.
        specs: The tensors in the order in which they will be written.
        texts: Further files by name, e.g. the model card.
        max_shard_size: Bytes of tensor data per safetensors file.
    """

    frame: Checkpoint
    tokenizer: Checkpoint
    specs: Sequence[TensorSpec]
    texts: Mapping[str, str]
    max_shard_size: int = 5_000_000_000


Parts = Callable[[str], Iterable[Tensor]]
"""By name the consecutive flat parts of a tensor, in its final data type."""

_MARKS = ("*.safetensors", "config.json", "recipe.yaml", PIPELINE)


def check_target(folder: Path, *, force: bool) -> None:
    """Refuses a target that holds something.

    Raises:
        ExportError: If ``folder`` is a file, is not empty and ``force`` is not set, or holds
            anything but a checkpoint.
    """
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{str(folder)!r} is a file. Choose a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ExportError(
            f"The folder {str(folder)!r} is not empty. Choose another one, or replace it with "
            "force=True (--force)."
        )
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not any(any(folder.glob(mark)) for mark in _MARKS)
    ):
        raise ExportError(
            f"The folder {str(folder)!r} holds something else than a checkpoint, which would be "
            "deleted. Choose another one, or empty it yourself."
        )


def write_checkpoint(
    folder: Path, plan: WritePlan, parts: Parts, *, force: bool = False, threads: int = 1
) -> None:
    """Writes the tensors of ``plan.specs`` and the files around them.

    A thread holds one part of one tensor at a time.

    Args:
        folder: Where to.
        plan: What goes into the folder.
        parts: Gives the consecutive flat parts of a tensor by its name. A part is written before
            the next is asked for, so it may be overwritten then.
        force: Replace a folder that is not empty.
        threads: How many tensors are computed and written at once.

    Raises:
        ExportError: If ``folder`` is not empty and ``force`` is not set, or the tokenizer of a
            pipeline shall be another.
        OSError: If the disk is full or not writable; the target is then untouched.
    """
    if plan.frame.part is not None and plan.tokenizer != plan.frame:
        raise ExportError(
            f"tokenizer={plan.tokenizer.name!r} does not apply: the tokenizer of a pipeline is "
            "one of its parts and stays that of the base."
        )
    _remove_leftovers(folder)
    check_target(folder, force=force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _replaced(folder) as partial:
        place = partial
        if plan.frame.part is not None and plan.frame.root is not None:
            place = copy_around(plan.frame.root, plan.frame.part, partial)
        else:
            copy_files(plan.frame, MODEL_FILES, partial)
            copy_files(plan.tokenizer, TEXT_FILES, partial)
        _save_config(plan, place)
        for name, text in plan.texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        _write_shards(place, plan, parts, threads)


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of ``folder`` if the block succeeds."""
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)  # interrupted between the two renames
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Clears what killed exports to the same target left, unless their process still runs."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*-*"):
        kind, _, pid = path.name.removeprefix(f".{folder.name}.").partition("-")
        if kind not in ("partial", "replaced") or not pid.isdigit() or _runs(int(pid)):
            continue
        if kind == "replaced" and not folder.exists():
            path.rename(folder)  # killed between the two renames: the old one is whole
        else:
            shutil.rmtree(path, ignore_errors=True)


def _runs(pid: int) -> bool:
    """Whether another process has this id; in a container a killed one often had our own."""
    return pid != os.getpid() and Path("/proc", str(pid)).exists()


def copy_files(source: Checkpoint, patterns: Sequence[str], target: Path) -> None:
    """Copies what is in a checkpoint's folder, if it has one."""
    if source.folder is None:
        return
    for pattern in patterns:
        for path in sorted(source.folder.glob(pattern)):
            if path.is_dir():
                shutil.copytree(path, target / path.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, target / path.name)


def _save_config(plan: WritePlan, target: Path) -> None:
    """Writes the frame's config with the data type of the new weights."""
    generation = getattr(plan.frame.module, "generation_config", None)
    if generation is not None:
        generation.save_pretrained(target)
    if plan.frame.config is None:
        return
    config = dict(plan.frame.config)
    dtype = model_dtype(config, {spec.name: (spec.dtype, spec.shape) for spec in plan.specs})
    if dtype is not None and "_class_name" not in config:  # diffusers keeps no data type there
        key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
        config[key] = str(dtype).removeprefix("torch.")
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")


def _write_shards(folder: Path, plan: WritePlan, parts: Parts, threads: int) -> None:
    shards = list(_shards(plan.specs, plan.max_shard_size))
    names: Format = getattr(plan.frame.store, "written", TRANSFORMERS)
    weight_map: dict[str, str] = {}
    with contextlib.ExitStack() as opened:
        places: list[tuple[TensorSpec, int, int]] = []
        for i, shard in enumerate(shards, 1):
            single = len(shards) == 1
            path = folder / (names.weights if single else names.shard(i, len(shards)))
            file = opened.enter_context(open(path, "xb"))
            places += _write_header(file, shard)
            weight_map |= {spec.name: path.name for spec in shard}
        for_each(lambda place: _write_tensor(*place, parts), places, threads)
    if len(shards) > 1:
        total = sum(spec.nbytes for spec in plan.specs)
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / names.index).write_text(json.dumps(index, indent=2) + "\n")


def _shards(specs: Sequence[TensorSpec], limit: int) -> Iterator[list[TensorSpec]]:
    shard: list[TensorSpec] = []
    size = 0
    for spec in specs:
        if shard and size + spec.nbytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(spec)
        size += spec.nbytes
    yield shard


def _write_header(
    file: BinaryIO, specs: Sequence[TensorSpec]
) -> Iterator[tuple[TensorSpec, int, int]]:
    """Begins one file: 8 bytes of header length, the JSON header; the data follow back to back.

    The safetensors library writes from a complete dict; here every tensor has its place, which
    any thread can fill.

    Yields:
        Each tensor with the file's descriptor and the offset of its data.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write(struct.pack("<Q", len(encoded)) + encoded)
    file.flush()
    start = 8 + len(encoded)
    file.truncate(start + offset)
    for spec in specs:
        yield spec, file.fileno(), start + header[spec.name]["data_offsets"][0]


def _write_tensor(spec: TensorSpec, descriptor: int, start: int, parts: Parts) -> None:
    offset, end = start, start + spec.nbytes
    for part in parts(spec.name):
        data = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        if part.dtype != spec.dtype or offset + len(data) > end:
            raise CheckpointError(
                f"Expected {spec}, but got {part.dtype} {tuple(part.shape)} at byte "
                f"{offset - start}."
            )
        while data:  # one call writes 2 GiB at most
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
    if offset != end:
        raise CheckpointError(f"Expected {spec}, but got only {offset - start} bytes.")
