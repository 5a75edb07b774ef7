"""Readers that give the tensors of a checkpoint by name, lazily."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from merge_optuna.checkpoints._digest import config_lines, hash_tensor, lines_of
from merge_optuna.checkpoints._files import Stamp
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


class Watched(Protocol):
    """What was read from files, and can tell whether they are still what they were."""

    def stamps(self) -> dict[Path, Stamp]:
        """The files as they were when they were opened."""

    def reopen(self) -> None:
        """Opens the files that are there now, in place: views of this store see them too.

        Raises:
            CheckpointError: If they cannot be read.
        """


class Opened(Store, Watched, Protocol):
    """The whole content of a source."""

    def weights(self) -> Iterable[str]:
        """What of the tensors enters the digest: every byte is read, or was before."""

    def texts(self) -> Iterable[str]:
        """What of config, tokenizer and the like enters the digest."""


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

    def weights(self) -> Iterable[str]:
        return lines_of(self.specs(), {n: hash_tensor(t) for n, t in self._views.items()})

    def texts(self) -> Iterable[str]:
        generation = getattr(self.module, "generation_config", None)
        written = None if generation is None else json.loads(generation.to_json_string())
        return config_lines({"config.json": self.config, "generation_config.json": written})

    def stamps(self) -> dict[Path, Stamp]:
        return {}

    def reopen(self) -> None:
        """A module in memory is a copy that nobody writes to."""


def _config_of(module: Any) -> dict[str, Any]:
    """What save_pretrained() would write, so that modules compare with folders."""
    config: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=True))
    return config | {"architectures": [type(module).__name__]}
