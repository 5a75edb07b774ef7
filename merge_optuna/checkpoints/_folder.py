"""A local folder in Hugging Face format, read lazily."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from merge_optuna.checkpoints._bin import BinFile
from merge_optuna.checkpoints._safetensors import SafetensorsFile, Spec
from merge_optuna.errors import CheckpointError, few


class File(Protocol):
    """One file of tensors."""

    specs: dict[str, Spec]

    def tensor(self, name: str) -> Tensor:
        """The tensor; not to be written to."""


# In the order in which transformers looks for them.
FORMATS: dict[str, Callable[[Path], File]] = {
    "model.safetensors": SafetensorsFile,
    "pytorch_model.bin": BinFile,
}


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


def _open_weights(folder: Path) -> dict[str, File]:
    """The file of each tensor: what transformers would read."""
    if not folder.exists():
        raise CheckpointError(f"No folder {str(folder)!r}. Check the path of the checkpoint.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{str(folder)!r} is a file. Pass the folder that contains it and its config.json."
        )
    present = {path.name for path in folder.iterdir()}
    for weights, reader in FORMATS.items():
        if weights in present:
            file = reader(folder / weights)
            return dict.fromkeys(file.specs, file)
        if f"{weights}.index.json" in present:
            return _open_shards(folder / f"{weights}.index.json", reader)
    raise CheckpointError(
        f"{str(folder)!r} is not a checkpoint: it has no {', '.join(FORMATS)} or an index of one "
        f"(found: {few(sorted(present)) or 'nothing'}). Save the model with save_pretrained()."
    )


def _open_shards(index: Path, reader: Callable[[Path], File]) -> dict[str, File]:
    where = (_read_json(index) or {}).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} has no weight_map. Restore the file.")
    shards = sorted(set(where.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(missing)} shards that are not there: {few(missing)}. "
            "Download the checkpoint again."
        )
    files = {shard: reader(index.parent / shard) for shard in shards}
    lost = [f"{name} ({shard})" for name, shard in where.items() if name not in files[shard].specs]
    if lost:
        raise CheckpointError(
            f"{index} names {len(lost)} tensors that are not in their shards: "
            f"{few(lost)}. Download the checkpoint again."
        )
    return {name: files[shard] for name, shard in where.items()}


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
