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
from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.methods import Keys, Parameter
from merge_optuna.methods._cuts import model_cuts
from merge_optuna.methods._sparsify import trim

from . import reference

EPS = float(np.finfo(np.float32).eps)
# Float32 numbers whose upper or lower half of the bits is all ones or all zeros.
EDGES = [
    float(x) for x in np.uint32([0x3F80FFFF, 0x3F810000, 0xFFFF, 0x10000, 0x7F7FFFFF]).view("f4")
]
TINY = 1e-36  # products of smaller numbers leave float32

# Parameters that say how much of a task vector is kept, and what a method is when all is kept.
DENSITIES = {"density", "select_topk"}
PLAIN = {
    "dare_linear": "task_arithmetic",
    "dare_ties": "ties",
    "della_linear": "task_arithmetic",
    "della": "ties",
    "breadcrumbs": "task_arithmetic",
    "breadcrumbs_ties": "ties",
}

finite = st.floats(-1e4, 1e4, width=32)
unit = st.floats(0, 1)
positive = st.floats(0.01, 3)
# Passed with 2000 examples each; the same few every time keep the suite quick and steady.
quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)
few = settings(quick, max_examples=20)


@st.composite
def tensors(draw: st.DrawFn, count: int) -> list[Tensor]:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=6))
    arrays = hnp.arrays(np.float32, shape, elements=finite)
    return [torch.from_numpy(np.array(draw(arrays))) for _ in range(count)]


def number_of(parameter: Parameter) -> st.SearchStrategy[float]:
    """Any number in the range, often an end of it or one next to it."""
    low, high = max(parameter.low, -3.0), min(parameter.high, 3.0)
    ends = [x for x in (low, 5e-324, 1e-9, high) if low <= x <= high]
    return st.one_of(st.floats(low, high), st.sampled_from(ends))


def values_for(method: str, data: st.DataObject, n: int, **given: Any) -> dict[str, Any]:
    """Any values that the spec allows, but for those that are given."""
    values: dict[str, Any] = {}
    for parameter in methods.get(method).parameters:
        if parameter.name in given:
            one = given[parameter.name]
            value = one if isinstance(one, list) or not parameter.per_model else [one] * n
        elif parameter.choices:
            value = data.draw(st.sampled_from(parameter.choices))
        elif isinstance(parameter.default, bool):
            value = data.draw(st.booleans())
        elif isinstance(parameter.default, int):
            value = data.draw(st.integers(int(parameter.low), int(min(parameter.high, 2**63 - 1))))
        else:
            number = number_of(parameter)
            value = data.draw(
                st.lists(number, min_size=n, max_size=n) if parameter.per_model else number
            )
        values[parameter.name] = value
    if any(isinstance(need, Keys) for need in methods.get(method).needs):
        keys = st.integers(0, 2**64 - 1)
        values["keys"] = data.draw(st.lists(keys, min_size=n, max_size=n))
    return values


def some_models(method: str, data: st.DataObject, most: int = 3) -> int:
    low, high = methods.get(method).models
    return data.draw(st.integers(low, int(max(low, min(high, most)))))


def that_promise(promise: str) -> pytest.MarkDecorator:
    found = [m.name for m in methods.METHODS.values() if promise in m.promises]
    return pytest.mark.parametrize("method", found)


def that_have(parameter: str) -> pytest.MarkDecorator:
    found = [
        m.name for m in methods.METHODS.values() if parameter in {p.name for p in m.parameters}
    ]
    return pytest.mark.parametrize("method", found)


def run(method: str, base: Tensor, models: list[Tensor], values: dict[str, Any]) -> Tensor:
    spec = methods.get(method)
    return spec.kernel(base if spec.base else None, models, **values)


def may_be_infeasible(values: dict[str, Any]) -> bool:
    """Only normalised weights can lack a result."""
    return "weight" in values and values.get("normalize", True)


@pytest.mark.parametrize("method", methods.METHODS)
@quick
@given(data=st.data())
def test_never_nan(method: str, data: st.DataObject) -> None:
    n = some_models(method, data)
    base, *models = data.draw(tensors(1 + n))
    values = values_for(method, data, n)
    try:
        result = run(method, base, models, values)
    except InfeasibleRecipe:
        assert may_be_infeasible(values)
        return
    assert torch.isfinite(result).all()


def assert_equals_model(result: Tensor, model: Tensor, base: Tensor) -> None:
    """Equal but for float32 rounding of the sums and of the way from the base and back."""
    error = (result.double() - model.double()).abs()
    assert (error <= 8 * EPS * torch.maximum(model.abs(), base.abs()) + TINY).all()


@that_promise("idempotent")
@quick
@given(pair=tensors(2), data=st.data())
def test_a_merge_of_copies_is_the_model(
    method: str, pair: list[Tensor], data: st.DataObject
) -> None:
    base, model = pair
    n = some_models(method, data, most=4)
    weight = data.draw(st.lists(positive, min_size=n, max_size=n))
    values = values_for(
        method, data, n, weight=weight, lambda_=1.0, **dict.fromkeys(DENSITIES, 1.0)
    )
    if not values.get("normalize") and "weight" in values:
        values["weight"] = [w / sum(weight) for w in weight]
    result = run(method, base, [model] * n, values)
    assert_equals_model(result, model, base)


