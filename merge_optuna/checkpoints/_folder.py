"""A local folder in Hugging Face format, read lazily."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from merge_optuna.checkpoints._config import check_config, read_json
from merge_optuna.checkpoints._digest import (
    code_files,
    hashes_of,
    lines_of,
    text_files,
    text_lines,
)
from merge_optuna.checkpoints._files import Spec, Stamp, TensorFile, stamps_of
from merge_optuna.checkpoints._known_files import FORMATS, PIPELINE, Format
from merge_optuna.checkpoints._store import Opened
from merge_optuna.checkpoints._tensor_files import READERS
from merge_optuna.errors import CheckpointError, few, shown

_MOST_SHARDS = 10_000


class FolderStore(Opened):
    """A folder with one or several files of tensors, read through memory maps."""

    folder: Path

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def _open(self) -> None:
        found = _find(self.folder)
        self.written = found.written
        texts = stamps_of(text_files(self.folder))
        self.config = read_json(self.folder / "config.json")
        self._texts = texts | stamps_of(code_files(self.folder, self.config))
        self._index = stamps_of(path for path in [self.folder / found.index] if path.is_file())
        self._files = _open_files(self.folder, found)
        self._specs = {name: file.specs[name] for name, file in sorted(self._files.items())}
        check_config(self.config, self.folder / "config.json", self._specs)
        self._hashes: dict[str, str] = {}

    def __reduce__(self) -> tuple[type[FolderStore], tuple[Path]]:
        """Copies and pickles open the files again: memory maps cannot travel."""
        return FolderStore, (self.folder,)

    def specs(self) -> dict[str, Spec]:
        return self._specs

    def tensor(self, name: str) -> Tensor:
        return self._files[name].tensor(name)

    def hashes(self) -> dict[str, str]:
        """The hash of every tensor; read once."""
        if not self._hashes:
            found = hashes_of(list({file.path: file for file in self._files.values()}.values()))
            self._hashes = {name: found[file.path][name] for name, file in self._files.items()}
        return self._hashes

    def weights(self) -> Iterable[str]:
        return lines_of(self._specs, self.hashes())

    def texts(self) -> Iterable[str]:
        return text_lines(self.folder, self._texts)

    def stamps(self) -> dict[Path, Stamp]:
        files = {file.path: file.stamp for file in self._files.values()}
        return files | self._index | self._texts

    def reopen(self) -> None:
        self._open()


def check_folder(folder: Path) -> None:
    """Refuses what is no folder.

    Raises:
        CheckpointError: If there is none, or it is a file.
    """
    if not folder.exists():
        raise CheckpointError(f"No folder {str(folder)!r}. Check the path of the checkpoint.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{str(folder)!r} is a file. Pass the folder that contains it and its config.json."
        )


def _find(folder: Path) -> Format:
    """The format that transformers would read."""
    check_folder(folder)
    present = {path.name for path in folder.iterdir()}
    # transformers itself does not look for variants, but diffusers hands them to it.
    variants = (folder.parent / PIPELINE).is_file() or any("diffusion_" in n for n in present)
    for known in FORMATS:
        if known.variant and not variants:
            break
        if {known.weights, known.index} & present:
            return known
    if PIPELINE in present:
        raise CheckpointError(
            f"{str(folder)!r} is a diffusers pipeline. Choose what to merge, e.g. part='unet' or "
            "part='transformer'."
        )
    wanted = ", ".join(known.weights for known in FORMATS[:3])
    raise CheckpointError(
        f"{str(folder)!r} is not a checkpoint: it has no {wanted} or an index of one (found: "
        f"{few(sorted(present)) or 'nothing'}). Save the model with save_pretrained()."
    )


def _open_files(folder: Path, found: Format) -> dict[str, TensorFile]:
    """The file of each tensor."""
    if os.path.lexists(folder / found.weights):  # a broken link is an error of the reader
        file = READERS[found.kind](folder / found.weights)
        return dict.fromkeys(file.specs, file)
    return _open_shards(folder / found.index, READERS[found.kind])


def _open_shards(index: Path, reader: Callable[[Path], TensorFile]) -> dict[str, TensorFile]:
    where = (read_json(index) or {}).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index} has no weight_map. Restore the file.")
    names = list(where.values())
    wrong = [shown(name) for name in names if not isinstance(name, str) or not _is_inside(name)]
    if wrong:
        raise CheckpointError(
            f"{index} names {few(wrong, 3)}, which {'are' if len(wrong) > 1 else 'is'} no file in "
            "its folder. Download the checkpoint again."
        )
    shards = sorted(set(names))
    if len(shards) > _MOST_SHARDS:
        raise CheckpointError(f"{index} names {len(shards):,} files; {_MOST_SHARDS:,} may be.")
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


def _is_inside(name: str) -> bool:
    """Whether it is the name of a file beside the index, and not a way out of its folder."""
    return 0 < len(name) <= 255 and name.isprintable() and Path(name).name == name != ".."
