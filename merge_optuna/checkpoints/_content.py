"""What is read of a checkpoint, and whether it still is what was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from merge_optuna.checkpoints._digest import FORM, form_of
from merge_optuna.checkpoints._layers import depth_of
from merge_optuna.checkpoints._source import Source
from merge_optuna.checkpoints._store import Store

if TYPE_CHECKING:
    from merge_optuna.checkpoints._checkpoint import Checkpoint


class Content:
    """What a checkpoint holds, opened and verified when it is first asked for."""

    if TYPE_CHECKING:
        name: str
        digest: str
        base: Checkpoint | None
        _store: Store | None
        _source: Source | None
        _times: int  # of the source, at the last look

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
