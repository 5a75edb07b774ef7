"""Readers that give the tensors of a checkpoint by name, lazily."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from operator import is_not
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from merge_optuna.checkpoints._digest import (
    FORM,
    config_lines,
    digest_of,
    hash_tensor,
    lines_of,
    sampled_digest,
)
from merge_optuna.checkpoints._files import Spec, Stamp
from merge_optuna.checkpoints._known_files import TRANSFORMERS, Format
from merge_optuna.checkpoints._names import checkpoint_views, is_pretrained


class Store(ABC):
    """The tensors of one checkpoint.

    Attributes:
        config: The content of ``config.json``.
        folder: Where config and tokenizer are, if they are in a folder.
        written: How the files of tensors are called where the checkpoint is written again.
    """

    config: dict[str, Any] | None
    folder: Path | None = None
    written: Format = TRANSFORMERS

    @abstractmethod
    def specs(self) -> Mapping[str, Spec]:
        """Dtype and shape by tensor name, in a fixed order."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """The tensor; not to be written to."""


class Opened(Store):
    """The whole content of a source, which can tell whether its files are what they were."""

    @abstractmethod
    def weights(self) -> Iterable[str]:
        """What of the tensors enters the digest: every byte is read, or was before."""

    @abstractmethod
    def texts(self) -> Iterable[str]:
        """What of config, tokenizer and the like enters the digest."""

    @abstractmethod
    def stamps(self) -> dict[Path, Stamp]:
        """The files as they were when they were opened."""

    @abstractmethod
    def reopen(self) -> None:
        """Opens the files that are there now, in place: views of this store see them too.

        Raises:
            CheckpointError: If they cannot be read.
        """

    def digest(self, form: str = FORM) -> str:
        """The digest in one of its forms."""
        return digest_of(self.weights(), self.texts()) if form == FORM else self._sampled()

    def _sampled(self) -> str:
        return sampled_digest(self.specs(), self.tensor)


class DerivedStore(Store):
    """Tensors of other stores; their specs are made again when one of these was opened again."""

    _last: tuple[list[Mapping[str, Spec]], Mapping[str, Spec]] = ([], {})

    def __init__(self, *parts: Store) -> None:
        self.parts = parts
        self.folder, self.written = parts[0].folder, parts[0].written

    @abstractmethod
    def _made(self, specs: list[Mapping[str, Spec]]) -> dict[str, Spec]:
        """The specs by those of the other stores."""

    def specs(self) -> Mapping[str, Spec]:
        inner = [part.specs() for part in self.parts]
        if not self._last[0] or any(map(is_not, inner, self._last[0])):
            self._last = inner, self._made(inner)
        return self._last[1]


class RenamedStore(DerivedStore):
    """Tensors of another store under other names, all of them or some.

    Args:
        whole: The other store.
        names: The name in it by the new one.
        config: What goes with these tensors.
    """

    def __init__(
        self, whole: Store, names: Mapping[str, str], config: dict[str, Any] | None
    ) -> None:
        super().__init__(whole)
        self.whole, self.names, self.config = whole, names, config

    def _made(self, specs: list[Mapping[str, Spec]]) -> dict[str, Spec]:
        return {name: specs[0][own] for name, own in self.names.items()}

    def tensor(self, name: str) -> Tensor:
        return self.whole.tensor(self.names[name])


class OpenedUnderNames(RenamedStore, Opened):
    """What was opened, under other names."""

    whole: Opened

    def texts(self) -> Iterable[str]:
        return self.whole.texts()

    def stamps(self) -> dict[Path, Stamp]:
        return self.whole.stamps()

    def reopen(self) -> None:
        self.whole.reopen()


class ModuleStore(Opened):
    """The state of a module in memory, under checkpoint names."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.config = _config_of(module) if is_pretrained(module) else None
        self._views = checkpoint_views(module)
        self._specs = {name: (t.dtype, tuple(t.shape)) for name, t in self._views.items()}

    def specs(self) -> Mapping[str, Spec]:
        return self._specs

    def tensor(self, name: str) -> Tensor:
        return self._views[name].detach()

    def weights(self) -> Iterable[str]:
        return lines_of(self._specs, {n: hash_tensor(t) for n, t in self._views.items()})

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
