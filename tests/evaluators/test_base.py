from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Classification, Evaluator, Function, as_evaluator

from .conftest import Net


def test_function_is_one_example() -> None:
    evaluator = Function(
        lambda model: model.weight.detach().sum(), direction="minimize", name="total"
    )
    model = nn.Linear(2, 2)
    [(ids, scores)] = evaluator(model)
    assert len(evaluator) == 1
    assert ids.tolist() == [0]
    assert evaluator.value(scores) == pytest.approx(model.weight.sum().item())
    assert list(evaluator.directions) == ["minimize"]
    assert list(evaluator.metric_names) == ["total"]


def test_function_is_called_only_when_asked() -> None:
    calls = []
    batches = Function(lambda model: float(len(calls) + (calls.append(model) or 0)))(nn.Identity())
    assert not calls
    next(batches)
    assert len(calls) == 1


@pytest.mark.parametrize("result", [None, "high", [1, 2], torch.ones(3)])
def test_function_must_return_a_number(result: object) -> None:
    def score(model: nn.Module) -> object:
        return result

    with pytest.raises(EvaluationError, match="score must return a number"):
        list(Function(score)(nn.Identity()))  # type: ignore[arg-type]


def test_function_arguments() -> None:
    with pytest.raises(EvaluationError, match="direction must be one of"):
        Function(lambda model: 0.0, direction="max")
    with pytest.raises(EvaluationError, match="must be a function"):
        Function(3)  # type: ignore[arg-type]


def test_as_evaluator() -> None:
    data = (np.zeros((2, 3)), [0, 1])
    for evaluator in (Classification(data), Function(lambda model: 1.0)):
        assert isinstance(evaluator, Evaluator)
        assert as_evaluator(evaluator) is evaluator
    wrapped = as_evaluator(lambda model: model.weight.numel())
    assert wrapped.value(next(iter(wrapped(Net(3, 2))))[1]) == 6


def test_as_evaluator_refuses_what_is_none() -> None:
    class HalfDone:
        directions = ("maximize",)

        def __call__(self, model: nn.Module) -> float:
            return 1.0

    with pytest.raises(EvaluationError, match="HalfDone is not an evaluator: it has no metric_n"):
        as_evaluator(HalfDone())
    with pytest.raises(EvaluationError, match="is needed, not 'accuracy'"):
        as_evaluator("accuracy")


def test_import_loads_neither_transformers_nor_datasets_nor_sklearn() -> None:
    code = (
        "import sys, merge_optuna as mo; mo.evaluators.Classification(([[0.0]], [0]));"
        "print([m for m in ('transformers', 'datasets', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
