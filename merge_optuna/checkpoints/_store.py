"""Readers that give the tensors of a checkpoint by name, lazily."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints._names import checkpoint_views, is_pretrained
from merge_optuna.checkpoints._safetensors import SafetensorsFile, Spec
from merge_optuna.errors import CheckpointError, few

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Store(Protocol):
    """The tensors of one checkpoint."""

    config: dict[str, Any] | None

    def specs(self) -> dict[str, Spec]:
        """Dtype and shape by tensor name, in a fixed order."""

    def tensor(self, name: str) -> Tensor:
        """The tensor; not to be written to."""


class FolderStore:
    """A folder with one or several safetensors files, read through memory maps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _open_weights(folder)
        self.config = _read_json(folder / "config.json")
        self._specs = {name: file.specs[name] for name, file in sorted(self._files.items())}

    def __reduce__(self) -> tuple[type[FolderStore], tuple[Path]]:
        """Copies and pickles open the files again: memory maps cannot travel."""
        return FolderStore, (self.folder,)

    def specs(self) -> dict[str, Spec]:
        return self._specs

    def tensor(self, name: str) -> Tensor:
        return self._files[name].tensor(name)


class ModuleStore:
    """The state of a module in memory, under checkpoint names."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.config = _config_of(module) if is_pretrained(module) else None
        self._views = checkpoint_views(module)

    def specs(self) -> dict[str, Spec]:
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


def _open_weights(folder: Path) -> dict[str, SafetensorsFile]:
    """The file of each tensor: what transformers would read."""
    if not folder.exists():
        raise CheckpointError(f"No folder {str(folder)!r}. Check the path of the checkpoint.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{str(folder)!r} is a file. Pass the folder that contains it and its config.json."
        )
    present = {path.name for path in folder.iterdir()}
    if WEIGHTS in present:
        file = SafetensorsFile(folder / WEIGHTS)
        return dict.fromkeys(file.specs, file)
    if INDEX in present:
        return _open_shards(folder)
    raise CheckpointError(
        f"{str(folder)!r} is not a checkpoint: it has neither {WEIGHTS} nor {INDEX} (found: "
        f"{few(sorted(present)) or 'nothing'}). Save the model with save_pretrained()."
    )


def _open_shards(folder: Path) -> dict[str, SafetensorsFile]:
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
    files = {shard: SafetensorsFile(folder / shard) for shard in shards}
    lost = [f"{name} ({shard})" for name, shard in where.items() if name not in files[shard].specs]
    if lost:
        raise CheckpointError(
            f"{folder / INDEX} names {len(lost)} tensors that are not in their shards: "
            f"{few(lost)}. Download the checkpoint again."
        )
    return {name: files[shard] for name, shard in where.items()}


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