@that_promise("selective")
@few
@given(data=st.data())
def test_one_model_alone_can_be_selected(method: str, data: st.DataObject) -> None:
    n = some_models(method, data)
    base, *models = data.draw(tensors(1 + n))
    chosen = data.draw(st.integers(0, n - 1))
    weight = [float(i == chosen) for i in range(n)]
    values = values_for(
        method, data, n, weight=weight, lambda_=1.0, **dict.fromkeys(DENSITIES, 1.0)
    )
    assert_equals_model(run(method, base, models, values), models[chosen], base)


@that_promise("symmetric")
@few
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_the_order_of_the_models_does_not_matter(
    method: str, data: st.DataObject, seed: int
) -> None:
    """In float64 and with normal numbers, whose votes and magnitudes are never close to equal."""
    generator = torch.Generator().manual_seed(seed)
    n = some_models(method, data, most=4)
    base, *models = torch.randn(1 + n, 3, 5, generator=generator, dtype=torch.float64)
    values = values_for(method, data, n)
    if may_be_infeasible(values):
        values["weight"] = [abs(w) + 0.1 for w in values["weight"]]
    order = data.draw(st.permutations(range(n)))
    each = {p.name for p in methods.get(method).parameters if p.per_model} | {"keys"}
    turned = {k: [v[i] for i in order] if k in each else v for k, v in values.items()}
    result = run(method, base, models, values)
    other = run(method, base, [models[i] for i in order], turned)
    torch.testing.assert_close(other, result, rtol=1e-11, atol=1e-11)


@that_promise("elementwise")
@few
@given(data=st.data(), cut=st.integers(0, 30))
def test_an_elementwise_method_merges_parts_on_their_own(
    method: str, data: st.DataObject, cut: int
) -> None:
    n = some_models(method, data)
    base, *models = (t.reshape(-1) for t in data.draw(tensors(1 + n)))
    values = values_for(method, data, n)
    try:
        whole = run(method, base, models, values)
    except InfeasibleRecipe:
        return
    parts = [
        run(method, base[part], [m[part] for m in models], values)
        for part in (slice(cut), slice(cut, None))
    ]
    assert torch.equal(torch.cat(parts), whole)


@that_promise("proportional")
@few
@given(data=st.data(), seed=st.integers(0, 2**32), factor=st.floats(0.01, 100))
def test_only_the_shares_of_the_weights_matter(
    method: str, data: st.DataObject, seed: int, factor: float
) -> None:
    n = some_models(method, data, most=4)
    generator = torch.Generator().manual_seed(seed)
    base, *models = torch.randn(1 + n, 3, 5, generator=generator, dtype=torch.float64)
    weight = data.draw(st.lists(positive, min_size=n, max_size=n))
    values = values_for(method, data, n, weight=weight)
    scaled = {**values, "weight": [w * factor for w in weight]}
    result = run(method, base, models, values)
    torch.testing.assert_close(run(method, base, models, scaled), result, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("method", "plain"), PLAIN.items())
@few
@given(data=st.data())
def test_in_full_density_it_is_the_plain_method(
    method: str, plain: str, data: st.DataObject
) -> None:
    base, *models = data.draw(tensors(4))
    values = values_for(method, data, 3, density=1.0)
    names = {p.name for p in methods.get(plain).parameters}
    rest = {k: v for k, v in values.items() if k in names}
    try:
        wanted = run(plain, base, models, rest)
    except InfeasibleRecipe:
        with pytest.raises(InfeasibleRecipe):
            run(method, base, models, values)
        return
    assert torch.equal(run(method, base, models, values), wanted)


@that_have("weight")
@few
@given(data=st.data())
def test_weights_of_any_sign_do_not_blow_up(method: str, data: st.DataObject) -> None:
    """Dividing by weights that nearly cancel is refused where it amplifies more than tenfold."""
    n = some_models(method, data)
    _, *models = data.draw(tensors(1 + n))
    weight = data.draw(
        st.lists(st.sampled_from([-1.0, -0.999, -0.3, 0.0, 0.3, 1.0]), min_size=n, max_size=n)
    )
    full = dict.fromkeys(DENSITIES, 1.0)
    values = values_for(method, data, n, weight=weight, lambda_=1.0, normalize=True, **full)
    try:
        result = run(method, torch.zeros_like(models[0]), models, values)
    except InfeasibleRecipe:
        return
    largest = max((float(m.abs().max()) for m in models if m.numel()), default=0.0)
    assert (result.abs() <= 10 * largest * (1 + 8 * EPS) + TINY).all()


@that_promise("vanishing")
@quick
@given(data=st.data())
def test_density_0_gives_the_base_exactly(method: str, data: st.DataObject) -> None:
    n = some_models(method, data)
    base, *models = data.draw(tensors(1 + n))
    nothing = dict.fromkeys(DENSITIES, 0.0)
    values = values_for(method, data, n, normalize=False, **nothing)
    assert torch.equal(run(method, base, models, values), base)


@that_have("lambda_")
@quick
@given(data=st.data())
def test_lambda_0_gives_the_base_exactly(method: str, data: st.DataObject) -> None:
    n = some_models(method, data)
    base, *models = data.draw(tensors(1 + n))
    values = values_for(method, data, n, lambda_=0.0, normalize=False)
    assert torch.equal(run(method, base, models, values), base)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
@quick
@given(group=tensors(4), data=st.data())
def test_the_order_of_models_does_not_matter_in_float32(
    method: str, group: list[Tensor], data: st.DataObject
) -> None:
    base, *models = group
    values = values_for(method, data, 3, weight=[1.0, 0.5, 2.0])
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
