"""How much groups of parameters explain of which trials are good: PED-ANOVA in windows of time.

PED-ANOVA (Watanabe, Bansal and Hutter 2023, arXiv 2304.10255, theorem 1): of the variance of "is
among the best share γ of the trials", γ(1 − γ), a parameter alone explains γ² D, with D Pearson's
divergence of its density among the best from that among all. So its share is

    R = D γ / (1 − γ),  from 0 to 1,

whatever the numbers of the parameter and of the objective are. Four things are particular here:

- **Windows.** A search changes all parameters while it gets better: CMA-ES narrows those that
  matter not at all as much as the others, and over a whole search all of them then seem to matter.
  So a trial is compared with the 20 of its time: the best third of them are the good ones, and
  low, middle and high of a parameter are thirds among them. The counts of all windows are added.
- **Histograms** of these thirds (of the choices, where they have no order; of being there or not,
  where trials lack a parameter) instead of kernels: 20 trials tell no more.
- **Chance is subtracted.** Of few trials some always differ. What a parameter without any effect
  is expected to have is known exactly, the moments of sampling without replacement, and the share
  is put on the scale where that is 0 and everything is 1, as R² is adjusted in regression.
- **Groups are sums.** Where the parameters are drawn independently, what each explains alone is
  orthogonal to what the others do (Hoeffding's decomposition), so that the sum over a group is the
  variance of its best additive explanation, however many parameters it has. What parameters do
  only together is not in it: the joint density of dozens cannot be known from hundreds of trials.
  Where a sampler draws them together, as CMA-ES learns to, what they share is counted twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WINDOW = 20
"""Trials in a row that are compared with one another."""
GOOD = 1 / 3
"""Which share of them are the good ones, γ."""
_BINS = 3
_DRAWS = 200


class Explained(NamedTuple):
    """What parameters explain, 1 being everything; below 0 if it is less than by chance.

    Attributes:
        shares: Of each parameter, shape (p,).
        chance: The same where lots say which trials are good, shape (draws, p).
    """

    shares: Array
    chance: Array

    def of(self, group: list[int]) -> tuple[float, float]:
        """What a group explains, and what one without effect surpasses once in 20 times."""
        by_lot = self.chance[:, group].sum(1)
        return float(self.shares[group].sum()), float(np.quantile(by_lot, 0.95))


class _Window(NamedTuple):
    """Some trials in a row.

    Attributes:
        good: Which are good, shape (n,), from 0 to 1: a fraction of equal ones may be.
        bins: Where each of their parameters lies, one-hot: shape (n, p, bins).
    """

    good: Array
    bins: Array

    @property
    def spread(self) -> float:
        """Sum of squares of being good around its mean."""
        return float(((self.good - self.good.mean()) ** 2).sum())


def explained(
    values: Array,
    ordered: NDArray[np.bool_],
    losses: Array,
    violations: Array,
    *,
    window: int = WINDOW,
) -> Explained:
    """What parameters explain of which trials are good.

    Args:
        values: Of the parameters of trials in the order of time, shape (n, p), n ≥ 2; NaN where a
            trial lacks one. Of choices without an order their numbers.
        ordered: Which parameters have an order, shape (p,).
        losses: Of the trials, smaller is better, shape (n, objectives): of several, who dominates
            whom counts.
        violations: Of constraints, which come before losses; 0 where they are kept; shape (n,).
        window: About how many trials in a row are compared.
    """
    unordered = values[:, ~ordered]
    choices = 0 if np.isnan(unordered).all() else int(np.nanmax(unordered)) + 1
    windows = [
        _Window(_good(_beaten(losses[at], violations[at])), _bins(values[at], ordered, choices))
        for at in np.array_split(np.arange(len(values)), max(1, round(len(values) / window)))
    ]
    rng = np.random.default_rng(0)
    lots = [rng.permuted(np.tile(w.good, (_DRAWS, 1)), axis=1) for w in windows]
    given = _shares(windows, [w.good[None] for w in windows])
    return Explained(given[0], _shares(windows, lots))


def _shares(windows: list[_Window], good: list[Array]) -> Array:
    """Adjusted R of each parameter, shape (draws, p), for draws of who is good in each window."""
    expected = variance = counted = np.zeros(())
    for window, drawn in zip(windows, good, strict=True):
        n, q = len(window.good), window.bins.mean(0)
        expected = expected + window.good.sum() * q
        variance = variance + window.spread * n * q * (1 - q) / max(1, n - 1)
        counted = counted + np.tensordot(drawn, window.bins, 1)
    spread = sum(window.spread for window in windows)
    if spread < 1e-9:  # all trials of every window are equally good
        return np.zeros_like(counted)[..., 0]
    gamma = sum(w.good.sum() for w in windows) / sum(len(w.good) for w in windows)
    weight = gamma / spread / np.where(expected, expected, np.inf)  # empty bins have no count
    by_chance = (variance * weight).sum(-1)
    found = ((counted - expected) ** 2 * weight).sum(-1)
    return np.where(by_chance < 1, (found - by_chance) / np.maximum(1e-12, 1 - by_chance), 0.0)


def _beaten(losses: Array, violations: Array) -> NDArray[np.int64]:
    """By how many others each trial is beaten, shape (n,): first in constraints (Deb 2000)."""
    less = violations[:, None] < violations
    same = violations[:, None] == violations
    no_worse = (losses[:, None] <= losses).all(2)
    better = (losses[:, None] < losses).any(2)
    beaten: NDArray[np.int64] = (less | (same & no_worse & better)).sum(0)
    return beaten


def _good(beaten: NDArray[np.int64]) -> Array:
    """1 for the good ones, 0 for the others; equals at the border share what is left: (n,)."""
    m = max(1, round(GOOD * len(beaten)))
    border = np.sort(beaten)[m - 1]
    good, equal = (beaten < border).astype(float), (beaten == border).astype(float)
    shared: Array = good + equal * (m - good.sum()) / equal.sum()
    return shared


def _bins(values: Array, ordered: NDArray[np.bool_], choices: int) -> Array:
    """One-hot, shape (n, p, bins): the third among those that are there, or the choice; absent."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=0, nan_policy="omit") - 0.5
    there = (~np.isnan(values)).sum(0)
    thirds = np.floor(_BINS * ranks / np.maximum(1, there))
    numbers = np.where(ordered, thirds, values)
    last = max(_BINS, choices)
    places = np.where(np.isnan(numbers), last, numbers).astype(np.int64)
    found: Array = (places[:, :, None] == np.arange(last + 1)).astype(float)
    return found
