"""What must hold for any numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from merge_optuna import methods
from merge_optuna.engine._cuts import model_cuts
from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.methods._sparsify import trim

from . import reference

EPS = float(np.finfo(np.float32).eps)
# Float32 numbers whose upper or lower half of the bits is all ones or all zeros.
EDGES = [
    float(x) for x in np.uint32([0x3F80FFFF, 0x3F810000, 0xFFFF, 0x10000, 0x7F7FFFFF]).view("f4")
]
TINY = 1e-36  # products of smaller numbers leave float32

finite = st.floats(-1e4, 1e4, width=32)
unit = st.floats(0, 1)
# Passed with 2000 examples each; the same few every time keep the suite quick and steady.
quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)


@st.composite
def tensors(draw: st.DrawFn, count: int) -> list[Tensor]:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=6))
    arrays = hnp.arrays(np.float32, shape, elements=finite)
    return [torch.from_numpy(np.array(draw(arrays))) for _ in range(count)]


def values_for(method: str, data: st.DataObject, n: int) -> dict[str, Any]:
    """Any values that the spec allows."""
    values: dict[str, Any] = {}
    for parameter in methods.get(method).parameters:
        if parameter.choices:
            values[parameter.name] = data.draw(st.sampled_from(parameter.choices))
        elif isinstance(parameter.default, bool):
            values[parameter.name] = data.draw(st.booleans())
        elif isinstance(parameter.default, int):
            values[parameter.name] = data.draw(
                st.integers(int(parameter.low), int(min(parameter.high, 2**63 - 1)))
            )
        else:
            number = st.floats(max(parameter.low, -3), min(parameter.high, 3))
            values[parameter.name] = data.draw(
                st.lists(number, min_size=n, max_size=n) if parameter.per_model else number
            )
    if methods.get(method).random:
        keys = st.integers(0, 2**64 - 1)
        values["keys"] = data.draw(st.lists(keys, min_size=n, max_size=n))
    return values


def run(method: str, base: Tensor, models: list[Tensor], values: dict[str, Any]) -> Tensor:
    spec = methods.get(method)
    return spec.kernel(base if spec.base else None, models, **values)


@pytest.mark.parametrize("method", methods.METHODS)
@quick
@given(data=st.data())
def test_never_nan(method: str, data: st.DataObject) -> None:
    n = int(min(2, methods.get(method).models[1]))
    base, *models = data.draw(tensors(1 + n))
    values = values_for(method, data, n)
    try:
        result = run(method, base, models, values)
    except InfeasibleRecipe:
        assert values.get("normalize", "weight" in values)  # nothing else is infeasible
        return
    assert torch.isfinite(result).all()


def assert_equals_model(result: Tensor, model: Tensor, base: Tensor) -> None:
    """Equal but for float32 rounding of the sums and of the way from the base and back."""
    error = (result.double() - model.double()).abs()
    assert (error <= 8 * EPS * torch.maximum(model.abs(), base.abs()) + TINY).all()


@quick
@given(models=tensors(1), n=st.integers(1, 4), data=st.data())
def test_linear_merge_of_copies_is_the_model(
    models: list[Tensor], n: int, data: st.DataObject
) -> None:
    weight = data.draw(st.lists(st.floats(0.01, 3), min_size=n, max_size=n))
    result = run("linear", models[0], models * n, {"weight": weight, "normalize": True})
    assert_equals_model(result, models[0], models[0])


@quick
@given(models=tensors(1), t=unit)
def test_slerp_of_copies_is_the_model(models: list[Tensor], t: float) -> None:
    assert_equals_model(run("slerp", models[0], models * 2, {"t": t}), models[0], models[0])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("normalize", [True, False])
@quick
@given(pair=tensors(2), n=st.integers(1, 4), data=st.data())
def test_merge_of_copies_in_full_is_the_model(
    method: str, normalize: bool, pair: list[Tensor], n: int, data: st.DataObject
) -> None:
    """Density 1, and weights that sum to 1 or are normalised."""
    base, model = pair
    values = values_for(method, data, n)
    values["weight"] = data.draw(st.lists(st.floats(0.01, 3), min_size=n, max_size=n))
    if not normalize:
        values["weight"] = [w / sum(values["weight"]) for w in values["weight"]]
    values |= {"normalize": normalize, "lambda_": 1.0}
    if "density" in values:
        values["density"] = [1.0] * n
    result = run(method, base, [model] * n, values)
    assert_equals_model(result, model, base)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
@quick
@given(group=tensors(3), data=st.data())
def test_density_0_gives_the_base_exactly(
    method: str, group: list[Tensor], data: st.DataObject
) -> None:
    base, *models = group
    values = {**values_for(method, data, 2), "density": [0.0, 0.0], "normalize": False}
    assert torch.equal(run(method, base, models, values), base)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
@quick
@given(group=tensors(3), data=st.data())
def test_lambda_0_gives_the_base_exactly(
    method: str, group: list[Tensor], data: st.DataObject
) -> None:
    base, *models = group
    values = {**values_for(method, data, 2), "lambda_": 0.0, "normalize": False}
    assert torch.equal(run(method, base, models, values), base)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@quick
@given(group=tensors(4), data=st.data())
def test_the_order_of_models_does_not_matter(
    method: str, group: list[Tensor], data: st.DataObject
) -> None:
    base, *models = group
    values = {**values_for(method, data, 3), "weight": [1.0, 0.5, 2.0]}
    turned = {k: v[::-1] if isinstance(v, list) else v for k, v in values.items()}
    change = run(method, base, models, values) - run(method, base, models[::-1], turned)
    size = base.abs() + sum(m.abs() for m in models)
    assert (change.abs() <= 64 * EPS * size + TINY).all()


@quick
@given(
    parts=st.lists(
        hnp.arrays(
            np.float32,
            st.integers(1, 8),
            elements=st.one_of(
                st.floats(width=32, allow_nan=False, allow_infinity=False),
                st.sampled_from(EDGES),
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    density=unit,
)
@example(parts=[np.float32([EDGES[0], 1.0, 0.5])], density=0.34)
def test_the_cut_of_a_model_is_that_of_one_long_tensor(
    parts: list[np.ndarray], density: float
) -> None:
    """Radix selection on the bits, for every kind of float32 number."""
    deltas = {str(i): torch.from_numpy(part) for i, part in enumerate(parts)}
    cuts = model_cuts(lambda: iter(deltas.items()), density)
    kept = np.concatenate([trim(delta, cuts[name]).numpy() for name, delta in deltas.items()])
    assert np.array_equal(kept, reference.trimmed(np.concatenate(parts), density))
