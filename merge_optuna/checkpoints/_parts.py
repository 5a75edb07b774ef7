"""Parts of a checkpoint: a component of a diffusers pipeline, merged while the others stay."""

from __future__ import annotations

import shutil
from pathlib import Path

from merge_optuna.checkpoints._folder import PIPELINE, FolderStore, check_folder, read_json
from merge_optuna.errors import CheckpointError


def open_part(folder: Path, part: str) -> FolderStore:
    """Opens one part of the checkpoint in ``folder``.

    Raises:
        CheckpointError: If there is no such part.
    """
    check_folder(folder)
    if not (folder / PIPELINE).is_file():
        raise CheckpointError(
            f"{str(folder)!r} has no part {part!r}: it has no {PIPELINE}, so it is no diffusers "
            "pipeline. Leave part= out."
        )
    components = _components(folder)
    if part not in components:
        raise CheckpointError(
            f"The pipeline {str(folder)!r} has no part {part!r}. Choose one of "
            f"{', '.join(components)}."
        )
    return FolderStore(folder / part)


def copy_around(root: Path, part: str, target: Path) -> Path:
    """Copies a pipeline without the weights of one part.

    Left out are also single-file forms of the whole pipeline, which would be the unmerged one.

    Args:
        root: The pipeline.
        part: Its component.
        target: An empty folder.

    Returns:
        Where the weights of the part belong.
    """

    def left_out(folder: str, names: list[str]) -> set[str]:
        old = {name for name in names if Path(name).suffix in (".safetensors", ".bin", ".ckpt")}
        if Path(folder) == root:
            return old | {"README.md", "recipe.yaml", ".git", ".cache"}
        indices = {name for name in names if ".index." in name}
        return old | indices if Path(folder) == root / part else set()

    shutil.copytree(root, target, ignore=left_out, dirs_exist_ok=True)
    return target / part


def _components(folder: Path) -> list[str]:
    """Names of the components; a component that a pipeline was saved without is [null, null]."""
    index = read_json(folder / PIPELINE) or {}
    return [name for name, value in index.items() if isinstance(value, list) and all(value)]
