"""One ``pytorch_model.bin``: a pickled dict of tensors, read without running its code."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from merge_optuna.checkpoints._digest import hash_tensor
from merge_optuna.checkpoints._files import Spec, Stamp
from merge_optuna.errors import CheckpointError, few, shown

_INDEX_BYTES, _INDEX_BYTES_EACH = 200_000, 1000  # torch writes some 150 for a tensor


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


class _PackedError(Exception):
    """The records of a file are compressed, or its index is far too long for them."""


# What torch raises for a file that is none, or is changed on purpose.
_DAMAGES = (
    *(pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError),
    *(AttributeError, AssertionError, ArithmeticError, MemoryError, struct.error, _PackedError),
    zipfile.BadZipFile,
)


def _records(path: Path) -> Counter[int]:
    """How often there is a record of data of each size."""
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
    data = [entry.file_size for entry in entries if "/data/" in entry.filename]
    pickled = sum(entry.file_size for entry in entries if entry.filename.endswith("data.pkl"))
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _PackedError("compressed")
    if pickled > _INDEX_BYTES + _INDEX_BYTES_EACH * len(data):
        raise _PackedError("index")
    return Counter(data)


def _is_plain(name: object, tensor: Tensor, size: int) -> bool:
    """Whether every element of a tensor is a number in the file, once."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    is_name = isinstance(name, str) and 0 < len(name) <= 1000 and name.isprintable()
    return is_name and dense and not tensor.is_quantized and tensor.nbytes <= size


def _fit(tensors: Iterable[Tensor], records: Counter[int]) -> bool:
    """Whether there is a record for every storage, which would else reach into the next one."""
    sizes = {
        s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors) if s.nbytes()
    }
    return not Counter(sizes.values()) - records


def _load(path: Path) -> dict[str, Tensor]:
    mapped = zipfile.is_zipfile(path)
    size = path.stat().st_size
    try:
        records = _records(path) if mapped else Counter[int]()
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _DAMAGES as error:
        if "unsupported global" in str(error).lower():
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
    wrong = [shown(name) for name, t in tensors.items() if not _is_plain(name, t, size)]
    if wrong or (mapped and not _fit(tensors.values(), records)):
        raise CheckpointError(
            f"{path} holds {few(wrong) or 'tensors'} in another form than the numbers that are in "
            "it. Load it yourself and save the model with save_pretrained()."
        )
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
