"""A checkpoint whose weights mean what they would in another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PrivateAttr
from torch import Tensor, nn

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._formats import TRANSFORMERS, Format
from merge_optuna.checkpoints._meaning import with_meaning_of
from merge_optuna.checkpoints._parts import ModuleOfModel
from merge_optuna.checkpoints._safetensors import Spec
from merge_optuna.checkpoints._store import Store


@dataclass(frozen=True, eq=False)
class _ConfiguredStore:
    """The tensors of a store under another config."""

    inner: Store
    config: dict[str, Any] | None

    @property
    def folder(self) -> Path | None:
        return getattr(self.inner, "folder", None)

    @property
    def written(self) -> Format:
        return getattr(self.inner, "written", TRANSFORMERS)

    def specs(self) -> dict[str, Spec]:
        return self.inner.specs()

    def tensor(self, name: str) -> Tensor:
        return self.inner.tensor(name)


class ConfiguredCheckpoint(Checkpoint):
    """A checkpoint whose weights mean what they would in another, or whose rows have no tokens.

    It is recorded as the checkpoint that it is a view of, but equal only to the same view. Nothing
    is read before it is needed.
    """

    _inner: Checkpoint = PrivateAttr()
    _owner: Checkpoint = PrivateAttr()
    _stacked: bool = PrivateAttr()
    _by_id: bool = PrivateAttr()

    def __init__(self, inner: Checkpoint, owner: Checkpoint, stacked: bool, by_id: bool):
        fields = {name: getattr(inner, name) for name in Checkpoint.model_fields}
        BaseModel.__init__(self, **fields)
        self._inner, self._owner, self._stacked, self._by_id = inner, owner, stacked, by_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfiguredCheckpoint) and self._view == other._view

    def __hash__(self) -> int:
        return hash(self._view)

    @property
    def _view(self) -> tuple[object, ...]:
        return self._key, self._inner, self._owner, self._stacked, self._by_id

    @property
    def origin(self) -> Checkpoint:
        """The checkpoint that this is a view of."""
        return self._inner.origin

    def layers(self, start: int, stop: int, *, name: str | None = None) -> ConfiguredCheckpoint:
        """The layers as they are seen: a view of the layers of the checkpoint."""
        view = super().layers(start, stop, name=name)
        assert isinstance(view, ConfiguredCheckpoint)
        view._inner = self._inner.layers(start, stop, name=name)
        return view

    @property
    def folder(self) -> Path | None:
        """That of the checkpoint."""
        return self._inner.folder

    @property
    def root(self) -> Path | None:
        """That of the checkpoint."""
        return self._inner.root

    @property
    def tokenizer_folder(self) -> Path | None:
        """None where rows are merged by id, whatever tokens they belong to."""
        return None if self._by_id else self._inner.tokenizer_folder

    @property
    def module(self) -> nn.Module | None:
        """The module in memory, unless it has another config."""
        return None if isinstance(self.store, _ConfiguredStore) else self._inner.module

    @property
    def store(self) -> Store:
        """The same tensors with the other config."""
        if self._store is None:
            self._store = self._as_configured()
        return self._store

    def _as_configured(self) -> Store:
        own = self._inner.store
        config = with_meaning_of(self._inner, self._owner, stacked=self._stacked)
        if config == own.config:
            return own
        seen = _ConfiguredStore(own, config)
        return own.holding(seen) if isinstance(own, ModuleOfModel) else seen


@lru_cache(maxsize=64)
def _configured(
    inner: Checkpoint,
    owner: Checkpoint,
    stacked: bool,
    by_id: bool,
    places: tuple[str, str],  # equal weights may come with another config
) -> ConfiguredCheckpoint:
    return ConfiguredCheckpoint(inner, owner, stacked, by_id)


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
