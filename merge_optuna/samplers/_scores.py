"""How per-example scores are packed into a system attribute of their trial."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCORES = "merge_optuna:scores"
"""System attribute: the packed per-example scores of a trial."""


def pack(scores: NDArray[np.float32]) -> dict[str, Any]:
    """(n,) scores as JSON: one bit each if all are 0 or 1, else 32."""
    binary = bool(((scores == 0) | (scores == 1)).all())
    raw = np.packbits(scores.astype(bool)) if binary else scores.astype("<f4")
    data = base64.b64encode(zlib.compress(raw.tobytes(), 1)).decode()
    return {"n": len(scores), "type": "bit" if binary else "f4", "data": data}


def unpack(packed: dict[str, Any]) -> NDArray[np.float32]:
    """The inverse of :func:`pack`."""
    raw = zlib.decompress(base64.b64decode(packed["data"]))
    if packed["type"] == "bit":
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=packed["n"])
        return bits.astype(np.float32)
    return np.frombuffer(raw, "<f4").astype(np.float32)
