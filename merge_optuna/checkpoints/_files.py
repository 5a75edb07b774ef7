"""Files as they were when they were read: what tells that one has changed, what is known of it.

Hashes of files are kept outside the project, so that a file is read once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Spec = tuple[torch.dtype, tuple[int, ...]]
"""Data type and shape of a tensor."""

WORTH_KEEPING = 1 << 20  # bytes: of a smaller file the hashes are made sooner than looked up
_MOST = 1000  # entries, some 30 KB each
_FRESH = 2.0  # seconds: what is written twice within the clock's resolution has one stamp
_HASH = re.compile("[0-9a-f]{32}")


class Stamp(NamedTuple):
    """What the file system says of a file; a link counts as the file that it leads to.

    The time of the last write can be set back, that of the last change of the file's entry cannot.
    """

    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file now.

        Raises:
            OSError: If there is no such file, or it cannot be reached.
        """
        s = os.stat(path)
        return cls(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)


class TensorFile(Protocol):
    """One file of tensors.

    Attributes:
        path: Where it is.
        stamp: As it was when it was opened.
        specs: Dtype and shape by tensor name.
    """

    path: Path
    stamp: Stamp
    specs: dict[str, Spec]

    def tensor(self, name: str) -> Tensor:
        """The tensor; not to be written to."""

    def hash(self, name: str) -> str:
        """The hash of a tensor's bytes."""


def stamps_of(paths: Iterable[Path]) -> dict[Path, Stamp]:
    """The stamps of files now."""
    return {path: Stamp.of(path) for path in paths}


def first_changed(stamps: Mapping[Path, Stamp]) -> tuple[Path, str] | None:
    """The first file that is not what it was, and what has happened to it; None if all are."""
    for path, stamp in stamps.items():
        try:
            now = Stamp.of(path)
        except FileNotFoundError:
            return path, "is gone"
        except OSError as error:
            return path, f"cannot be read ({error.strerror})"
        if now.size < stamp.size:
            return path, "was cut short or rewritten"
        if now != stamp:
            return path, "was written to or replaced"
    return None


def hex_digest(parts: Iterable[bytes | memoryview]) -> str:
    """32 hexadecimal digits over contents, one after the other."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """All elements of a tensor in a row, whatever their place in memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if len(flat) else memoryview(b"")


# -- what is known of files ----------------------------------------------------------------------


def cache_root() -> Path:
    """Where what can be computed again is kept: ``MERGE_OPTUNA_CACHE``, or the user's cache."""
    if own := os.environ.get("MERGE_OPTUNA_CACHE"):
        return Path(own).expanduser().absolute()
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(users).expanduser().absolute() / "merge_optuna"


def recall(path: Path, stamp: Stamp, names: Iterable[str]) -> dict[str, str] | None:
    """The hashes of a file by name; None if they are not known."""
    if stamp.size < WORTH_KEEPING:
        return None
    entry = _entry(path, stamp)
    try:
        known = json.loads(entry.read_text(encoding="utf-8"))
        os.utime(entry)  # what is used stays
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or known.keys() != set(names):
        return None
    valid = all(isinstance(one, str) and _HASH.fullmatch(one) for one in known.values())
    return known if valid else None


def remember(path: Path, stamp: Stamp, hashes: Mapping[str, str]) -> None:
    """Keeps the hashes of a file, unless it is small, too young or the cache cannot be written."""
    if (
        stamp.size < WORTH_KEEPING
        or time.time() - max(stamp.written_ns, stamp.changed_ns) / 1e9 < _FRESH
    ):
        return
    entry = _entry(path, stamp)
    with contextlib.suppress(OSError):  # it is read again the next time, which is no error
        entry.parent.mkdir(parents=True, exist_ok=True)
        _forget_oldest(entry.parent)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=entry.parent, prefix=".", delete=False
        ) as file:
            json.dump(dict(hashes), file)
        os.replace(file.name, entry)


def _entry(path: Path, stamp: Stamp) -> Path:
    text = json.dumps(_identity(path, stamp))
    return cache_root() / "digests" / f"{hex_digest([text.encode()])}.json"


def _identity(path: Path, stamp: Stamp) -> tuple[str | int, ...]:
    """What a file is known by.

    The hub's cache calls a file by the hash of its content, which stays what it is on another
    disk or machine; its size and time tell whether somebody has written to it since.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return blob.name, stamp.size, stamp.written_ns
    return tuple(stamp)


def _forget_oldest(folder: Path) -> None:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime)
    for entry in entries[: len(entries) - _MOST + 1]:
        entry.unlink(missing_ok=True)
