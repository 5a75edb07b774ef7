"""Readers that give the tensors of a checkpoint by name, lazily."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from merge_optuna.checkpoints._names import checkpoint_views, is_pretrained
from merge_optuna.errors import CheckpointError

INDEX = "model.safetensors.index.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
}


class Store(Protocol):
    """The tensors of one checkpoint."""

    config: dict[str, Any] | None

    def specs(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape by tensor name, in a fixed order."""

    def tensor(self, name: str) -> Tensor:
        """The tensor; not to be written to."""


class FolderStore:
    """A folder with one or several safetensors files, read through memory maps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _read_json(folder / "config.json")
        self._files = [_open(file) for file in _weight_files(folder)]
        self._where: dict[str, int] = {}
        self._specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for i, file in enumerate(self._files):
            for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                header = file.get_slice(name)
                self._where[name] = i
                self._specs[name] = (DTYPES[header.get_dtype()], tuple(header.get_shape()))
        self._specs = dict(sorted(self._specs.items()))

    def specs(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return self._specs

    def tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._files[self._where[name]].get_tensor(name)
        return tensor


class ModuleStore:
    """The state of a module in memory, under checkpoint names."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.config = module.config.to_dict() if is_pretrained(module) else None  # type: ignore[operator,union-attr]
        self._views = checkpoint_views(module)

    def specs(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return {name: (t.dtype, tuple(t.shape)) for name, t in self._views.items()}

    def tensor(self, name: str) -> Tensor:
        return self._views[name].detach()


def digest_of(store: Store, *, whole: bool = False) -> str:
    """Digest of names, dtypes, shapes and content: 32 hexadecimal digits.

    Small tensors are read whole, of larger ones sixteen blocks of 1 KiB spread evenly (all of it
    with ``whole``). Sharding and file names do not enter, so a copy has the same digest.
    """
    state = hashlib.blake2b(digest_size=16)
    for name, (dtype, shape) in sorted(store.specs().items()):
        state.update(f"{name}|{dtype}|{shape}|".encode())
        for block in _blocks(store.tensor(name), whole):
            state.update(block)
    return state.hexdigest()


def _blocks(tensor: Tensor, whole: bool) -> Iterable[bytes]:
    if tensor.numel() == 0:
        return
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if whole or flat.size <= 1 << 16:
        yield flat.tobytes()
        return
    for i in range(16):
        start = (flat.size - 1024) * i // 15
        yield flat[start : start + 1024].tobytes()


def _weight_files(folder: Path) -> list[Path]:
    if not folder.exists():
        raise CheckpointError(f"No folder {str(folder)!r}. Check the path of the checkpoint.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{str(folder)!r} is a file. Pass the folder that contains it and its config.json."
        )
    index = _read_json(folder / INDEX)
    if index is not None:
        shards = [folder / name for name in sorted(set(index.get("weight_map", {}).values()))]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing or not shards:
            raise CheckpointError(
                f"{folder / INDEX} names {len(missing)} shards that are not there: "
                f"{', '.join(missing[:10])}. Download the checkpoint again."
            )
        return shards
    files = sorted(folder.glob("*.safetensors"))
    if len(files) > 1 and folder / "model.safetensors" in files:
        files = [folder / "model.safetensors"]
    if files:
        return files
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) or "nothing"
    raise CheckpointError(
        f"{str(folder)!r} is not a checkpoint: it has no safetensors file (found: {found}). "
        "Save the model with save_pretrained()."
    )


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or cut short ({error}; {file.stat().st_size:,} bytes). "
            "Copy or download it again."
        ) from error


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Restore the file.") from error
    return content
