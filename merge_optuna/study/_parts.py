"""Of which task or group each dev example is, as a study keeps it."""

from __future__ import annotations

import base64
import zlib
from typing import NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray

from merge_optuna import _optuna_compat as compat
from merge_optuna._records import check_type, decoding
from merge_optuna._schema import PARTS
from merge_optuna.evaluators import Evaluator, parts_of

_MOST = 1000  # of names: a group for each example tells no more than the example


class Parts(NamedTuple):
    """Tasks or groups.

    Attributes:
        names: What they are called, in the order in which they first come.
        numbers: For each example the place of the name of its own, shape (n,).
    """

    names: tuple[str, ...]
    numbers: NDArray[np.int64]


def record_parts(study: optuna.Study, evaluator: Evaluator) -> None:
    """Keeps the parts of an evaluator's examples, once; nothing if all are of one part."""
    names = parts_of(evaluator)
    places = {name: place for place, name in enumerate(dict.fromkeys(names or ()))}
    if names is None or not 1 < len(places) <= _MOST:
        return
    if PARTS not in compat.study_system_attrs(study):
        raw = np.array([places[name] for name in names], "<u2").tobytes()
        data = base64.b64encode(zlib.compress(raw)).decode()
        stored = {"names": [*places], "n": len(names), "data": data}
        compat.set_study_system_attr(study, PARTS, stored)


def stored_parts(study: optuna.Study) -> Parts | None:
    """The parts of the dev examples of a study; None if there is one only, or they are not known.

    Raises:
        StudyError: If they are damaged.
    """
    stored = compat.study_system_attrs(study).get(PARTS)
    if stored is None:
        return None
    with decoding(f"parts of the dev data of the study {study.study_name!r}"):
        check_type("their number", stored["n"], int)
        stream = zlib.decompressobj()
        size = 2 * stored["n"]
        raw = stream.decompress(base64.b64decode(stored["data"], validate=True), size + 1)
        if len(raw) != size or not stream.eof:
            raise ValueError(f"they are not of {stored['n']} examples")
        numbers = np.frombuffer(raw, "<u2").astype(np.int64)
        names = tuple(map(str, stored["names"]))
        if numbers.size and numbers.max() >= len(names):
            raise ValueError(f"{numbers.max()} is none of {len(names)} names")
        return Parts(names, numbers)
