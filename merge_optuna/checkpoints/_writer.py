"""Writes a checkpoint folder: streamed safetensors shards and the files around them.

Everything goes into a temporary folder beside the target, which is renamed at the very end: a
killed export leaves no half checkpoint. Code is copied only if it is trusted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._config import model_dtype
from merge_optuna.checkpoints._files import bytes_of
from merge_optuna.checkpoints._known_files import TEXT_FILES, code_of, copy_known, inside
from merge_optuna.checkpoints._parts import code_of_pipeline, copy_around
from merge_optuna.checkpoints._target import replacing
from merge_optuna.checkpoints._tensor_files import DTYPES
from merge_optuna.checkpoints._threads import for_each
from merge_optuna.errors import CheckpointError, ExportError, few

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
        trust_remote_code: Copy the Python files that the configuration names, too.
        common: How many of the first tensors are in files of their own, which are those of other
            folders written with this one where their tensors are called the same.
    """

    frame: Checkpoint
    tokenizer: Checkpoint
    specs: Sequence[TensorSpec]
    texts: Mapping[str, str]
    max_shard_size: int = 5_000_000_000
    trust_remote_code: bool = False
    common: int = 0


Parts = Callable[[str], Iterable[Tensor]]
"""By name the consecutive flat parts of a tensor, in its final data type."""


def write_checkpoint(
    folder: Path,
    plan: WritePlan,
    parts: Parts,
    *,
    check: Callable[[], None] = lambda: None,
    force: bool = False,
    threads: int = 1,
) -> None:
    """Writes the tensors of ``plan.specs`` and the files around them.

    A thread holds one part of one tensor at a time.

    Args:
        folder: Where to.
        plan: What goes into the folder.
        parts: Gives the consecutive flat parts of a tensor by its name. A part is written before
            the next is asked for, so it may be overwritten then.
        check: Called before the folder takes its place: what it raises keeps it from that.
        force: Replace an earlier export.
        threads: How many tensors are computed and written at once.

    Raises:
        ExportError: If ``folder`` is not empty and ``force`` is not set, or holds anything but
            an earlier export; if the tokenizer of a pipeline shall be another; or if the disk is
            full or not writable. The target is then untouched.
        CheckpointError: If a file to be copied is a link that leads out of its checkpoint.
    """
    if plan.frame.part is not None and plan.tokenizer != plan.frame:
        raise ExportError(
            f"tokenizer={plan.tokenizer.name!r} does not apply: the tokenizer of a pipeline is "
            "one of its parts and stays that of the base."
        )
    with replacing(Path(os.path.realpath(folder.expanduser())), force=force) as partial:
        _fill(partial, plan, parts, threads, {})
        check()


def write_checkpoints(
    folder: Path,
    plans: Mapping[str, tuple[WritePlan, Parts]],
    texts: Mapping[str, str],
    *,
    check: Callable[[], None] = lambda: None,
    force: bool = False,
    threads: int = 1,
) -> None:
    """Writes checkpoints that have tensors in common into folders of one.

    A file of common tensors is written once: the folders have it as a hard link, or as a copy
    where the file system knows no such links.

    Args:
        folder: Where to.
        plans: What goes into each folder, and its tensors, by the folder's name.
        texts: Further files beside these folders by name.
        check: As for :func:`write_checkpoint`.
        force: As for :func:`write_checkpoint`.
        threads: As for :func:`write_checkpoint`.

    Raises:
        ExportError, CheckpointError: As :func:`write_checkpoint`.
    """
    with replacing(Path(os.path.realpath(folder.expanduser())), force=force) as partial:
        _write_texts(texts, partial)
        common: _Common = {}
        for name, (plan, parts) in plans.items():
            (partial / name).mkdir()
            _fill(partial / name, plan, parts, threads, common)
        check()


_Common = dict[tuple[TensorSpec, ...], Path]
"""Files that are there, by the common tensors in them."""


