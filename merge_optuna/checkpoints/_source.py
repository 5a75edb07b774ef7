"""Where a checkpoint comes from, what is read of it, and whether it is still that."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from merge_optuna.checkpoints._digest import FORM, difference, form_of
from merge_optuna.checkpoints._files import first_changed
from merge_optuna.checkpoints._hub import is_hub_id, snapshot
from merge_optuna.checkpoints._layers import depth_of
from merge_optuna.checkpoints._store import Opened, Store
from merge_optuna.errors import CheckpointError, SourceChanged, shown

IN_MEMORY = "module:"
_ATTEMPTS = 3

T = TypeVar("T")


class Source:
    """What was opened at a place; all checkpoints that see some of it share it.

    Attributes:
        store: The whole content.
        digest: Of it, in today's form, however it was recorded: a change during a search is
            noticed.
        times: How often it was opened again.
    """

    def __init__(self, store: Opened) -> None:
        self.store = store
        self.digest = store.digest()
        self.times = 0
        self._stamps = store.stamps()

    def check(self, ref: str, name: str, recorded: str) -> None:
        """Makes sure that it is what was recorded, and was that while it was read.

        Raises:
            SourceChanged: If not.
        """
        form = form_of(recorded)
        found = self.digest if form == FORM else self.store.digest(form)
        if found != recorded:
            raise SourceChanged(
                f"The content of {ref!r} has changed: {difference(recorded, found)}, but {name!r} "
                f"was recorded as {recorded}. Restore the checkpoint, or start a new study with "
                "the new content."
            )
        if changed := self.changed:
            raise SourceChanged(
                f"{changed[0]} {changed[1]} while it was read. Wait until {name!r} is complete, "
                "and open it again."
            )

    @property
    def changed(self) -> tuple[Path, str] | None:
        """The first file that is not as it was opened, and what has happened to it."""
        return first_changed(self._stamps)

    def renew(self, name: str, *, anyway: bool = False) -> None:
        """Opens the files again if one was touched, and makes sure that they say the same.

        Args:
            name: How it is called.
            anyway: It was made of a base that was opened again.

        Raises:
            SourceChanged: If the content is another, or cannot be read.
        """
        if (changed := self.changed) is None:
            if anyway:
                self.store.reopen()
                self.times += 1
            return
        file, what = changed
        try:
            self.store.reopen()
            found = self.store.digest()
        except (CheckpointError, OSError) as error:
            raise _changed(name, file, what, "it cannot be opened again") from error
        if found != self.digest:
            raise _changed(name, file, what, difference(self.digest, found))
        self._stamps = self.store.stamps()
        self.times += 1
        warnings.warn(
            f"{file} {what} since {name!r} was opened. All of it was read again: the content "
            "is the same, so the search goes on.",
            stacklevel=2,
        )


def _changed(name: str, file: Path, what: str, now: str) -> SourceChanged:
    return SourceChanged(
        f"{file} {what} since {name!r} was opened, and {now}. Nothing that was made of it is "
        "kept. Restore the file and start again, or open the checkpoint anew, in a new study."
    )


class Content:
    """What a checkpoint holds, opened and verified when it is first asked for."""

    if TYPE_CHECKING:
        name: str
        digest: str
        base: Content | None
        _store: Store | None
        _source: Source | None
        _times: int  # of the source, at the last look

        @property
        def origin(self) -> Content: ...

        def _open(self) -> Store: ...

    @property
    def config(self) -> dict[str, Any] | None:
        """The content of ``config.json``, or None if there is none."""
        return self.store.config

    @property
    def store(self) -> Store:
        """The opened content; opens and verifies the folder on first use.

        Raises:
            CheckpointError: If the folder cannot be read or its content has changed.
        """
        if self._store is None:
            self._store = self._open()
        return self._store

    @property
    def depth(self) -> int:
        """Number of layers.

        Raises:
            CheckpointError: If they are not one stack, numbered from 0.
        """
        return depth_of(self.store)

    def names(self) -> tuple[str, ...]:
        """Names of all tensors, tied ones once."""
        return tuple(self.store.specs())

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.store.specs()[name][1]

    def dtype(self, name: str) -> torch.dtype:
        """Data type of a tensor in the checkpoint."""
        return self.store.specs()[name][0]

    def tensor(self, name: str) -> Tensor:
        """A tensor, mapped from disk where possible; not to be written to."""
        return self.store.tensor(name)

    @property
    def touched(self) -> bool:
        """Whether a file is not as it was when :meth:`renew` last looked."""
        source = self._source
        mine = source is not None and (source.changed or source.times != self._times)
        return bool(mine) or (self.base is not None and self.base.touched)

    def renew(self) -> bool:
        """Opens the files again if one was touched, and makes sure that they say the same.

        Returns:
            Whether a file was touched: what was made of the old ones must be made again.

        Raises:
            SourceChanged: If the content is another, or cannot be read.
        """
        renewed = self.base is not None and self.base.renew()
        if self._source is not None:
            self._source.renew(self.name, anyway=renewed)
            renewed, self._times = self._source.times != self._times, self._source.times
        return renewed

    def digest_like(self, recorded: str) -> str:
        """The digest in the form in which another one was recorded, maybe by an earlier version.

        Raises:
            CheckpointError: If a newer version has recorded it.
        """
        form = form_of(recorded)
        if form == form_of(self.digest) or self.store is None or self._source is None:
            return self.digest
        return self._source.digest if form == FORM else self._source.store.digest(form)


def renew(checkpoints: Sequence[Content]) -> bool:
    """Whether files were touched since they were opened; they have been opened again then.

    Raises:
        SourceChanged: If a content is another than it was.
    """
    renewed = [checkpoint.origin.renew() for checkpoint in checkpoints]  # all, not until one
    return any(renewed)


def steadily(
    work: Callable[[], T], checkpoints: Sequence[Content], forget: Callable[[], None]
) -> T:
    """Does work that reads checkpoints, again if a file was touched meanwhile.

    Looking at a file takes a microsecond.

    Args:
        work: What reads them.
        checkpoints: All that it may read.
        forget: Drops what earlier work has kept of them.

    Raises:
        SourceChanged: If the content of a file is another than it was when it was opened.
    """
    for _ in range(_ATTEMPTS):
        if renew(checkpoints):
            forget()
        try:
            with _last_words():
                result = work()
        except Exception:
            if not _touched(checkpoints):
                raise
        else:
            if not _touched(checkpoints):
                return result
        forget()  # it may be of what stood there for a moment
    renew(checkpoints)
    names = ", ".join(checkpoint.name for checkpoint in checkpoints)
    raise SourceChanged(
        f"A file of {names} is touched again and again while it is read. Stop what writes to it."
    )


@contextlib.contextmanager
def _last_words() -> Iterator[None]:
    """Lets a process say where it was if a file is cut short in the middle of being read.

    The system ends a process that reads a memory map beyond the end of its file (SIGBUS).
    """
    error = sys.__stderr__  # a notebook puts something without a descriptor in the other's place
    if faulthandler.is_enabled() or error is None or error.closed:
        yield
        return
    faulthandler.enable(error)
    try:
        yield
    finally:
        faulthandler.disable()


def _touched(checkpoints: Sequence[Content]) -> bool:
    return any(checkpoint.origin.touched for checkpoint in checkpoints)


# -- places ---------------------------------------------------------------------------------------


def place_of(ref: str | Path, revision: str | None) -> str:
    """The absolute path of a folder, the name of a model on the hub or of a module."""
    if not isinstance(ref, str | Path):
        raise CheckpointError(f"A checkpoint is a folder or a name on the hub, not {shown(ref)}.")
    text = str(ref)
    if text.startswith(IN_MEMORY):
        return text
    try:
        path = Path(ref).expanduser().absolute()
        is_there = path.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: no such home
        said = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{shown(text)} is no path: {said}. Check it.") from error
    # A revision makes it a model on the hub, whatever folders there are where it is opened again.
    if revision is None and is_there:
        return str(path)
    named = isinstance(ref, str) and is_hub_id(ref)
    if revision is not None and not named:
        raise CheckpointError(
            f"{text!r} is a path, and revision={revision!r} is for models on the hub. Leave "
            "revision= out."
        )
    return text if named else str(path)


def is_hub(place: str) -> bool:
    """Whether a place is a model on the hub."""
    return not (place.startswith(IN_MEMORY) or Path(place).is_absolute())


def folder_of(place: str, revision: str | None, part: str | None = None) -> Path:
    """The folder of a place; what is on the hub is downloaded first."""
    return snapshot(place, revision, part=part) if is_hub(place) else Path(place)
