"""What is read of a checkpoint, and whether it still is what was read."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from merge_optuna.checkpoints._digest import FORM, form_of
from merge_optuna.checkpoints._layers import depth_of
from merge_optuna.checkpoints._source import Source
from merge_optuna.checkpoints._store import Store
from merge_optuna.errors import SourceChanged

_ATTEMPTS = 3

T = TypeVar("T")


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
