from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from merge_optuna.evaluators._batches import in_batches


@pytest.mark.parametrize(("n", "batch_size"), [(1, 32), (32, 32), (33, 32), (100, 7), (5, 1)])
def test_each_example_comes_once_in_batches_of_even_size(n: int, batch_size: int) -> None:
    batches = in_batches(np.arange(n) % 11, batch_size)
    sizes = [len(batch) for batch in batches]
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(batches) == -(-n // batch_size)


def test_batches_hold_similar_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, size=640)
    batches = in_batches(lengths, 32)
    spans = sorted((lengths[b].min(), lengths[b].max()) for b in batches)
    for (_, longest), (shortest, _) in itertools.pairwise(spans):
        assert longest <= shortest


def test_order_of_batches_does_not_follow_length() -> None:
    lengths = np.arange(3200)
    means = [lengths[batch].mean() for batch in in_batches(lengths, 32)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3
    assert abs(np.mean(means[:25]) - lengths.mean()) < 400  # 2 standard errors


def test_equal_lengths_are_mixed() -> None:
    """Data sorted by class must not be scored class after class."""
    classes = np.repeat([0, 1], 320)
    for batch in in_batches(np.zeros(640, np.int64), 32):
        assert 4 < classes[batch].sum() < 28


def test_order_does_not_depend_on_what_was_seeded() -> None:
    """Scores of a resumed search must meet those from before."""
    lengths = np.arange(50) % 7
    orders = []
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        orders.append([batch.tolist() for batch in in_batches(lengths, 8)])
    assert orders[0] == orders[1]
