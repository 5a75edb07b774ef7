"""Model Stock and the spherical methods: their formulas, their geometry, their edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import merge_optuna as mo
from merge_optuna import methods
from merge_optuna.errors import InfeasibleRecipe, RecipeError
from merge_optuna.methods._affine import combine, gram
from merge_optuna.methods._rows import row_dots

from .. import toys
from . import reference_sphere as reference
from . import test_public
from .test_public import Family, array, assert_merged
from .test_threads import threads

families, family = test_public.families, test_public.family


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model_stock(base: Tensor, *models: Tensor, filter_wise: bool = False) -> Tensor:
    return methods.get("model_stock").kernel(base, models, filter_wise=filter_wise)


def nuslerp(
    *models: Tensor,
    t: float = 0.5,
    base: Tensor | None = None,
    flatten: bool = True,
    row_wise: bool = False,
) -> Tensor:
    values = {"weight": [1 - t, t], "flatten": flatten, "row_wise": row_wise}
    return methods.get("nuslerp").kernel(base, models, **values)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Two models with nothing in common."""
    root: Path = tmp_path_factory.mktemp("strangers")
    return [
        mo.Checkpoint(toys.save(toys.llama(seed), root / str(seed)), name=str(seed))
        for seed in (1, 2)
    ]


# -- Model Stock --------------------------------------------------------------------------


@pytest.mark.parametrize("experts", [2, 3])
@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock(family: Family, experts: int, filter_wise: bool) -> None:
    recipe = mo.recipes.model_stock(family[0], family[1 : 1 + experts], filter_wise=filter_wise)

    def expected(name: str) -> np.ndarray:
        arrays = [array(c, name) for c in family[: 1 + experts]]
        if filter_wise:
            return reference.by_row(reference.model_stock, *arrays)
        return reference.model_stock(*arrays)

    assert_merged(recipe, expected)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("noise", [0.3, 1.0, 4.0])
def test_model_stock_is_the_nearest_to_the_centre(n: int, noise: float) -> None:
    """Experts at equal distances around a centre, in directions at right angles to each other.

    That is the paper's picture; then no other point between base and average is nearer to it.
    """
    directions = torch.linalg.qr(randn(40, n + 1).double()).Q.T
    base, centre = randn(40, seed=1).double(), directions[0]
    experts = [base + centre + noise * direction for direction in directions[1:]]
    merged = model_stock(base, *experts)
    average = sum(experts) / n - base
    assert float((merged - base - centre) @ average) == pytest.approx(0, abs=1e-12)
    along = float((merged - base) @ average / (average @ average))
    torch.testing.assert_close(merged, base + along * average)
    assert along == pytest.approx(1 / (1 + noise**2 / n))


def test_model_stock_of_the_base_and_of_experts_that_cancel_is_the_base() -> None:
    base, tau = randn(6, 7), randn(6, 7, seed=1)
    for filter_wise in (False, True):
        one = model_stock(base, base, base, filter_wise=filter_wise)
        assert torch.equal(one, base)
        torch.testing.assert_close(
            model_stock(base, base + tau, base - tau, filter_wise=filter_wise), base
        )


def test_an_untouched_expert_is_at_right_angles() -> None:
    """Of three pairs one has an angle; two experts of which one is untouched give the base."""
    base, a, b = (randn(30, seed=i).double() for i in range(3))
    b = a + 0.1 * b
    wanted = reference.model_stock(*(tensor.numpy() for tensor in (base, a, b, base)))
    np.testing.assert_allclose(model_stock(base, a, b, base), wanted)
    torch.testing.assert_close(model_stock(base, a, base), base)


def test_model_stock_needs_two_experts(family: Family) -> None:
    with pytest.raises(RecipeError, match="model_stock merges at least 2 models, not 1"):
        mo.recipes.model_stock(family[0], family[1:2])


# -- NuSLERP ------------------------------------------------------------------------------

WAYS = {
    "whole": {},
    "last axis": {"flatten": False},
    "first axis": {"flatten": False, "row_wise": True},
}


def nuslerp_of(a: np.ndarray, b: np.ndarray, t: float, way: str) -> np.ndarray:
    if way == "whole":
        return reference.nuslerp(a, b, t)
    axis = 0 if way == "first axis" else -1
    return reference.by_row(lambda x, y: reference.nuslerp(x, y, t), a, b, axis=axis)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weight", [[1.0, 1.0], [0.3, 0.9], [0.0, 2.0], [-0.2, 1.0]])
def test_nuslerp(strangers: Family, way: str, weight: list[float]) -> None:
    recipe = mo.recipes.nuslerp(strangers, weight=weight, **WAYS[way])
    t = weight[1] / sum(weight)
    assert_merged(
        recipe, lambda name: nuslerp_of(*(array(c, name) for c in strangers), t=t, way=way)
    )


