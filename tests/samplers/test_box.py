from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from merge_optuna.samplers import Box
from merge_optuna.samplers.box import value_at

DISTRIBUTIONS = [
    FloatDistribution(-1, 3),
    FloatDistribution(0.1, 0.7),
    FloatDistribution(1e-7, 0.3, log=True),
    FloatDistribution(-10.2, 10.2, step=0.1),
    FloatDistribution(0, 0.9, step=0.3),
    IntDistribution(-3, 11, step=2),
    IntDistribution(1, 100, log=True),
    CategoricalDistribution(["a", None, 3.5]),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
@given(u=st.floats(0, 1))
def test_every_point_is_a_value_that_optuna_accepts(
    distribution: BaseDistribution, u: float
) -> None:
    value = value_at(distribution, u)
    assert distribution._contains(distribution.to_internal_repr(value))
    assert distribution.to_external_repr(distribution.to_internal_repr(value)) == value
    if isinstance(distribution, IntDistribution):
        assert type(value) is int
    if isinstance(distribution, FloatDistribution):
        assert type(value) is float
        assert value == pytest.approx(
            Box({"p": distribution}).params(Box({"p": distribution}).point({"p": value}))["p"]
        )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS[:-1], ids=str)
def test_both_ends_are_reached(distribution: FloatDistribution | IntDistribution) -> None:
    assert value_at(distribution, 0.0) == distribution.low
    high = distribution.high if distribution.step is None else pytest.approx(distribution.high)
    assert value_at(distribution, 1.0) == high


def test_values_by_hand() -> None:
    box = Box(
        {
            "z": FloatDistribution(2, 4),
            "log": FloatDistribution(0.01, 100, log=True),
            "cells": IntDistribution(10, 30, step=10),
            "single": IntDistribution(1, 1),
            "choice": CategoricalDistribution([1, 2]),
        }
    )
    assert box.names == ("cells", "log", "z")
    assert box.widths.tolist() == [1 / 3, 0, 0]
    assert box.params(np.array([0.66, 0.75, 0.25])) == {
        "cells": 20,
        "log": pytest.approx(10),
        "z": 2.5,
    }
    assert box.params(np.array([0.67, 0.5, 1.0])) == {"cells": 30, "log": pytest.approx(1), "z": 4}
    expected = [0.5, (math.log(10) - math.log(0.01)) / math.log(1e4), 0.75]
    assert box.point({"log": 10, "z": 3.5}).tolist() == pytest.approx(expected)
    assert box.point({"cells": 30}).tolist() == pytest.approx([5 / 6, 0.5, 0.5])


def test_a_uniform_point_gives_uniform_values() -> None:
    us = (np.arange(6000) + 0.5) / 6000
    for distribution, m in ((IntDistribution(0, 4), 5), (FloatDistribution(0, 1, step=0.2), 6)):
        counts = np.unique([value_at(distribution, u) for u in us], return_counts=True)[1]
        assert counts.tolist() == [6000 // m] * m


def test_digest_depends_on_the_space_alone() -> None:
    a, b = FloatDistribution(0, 1), FloatDistribution(0, 1, log=False)
    assert Box({"a": a, "b": b}).digest("x") == Box({"b": b, "a": a}).digest("x")
    others = [
        Box({"a": a}).digest("x"),
        Box({"a": a, "b": FloatDistribution(0, 2)}).digest("x"),
        Box({"a": a, "b": b}).digest("y"),
    ]
    assert len({Box({"a": a, "b": b}).digest("x"), *others}) == 4
