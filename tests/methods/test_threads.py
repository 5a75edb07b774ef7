"""The same bytes with one thread and with two, on tensors large enough for torch to split."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from merge_optuna import methods
from merge_optuna.methods._random import keep_mask
from merge_optuna.methods._reduce import stable_sum

from .values import example

SHAPE = (1027, 1029)  # over a million elements, not a multiple of any chunk
CASES: list[tuple[str, dict[str, Any]]] = [
    *((method, {}) for method in methods.METHODS),
    *((m, {"normalize": True}) for m in ("task_arithmetic", "dare_linear", "dare_ties")),
    *((m, {"rescale": "l1"}) for m in ("dare_linear", "della", "breadcrumbs")),
    ("ties", {"elect": "count"}),
    ("dare_ties", {"rescale": "density", "elect": "mass"}),
]


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tensors() -> list[Tensor]:
    """A base and two models; some magnitudes are equal."""
    generator = torch.Generator().manual_seed(0)
    base, *noise = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    return [base, *(base + (0.1 * n).bfloat16() for n in noise)]


@pytest.mark.parametrize(("method", "changes"), CASES)
def test_kernels(method: str, changes: dict[str, Any], tensors: list[Tensor]) -> None:
    spec = methods.get(method)
    models = tensors[1 : 1 + int(min(2, spec.models[1]))]
    values = example(method, len(models), **changes)
    results = []
    for n in (1, 2):
        with threads(n):
            results.append(spec.kernel(tensors[0] if spec.base else None, models, **values))
    one, two = (result.view(torch.int32) for result in results)
    assert torch.equal(one, two)


def test_masks() -> None:
    masks = []
    for n in (1, 2):
        with threads(n):
            masks.append(keep_mask(7, torch.Size(SHAPE), 0.4, torch.device("cpu")))
    assert torch.equal(*masks)


@pytest.mark.parametrize("n", [1, 5, 1 << 14, (1 << 14) + 1, 1 << 15, 100_003, 1_056_783])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums(n: int, dtype: torch.dtype, tensors: list[Tensor]) -> None:
    """Several, because torch's own float64 sum differs between threads in some of them only."""
    for tensor in tensors:
        values = tensor.reshape(-1)[:n].to(dtype)
        for terms in (values, values.abs(), values * values):
            sums = []
            for count in (1, 2, 3):
                with threads(count):
                    sums.append(stable_sum(terms))
            assert sums[0] == sums[1] == sums[2]
            assert sums[0] == pytest.approx(math.fsum(terms.tolist()), rel=1e-11)
