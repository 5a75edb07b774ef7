"""The folders that are written: which files in them are ours, and how one replaces another.

A written folder has a manifest of its files. Only what is in it, unchanged, is ever deleted.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import itertools
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from merge_optuna.checkpoints._known_files import (
    COMPONENT_FILES,
    CONFIG_FILES,
    PIPELINE,
    TEXT_FILES,
    WEIGHT_FILES,
    is_known,
)
from merge_optuna.errors import ExportError, MergeOptunaError, few

MANIFEST = ".merge_optuna.json"
_FORMAT = 1
_BLOCK, _BLOCKS = 1 << 16, 256  # what is read of a file: all up to 16 MiB, then so many samples
_NAMED = 10
_ATTEMPTS = 100
_LEFT = r"\.(partial|replaced|removed)-(\d+)(-[0-9a-f]+)?"

# What a folder without a manifest is known by.
_RECIPE, _STATISTICS = "recipe.yaml", "merge_optuna_statistics"


def check_target(folder: Path, *, force: bool) -> None:
    """Refuses a target that cannot be replaced without a loss.

    Args:
        folder: Where something shall be written. A link stands for the folder that it leads to.
        force: Whether an earlier export may be replaced.

    Raises:
        ExportError: If ``folder`` is a file, the current folder, your home, one that holds these
            or a mount point; if it is not empty and ``force`` is not set; or if there is anything
            in it but what this package has written, unchanged.
    """
    folder = Path(os.path.realpath(folder.expanduser()))
    _check_place(folder)
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{str(folder)!r} is a file. Choose a folder.")
    if _is_empty(folder):
        return
    if not force:
        raise ExportError(
            f"The folder {str(folder)!r} is not empty. Choose another one, or replace it with "
            "force=True (--force)."
        )
    _check_contents(folder)


def _check_place(folder: Path) -> None:
    """Refuses folders that cannot be renamed, or whose users would be left in a deleted one."""
    home = os.path.expanduser("~")
    for what, place in (("the current folder", os.getcwd()), ("your home", home)):
        if Path(place).resolve().is_relative_to(folder):
            raise ExportError(
                f"{str(folder)!r} is or holds {what}, and a whole folder takes its place when a "
                "model is written. Choose a folder of its own, e.g. "
                f"{str(folder / 'merged')!r}."
            )
    if os.path.ismount(folder):
        raise ExportError(
            f"{str(folder)!r} is a mount point, which no other folder can take the place of. "
            f"Choose a folder inside it, e.g. {str(folder / 'merged')!r}."
        )


def _is_empty(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return not any(folder.iterdir())
    return True


def _check_contents(folder: Path) -> None:
    try:
        strange = _some_strange(folder)
    except MergeOptunaError:
        raise
    except OSError as error:
        raise ExportError(
            f"What is in the folder {str(folder)!r} cannot be read: {error}. Choose another one."
        ) from error
    if strange:
        more = ", ..." if len(strange) > _NAMED else ""
        raise ExportError(
            f"The folder {str(folder)!r} holds something else than a checkpoint that merge_optuna "
            f"has written, which would be deleted: {few(strange[:_NAMED])}{more}. Move it away, "
            "or choose another folder."
        )


def _some_strange(folder: Path) -> list[str]:
    """The first few; looked at again while another process puts a folder in its place."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileNotFoundError):
            before = folder.stat()
            found = list(itertools.islice(_strange(folder), _NAMED + 1))
            after = folder.stat()
            if (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns):
                return found
    if not os.path.lexists(folder):
        return []
    raise ExportError(
        f"Something changes in the folder {str(folder)!r} all the time. Stop what uses it, or "
        "choose another one."
    )


# -- what is in a folder ------------------------------------------------------------------------


