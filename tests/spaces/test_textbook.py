"""The references themselves: what can be said about them by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.spaces import textbook

A, B = np.array([2.0, 0.0, 0.0, 1.0]), np.array([0.0, 3.0, 1.0, 0.0])


def test_slerp_of_orthogonal_vectors() -> None:
    """With sin ω = 1 the scales are cosine and sine."""
    child = textbook.cross(A, B, 0.25, split=0.5)
    low, high = np.cos(np.pi / 8), np.sin(np.pi / 8)
    assert child == pytest.approx([2 * low, 3 * high, low, high], abs=1e-15)
    assert np.array_equal(textbook.cross(A, B, 0.0), A)
    assert np.array_equal(textbook.cross(A, B, 0.0, split=0.5), [*A[:2], *B[2:]])
    assert textbook.cross(A, 2 * A, 0.25) == pytest.approx(1.25 * A)  # no angle: linear
    assert textbook.cross(A, -A, 0.25) == pytest.approx(0.5 * A)
    assert textbook.cross(A, 0 * A, 0.25) == pytest.approx(0.75 * A)


def test_angle_of_segments() -> None:
    b = np.array([5.0, 0.0, 1.0, 0.0])  # parallel in front, orthogonal behind
    child = textbook.cross(A, b, 0.5, split=0.5, angle="segment")
    assert child == pytest.approx([3.5, 0, np.sqrt(0.5), np.sqrt(0.5)])


def test_niches() -> None:
    scores = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0.0]])
    assert textbook.fitness(scores).tolist() == [1, 2, 0]
    assert textbook.fitness(scores, alpha=0).tolist() == [2, 3, 0]
    assert textbook.attraction(scores, 0).tolist() == [0, 1, 0]
    individuals = [textbook.Individual(i, A, row) for i, row in enumerate(scores)]
    assert [i.id for i in textbook.insert(individuals[:2], individuals[2], size=2)] == [0, 1]
    twin = textbook.Individual(3, A, scores[0])  # the first of equals goes
    assert [i.id for i in textbook.insert(individuals[:2], twin, size=2)] == [3, 1]
    for u, v in np.random.default_rng(0).random((20, 2)):
        a, b = textbook.parents(individuals, u, v)
        assert a.id == (u >= 1 / 3)  # 1 : 2 : 0
        # the first is drawn to the second alone, the second to nobody
        assert b.id == (1 if a.id == 0 else 0 if v < 0.5 else 2)


def test_pso_by_hand() -> None:
    start = [np.array([0.0]), np.array([4.0])]
    swarms = list(
        textbook.pso_merging(start, lambda x: -abs(x[0] - 3), lambda *_: (0.5, 0.25), steps=3)
    )
    assert [swarm.x.ravel().tolist() for swarm in swarms] == [[0, 4], [2, 4], [3.4, 4]]
    assert [swarm.best[0] for swarm in swarms] == [4, 4, 3.4]


def test_evolver_is_immediate() -> None:
    every = np.ones(1, dtype=bool)

    def decide(generation: int, target: int) -> textbook.Cross:
        return textbook.Cross((1 - target,), every)

    population = [np.array([0.0]), np.array([4.0])]
    changes = list(textbook.evolver(population, lambda x: -abs(x[0] - 2), decide, generations=1))
    assert [change.child[0] for change in changes] == [2, 3]
    assert [change.accepted for change in changes] == [True, True]
    merged = textbook.evolver(
        population,
        lambda x: -abs(x[0] - 2),
        decide,
        merge=lambda members: np.mean(members, axis=0),
        until_unchanged=True,
    )
    # the average is the best there can be, so nothing is better and it ends
    assert [(c.value, c.accepted) for c in merged] == [(-1, False), (-1, False)]


def test_difference() -> None:
    population = [np.array([1.0, 1.0]), np.array([4.0, 0.0]), np.array([2.0, 2.0])]
    assert textbook.mutant(population, 0, (1, 2), 0.5).tolist() == [2, 0]
    mask = np.array([True, False])
    change = next(
        textbook.evolver(population, lambda x: x[0], lambda *_: textbook.Cross((1, 2), mask))
    )
    assert change.child.tolist() == [2, 1]
