"""How per-example scores are packed into a system attribute of their trial."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merge_optuna._records import check_type, decoding


def pack(scores: NDArray[np.float32]) -> dict[str, Any]:
    """(n,) scores as JSON: one bit each if all are 0 or 1, else 32."""
    binary = bool(((scores == 0) | (scores == 1)).all())
    raw = np.packbits(scores.astype(bool)) if binary else scores.astype("<f4")
    data = base64.b64encode(zlib.compress(raw.tobytes(), 1)).decode()
    return {"n": len(scores), "type": "bit" if binary else "f4", "data": data}


def unpack(packed: dict[str, Any], whose: str) -> NDArray[np.float32]:
    """The inverse of :func:`pack`.

    Args:
        packed: what a trial carries.
        whose: it is, e.g. ``"trial 4"``.

    Raises:
        StudyError: If these are no packed scores.
    """
    with decoding(f"attribute with the scores of {whose}"):
        check_type("their number", packed["n"], int)
        n, kind = packed["n"], packed["type"]
        size = {"bit": (n + 7) // 8, "f4": 4 * n}[kind]
        # A few bytes can be blown up to gigabytes: never further than n says.
        stream = zlib.decompressobj()
        raw = stream.decompress(base64.b64decode(packed["data"], validate=True), size + 1)
        if len(raw) != size or not stream.eof:
            raise ValueError(f"they are not {n} scores")
        if kind == "bit":
            return np.unpackbits(np.frombuffer(raw, np.uint8), count=n).astype(np.float32)
        return np.frombuffer(raw, "<f4").astype(np.float32)
