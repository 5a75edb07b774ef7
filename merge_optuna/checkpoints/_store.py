"""Readers that give the tensors of a checkpoint by name, lazily."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints._names import checkpoint_views, is_pretrained
from merge_optuna.checkpoints._safetensors import Spec


class Store(Protocol):
    """The tensors of one checkpoint."""

    @property
    def config(self) -> dict[str, Any] | None:
        """The content of ``config.json``."""

    def specs(self) -> dict[str, Spec]:
        """Dtype and shape by tensor name, in a fixed order."""

    def tensor(self, name: str) -> Tensor:
        """The tensor; not to be written to."""


class ModuleStore:
    """The state of a module in memory, under checkpoint names."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.config = _config_of(module) if is_pretrained(module) else None
        self._views = checkpoint_views(module)

    def specs(self) -> dict[str, Spec]:
        return {name: (t.dtype, tuple(t.shape)) for name, t in self._views.items()}

    def tensor(self, name: str) -> Tensor:
        return self._views[name].detach()


def digest_of(store: Store, *, whole: bool = False) -> str:
    """Digest of names, dtypes, shapes and content: 32 hexadecimal digits.

    Small tensors are read whole, of larger ones sixteen blocks of 1 KiB spread evenly (all of it
    with ``whole``). Sharding and file names do not enter, so a copy has the same digest. That of a
    module of a model covers the rest of the model too, which is written with it.
    """
    state = hashlib.blake2b(digest_size=16)
    if (around := getattr(store, "whole", None)) is not None:
        state.update(digest_of(around, whole=whole).encode())
    for name, (dtype, shape) in sorted(store.specs().items()):
        state.update(f"{name}|{dtype}|{shape}|".encode())
        for block in _blocks(store.tensor(name), whole):
            state.update(block)
    return state.hexdigest()


def _blocks(tensor: Tensor, whole: bool) -> Iterable[bytes]:
    if tensor.numel() == 0:
        return
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if whole or flat.size <= 1 << 16:
        yield flat.tobytes()
        return
    for i in range(16):
        start = (flat.size - 1024) * i // 15
        yield flat[start : start + 1024].tobytes()


def _config_of(module: Any) -> dict[str, Any]:
    """What save_pretrained() would write, so that modules compare with folders."""
    config: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=True))
    return config | {"architectures": [type(module).__name__]}
