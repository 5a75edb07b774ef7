"""Hashes of files, kept outside the project so that a file is read once."""

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

from merge_optuna.checkpoints._files import Stamp

_MOST = 1000  # entries, some 30 KB each
_FRESH = 2.0  # seconds: what is written twice within the clock's resolution has one stamp
_HASH = re.compile("[0-9a-f]{32}")


def cache_root() -> Path:
    """Where what can be computed again is kept: ``MERGE_OPTUNA_CACHE``, or the user's cache."""
    if own := os.environ.get("MERGE_OPTUNA_CACHE"):
        return Path(own).expanduser().absolute()
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(users).expanduser().absolute() / "merge_optuna"


def recall(path: Path, stamp: Stamp, names: Iterable[str]) -> dict[str, str] | None:
    """The hashes of a file by name; None if they are not known."""
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
    """Keeps the hashes of a file, unless it is too young or the cache cannot be written."""
    if time.time() - max(stamp.written_ns, stamp.changed_ns) / 1e9 < _FRESH:
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
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return cache_root() / "digests" / f"{name}.json"


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
