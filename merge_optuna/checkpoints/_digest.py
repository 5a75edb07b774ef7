"""What the digest of a checkpoint is made of: every byte that counts for what the model does.

A digest reads ``2:`` and 32 hexadecimal digits: 16 of the tensors (names, data types, shapes and
all of their content), 16 of what else makes the model what it is (config, generation config,
tokenizer, processor and chat template, without what is cosmetic). Those of 32 digits alone come
from earlier versions; see :func:`sampled_digest`.

Tensors are hashed by XXH3 (128 bits): it is to notice changes, and no disk and hardly the memory
is as fast. It is no proof against somebody who forges a file with the same digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from merge_optuna._bar import ProgressBar
from merge_optuna.checkpoints._files import (
    WORTH_KEEPING,
    Spec,
    Stamp,
    TensorFile,
    bytes_of,
    hex_digest,
    recall,
    remember,
    stamps_of,
)
from merge_optuna.checkpoints._known_files import CONFIG_FILES, TEXT_FILES, present
from merge_optuna.checkpoints._threads import for_each
from merge_optuna.errors import CheckpointError

FORM = "2:"
"""What a digest of this kind begins with."""

# Where a model came from, what saved it, how it is run: none of it changes what it computes. (The
# data types of the tensors are theirs, whatever the config says of them.)
_COSMETIC = frozenset(
    (
        *("_commit_hash", "_diffusers_version", "_from_model_config", "_name_or_path", "dtype"),
        *("is_local", "local_files_only", "name_or_path", "special_tokens_map_file"),
        *("tokenizer_file", "torch_dtype", "transformers_version", "use_cache"),
    )
)


def digest_of(weights: Iterable[str], texts: Iterable[str]) -> str:
    """The digest of what the tensors and the texts of a model have said of themselves."""
    return FORM + _half(weights) + _half(texts)


def form_of(digest: str) -> str:
    """What a digest begins with, which says how it was made.

    Raises:
        CheckpointError: If a newer version made it.
    """
    before, colon, _ = digest.rpartition(":")
    if before + colon not in (FORM, ""):
        raise CheckpointError(
            f"The digest {digest!r} was recorded by a newer version of merge_optuna. Update this "
            "one: pip install -U merge_optuna."
        )
    return before + colon


def difference(recorded: str, found: str) -> str:
    """What differs between two digests of the same form."""
    if not found.startswith(FORM):
        return f"its digest is {found}"
    parts = ("the weights", "config, tokenizer or other texts")
    pairs = zip(parts, halves(recorded), halves(found), strict=True)
    differing = " and ".join(part for part, old, new in pairs if old != new)
    return f"{differing} differ: its digest is {found}"


def halves(digest: str) -> tuple[str, str]:
    """The parts of a digest: of the tensors, and of the texts."""
    hashes = digest.removeprefix(FORM)
    return hashes[:16], hashes[16:]


def _half(lines: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


# -- tensors ------------------------------------------------------------------------------


def lines_of(specs: Mapping[str, Spec], hashes: Mapping[str, str]) -> list[str]:
    """A line per tensor with all that counts; the order of the file does not."""
    return [f"{n}|{d}|{tuple(s)}|{hashes.get(n)}" for n, (d, s) in sorted(specs.items())]


def hash_tensor(tensor: Tensor) -> str:
    """The hash of all elements, whatever their place in memory."""
    return xxhash.xxh3_128_hexdigest(bytes_of(tensor))


def hashes_of(files: Sequence[TensorFile]) -> dict[Path, dict[str, str]]:
    """The hashes of all tensors by file and name, looked up or read by several threads."""
    found = {file.path: recall(file.path, file.stamp, file.specs) or {} for file in files}
    unknown = [file for file in files if not found[file.path]]
    _hash_all(unknown, found)
    for file in unknown:
        remember(file.path, file.stamp, found[file.path])
    return found


def _hash_all(files: Sequence[TensorFile], found: Mapping[Path, dict[str, str]]) -> None:
    work = [(nbytes(spec), name, file) for file in files for name, spec in file.specs.items()]
    work.sort(key=lambda item: -item[0])  # so that no thread is left alone with a large one
    total, lock = sum(size for size, _, _ in work), threading.Lock()
    shown: dict[str, Any] = {"delay": 2, "leave": False, "unit": "B", "unit_scale": True}
    with ProgressBar(
        desc="Reading all weights", total=total, disable=total < 1 << 28, **shown
    ) as bar:

        def hash_one(item: tuple[int, str, TensorFile]) -> None:
            size, name, file = item
            found[file.path][name] = file.hash(name)
            with lock:
                bar.update(size)

        for_each(hash_one, work, 1 if total < WORTH_KEEPING else min(8, os.cpu_count() or 1))


def nbytes(spec: Spec) -> int:
    """Bytes of a tensor."""
    return int(torch.Size(spec[1]).numel()) * spec[0].itemsize


# -- texts --------------------------------------------------------------------------------


def texts_digest(folder: Path) -> str:
    """16 hexadecimal digits of the tokenizer, config and the like in a folder."""
    return _half(text_lines(folder, stamps_of(text_files(folder))))


def text_files(folder: Path) -> list[Path]:
    """The files beside the weights that change what the model does."""
    names = present(folder, (*CONFIG_FILES, *TEXT_FILES))
    return [path for path in (folder / name for name in names) if path.is_file()]


def code_files(folder: Path, config: Mapping[str, Any] | None) -> list[Path]:
    """The code that a config says the model is made by."""
    return sorted(folder.glob("*.py")) if "auto_map" in (config or {}) else []


def text_lines(folder: Path, stamps: Mapping[Path, Stamp]) -> list[str]:
    """A line per text file with what of it counts."""
    return [
        f"{path.relative_to(folder)}|{_hash_text(path, stamp)}"
        for path, stamp in sorted(stamps.items())
    ]


def config_lines(texts: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """The same of configs in memory, by the name that their file would have."""
    return [f"{name}|{_hash_json(content)}" for name, content in sorted(texts.items()) if content]


def _hash_text(path: Path, stamp: Stamp) -> str:
    known = recall(path, stamp, ("",))
    if known is None:
        known = {"": _canonical_hash(path)}
        remember(path, stamp, known)
    return known[""]


def _canonical_hash(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix == ".json":
        try:
            return _hash_json(json.loads(raw))
        except (ValueError, RecursionError):  # whoever needs it says what is wrong with it
            pass
    return xxhash.xxh3_128_hexdigest(raw)


def _hash_json(content: Any) -> str:
    text = json.dumps(without_cosmetics(content), sort_keys=True)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def without_cosmetics(content: Any) -> Any:
    """A config without what changes nothing, also inside of the configs of its parts."""
    if not isinstance(content, Mapping):
        return content
    return {
        key: without_cosmetics(value)
        if isinstance(value, Mapping) and "model_type" in value
        else value
        for key, value in content.items()
        if key not in _COSMETIC
    }


# -- earlier versions ----------------------------------------------------------------------------


def sampled_digest(
    specs: Mapping[str, Spec], tensor: Callable[[str], Tensor], around: str = ""
) -> str:
    """Digest of names, dtypes, shapes and samples of the content: 32 hexadecimal digits.

    What was recorded with it is still compared with it, and a checkpoint without a name is called
    after it: names key random masks and parameters. Small tensors are read whole, of larger ones
    sixteen blocks of 1 KiB spread evenly; nothing of config and tokenizer.

    Args:
        specs: The tensors.
        tensor: Gives one by name.
        around: The digest of the model that they are a module of.
    """

    def parts() -> Iterable[bytes | memoryview]:
        yield around.encode()
        for name, (dtype, shape) in sorted(specs.items()):
            yield f"{name}|{dtype}|{shape}|".encode()
            yield from _blocks(bytes_of(tensor(name)))

    return hex_digest(parts())


def _blocks(data: memoryview) -> list[memoryview]:
    if len(data) <= 1 << 16:
        return [data]
    starts = ((len(data) - 1024) * i // 15 for i in range(16))
    return [data[start : start + 1024] for start in starts]
