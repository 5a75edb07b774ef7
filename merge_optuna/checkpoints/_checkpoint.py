"""A checkpoint as a value: where it is, how it is called, what it contained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PrivateAttr
from torch import Tensor, nn

from merge_optuna.checkpoints._folder import FolderStore
from merge_optuna.checkpoints._store import ModuleStore, Store, digest_of
from merge_optuna.errors import CheckpointError

_IN_MEMORY = "module:"


class Checkpoint(BaseModel):
    """A model to merge: a local folder in Hugging Face format, read lazily.

    Two checkpoints are equal when their names and digests are. The digest covers the names,
    dtypes, shapes and sampled content of the tensors; a checkpoint that comes with a digest (from
    a stored recipe) is verified on first use, so that a changed source is refused.

    Attributes:
        ref: Absolute path of the folder, or ``module:<name>`` for a module in memory.
        name: Unique within a recipe. It keys random masks and names parameters, so give short
            names; defaults to the first 8 digits of the digest.
        digest: 32 hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True)

    ref: str
    name: str
    digest: str
    _store: Store | None = PrivateAttr(default=None)

    def __init__(self, ref: str | Path, *, name: str | None = None, digest: str | None = None):
        """Opens a checkpoint folder.

        Args:
            ref: Folder with ``config.json`` and one or several safetensors files.
            name: See the class.
            digest: What the content must be; read from the folder when omitted.

        Raises:
            CheckpointError: If the folder is missing, is not a checkpoint or is damaged.
        """
        if name is not None and (not name or any(c in name for c in "/\n")):
            raise CheckpointError(f"A checkpoint's name must be without '/', not {name!r}.")
        store = None
        if not str(ref).startswith(_IN_MEMORY):
            ref = Path(ref).expanduser().absolute()
        if digest is None:
            store = _open(str(ref), name)
            digest = digest_of(store)
        super().__init__(ref=str(ref), name=name or digest[:8], digest=digest)
        self._store = store

    @classmethod
    def from_module(cls, module: nn.Module, *, name: str) -> Checkpoint:
        """A checkpoint from a module in memory; the module is copied.

        A stored recipe can only name such a source. To rebuild or export from another process,
        pass it again: ``mo.export(study, folder, sources={name: checkpoint})``.
        """
        store = ModuleStore(copy.deepcopy(module).cpu().requires_grad_(False))
        self = cls(f"{_IN_MEMORY}{name}", name=name, digest=digest_of(store))
        self._store = store
        return self

    def __eq__(self, other: object) -> bool:
        """Equal when name and content are: the place does not matter."""
        if not isinstance(other, Checkpoint):
            return NotImplemented
        return (self.name, self.digest) == (other.name, other.digest)

    def __hash__(self) -> int:
        return hash((self.name, self.digest))

    def __repr__(self) -> str:
        return f"Checkpoint({self.ref!r}, name={self.name!r})"

    @property
    def folder(self) -> Path | None:
        """The folder, or None for a module in memory."""
        return None if self.ref.startswith(_IN_MEMORY) else Path(self.ref)

    @property
    def module(self) -> nn.Module | None:
        """The copied module of :meth:`from_module`, else None; not to be written to."""
        return self.store.module if isinstance(self.store, ModuleStore) else None

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
            store = _open(self.ref, self.name)
            found = digest_of(store)
            if found != self.digest:
                raise CheckpointError(
                    f"The content of {self.ref!r} has changed: its digest is {found}, but "
                    f"{self.name!r} was recorded as {self.digest}. Restore the checkpoint, or "
                    "start a new study with the new content."
                )
            self._store = store
        return self._store

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

    def full_digest(self) -> str:
        """Digest over every byte, for those who want more than the sampled one."""
        return digest_of(self.store, whole=True)


def _open(ref: str, name: str | None) -> Store:
    if ref.startswith(_IN_MEMORY):
        raise CheckpointError(
            f"{name!r} was a module in memory. Pass it again: sources={{{name!r}: "
            "mo.Checkpoint.from_module(...)}."
        )
    return FolderStore(Path(ref))
