"""Parts of a checkpoint: a component of a diffusers pipeline, merged while the others stay."""

from __future__ import annotations

from pathlib import Path

from merge_optuna.checkpoints._folder import FolderStore, read_json
from merge_optuna.errors import CheckpointError

PIPELINE = "model_index.json"


def open_part(folder: Path, part: str) -> FolderStore:
    """Opens one part of the checkpoint in ``folder``.

    Raises:
        CheckpointError: If there is no such part.
    """
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


def _components(folder: Path) -> list[str]:
    """Names of the components; a component that a pipeline was saved without is [null, null]."""
    index = read_json(folder / PIPELINE) or {}
    return [name for name, value in index.items() if isinstance(value, list) and all(value)]
