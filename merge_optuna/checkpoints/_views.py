"""Checkpoints seen otherwise than they are recorded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr
from torch import nn

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._meaning import with_meaning_of
from merge_optuna.checkpoints._parts import ModuleOfModel
from merge_optuna.checkpoints._store import RenamedStore, Store


class View(Checkpoint):
    """A checkpoint seen otherwise.

    It is recorded as the checkpoint that it is a view of, but equal only to the same view. Nothing
    is read before it is needed.
    """

    _inner: Checkpoint = PrivateAttr()
    _how: tuple[Any, ...] = PrivateAttr()

    @classmethod
    def of(cls, inner: Checkpoint, *how: Any) -> Self:
        """A view of ``inner``; ``how`` tells it from its other views of the same kind."""
        view = cls.model_construct(**{n: getattr(inner, n) for n in Checkpoint.model_fields})
        view._inner, view._how = inner, how
        return view

    @property
    def _key(self) -> tuple[object, ...]:
        return *super()._key, type(self), self._inner, *self._how

    @property
    def origin(self) -> Checkpoint:
        """The checkpoint that this is a view of."""
        return self._inner.origin

    def layers(self, start: int, stop: int, *, name: str | None = None) -> Self:
        """The layers as they are seen: a view of the layers of the checkpoint."""
        view = super().layers(start, stop, name=name)
        view._inner = self._inner.layers(start, stop, name=name)
        return view


class ConfiguredCheckpoint(View):
    """A checkpoint whose weights mean what they would in another, or whose rows have no tokens."""

    @property
    def folder(self) -> Path | None:
        """That of the checkpoint."""
        return self._inner.folder

    @property
    def tokenizer_folder(self) -> Path | None:
        """None where rows are merged by id, whatever tokens they belong to."""
        _, _, by_id = self._how
        return None if by_id else self._inner.tokenizer_folder

    @property
    def module(self) -> nn.Module | None:
        """The module in memory, unless it has another config."""
        return self._inner.module if self.store is self._inner.store else None

    def _open(self) -> Store:
        """The same tensors with the other config."""
        owner, stacked, _ = self._how
        own = self._inner.store
        config = with_meaning_of(self._inner, owner, stacked=stacked)
        if config == own.config:
            return own
        seen = RenamedStore(own, {name: name for name in own.specs()}, config)
        return own.holding(seen) if isinstance(own, ModuleOfModel) else seen


@lru_cache(maxsize=64)
def _configured(
    inner: Checkpoint,
    owner: Checkpoint,
    stacked: bool,
    by_id: bool,
    places: tuple[str, str],  # equal weights may come with another config
) -> ConfiguredCheckpoint:
    return ConfiguredCheckpoint.of(inner, owner, stacked, by_id)


def configured(
    checkpoint: Checkpoint, owner: Checkpoint, *, stacked: bool, by_id: bool
) -> Checkpoint:
    """A checkpoint with what gives weights their meaning in another; itself if it is that.

    Args:
        checkpoint: Whose tensors and files they are.
        owner: Whose config counts.
        stacked: The layers of both follow each other.
        by_id: Rows of embeddings belong together by token id, whatever the tokenizers say.
    """
    if checkpoint == owner and not by_id:
        return checkpoint
    return _configured(checkpoint, owner, stacked, by_id, (checkpoint.ref, owner.ref))
