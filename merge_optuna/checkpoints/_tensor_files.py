"""Files of tensors as memory maps: tensors are views of them and cost no memory of their own.

The safetensors library makes a storage object per tensor and loses a ctrl-C that arrives while it
does so. Here the file is mapped once; after that a tensor is an offset and a shape.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from merge_optuna._documents import Bounds, load_json
from merge_optuna.checkpoints._digest import hash_tensor
from merge_optuna.checkpoints._files import Spec, Stamp, TensorFile
from merge_optuna.errors import CheckpointError, SourceChanged, few, shown

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
}
_HEADER = Bounds(50_000_000, 3_000_000)  # half of the format's limit: some 300,000 tensors
_MOST_ELEMENTS = 1 << 62
_MOST_DIMENSIONS = 64  # torch's own limit
_INDEX_BYTES, _INDEX_BYTES_EACH = 200_000, 1000  # of a .bin: torch writes some 150 for a tensor
_BLOCK = 1 << 20  # bytes: what is read stays in the cache until it is hashed


class SafetensorsFile:
    """A mapped safetensors file, see :class:`TensorFile`.

    Raises:
        CheckpointError: If the file is missing or damaged, or has an unknown data type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.stamp = Stamp.of(path)
            size = self.stamp.size
            entries, start = _read_header(path, size)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} links to a file that is not there. Download the checkpoint again."
            ) from error
        except (OSError, _DamagedError) as error:
            raise CheckpointError(
                f"{path} is damaged or cut short ({error}; {path.stat().st_size:,} bytes). "
                "Copy or download it again."
            ) from error
        self.specs = {name: _spec(path, name, entry) for name, entry in entries.items()}
        self._places = {
            name: slice(*(start + at for at in entry["data_offsets"]))
            for name, entry in entries.items()
        }
        self._bytes = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)

    def tensor(self, name: str) -> Tensor:
        """A view of the map, or a copy where the data is not aligned to its type."""
        dtype, shape = self.specs[name]
        place = self._places[name]
        data = self._bytes[place]
        if place.start % dtype.itemsize:
            data = data.clone()
        return data.view(dtype).view(shape)

    def hash(self, name: str) -> str:
        """The hash of a tensor's bytes, which are read anew: no map of them is needed.

        Raises:
            SourceChanged: If they are not there any more.
        """
        place = self._places[name]
        state, at = xxhash.xxh3_128(), place.start
        buffer = memoryview(bytearray(min(_BLOCK, place.stop - place.start)))
        with open(self.path, "rb", buffering=0) as file:
            while at < place.stop:
                read = os.preadv(file.fileno(), [buffer[: place.stop - at]], at)
                if not read:
                    raise SourceChanged(
                        f"{self.path} was cut short while it was read. Copy or download it again."
                    )
                state.update(buffer[:read])
                at += read
        return state.hexdigest()


class _DamagedError(Exception):
    """What is wrong inside a file, in a few words."""


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """The entries of all tensors, checked, and where the data starts."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start = 8 + length
        if size < 8 or length > _HEADER.characters or start > size:
            raise _DamagedError("the header is longer than the file")
        try:
            text = file.read(length).decode()
        except UnicodeDecodeError as error:
            raise _DamagedError(f"the header is no text: {error}") from error
    try:
        header = load_json(text, "the header", error=CheckpointError, bounds=_HEADER)
    except CheckpointError as error:
        raise _DamagedError(str(error).removesuffix(".")) from error
    if not isinstance(header, dict):
        raise _DamagedError("the header is no JSON object")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    _check_layout(entries, size - start)
    return entries, start


def _check_layout(entries: dict[str, Any], size: int) -> None:
    """The tensors lie back to back, as the format demands, and fill the file."""
    wrong = [shown(n) for n, entry in entries.items() if not (_is_name(n) and _is_entry(entry))]
    if wrong:
        raise _DamagedError(f"the header has no valid entry for {few(wrong)}")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        dtype = DTYPES.get(entry["dtype"])
        needed = last - first if dtype is None else math.prod(entry["shape"]) * dtype.itemsize
        if first != end or last - first != needed:
            raise _DamagedError(f"the place of {name} does not fit its shape or its neighbour")
        end = last
    if end != size:
        raise _DamagedError(f"the tensors need {end:,} bytes, there are {size:,}")


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        return False
    numbers = (*shape, *offsets)
    if not all(type(number) is int and 0 <= number < _MOST_ELEMENTS for number in numbers):
        return False
    return len(shape) <= _MOST_DIMENSIONS and math.prod(n or 1 for n in shape) < _MOST_ELEMENTS


def _is_name(name: str) -> bool:
    return 0 < len(name) <= 1000 and name.isprintable()


def _spec(path: Path, name: str, entry: dict[str, Any]) -> Spec:
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(
            f"{name} in {path} has the data type {entry['dtype']}, which is not supported. "
            f"Supported are {', '.join(DTYPES)}."
        )
    return DTYPES[entry["dtype"]], tuple(entry["shape"])


# -- pytorch_model.bin: a pickled dict of tensors, read without running its code ------------------


class BinFile:
    """A mapped ``.bin``, or one in memory if it is older than PyTorch 1.6; a ``TensorFile``.

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
    is_name = isinstance(name, str) and _is_name(name)
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


READERS: dict[str, Callable[[Path], TensorFile]] = {"safetensors": SafetensorsFile, "bin": BinFile}
"""By the ending of the file."""
