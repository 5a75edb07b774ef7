"""One ``pytorch_model.bin``: a pickled dict of tensors, read without running its code."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from merge_optuna.checkpoints._digest import hash_tensor
from merge_optuna.checkpoints._files import Stamp
from merge_optuna.checkpoints._safetensors import Spec
from merge_optuna.errors import CheckpointError, few


class BinFile:
    """A mapped file, or one in memory if it is older than PyTorch 1.6.

    Attributes:
        path: Where it is.
        stamp: As it was when it was opened.
        specs: Dtype and shape by tensor name.

    Raises:
        CheckpointError: If the file is missing or damaged, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(
                f"{path} links to a file that is not there. Download the checkpoint again."
            )
        self.stamp = Stamp.of(path)
        self._tensors = _load(path)
        self.specs: dict[str, Spec] = {
            name: (t.dtype, tuple(t.shape)) for name, t in self._tensors.items()
        }

    def tensor(self, name: str) -> Tensor:
        """A view of the map, or a copy where the file keeps it transposed or strided."""
        return self._tensors[name].detach().contiguous()

    def hash(self, name: str) -> str:
        """The hash of a tensor's bytes."""
        return hash_tensor(self._tensors[name])


def _load(path: Path) -> dict[str, Tensor]:
    mapped = zipfile.is_zipfile(path)
    size = path.stat().st_size
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, IndexError) as error:
        if mapped and "Unsupported global" in str(error):
            raise CheckpointError(
                f"{path} holds Python objects besides tensors, which are not loaded because they "
                "could run code. Save the model again with save_pretrained()."
            ) from error
        raise CheckpointError(
            f"{path} is damaged or cut short, or no file of tensors ({size:,} bytes). Copy or "
            "download it again."
        ) from error
    entries = content if isinstance(content, dict) else {type(content).__name__: content}
    tensors = {name: t for name, t in entries.items() if isinstance(t, Tensor)}
    if not tensors or entries is not content:
        raise CheckpointError(
            f"{path} has no tensors at its top level, only {few(list(map(str, entries)))}. Load "
            "it yourself and save the model with save_pretrained()."
        )
    if not mapped:
        warnings.warn(
            f"{path} has the format from before PyTorch 1.6, which cannot be mapped: it takes "
            f"{size / 1e9:.1f} GB of memory. Save the model again with save_pretrained().",
            stacklevel=2,
        )
    return tensors