def _contents(folder: Path, inside: str = "") -> Iterator[str]:
    """Relative paths of all files and links in a folder, and of folders that hold nothing."""
    entries = sorted(folder.iterdir())
    if inside and not entries:
        yield inside
    for path in entries:
        name = inside + path.name
        if path.is_dir() and not path.is_symlink():
            yield from _contents(path, f"{name}/")
        elif name != MANIFEST:
            yield name


def _strange(folder: Path) -> Iterator[str]:
    """What is not as this package has written it, in a few words each."""
    if _manifest(folder) is None and not _is_marked(folder):
        yield from _contents(folder)
    else:
        yield from (name + why for name, why in _others(folder))


def _others(folder: Path) -> Iterator[tuple[str, str]]:
    """What is not in the manifest; without one, what no checkpoint is known to have."""
    listed = _manifest(folder)
    for name in _contents(folder):
        if listed is None:
            if not _was_written(folder, name):
                yield name, ""
        elif name not in listed:
            yield name, ""
        elif (folder / name).is_symlink() or _fingerprint(folder / name) != listed[name]:
            yield name, " (changed since)"


def _manifest(folder: Path) -> Mapping[str, Any] | None:
    """Size and digest by relative path, or None in folders of older versions and of others."""
    file = folder / MANIFEST
    if not os.path.lexists(file):
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        listed = content["files"] if content["format"] == _FORMAT else None
    except FileNotFoundError:
        if not os.path.lexists(file):
            raise  # another process replaces the folder at this moment: look again
        listed = None
    except (OSError, ValueError, KeyError, TypeError):
        listed = None
    if not isinstance(listed, dict):
        raise ExportError(
            f"{str(file)!r}, which lists what merge_optuna has written there, is damaged or of a "
            "newer version. Remove the folder yourself, or choose another one."
        )
    return listed


