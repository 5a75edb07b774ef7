"""The ids of a tokenizer's tokens, read from its files as cheaply as they allow."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._folder import read_json
from merge_optuna.checkpoints._tokenizers import VOCABULARY_FILES, load_tokenizer

_FAST = "tokenizer.json"
_ADDED = "added_tokens.json"
_SETTINGS = "tokenizer_config.json"


def same_ids(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether the files alone show that two tokenizers have the same ids."""
    one, other = a.tokenizer_folder, b.tokenizer_folder
    if one is None or other is None or one == other:
        return True
    files, others = _files(one), _files(other)
    if not files or not others:  # nothing to compare
        return True
    return (
        files.keys() == others.keys()
        and all(filecmp.cmp(path, others[name], shallow=False) for name, path in files.items())
        and _added(one) == _added(other)
    )


def token_ids(checkpoint: Checkpoint) -> Mapping[str, int]:
    """Id by token; not to be written to.

    Raises:
        CheckpointError: If there is no tokenizer, or it cannot be read.
    """
    folder = checkpoint.tokenizer_folder
    files = {} if folder is None else _files(folder)
    changed = tuple((path, path.stat().st_mtime_ns) for path in files.values())
    return _ids(checkpoint, folder, changed)


@lru_cache(maxsize=4)  # a large vocabulary takes 30 MB
def _ids(
    checkpoint: Checkpoint, folder: Path | None, changed: tuple[object, ...]
) -> Mapping[str, int]:
    if folder is None or not (folder / _FAST).is_file():
        ids: Mapping[str, int] = load_tokenizer(checkpoint).get_vocab()
        return ids
    content = read_json(folder / _FAST) or {}
    own = content.get("model", {}).get("vocab") or {}
    if isinstance(own, list):  # Unigram: pairs of token and score, by id
        own = {entry[0]: i for i, entry in enumerate(own)}
    added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    return {**own, **_added(folder), **added}


def _files(folder: Path) -> dict[str, Path]:
    """The files that say which id a token has, by name."""
    if (folder / _FAST).is_file():
        return {_FAST: folder / _FAST}
    found = {path.name: path for pattern in VOCABULARY_FILES for path in folder.glob(pattern)}
    if found and (folder / _ADDED).is_file():
        found[_ADDED] = folder / _ADDED
    return found


def _added(folder: Path) -> dict[str, int]:
    """Tokens that the settings of the tokenizer add."""
    settings: dict[str, Any] = read_json(folder / _SETTINGS) or {}
    added = settings.get("added_tokens_decoder") or {}
    return {token["content"]: int(i) for i, token in added.items()}
