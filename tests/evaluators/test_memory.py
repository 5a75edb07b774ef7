"""A device that is out of memory above a size: batches stay, and are run in pieces."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import (
    Classification,
    Generation,
    MultipleChoice,
    NegativeLogLikelihood,
)
from tests import toys
from tests.evaluators.conftest import WORDS, Net
from tests.vocabularies import word_level


def small_device(model: nn.Module, most: int) -> list[int]:
    """Makes a model run out of memory with more than ``most`` examples; what it was given."""
    sizes: list[int] = []

    def forget(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(len((*args, *kwargs.values())[0]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.register_forward_pre_hook(forget, with_kwargs=True)
    return sizes


def classification() -> tuple[Any, nn.Module]:
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(30, 4)).astype(np.float32), rng.integers(3, size=30)
    return Classification((inputs, labels), batch_size=10), Net(4, 3)


def likelihood() -> tuple[Any, nn.Module]:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 20))) for _ in range(30)]
    data = datasets.Dataset.from_dict({"text": texts})
    return NegativeLogLikelihood(data, tokenizer=word_level(WORDS), batch_size=10), toys.llama()


def choice() -> tuple[Any, nn.Module]:
    rows = [
        {"question": f"w{n} w1", "choices": ["w1", f"w{n}"], "answer": n % 2} for n in range(30)
    ]
    data = datasets.Dataset.from_list(rows)
    return MultipleChoice(data, tokenizer=word_level(WORDS), batch_size=10), toys.llama()


def generation() -> tuple[Any, nn.Module]:
    data = datasets.Dataset.from_dict({"question": WORDS[:30], "answer": WORDS[:30]})
    # One token, so that the model is called once for every piece.
    options: dict[str, Any] = {"max_new_tokens": 1, "scorer": lambda reply, row: len(reply)}
    return Generation(data, tokenizer=word_level(WORDS), batch_size=10, **options), toys.llama()


EVALUATORS = [classification, likelihood, generation]


@pytest.mark.parametrize("make", EVALUATORS)
def test_batches_are_run_in_halves(make: Callable[[], tuple[Any, nn.Module]]) -> None:
    evaluator, model = make()
    expected = list(evaluator(model))
    sizes = small_device(model, 3)
    with pytest.warns(UserWarning, match="out of memory with 10 examples at once") as told:
        found = list(evaluator(model))
    assert len(told) == 1
    assert sizes == [10, 5, *[2] * 15]
    for (ids, scores), (ids_then, scores_then) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ids, ids_then)
        np.testing.assert_allclose(scores, scores_then, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(evaluator(model))
    assert sizes[17:] == [2] * 15


def test_two_choices_are_two_rows() -> None:
    evaluator, model = choice()
    expected = np.concatenate([scores for _, scores in evaluator(model)])
    sizes = small_device(model, 5)
    with pytest.warns(UserWarning, match="out of memory"):
        found = np.concatenate([scores for _, scores in evaluator(model)])
    np.testing.assert_array_equal(found, expected)
    assert sizes == [20, 10, *[4] * 15]


@pytest.mark.parametrize("make", [*EVALUATORS, choice])
def test_one_example_that_does_not_fit(make: Callable[[], tuple[Any, nn.Module]]) -> None:
    evaluator, model = make()
    small_device(model, 0)
    message = "not enough memory for a single example: CUDA out of memory"
    with pytest.warns(UserWarning, match="out of"), pytest.raises(EvaluationError, match=message):
        list(evaluator(model))
