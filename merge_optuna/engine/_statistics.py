"""What does not change while only the numbers of a recipe do: computed once per study."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import _kernels as kernels
from merge_optuna.engine._arrays import Array, flat

_BINS = 1 << 15


class Statistics:
    """Gram matrices and histograms of magnitudes, by the sources that they belong to.

    A histogram takes about 20 KiB, however large its tensor is, so those of three 7B experts fit
    in 20 MB.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def once(self, key: Hashable | None, compute: Callable[[], Any]) -> Any:
        """The value of ``key``, computed at the first request; always with key None."""
        if key is None:
            return compute()
        if key not in self._known:
            self._known[key] = compute()  # twice at worst, if two threads ask at the same time
        return self._known[key]

    def of_model(
        self, base: Checkpoint, model: Checkpoint, names: Sequence[str], density: float
    ) -> dict[str, Place] | None:
        """Where to trim each tensor so that the largest share of the whole model stays.

        None if the kernels do not know the data type of some tensor.
        """
        key = "places", base, model
        with self._lock:  # every tensor asks for the same
            found: dict[str, Place] | None
            asked, found = self._known.get(key, (None, None))
            if asked != (names, density):
                found = self._places(base, model, names, density)
                self._known[key] = (names, density), found
        return found

    def _places(
        self, base: Checkpoint, model: Checkpoint, names: Sequence[str], density: float
    ) -> dict[str, Place] | None:
        vectors = {}
        for name in names:
            arrays = flat(base.tensor(name)), flat(model.tensor(name))
            if arrays[0] is None or arrays[1] is None:
                return None
            key = key_of("histogram", name, base, model)
            vectors[name] = TaskVector.of(arrays[0], arrays[1], self, key)
        return dict(zip(names, places(list(vectors.values()), density), strict=True))


def key_of(what: str, name: str, *sources: Any) -> Hashable | None:
    """Key of a statistic of a tensor; None if a source is a recipe, whose content changes."""
    return (what, name, sources) if all(isinstance(s, Checkpoint) for s in sources) else None


@dataclass(frozen=True)
class TaskVector:
    """The task vector of one tensor and the histogram of its magnitudes.

    Attributes:
        base: Flat array of the base's tensor.
        model: That of the expert's.
        histogram: Counts by the upper 15 bits of the float32 magnitude, from bin ``first`` on.
        first: See ``histogram``.
        zeros: Number of elements that are zero.
    """

    base: Array
    model: Array
    histogram: NDArray[np.int64]
    first: int
    zeros: int

    @classmethod
    def of(cls, base: Array, model: Array, statistics: Statistics, key: Any) -> TaskVector:
        """Looks the histogram up, or makes it."""
        return cls(base, model, *statistics.once(key, lambda: _histogram(base, model)))

    def count(self, bin_: int) -> int:
        """Number of elements in a bin."""
        place = bin_ - self.first
        return int(self.histogram[place]) if 0 <= place < len(self.histogram) else 0

    def inside(self, bin_: int) -> NDArray[np.uint32]:
        """The magnitudes in a bin, as bit patterns, in the order of the elements."""
        count = self.count(bin_)
        found = np.empty(count + 1, np.uint32)
        if count:
            kernels.inside(self.base, self.model, np.uint32(bin_ << kernels.BIN), found)
        return found[:count]


class Place(NamedTuple):
    """Where to trim: what is larger than ``threshold`` stays.

    So does what equals it at the flat indices before ``last``.
    """

    threshold: float
    last: int


def places(vectors: Sequence[TaskVector], density: float) -> list[Place]:
    """For each tensor where to trim so that the largest ``density`` share of all stays.

    Exactly the cuts of ``methods._sparsify.cut_at`` and ``_cuts.model_cuts``: radix selection on
    the magnitude's bits. The histogram gives the bin that the threshold lies in, and only what is
    inside that bin is looked at. Elements that are zero count as kept or not, as one likes.
    """
    size = sum(v.model.size for v in vectors)
    if density == 0 or size == 0:
        return [Place(float("inf"), 0)] * len(vectors)
    keep = max(1, int(density * size))
    if keep >= size - sum(v.zeros for v in vectors):
        return [Place(0.0, 0)] * len(vectors)
    bin_, wanted = _bin(vectors, keep)
    found = [vector.inside(bin_) for vector in vectors]
    every = np.concatenate(found)
    value = np.partition(every, every.size - wanted)[every.size - wanted]
    ties = wanted - int((every > value).sum())
    threshold, result = float(value.view(np.float32)), []
    for vector, own in zip(vectors, found, strict=True):
        equal = int((own == value).sum())
        here = min(ties, equal)
        ties -= here
        last = (
            vector.model.size
            if here == equal
            else kernels.place_of(vector.base, vector.model, value, here)
        )
        result.append(Place(threshold, last))
    return result


def _bin(vectors: Sequence[TaskVector], keep: int) -> tuple[int, int]:
    """The bin of the ``keep``-th largest element, and how many of that bin are kept."""
    used = [v for v in vectors if len(v.histogram)]
    low = min(v.first for v in used)
    total = np.zeros(max(v.first + len(v.histogram) for v in used) - low, np.int64)
    for v in used:
        total[v.first - low : v.first - low + len(v.histogram)] += v.histogram
    above = np.cumsum(total[::-1])
    position = int(np.searchsorted(above, keep))
    before = int(above[position - 1]) if position else 0
    return low + len(total) - 1 - position, keep - before


def _histogram(base: Array, model: Array) -> tuple[NDArray[np.int64], int, int]:
    table = np.zeros(_BINS, np.int64)
    zeros = kernels.histogram(base, model, table)
    used = np.flatnonzero(table)
    first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    return table[first:end].copy(), first, zeros
