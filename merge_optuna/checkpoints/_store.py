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
from merge_optuna.errors import CheckpointError, few

WEIGHTS = "model.safetensors"
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
        self._files, self._where = _open_weights(folder)
        self.config = _read_json(folder / "config.json")
        self._specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for name, file in sorted(self._where.items()):
            header = self._files[file].get_slice(name)
            if header.get_dtype() not in DTYPES:
                raise CheckpointError(
                    f"{name} in {folder / file} has the data type {header.get_dtype()}, which is "
                    f"not supported. Supported are {', '.join(DTYPES)}."
                )
            self._specs[name] = (DTYPES[header.get_dtype()], tuple(header.get_shape()))

    def __reduce__(self) -> tuple[type[FolderStore], tuple[Path]]:
        """Copies and pickles open the files again: memory maps cannot travel."""
        return FolderStore, (self.folder,)

    def specs(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        return self._specs

    def tensor(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._files[self._where[name]].get_tensor(name)
        except ValueError as error:
            # safetensors 0.8 turns a ctrl-C that arrives in here into an error about a storage's
            # shape (316 of 1000 measured), which would fail a trial instead of ending the search.
            if "UntypedStorage" in str(error):
                raise KeyboardInterrupt from error
            raise
        return tensor


class ModuleStore:
    """The state of a module in memory, under checkpoint names."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.config = _config_of(module) if is_pretrained(module) else None
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


def _open_weights(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The opened files by name, and the file of each tensor: what transformers would read."""
    if not folder.exists():
        raise CheckpointError(f"No folder {str(folder)!r}. Check the path of the checkpoint.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{str(folder)!r} is a file. Pass the folder that contains it and its config.json."
        )
    present = {path.name for path in folder.iterdir()}
    if WEIGHTS in present:
        files = {WEIGHTS: _open(folder / WEIGHTS)}
        return files, dict.fromkeys(files[WEIGHTS].keys(), WEIGHTS)
    if INDEX in present:
        return _open_shards(folder)
    raise CheckpointError(
        f"{str(folder)!r} is not a checkpoint: it has neither {WEIGHTS} nor {INDEX} (found: "
        f"{few(sorted(present)) or 'nothing'}). Save the model with save_pretrained()."
    )


def _open_shards(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    where = (_read_json(folder / INDEX) or {}).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{folder / INDEX} has no weight_map. Restore the file.")
    shards = sorted(set(where.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder / INDEX} names {len(missing)} shards that are not there: {few(missing)}. "
            "Download the checkpoint again."
        )
    files = {shard: _open(folder / shard) for shard in shards}
    inside = {shard: set(file.keys()) for shard, file in files.items()}
    lost = [f"{name} ({shard})" for name, shard in where.items() if name not in inside[shard]]
    if lost:
        raise CheckpointError(
            f"{folder / INDEX} names {len(lost)} tensors that are not in their shards: "
            f"{few(lost)}. Download the checkpoint again."
        )
    return files, where


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file} links to a file that is not there. Download the checkpoint again."
        ) from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or cut short ({error}; {file.stat().st_size:,} bytes). "
            "Copy or download it again."
        ) from error


def _config_of(module: Any) -> dict[str, Any]:
    """What save_pretrained() would write, so that modules compare with folders."""
    config: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=True))
    return config | {"architectures": [type(module).__name__]}


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Restore the file.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object. Restore the file.")
    return content
