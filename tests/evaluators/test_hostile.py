"""What evaluators may yield and return by mistake: each is refused with a sentence."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import merge_optuna as mo
from merge_optuna.evaluators import Function, check_evaluator, value_of
from tests.hostile import check_refused

MODEL = nn.Linear(1, 1)


class Given:
    """An evaluator that yields and returns what it is given."""

    metric_names: Any = ("m",)

    def __init__(
        self, batches: Any, value: Any = 0.5, directions: Any = ("maximize",), size: Any = 4
    ) -> None:
        self.batches, self.given, self.size, self.directions = batches, value, size, directions

    def __len__(self) -> int:
        return self.size

    def __call__(self, model: nn.Module) -> Iterator[Any]:
        yield from self.batches

    def value(self, scores: np.ndarray) -> Any:
        return self.given


IDS, ONES = np.arange(4), np.ones(4)
WHOLE = [(IDS, ONES)]

BATCHES: list[tuple[Any, str]] = [
    ([], "Given has yielded 0 of its 4 examples, not 0: a score is over all of them."),
    ([(IDS[:2], ONES[:2])], "Given has yielded 2 of its 4 examples, not 2"),
    ([*WHOLE, *WHOLE], "Batch 1 of Given has an example that came before, 0: each comes once."),
    ([([0, 0, 1, 2], ONES)], "Batch 0 of Given has an example that came before"),
    ([([0, 1, 2, 9], ONES)], "has example ids from 0 to 9, but the examples are 0 to 3."),
    ([([0, 1, 2, -1], ONES)], "has example ids from -1 to 2, but the examples are 0 to 3."),
    ([(IDS * 1.0, ONES)], "must have example ids of shape (b,), whole numbers, not float64 of"),
    ([(list("abcd"), ONES)], "scores must be real numbers, not <U1"),
    ([(IDS, ["1"] * 4)], "Batch 0 of Given: scores must be real numbers, not <U1: ['1', '1'"),
    ([(IDS, [None] * 4)], "scores must be real numbers, not object"),
    ([(IDS, ONES * 1j)], "scores must be real numbers, not complex128"),
    ([(IDS, ONES[:3])], "has 4 example ids, but scores of shape (3,): (4,) or (4, k) are needed."),
    ([(IDS, np.ones((4, 2, 2)))], "but scores of shape (4, 2, 2)"),
    ([(IDS, np.ones((4, 0)))], "but scores of shape (4, 0)"),
    ([(0, 1.0)], "must have example ids of shape (b,), whole numbers, not int64 of shape ()."),
    ([5], "Batch 0 of Given must be a pair (example ids, scores), not 5."),
    ([(1, 2, 3)], "must be a pair (example ids, scores), not (1, 2, 3)."),
    ([(IDS[:2], np.ones((2, 2))), (IDS[2:], ONES[2:])], "but those before are ('b', 2)"),
]


@pytest.mark.parametrize(("batches", "sentence"), BATCHES)
def test_batches(batches: Any, sentence: str) -> None:
    check_refused(lambda: value_of(Given(batches), MODEL), sentence)


@pytest.mark.parametrize(
    "batches",
    [
        [(torch.arange(4), torch.ones(4))],
        [([3, 1, 0, 2], [True, False, True, True])],
        [([], []), (IDS, ONES)],
        [(IDS[:1], np.ones((1, 2), np.float32)), (IDS[1:], np.ones((3, 2), int))],
    ],
)
def test_batches_of_other_types_of_numbers(batches: Any) -> None:
    assert value_of(Given(batches), MODEL) == 0.5


NUMBERS = [
    "0.5",
    b"1",
    True,
    None,
    np.True_,
    np.array([0.5]),
    np.array("0.5"),
    np.array(None),
    torch.tensor([0.5]),
    torch.tensor(True),
    torch.tensor(1j),
    torch.tensor(0.5, device="meta"),
    np.datetime64(5, "D"),
    decimal.Decimal("0.5"),
    [0.5],
    1j,
    10**400,
]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_what_is_no_number(value: Any) -> None:
    def accuracy(model: nn.Module) -> Any:
        return value

    check_refused(lambda: list(Function(accuracy)(MODEL)), "accuracy must return a number, not ")
    check_refused(lambda: value_of(Given(WHOLE, value), MODEL), "Given.value must return a number")
    two = Given(WHOLE, (0.5, value), ("maximize", "minimize"))
    check_refused(lambda: value_of(two, MODEL), "Given.value must return a number, not ")


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.half)],
)
def test_what_is_a_number(value: Any) -> None:
    assert value_of(Function(lambda model: value), MODEL) == 0.5
    assert value_of(Given(WHOLE, value), MODEL) == 0.5
    assert math.isnan(value_of(Function(lambda model: value * math.nan), MODEL))  # type: ignore


@pytest.mark.parametrize("value", [0.5, (), (0.5,), (1, 2, 3), [0.5, 0.5], np.ones(2)])
def test_as_many_numbers_as_objectives(value: Any) -> None:
    two = Given(WHOLE, value, ("maximize", "minimize"))
    check_refused(lambda: value_of(two, MODEL), "must return 2 numbers, one per objective, not ")


@pytest.mark.parametrize(
    "directions", ["maximize", (), 5, None, [1], ("maximize", "down"), {"maximize": 1}]
)
def test_directions(directions: Any) -> None:
    given = Given(WHOLE, directions=directions)
    check_refused(lambda: check_evaluator(given), "Given.directions must be a list of maximize or")


@pytest.mark.parametrize("names", ["m", (), ("a", "b"), [1], None])
def test_names(names: Any) -> None:
    given = Given(WHOLE)
    given.metric_names = names
    check_refused(lambda: check_evaluator(given), "Given.metric_names must be a list of 1 names")


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (0, "Given has no examples: there is nothing to score a model on."),
        (-1, "The length of Given is no number of examples: __len__() should return >= 0."),
        ("4", "The length of Given is no number of examples"),
        (10**30, "The length of Given is no number of examples"),
        (10**9, "Given says that it has 1,000,000,000 examples; 10,000,000 are allowed."),
    ],
)
def test_sizes(size: Any, sentence: str) -> None:
    check_refused(lambda: check_evaluator(Given(WHOLE, size=size)), sentence)


def test_an_objective_refuses_them_before_a_study_exists() -> None:
    recipe = mo.recipes.linear(
        [mo.Checkpoint.from_module(nn.Linear(2, 2), name=name) for name in "ab"],
        weight=mo.free(0, 1),
    )
    check_refused(lambda: mo.MergeObjective(recipe, Given(WHOLE, size=0)), "has no examples")
