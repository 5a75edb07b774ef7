"""The JSON files of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merge_optuna._documents import Bounds, load_json, read_text
from merge_optuna.errors import CheckpointError, FileTooLarge

_SETTINGS = Bounds(20_000_000)  # an index of 100,000 tensors has half of it
TOKENIZER = Bounds(100_000_000, 5_000_000, FileTooLarge)
"""Of a vocabulary: that of Gemma 3, with 260,000 tokens and 510,000 merges, has a third of it."""


def read_json(file: Path, bounds: Bounds = _SETTINGS) -> dict[str, Any] | None:
    """The object in a JSON file, or None if there is no file.

    Raises:
        CheckpointError: If it cannot be read, is no JSON object or more than the bounds.
    """
    if not file.is_file():
        return None
    text = read_text(file, error=CheckpointError, bounds=bounds)
    content = load_json(text, str(file), error=CheckpointError, bounds=bounds)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no JSON object. Restore the file.")
    return content