def _fill(folder: Path, plan: WritePlan, parts: Parts, threads: int, common: _Common) -> None:
    place = _copy(plan, folder)
    _save_config(plan, place)
    _write_texts(plan.texts, folder)
    _write_shards(place, plan, parts, threads, common)


def _write_texts(texts: Mapping[str, str], folder: Path) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def copy_files(source: Checkpoint, patterns: Sequence[str], target: Path) -> None:
    """Copies what is in a checkpoint's folder, if it has one."""
    if source.folder is not None:
        copy_known(source.folder, patterns, target)


def _copy(plan: WritePlan, target: Path) -> Path:
    """Copies what is around the weights; returns the folder that these belong in."""
    frame, root = plan.frame, plan.frame.root
    if frame.part is not None and root is not None:
        copy_around(root, frame.part, target)
        _copy_code(plan, frame, root, code_of_pipeline(root), target)
        return target / frame.part
    copy_files(plan.tokenizer, TEXT_FILES, target)
    copy_files(frame, ("generation_config.json",), target)
    for source, configs in ((plan.tokenizer, TEXT_FILES), (frame, ("config.json",))):
        if source.folder is not None:
            code = code_of(source.folder, configs)
            _copy_code(plan, source, source.folder, code, target)
    return target


def _copy_code(
    plan: WritePlan, source: Checkpoint, folder: Path, names: Sequence[str], target: Path
) -> None:
    if plan.trust_remote_code:
        copy_known(folder, names, target)
    elif names:
        warnings.warn(
            f"The configuration of {source.name!r} names code ({few(names)}), which is not "
            "copied: what is written opens only where the library knows the model itself. To "
            f"copy it, once you have read it in '{folder}': trust_remote_code=True "
            "(--trust-remote-code).",
            stacklevel=2,
        )


def _save_config(plan: WritePlan, target: Path) -> None:
    """Writes the frame's config with the data type of the new weights."""
    generation = getattr(plan.frame.module, "generation_config", None)
    if generation is not None:
        generation.save_pretrained(target)
    if plan.frame.config is None:
        return
    if plan.frame.folder is not None:
        inside(plan.frame.folder / "config.json", plan.frame.root or plan.frame.folder)
    config = dict(plan.frame.config)
    dtype = model_dtype(config, {spec.name: (spec.dtype, spec.shape) for spec in plan.specs})
    if dtype is not None and "_class_name" not in config:  # diffusers keeps no data type there
        key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
        config[key] = str(dtype).removeprefix("torch.")
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")


def _write_shards(
    folder: Path, plan: WritePlan, parts: Parts, threads: int, common: _Common
) -> None:
    shared, own = plan.specs[: plan.common], plan.specs[plan.common :]
    first = list(_shards(shared, plan.max_shard_size)) if shared else []
    shards = first + (list(_shards(own, plan.max_shard_size)) if own or not shared else [])
    names = plan.frame.store.written
    weight_map: dict[str, str] = {}
    with contextlib.ExitStack() as opened:
        places: list[tuple[TensorSpec, int, int]] = []
        for i, shard in enumerate(shards, 1):
            single = len(shards) == 1
            path = folder / (names.weights if single else names.shard(i, len(shards)))
            weight_map |= {spec.name: path.name for spec in shard}
            there = common.setdefault(tuple(shard), path) if i <= len(first) else path
            if there is not path:
                _link(there, path)
                continue
            file = opened.enter_context(open(path, "xb"))
            places += _write_header(file, shard)
        for_each(lambda place: _write_tensor(*place, parts), places, threads)
    if len(shards) > 1:
        total = sum(spec.nbytes for spec in plan.specs)
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / names.index).write_text(json.dumps(index, indent=2) + "\n")


def _link(there: Path, path: Path) -> None:
    """The same file once more; a copy of it where it cannot have two names."""
    try:
        path.hardlink_to(there)
    except OSError:  # what else is wrong, e.g. a full disk, the copy says too
        shutil.copyfile(there, path)


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
        data = bytes_of(part)
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