def _fingerprint(file: Path) -> dict[str, Any]:
    """Tells whether somebody has edited a file: any byte of a text, training of weights."""
    size = file.stat().st_size
    with open(file, "rb", buffering=0) as opened:
        starts = range(0, size, max(_BLOCK, size // _BLOCKS))
        state = xxhash.xxh3_128()
        for start in starts:
            state.update(os.pread(opened.fileno(), _BLOCK, start))
    return {"size": size, "digest": state.hexdigest()}


def _is_marked(folder: Path) -> bool:
    """Whether a folder without a manifest shows that this package has made it."""
    config = folder / "config.json"
    return (folder / _RECIPE).is_file() or (
        config.is_file() and _STATISTICS in config.read_text(encoding="utf-8", errors="replace")
    )


def _was_written(folder: Path, name: str) -> bool:
    """Whether an older version can have written a file of this name."""
    if (folder / name).is_symlink():
        return False
    if is_known(name, (*CONFIG_FILES, *TEXT_FILES, *WEIGHT_FILES, "README.md", _RECIPE)):
        return True
    if not (folder / PIPELINE).is_file():
        return False
    own = name.partition("/")[2]
    return name == PIPELINE or is_known(own, (*COMPONENT_FILES, *WEIGHT_FILES))


# -- one folder in the place of another ---------------------------------------------------------


@contextlib.contextmanager
def replacing(folder: Path, *, force: bool) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of ``folder`` if the block succeeds.

    It is on the disk, power cuts considered, before what was there goes. Where nothing was there
    nobody waits for the disk: that takes as long as the merge, and a merge can be made again.

    Args:
        folder: The target, all links followed.
        force: Replace an earlier export.

    Raises:
        ExportError: As :func:`check_target`, now or when the block ends; or if the disk is full
            or not writable. ``folder`` is untouched then.
    """
    partial = _beside(folder, "partial")
    try:
        clear_leftovers(folder)
        check_target(folder, force=force)
        partial.mkdir(parents=True)
        with _held(partial):
            yield partial
            _list(partial)
            if not _is_empty(folder):
                _flush(partial)
            _put(partial, folder, force=force)
    except MergeOptunaError:
        raise
    except OSError as error:
        raise ExportError(
            f"The folder {str(folder)!r} cannot be written: {error}. What was there is untouched."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_written(folder: Path) -> None:
    """Removes a folder that this package has written, at once or not at all.

    Raises:
        ExportError: If there is anything else in it; nothing is removed then.
    """
    if folder.is_symlink():
        raise ExportError(f"{str(folder)!r} is a link. Remove it yourself.")
    _check_contents(folder)
    gone = _beside(folder, "removed")
    folder.rename(gone)  # never a part of a checkpoint under its name
    _discard(gone)


def clear_leftovers(folder: Path, *, alone: bool = False) -> None:
    """Puts right what killed writers of ``folder`` have left beside it.

    Args:
        folder: What they were to write.
        alone: Whether no other process can be writing there, whatever process ids say.
    """
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*-*"):
        left = re.fullmatch(_LEFT, path.name.removeprefix(f".{folder.name}"))
        if left is None or (not alone and (_runs(int(left[2])) or _is_held(path))):
            continue
        with contextlib.suppress(OSError):  # another process is as tidy, or it cannot be helped
            if left[1] == "replaced" and not folder.exists():
                path.rename(folder)  # killed between the two renames: the old one is whole
            elif left[1] == "partial":
                doomed = path.rename(_beside(folder, "partial"))  # nobody can finish it any more
                shutil.rmtree(doomed, ignore_errors=True)
            else:
                _discard(path)


def _runs(pid: int) -> bool:
    """Whether another process has this id; in a container a killed one often had our own."""
    return pid != os.getpid() and Path("/proc", str(pid)).exists()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Shows to other threads, containers and hosts that somebody writes there."""
    import fcntl  # not on every system that can read checkpoints

    with open(folder / MANIFEST, "x", encoding="utf-8") as file:
        with contextlib.suppress(OSError):  # a file system without locks: process ids must do
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_held(folder: Path) -> bool:
    import fcntl

    try:
        with open(folder / MANIFEST, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _beside(folder: Path, kind: str) -> Path:
    name = f".{folder.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}"
    return folder.parent / name


def _list(folder: Path) -> None:
    """Adds the manifest."""
    listed = {name: _fingerprint(folder / name) for name in _contents(folder)}
    content = {"format": _FORMAT, "files": listed}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _flush(folder: Path) -> None:
    """Waits until everything is on the disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # not every file system can do it with a folder
            raise
    finally:
        os.close(descriptor)


def _put(partial: Path, folder: Path, *, force: bool) -> None:
    """Renames a complete folder to its target; others may write there at the same time."""
    for _ in range(_ATTEMPTS):
        old = _beside(folder, "replaced")
        try:
            check_target(folder, force=force)  # hours may have passed
            _swap(partial, folder, old)
            _sync(folder.parent)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
        finally:
            if old.exists():
                _discard(old)
    raise ExportError(
        f"Another process writes to {str(folder)!r} at the same time. Choose a folder for each."
    )


def _swap(partial: Path, folder: Path, old: Path) -> None:
    if _is_empty(folder):
        partial.rename(folder)  # an empty folder gives way
        return
    try:
        folder.rename(old)
        partial.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)  # interrupted between the two


def _discard(folder: Path) -> None:
    """Deletes the files of ours in a folder that nobody uses any more, then the folder itself.

    What somebody has put there a moment ago stays.
    """
    written: list[str] = []
    with contextlib.suppress(FileNotFoundError):  # another process is as tidy
        others = {name for name, _ in _others(folder)}
        written = [name for name in _contents(folder) if name not in others]
    # What tells ours from others goes last: a killed removal is finished by the next writer.
    for name in [*sorted(written, key=PIPELINE.__eq__), MANIFEST]:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(place)
    if folder.exists():
        warnings.warn(
            f"{str(folder)!r} could not be removed and is what remains of a replaced folder. "
            "Look whether you need what is in it, and remove it yourself.",
            stacklevel=2,
        )
