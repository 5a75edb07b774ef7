"""Intervals of a metric by a bootstrap that draws seeds and examples.

A method that is random was run with some seeds, and each run was scored on some examples: others
could have been drawn of both. So both are drawn with replacement (Owen, *The pigeonhole
bootstrap*, 2007): in each resample one draw of examples, the same for all runs of all methods, and
one draw of seeds. What a resample says of a method is the mean over its drawn seeds of the metric
of the drawn examples; an interval is between two percentiles of the resamples.

With few seeds such an interval is too narrow: a draw of S seeds has (S - 1)/S of their variance,
and percentiles take it for known (Hesterberg, *What teachers should know about the bootstrap*,
2015, on narrowness bias). Therefore what the seeds add in a resample is stretched by
:func:`stretch`: for normal values, and seeds alone, the interval is then Student's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.int64]
Value: TypeAlias = Callable[[Array], float]

LEVEL = 0.95
_TAILS = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
_EXAMPLES, _SEEDS = 0, 1  # what the random numbers are for
_AT_ONCE = 4_000_000  # numbers of a block of resamples
_PROBES = 8


class Estimate(NamedTuple):
    """A value and what it could have been.

    Attributes:
        value: Of the seeds and examples as they are.
        low: Lower end of the 95 % interval; NaN if there was nothing to draw.
        high: Its upper end.
        seeds: How many seeds were drawn from; 0 if they could not be drawn.
        examples: How many examples were drawn from; 0 if they could not be drawn.
    """

    value: float
    low: float
    high: float
    seeds: int
    examples: int

    def __format__(self, spec: str) -> str:
        if np.isnan(self.low):
            return format(self.value, spec)
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclass(frozen=True)
class Draws:
    """The resamples that all methods share.

    The random numbers of a draw depend on nothing but ``seed``, on what is drawn and on how many
    there are: not on which methods are compared, nor on their order.

    Attributes:
        resamples: How many.
        seed: Of the random numbers.
    """

    resamples: int = 2000
    seed: int = 0

    def of_examples(self, n: int) -> Iterator[Ids]:
        """Blocks of draws of n examples, shape (b, n) each; all together ``resamples`` draws."""
        bits = np.random.Philox(key=[self.seed, _key(_EXAMPLES, n)])
        block = max(1, _AT_ONCE // n)
        for first in range(0, self.resamples, block):
            yield _indices(bits, min(block, self.resamples - first), n)

    def of_seeds(self, n: int, stream: int) -> Ids:
        """Draws of n seeds, shape (resamples, n)."""
        bits = np.random.Philox(key=[self.seed, _key(_SEEDS + stream, n)])
        return _indices(bits, self.resamples, n)


def _key(purpose: int, n: int) -> int:
    return n << 8 | purpose


def _indices(bits: np.random.Philox, draws: int, n: int) -> Ids:
    """Numbers below n, shape (draws, n), from the raw bits: other methods of numpy may change."""
    high = bits.random_raw(draws * n).reshape(draws, n) >> np.uint64(32)
    found: Ids = (high * np.uint64(n) >> np.uint64(32)).astype(np.int64)
    return found


def first_column(scores: Array) -> Array:
    """The examples' own scores, shape (n,), of (n,) or (n, k)."""
    return scores if scores.ndim == 1 else scores[:, 0]


def mean(scores: Array) -> float:
    """The mean of the examples' own scores."""
    return float(first_column(scores).mean())


def over_examples(runs: Sequence[Array], value: Value, draws: Draws) -> Array:
    """The metric of each run, for the examples as they are and for each resample.

    Args:
        runs: Scores of the same n examples, each (n,) or (n, k).
        value: The metric over the scores of any of the examples.
        draws: The resamples.

    Returns:
        Shape (runs, 1 + resamples).
    """
    n = len(runs[0])
    whole = np.array([[value(scores)] for scores in runs], np.float64)
    first = np.stack([first_column(scores) for scores in runs], 1)
    means = _is_mean(runs[0], value, draws)
    parts = [
        _counts(block, n) @ first / n
        if means
        else np.array([[value(scores[drawn]) for scores in runs] for drawn in block])
        for block in draws.of_examples(n)
    ]
    return np.concatenate([whole.T, *parts]).T


