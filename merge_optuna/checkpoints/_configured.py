"""A checkpoint with the config of another, or whose rows are not looked up by token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PrivateAttr
from torch import Tensor, nn

from merge_optuna.checkpoints._checkpoint import Checkpoint
from merge_optuna.checkpoints._folder import TRANSFORMERS, Format
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
    """A checkpoint seen with another config.

    It is recorded as the checkpoint that it is a view of, but equal only to the same view.
    """

    _inner: Checkpoint = PrivateAttr()
    _text: str = PrivateAttr()
    _by_id: bool = PrivateAttr()

    def __init__(self, inner: Checkpoint, text: str, by_id: bool):
        fields = {name: getattr(inner, name) for name in Checkpoint.model_fields}
        BaseModel.__init__(self, **fields)
        self._inner, self._text, self._by_id = inner, text, by_id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConfiguredCheckpoint):
            return False
        return self._viewed == other._viewed

    def __hash__(self) -> int:
        return hash(self._viewed)

    @property
    def _viewed(self) -> tuple[object, ...]:
        return self._key, self._inner, self._text, self._by_id

    @property
    def origin(self) -> Checkpoint:
        """The checkpoint that this is a view of."""
        return self._inner.origin

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
        return self._inner.module if self._is_unchanged else None

    @property
    def _is_unchanged(self) -> bool:
        return self._text == _as_text(self._inner.config)

    @property
    def store(self) -> Store:
        """The same tensors with the other config."""
        if self._store is None:
            self._store = self._opened()
        return self._store

    def _opened(self) -> Store:
        own = self._inner.store
        if self._is_unchanged:
            return own
        seen = _ConfiguredStore(own, json.loads(self._text))
        return own.holding(seen) if isinstance(own, ModuleOfModel) else seen


@lru_cache(maxsize=64)
def _configured(
    inner: Checkpoint, text: str, by_id: bool, ref: str
) -> ConfiguredCheckpoint:  # equal weights may come with other files: hence the place
    return ConfiguredCheckpoint(inner, text, by_id)


def configured(
    checkpoint: Checkpoint, config: dict[str, Any] | None, *, by_id: bool = False
) -> Checkpoint:
    """A checkpoint with another config; itself where nothing changes.

    Args:
        checkpoint: Whose tensors and files they are.
        config: The content of its ``config.json``.
        by_id: Its rows belong to token ids, whatever its tokenizer calls them.
    """
    text = _as_text(config)
    is_known = not by_id or checkpoint.tokenizer_folder is None
    if is_known and text == _as_text(checkpoint.config):
        return checkpoint
    return _configured(checkpoint, text, by_id, checkpoint.ref)


def _as_text(config: dict[str, Any] | None) -> str:
    return json.dumps(config, sort_keys=True, default=str)
