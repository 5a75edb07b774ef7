"""Where to trim task vectors: exact thresholds from histograms that are made once per study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine._arrays import Array, flat
from merge_optuna.engine._known import Known, key_of
from merge_optuna.engine.kernels import magnitudes as kernels
from merge_optuna.methods._sparsify import kept_count


def bounds_of_model(
    base: Checkpoint, model: Checkpoint, names: Sequence[str], density: float, known: Known
) -> dict[str, Bound] | None:
    """Where to trim each tensor so that the largest share of the whole model stays.

    None if the kernels do not know the data type of some tensor.
    """

    def compute() -> dict[str, Bound] | None:
        vectors = {}
        for name in names:
            arrays = flat(base.tensor(name)), flat(model.tensor(name))
            if arrays[0] is None or arrays[1] is None:
                return None
            key = key_of("histogram", name, base, model)
            vectors[name] = TaskVector.of(arrays[0], arrays[1], known, key)
        keep = kept_count(sum(v.model.size for v in vectors.values()), density)
        return dict(zip(names, bounds(list(vectors.values()), keep), strict=True))

    found: dict[str, Bound] | None
    found = known.whole(("bounds", base, model, names, density), compute)
    return found


class Histogram(NamedTuple):
    """Counts of magnitudes by bins, those that are zero left out.

    Attributes:
        bins: The used bins in ascending order; see ``kernels.histogram``. The magnitudes in an
            even one are equal.
        counts: How many magnitudes are in each.
    """

    bins: NDArray[np.uint32]
    counts: NDArray[np.uint32]


@dataclass(frozen=True)
class TaskVector:
    """The task vector of one tensor.

    Attributes:
        base: Flat array of the base's tensor.
        model: That of the expert's.
        histogram: Of its magnitudes.
    """

    base: Array
    model: Array
    histogram: Histogram

    @classmethod
    def of(cls, base: Array, model: Array, known: Known, key: Any) -> TaskVector:
        """Looks the histogram up, or makes it."""
        return cls(base, model, known.once(key, lambda: _histogram(base, model)))

    def count(self, bin_: int) -> int:
        """Number of elements in a bin."""
        place = int(np.searchsorted(self.histogram.bins, bin_))
        is_used = place < len(self.histogram.bins) and self.histogram.bins[place] == bin_
        return int(self.histogram.counts[place]) if is_used else 0

    def inside(self, bin_: int) -> NDArray[np.uint32]:
        """The magnitudes in an odd bin, as bit patterns, in the order of the elements."""
        count = self.count(bin_)
        found = np.empty(count + 1, np.uint32)
        if count:
            low = _lowest(bin_)
            kernels.inside(self.base, self.model, low, np.uint32(1 << kernels.BIN) - 1, found)
        return found[:count]

    def place(self, value: np.uint32, nth: int, equal: int) -> int:
        """Flat index of the ``nth`` of ``equal`` elements whose magnitude has the bits ``value``.

        The size of the tensor if there is none.
        """
        if nth == equal:
            return int(self.model.size)
        return int(kernels.place_of(self.base, self.model, value, nth))


class Bound(NamedTuple):
    """Where to trim: what is larger than ``threshold`` stays.

    So does what equals it at the flat indices before ``last``.
    """

    threshold: float
    last: int


NOTHING = Bound(float("inf"), 0)
"""The bound that keeps nothing."""


def bounds(vectors: Sequence[TaskVector], keep: int) -> list[Bound]:
    """For each tensor where to trim so that the ``keep`` largest elements of all stay.

    Exactly the cuts of ``methods._sparsify.cut_of`` and ``_cuts.model_cuts``: radix selection on
    the magnitude's bits. The histogram gives the bin that the threshold lies in, and only what is
    inside that bin is looked at. Elements that are zero count as kept or not, as one likes.
    """
    if keep == 0:
        return [NOTHING] * len(vectors)
    if keep >= sum(int(v.histogram.counts.sum()) for v in vectors):
        return [Bound(0.0, 0)] * len(vectors)
    bin_, wanted = _bin(vectors, keep)
    if bin_ % 2 == 0:
        value, ties = _lowest(bin_), wanted
        equal = [v.count(bin_) for v in vectors]
    else:
        found = [v.inside(bin_) for v in vectors]
        every = np.sort(np.concatenate(found))
        value = every[every.size - wanted]
        ties = wanted - int((every > value).sum())
        equal = [int((own == value).sum()) for own in found]
    threshold, result = float(value.view(np.float32)), []
    for vector, count in zip(vectors, equal, strict=True):
        here = min(ties, count)
        ties -= here
        result.append(Bound(threshold, vector.place(value, here, count)))
    return result


def _bin(vectors: Sequence[TaskVector], keep: int) -> tuple[int, int]:
    """The bin of the ``keep``-th largest element, and how many of that bin are kept."""
    bins = np.concatenate([v.histogram.bins for v in vectors])
    counts = np.concatenate([v.histogram.counts for v in vectors])
    if len(vectors) > 1:
        bins, place = np.unique(bins, return_inverse=True)
        counts = np.bincount(place, counts)  # float64: exact up to 2^53
    above = np.cumsum(counts[::-1], dtype=np.int64)
    position = int(np.searchsorted(above, keep))
    before = int(above[position - 1]) if position else 0
    return int(bins[len(bins) - 1 - position]), keep - before


def _lowest(bin_: int) -> np.uint32:
    """The smallest bit pattern in a bin."""
    return np.uint32((bin_ >> 1 << kernels.BIN) + (bin_ & 1))


def _histogram(base: Array, model: Array) -> Histogram:
    table = np.zeros(1 << 32 - kernels.BIN, np.uint32)  # the sign bit is never set
    kernels.histogram(base, model, table)
    table[0] = 0
    bins = np.empty(np.count_nonzero(table), np.uint32)
    counts = np.empty_like(bins)
    kernels.used(table, bins, counts)
    return Histogram(bins, counts)
