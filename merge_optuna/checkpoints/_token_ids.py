"""Which tokens the rows of two models belong to, compared as cheaply as their files allow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._config import TOKENIZER, read_json
from merge_optuna.checkpoints._files import Stamp, stamps_of
from merge_optuna.checkpoints._known_files import VOCABULARY_FILES, present
from merge_optuna.checkpoints._token_rows import vocab_size
from merge_optuna.checkpoints._tokenizers import load_tokenizer
from merge_optuna.errors import CheckpointError

_FAST = "tokenizer.json"
_ADDED = "added_tokens.json"
_SETTINGS = "tokenizer_config.json"
_Stamps = tuple[tuple[Path, Stamp], ...]


class RowsOfOtherTokens(NamedTuple):
    """Rows that two tokenizers give to different tokens.

    Attributes:
        tokens: By id, the token in the first and in the second; None where it has none.
        rows: How many rows both have.
    """

    tokens: Mapping[int, tuple[str | None, str | None]]
    rows: int


def rows_of_other_tokens(a: Checkpoint, b: Checkpoint) -> RowsOfOtherTokens:
    """The rows that both models have and that belong to different tokens.

    A token that only one of them knows, in a row that the other has for none, is no difference.
    There is none either where a model has no tokenizer, or its rows are numbered otherwise.

    Raises:
        CheckpointError: If a tokenizer cannot be read.
        FileTooLarge: If it is more than is read of one.
    """
    one, other = a.tokenizer_folder, b.tokenizer_folder
    if one is None or other is None or one == other:
        return RowsOfOtherTokens({}, 0)
    return _compared(a, one, _stamps(one), b, other, _stamps(other))


@lru_cache(maxsize=64)
def _compared(
    a: Checkpoint, one: Path, _one: _Stamps, b: Checkpoint, other: Path, _other: _Stamps
) -> RowsOfOtherTokens:
    files, others = _files(one), _files(other)
    if not files or not others or (_are_equal(files, others) and _added(one) == _added(other)):
        return RowsOfOtherTokens({}, 0)
    mine, theirs = _ids(a, one), _ids(b, other)
    rows = min(vocab_size(c.config) or len(ids) for c, ids in ((a, mine), (b, theirs)))
    first, second = ({i: t for t, i in ids.items() if i < rows} for ids in (mine, theirs))
    wrong = {i for i in first.keys() & second.keys() if first[i] != second[i]}
    wrong |= {i for i, token in first.items() if theirs.get(token, i) != i}
    return RowsOfOtherTokens({i: (first.get(i), second.get(i)) for i in sorted(wrong)}, rows)


def _ids(checkpoint: Checkpoint, folder: Path) -> Mapping[str, int]:
    """Id by token; from the file alone where there is a fast tokenizer: making it takes longer."""
    if _FAST not in _files(folder):
        ids: Mapping[str, int] = load_tokenizer(checkpoint).get_vocab()
        return ids
    content = read_json(folder / _FAST, TOKENIZER) or {}
    try:
        own = content["model"]["vocab"]
        if isinstance(own, list):  # Unigram: pairs of token and score, by id
            own = {entry[0]: i for i, entry in enumerate(own)}
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        return {**own, **_added(folder), **added}
    except (KeyError, TypeError, IndexError) as error:
        raise _damaged(folder / _FAST) from error


def _files(folder: Path) -> dict[str, Path]:
    """The files that say which id a token has, by name."""
    if (folder / _FAST).is_file():
        return {_FAST: folder / _FAST}
    found = {name: folder / name for name in present(folder, VOCABULARY_FILES)}
    if found and (folder / _ADDED).is_file():
        found[_ADDED] = folder / _ADDED
    return found


def _added(folder: Path) -> dict[str, int]:
    """Tokens that the settings of the tokenizer add."""
    settings: dict[str, Any] = read_json(folder / _SETTINGS, TOKENIZER) or {}
    added = settings.get("added_tokens_decoder") or {}
    try:
        return {token["content"]: int(i) for i, token in added.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / _SETTINGS) from error


def _damaged(file: Path) -> CheckpointError:
    return CheckpointError(f"{file} is not what a tokenizer writes. Restore the file.")


def _are_equal(files: Mapping[str, Path], others: Mapping[str, Path]) -> bool:
    """Byte by byte; filecmp would remember what it found of files of this size and time."""
    return files.keys() == others.keys() and all(
        path.stat().st_size == others[name].stat().st_size
        and path.read_bytes() == others[name].read_bytes()
        for name, path in files.items()
    )


def _stamps(folder: Path) -> _Stamps:
    """What changes when a file of the tokenizer does."""
    files = [*_files(folder).values(), folder / _SETTINGS]
    return tuple(stamps_of(path for path in files if path.is_file()).items())
