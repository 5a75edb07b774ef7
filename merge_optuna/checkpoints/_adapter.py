"""An adapter folder in peft format, and the stores that put one on its base."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from merge_optuna.checkpoints._config import read_json
from merge_optuna.checkpoints._digest import (
    FORM,
    config_lines,
    halves,
    hashes_of,
    lines_of,
    sampled_digest,
)
from merge_optuna.checkpoints._files import Spec, Stamp, TensorFile, hex_digest, stamps_of
from merge_optuna.checkpoints._known_files import FORMATS
from merge_optuna.checkpoints._store import Opened, Store
from merge_optuna.checkpoints._tensor_files import READERS
from merge_optuna.errors import CheckpointError, few, shown

CONFIG = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PLACES = ("base_model_name_or_path", "revision")  # where the base was, not what it was


class Adapter:
    """The files of an adapter: its config and its tensors, under the names in the file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()

    def _open(self) -> None:
        folder = self.folder
        stamps = stamps_of(path for path in [folder / CONFIG] if path.is_file())
        config = read_json(folder / CONFIG)
        if not config:
            raise CheckpointError(
                f"{str(folder)!r} is no adapter: it has no {CONFIG}. Only an adapter has base=."
            )
        self.settings = config
        self._config_stamp = stamps
        self._file = _open(folder)

    def __reduce__(self) -> tuple[type[Adapter], tuple[Path]]:
        """Copies and pickles open the file again: memory maps cannot travel."""
        return Adapter, (self.folder,)

    def specs(self) -> dict[str, Spec]:
        return self._file.specs

    def tensor(self, name: str) -> Tensor:
        return self._file.tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._file.specs[name][1]

    def weights(self) -> list[str]:
        """What of the tensors enters the digest."""
        [hashes] = hashes_of([self._file]).values()
        return lines_of(self.specs(), hashes)

    @property
    def kept(self) -> dict[str, Any]:
        """The settings that enter the digest."""
        return {key: value for key, value in self.settings.items() if key not in _PLACES}

    def stamps(self) -> dict[Path, Stamp]:
        """The files as they were when they were opened."""
        return {self._file.path: self._file.stamp, **self._config_stamp}

    def reopen(self) -> None:
        """Opens the files that are there now."""
        self._open()


class AdapterStore(Opened):
    """A base seen through an adapter: its config, and its tensors' names, dtypes and shapes.

    What the adapter changes is computed in float32 (float64 on a float64 base) and returned so,
    whatever ``specs()`` says: a delta rounded to bfloat16 would lose most of a small update.

    Args:
        base: The tensors of the base.
        adapter: What is put on them.
        base_digest: The digest of the base in one of its forms.
    """

    def __init__(self, base: Store, adapter: Adapter, base_digest: Callable[[str], str]) -> None:
        self.base, self.adapter, self._base_digest = base, adapter, base_digest
        self.config, self.written = base.config, base.written

    def __reduce__(self) -> tuple[type[AdapterStore], tuple[Any, ...]]:
        return type(self), (self.base, self.adapter, self._base_digest)

    def specs(self) -> Mapping[str, Spec]:
        return self.base.specs()

    def weights(self) -> list[str]:
        return [halves(self._base_digest(FORM))[0], *self.adapter.weights()]

    def texts(self) -> list[str]:
        texts = config_lines({CONFIG: self.adapter.kept})
        return [halves(self._base_digest(FORM))[1], *texts]

    def _sampled(self) -> str:
        own = sampled_digest(self.adapter.specs(), self.adapter.tensor)
        text = json.dumps([self._base_digest(""), own, self.adapter.kept], sort_keys=True)
        return hex_digest([text.encode()])

    def stamps(self) -> dict[Path, Stamp]:
        """Those of the adapter; the base has its own."""
        return self.adapter.stamps()

    def reopen(self) -> None:
        """Opens the adapter's files that are there now."""
        self.adapter.reopen()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter in peft format.

    Raises:
        CheckpointError: If it holds a whole model as well, so that it is unclear what is meant.
    """
    if not (folder / CONFIG).is_file():
        return False
    files = (name for known in FORMATS for name in (known.weights, known.index))
    whole = [name for name in files if (folder / name).is_file()]
    if whole:
        raise CheckpointError(
            f"{str(folder)!r} holds both an adapter ({CONFIG}) and a whole model ({whole[0]}). "
            "Move one of them to a folder of its own."
        )
    return True


def recorded_base(folder: Path) -> tuple[str, str | None]:
    """Where the base of an adapter was when it was saved, and in which revision.

    Raises:
        CheckpointError: If the adapter does not say.
    """
    config = read_json(folder / CONFIG) or {}
    place = config.get("base_model_name_or_path")
    if not place:
        raise CheckpointError(
            f"{folder / CONFIG} does not say what its base is (base_model_name_or_path). "
            "Pass it: mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
        )
    revision = config.get("revision")
    if not isinstance(place, str) or not isinstance(revision, str | None):
        raise CheckpointError(
            f"{folder / CONFIG} says that its base is {shown(place)}, revision {shown(revision)}. "
            "Pass it: mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
        )
    return place, revision


def check_chain(folder: Path) -> None:
    """Checks that an adapter does not stand on itself, over others or not.

    Raises:
        CheckpointError: If it does.
    """
    passed: list[Path] = []
    while os.path.isdir(folder) and is_adapter(folder):
        if folder.resolve() in passed:
            raise CheckpointError(
                f"The adapter {str(folder)!r} has itself as its base (base_model_name_or_path in "
                f"{CONFIG}). Pass the base: mo.Checkpoint(adapter, base=mo.Checkpoint(...))."
            )
        passed.append(folder.resolve())
        folder = Path(recorded_base(folder)[0]).expanduser()


def _open(folder: Path) -> TensorFile:
    for file in _FILES:
        if (folder / file).is_file():
            return READERS[file.rpartition(".")[2]](folder / file)
    found = sorted(path.name for path in folder.iterdir())
    raise CheckpointError(
        f"{str(folder)!r} has an {CONFIG}, but neither {' nor '.join(_FILES)} (found: "
        f"{few(found)}). Save the adapter with save_pretrained()."
    )