def _is_mean(scores: Array, value: Value, draws: Draws) -> bool:
    """Whether the metric is the mean of the first column, by what it says of a few resamples.

    Means of all resamples are one product of matrices; any other metric is asked each time.
    """
    first = first_column(scores)
    probes = [np.arange(len(scores)), *next(draws.of_examples(len(scores)))[:_PROBES]]
    return all(np.isclose(value(scores[p]), first[p].mean(), rtol=1e-12, atol=0) for p in probes)


def _counts(block: Ids, n: int) -> Array:
    """How often each of n examples was drawn, shape (b, n), from draws of shape (b, m)."""
    places = block + n * np.arange(len(block))[:, None]
    return np.bincount(places.ravel(), minlength=n * len(block)).reshape(-1, n).astype(np.float64)


def stretch(seeds: int) -> float:
    """What deviations of drawn seeds are multiplied with.

    √(S / (S − 1)) for the variance that draws of S seeds lack, times the ratio of Student's
    quantile with S − 1 degrees of freedom to the normal one.
    """
    from scipy.special import ndtri, stdtrit

    tail = (1 + LEVEL) / 2
    return float(np.sqrt(seeds / (seeds - 1)) * stdtrit(seeds - 1, tail) / ndtri(tail))


@dataclass(frozen=True)
class Sample:
    """The values of one method.

    Attributes:
        seeds: Of its runs; empty if there is one model only and nothing random about it.
        values: Shape (runs, 1 + resamples) as :func:`over_examples` returns it, or (runs, 1) if
            there are no scores of single examples.
        examples: How many examples there are; 0 if they cannot be drawn.
        draws: The resamples.
    """

    seeds: tuple[int, ...]
    values: Array = field(repr=False)
    examples: int
    draws: Draws

    @property
    def value(self) -> float:
        """The mean over the runs."""
        return float(self.values[:, 0].mean())

    def estimate(self) -> Estimate:
        """The value with its interval."""
        return _estimate(self.value, self.drawn(0), self._drawable, self.examples)

    def minus(self, other: Sample) -> Estimate:
        """The difference to another method, paired over examples, and over seeds that both have.

        Where they have no seed in common, the seeds of both are drawn independently.
        """
        one, other = self._with(other), other._with(self)
        if one.seeds and other.seeds and not set(one.seeds) & set(other.seeds):
            drawn, seeds = one.drawn(0) - other.drawn(1), max(one._drawable, other._drawable)
            return _estimate(one.value - other.value, drawn, seeds, one.examples)
        common = tuple(s for s in one.seeds if s in other.seeds) or one.seeds or other.seeds
        values = one._at(common) - other._at(common)
        return Sample(common, values, one.examples, self.draws).estimate()

    def drawn(self, stream: int) -> Array:
        """The value of each resample, shape (resamples,).

        Args:
            stream: Draws of seeds with different numbers are independent.
        """
        runs = len(self.values)
        shape = (runs, self.draws.resamples)
        values = self.values[:, 1:] if self.examples else np.broadcast_to(self.values, shape)
        kept: Array = values.mean(0)
        if not self._drawable:
            return kept
        chosen = self.draws.of_seeds(runs, stream)
        drawn: Array = values[chosen, np.arange(self.draws.resamples)[:, None]].mean(1)
        return kept + stretch(runs) * (drawn - kept)

    @cached_property
    def _drawable(self) -> int:
        return len(self.seeds) if len(self.seeds) > 1 else 0

    def _with(self, other: Sample) -> Sample:
        """Without draws of examples, unless the other has them as well."""
        if not self.examples or self.examples == other.examples:
            return self
        return Sample(self.seeds, self.values[:, :1], 0, self.draws)

    def _at(self, seeds: Sequence[int]) -> Array:
        """Of these seeds, shape (seeds, ...), or of the only model there is, shape (1, ...)."""
        return self.values[[self.seeds.index(s) for s in seeds]] if self.seeds else self.values


def _estimate(value: float, drawn: Array, seeds: int, examples: int) -> Estimate:
    if not seeds and not examples:
        return Estimate(value, np.nan, np.nan, 0, 0)
    known = drawn[~np.isnan(drawn)]  # a metric can be undefined on a draw, e.g. a correlation
    low, high = np.percentile(known, _TAILS) if known.size else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), seeds, examples)