@pytest.mark.parametrize("way", WAYS)
def test_nuslerp_of_task_vectors(family: Family, way: str) -> None:
    base, *experts = family[:3]
    recipe = mo.recipes.nuslerp(experts, base=base, weight=[0.6, 0.2], **WAYS[way])

    def expected(name: str) -> np.ndarray:
        origin = array(base, name)
        return origin + nuslerp_of(*(array(c, name) - origin for c in experts), t=0.25, way=way)

    assert_merged(recipe, expected)


def test_axes_of_more_than_two_dimensions() -> None:
    a, b = randn(3, 4, 5).double(), randn(3, 4, 5, seed=1).double()
    for way, changes in WAYS.items():
        merged = nuslerp(a, b, t=0.3, **changes)
        np.testing.assert_allclose(merged, nuslerp_of(a.numpy(), b.numpy(), 0.3, way), atol=1e-14)


def test_nuslerp_has_no_threshold_for_nearly_parallel_models() -> None:
    """Unlike slerp: the norm is kept at an angle of 0.01."""
    a, b = torch.tensor([[1.0, 0.0], [np.cos(0.01), np.sin(0.01)]], dtype=torch.float64)
    assert float(nuslerp(a, b).norm()) == pytest.approx(1, abs=1e-12)
    assert float(methods.get("slerp").kernel(None, [a, b], t=0.5).norm()) < 1 - 1e-5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, -3.0])
def test_nuslerp_of_parallel_and_opposite_tensors_is_linear(way: str, factor: float) -> None:
    a = randn(4, 6)
    merged = nuslerp(a, a * factor, t=0.25, **WAYS[way])
    torch.testing.assert_close(merged, a * (0.75 + 0.25 * factor))


@pytest.mark.parametrize("way", WAYS)
def test_nuslerp_of_nothing(way: str) -> None:
    """A tensor of zeros is at right angles: a quarter of the way is sin(π/8) of the other."""
    a = randn(4, 6).double()
    zero = torch.zeros_like(a)
    assert not nuslerp(zero, zero, **WAYS[way]).any()
    torch.testing.assert_close(nuslerp(zero, a, t=0.25, **WAYS[way]), a * np.sin(np.pi / 8))


def test_one_element_has_only_two_directions() -> None:
    for a, b in [(0.5, 0.25), (0.5, -0.25), (-1.0, 3.0)]:
        merged = nuslerp(torch.tensor([a]), torch.tensor([b]), t=0.25)
        assert merged.item() == pytest.approx(0.75 * a + 0.25 * b)


@pytest.mark.parametrize("weight", [[0.0, 0.0], [1.0, -1.0], [1.0, -0.9]])
def test_weights_without_a_share(strangers: Family, weight: list[float]) -> None:
    with pytest.raises(InfeasibleRecipe, match=r"cannot be normalised\. Use weights of one sign,"):
        dict(mo.engine.tensors(mo.recipes.nuslerp(strangers, weight=weight)))


def test_of_two_weights_one_share_is_searched(strangers: Family) -> None:
    space = mo.recipes.nuslerp(strangers, weight=mo.free(0, 1))
    assert list(space.distributions()) == ["share/1"]
    bound = space.bind({"share/1": 0.3})
    assert bound.values["weight"] == pytest.approx((0.3, 0.7))
    with pytest.raises(RecipeError, match=r"In nuslerp only the proportions.*for all\.$"):
        mo.recipes.nuslerp(strangers, weight=mo.free(-1, 1)).distributions()


# -- coefficients -------------------------------------------------------------------------


def test_rows_have_no_common_coefficients() -> None:
    products = gram([randn(4, 5, seed=i) for i in range(3)])
    stock, nu = methods.get("model_stock"), methods.get("nuslerp")
    assert stock.coefficients(products, filter_wise=True) is None
    assert nu.coefficients(products, weight=[1, 1], flatten=False, row_wise=False) is None


@pytest.mark.parametrize("with_base", [False, True])
def test_the_coefficients_give_what_the_kernel_gives(with_base: bool) -> None:
    """Bit for bit, so an engine may use either."""
    tensors = [randn(40, 50, seed=i) for i in range(2 + with_base)]
    base, models = (tensors[0], tensors[1:]) if with_base else (None, tensors)
    cases = {"nuslerp": {"weight": [0.3, 0.5], "flatten": True, "row_wise": False}}
    if with_base:
        cases["model_stock"] = {"filter_wise": False}
    for method, values in cases.items():
        spec = methods.get(method)
        found = spec.coefficients(gram(tensors), **values)
        assert torch.equal(combine(tensors, found), spec.kernel(base, models, **values))


# -- rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1027, 1029), (1, 1_000_003), (3, 100_003), (300_007, 3)])
def test_sums_over_rows_do_not_depend_on_threads(shape: tuple[int, ...]) -> None:
    a, b = randn(*shape), randn(*shape, seed=1)
    sums = []
    for n in (1, 2, 3):
        with threads(n):
            sums.append(row_dots(a, b))
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])
    wanted = np.einsum("rd,rd->r", a.double().numpy(), b.double().numpy())
    np.testing.assert_allclose(sums[0], wanted, rtol=0, atol=1e-11 * shape[1] ** 0.5)
