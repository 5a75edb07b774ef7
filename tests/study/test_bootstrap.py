"""Intervals over seeds and examples, against scipy, loops by hand and known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from merge_optuna.study._bootstrap import Draws, Estimate, Sample, over_examples, stretch

RNG = np.random.default_rng(7)


def sample(
    runs: list[np.ndarray], value: object = np.mean, n: int = 2000, seed: int = 0
) -> Sample:
    draws = Draws(n, seed)
    values = over_examples(runs, value, draws)  # type: ignore[arg-type]
    return Sample(tuple(range(len(runs))), values, len(runs[0]), draws)


def alone(run: np.ndarray, value: object = np.mean, n: int = 2000) -> Sample:
    """Of one model that has no seed."""
    draws = Draws(n)
    return Sample((), over_examples([run], value, draws), len(run), draws)  # type: ignore[arg-type]


# -- examples alone ------------------------------------------------------------------------------


def test_one_model_has_the_interval_of_scipy() -> None:
    scores = RNG.exponential(size=150)
    found = alone(scores, n=20_000).estimate()
    theirs = stats.bootstrap(
        (scores,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert found.value == scores.mean()
    assert found.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.02 * width)
    assert (found.seeds, found.examples) == (0, 150)


def test_a_difference_is_paired_as_in_scipy() -> None:
    hard = RNG.normal(0, 5, 120)  # of the examples: far more than the difference
    one, other = hard + RNG.normal(0.3, 0.2, 120), hard
    found = alone(one, n=20_000).minus(alone(other, n=20_000))
    theirs = stats.bootstrap(
        (one, other),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.003)
    assert found.high == pytest.approx(theirs.high, abs=0.003)
    assert found.high - found.low < 0.1


@pytest.mark.parametrize(
    "metric",
    [
        lambda rows: f1_score(rows[:, 2], rows[:, 1], average="macro", zero_division=0),
        lambda rows: matthews_corrcoef(rows[:, 2], rows[:, 1]),
        lambda rows: stats.pearsonr(rows[:, 1], rows[:, 2])[0],
        lambda rows: np.exp(rows[:, 1].sum() / (1 + rows[:, 2]).sum()),
        lambda rows: rows[:, 0].mean(),
    ],
    ids=["macro-F1", "MCC", "Pearson", "perplexity", "accuracy"],
)
def test_any_metric_is_computed_on_rows_drawn_with_multiplicity(metric: object) -> None:
    true, guess = RNG.integers(3, size=(2, 60))
    predicted = np.where(RNG.random(60) < 0.7, true, guess)
    rows = np.stack([predicted == true, predicted, true], 1).astype(float)
    draws = Draws(40)
    found = over_examples([rows, rows[::-1]], metric, draws)  # type: ignore[arg-type]
    assert found.shape == (2, 41)
    assert found[0, 0] == pytest.approx(metric(rows))  # type: ignore[operator]
    drawn = np.concatenate([*draws.of_examples(60)])
    assert drawn.shape == (40, 60)
    for resample, ids in enumerate(drawn, 1):
        repeated = np.repeat(rows, np.bincount(ids, minlength=60), axis=0)  # spelled out
        assert len(repeated) == 60
        assert found[0, resample] == pytest.approx(metric(repeated), abs=1e-12)


def test_draws_depend_on_nothing_but_their_key() -> None:
    few, many = Draws(5), Draws(9)
    first, second = (np.concatenate([*draws.of_examples(30)]) for draws in (few, many))
    np.testing.assert_array_equal(first, second[:5])
    assert (np.concatenate([*Draws(5, seed=1).of_examples(30)]) != first).any()
    assert (few.of_seeds(5, 0) != few.of_seeds(5, 1)).any()
    # in blocks or at once
    big = np.concatenate([*Draws(9).of_examples(1_500_000)])
    assert big.shape == (9, 1_500_000)


# -- seeds and examples --------------------------------------------------------------------------


def test_two_levels_are_a_loop_over_drawn_seeds_and_examples() -> None:
    runs = [RNG.normal(mean, 1, 50) for mean in (0.0, 0.5, 0.2, 0.9)]
    found = sample(runs, n=4000).estimate()
    rng, scores = np.random.default_rng(3), np.array(runs)
    factor = np.sqrt(4 / 3) * stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975)
    assert stretch(4) == pytest.approx(factor)
    values = []
    for _ in range(4000):
        examples = rng.integers(50, size=50)
        per_seed = [scores[seed, examples].mean() for seed in range(4)]
        kept = np.mean(per_seed)
        drawn = np.mean([per_seed[seed] for seed in rng.integers(4, size=4)])
        values.append(kept + factor * (drawn - kept))
    low, high = np.percentile(values, [2.5, 97.5])
    assert found.value == pytest.approx(scores.mean())
    assert found.low == pytest.approx(low, abs=0.05 * (high - low))
    assert found.high == pytest.approx(high, abs=0.05 * (high - low))
    assert (found.seeds, found.examples) == (4, 50)


def test_with_normal_seeds_alone_it_is_students_interval() -> None:
    for n in (5, 12):
        values = stats.norm.ppf((np.arange(n) + 0.5) / n)[:, None]
        found = Sample(tuple(range(n)), values, 0, Draws(20_000)).estimate()
        half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
        assert found.low == pytest.approx(-half, rel=0.07)
        assert found.high == pytest.approx(half, rel=0.07)
        assert found.examples == 0


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_examples"), [(5, 0.5, 1.0), (3, 0.5, 1.0), (5, 1.0, 0.1), (5, 0, 1)]
)
def test_the_truth_lies_in_95_of_100_intervals(
    seeds: int, of_seeds: float, of_examples: float
) -> None:
    rng, inside = np.random.default_rng(0), 0
    for number in range(200):
        effects = of_seeds * rng.normal(size=(seeds, 1)) + of_examples * rng.normal(size=(1, 40))
        runs = effects + 0.3 * rng.normal(size=(seeds, 40))
        found = sample([*runs], n=300, seed=number).estimate()
        inside += found.low <= 0 <= found.high
    assert inside / 200 >= 0.92  # three standard errors below 95 % are 90.4 %


def test_one_seed_cannot_be_drawn() -> None:
    scores = RNG.normal(size=80)
    one = sample([scores]).estimate()
    assert one == alone(scores).estimate()
    assert one.seeds == 0
    nothing = Sample((0,), np.array([[0.4]]), 0, Draws()).estimate()
    assert np.isnan([nothing.low, nothing.high]).all()
    assert f"{nothing:.3f}" == "0.400"
    assert f"{Estimate(0.4, 0.3, 0.45, 5, 0):+.2f}" == "+0.40 [+0.30, +0.45]"


# -- differences ---------------------------------------------------------------------------------


def test_differences_are_paired_over_the_seeds_that_both_have() -> None:
    luck = np.array([-3.0, 0.0, 2.0, 5.0])[:, None]  # of a seed, shared by the two methods
    runs = RNG.normal(size=(4, 60)) + luck
    one, other = sample([*(runs + 0.5)]), sample([*runs])
    found = one.minus(other)
    assert found == pytest.approx((0.5, 0.5, 0.5, 4, 60))
    # the other has only three of them, in another order
    draws = Draws()
    fewer = Sample((3, 0, 1), over_examples([*runs[[3, 0, 1]]], np.mean, draws), 60, draws)
    assert one.minus(fewer) == pytest.approx((0.5, 0.5, 0.5, 3, 60))
    # one that is the same for all seeds
    base = alone(np.zeros(60))
    against = one.minus(base)
    assert against.value == pytest.approx(one.value)
    assert (against.low, against.high) == pytest.approx(one.estimate()[1:3])
    assert base.minus(one)[:3] == pytest.approx((-against.value, -against.high, -against.low))


def test_seeds_that_do_not_match_are_drawn_independently() -> None:
    draws = Draws(20_000)
    values = np.array([[0.0], [1.0], [2.0]])
    one = Sample((0, 1, 2), values, 0, draws)
    matched = one.minus(Sample((0, 1, 2), values, 0, draws))
    assert (matched.low, matched.high) == (0, 0)
    apart = one.minus(Sample((7, 8, 9), values, 0, draws))
    single = one.estimate()
    assert apart.value == 0
    ratio = (apart.high - apart.low) / (single.high - single.low)
    assert ratio == pytest.approx(np.sqrt(2), rel=0.1)


def test_examples_are_drawn_for_both_or_for_none() -> None:
    one = sample([*RNG.normal(size=(3, 60))])
    blind = Sample((0, 1, 2), np.array([[0.1], [0.2], [0.3]]), 0, one.draws)
    for found in (one.minus(blind), blind.minus(one)):
        assert (found.seeds, found.examples) == (3, 0)


def test_draws_without_a_value_are_left_out() -> None:
    scores = np.repeat([0.0, 1.0], [1, 5])

    def undefined_if_constant(rows: np.ndarray) -> float:
        return float(rows.mean()) if len(np.unique(rows)) > 1 else np.nan

    found = alone(scores, undefined_if_constant).estimate()
    assert found.low <= 5 / 6 <= found.high
