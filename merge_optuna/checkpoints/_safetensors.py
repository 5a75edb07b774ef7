"""One safetensors file as a memory map: tensors are views of it and cost no memory of their own.

The safetensors library makes a storage object per tensor and loses a ctrl-C that arrives while it
does so. Here the file is mapped once; after that a tensor is an offset and a shape.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from merge_optuna._documents import Bounds, load_json
from merge_optuna.checkpoints._files import Stamp
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
_BLOCK = 1 << 20  # bytes: what is read stays in the cache until it is hashed

Spec = tuple[torch.dtype, tuple[int, ...]]


class SafetensorsFile:
    """A mapped file.

    Attributes:
        path: Where it is.
        stamp: As it was when it was opened.
        specs: Dtype and shape by tensor name.

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
