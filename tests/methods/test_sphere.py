"""Model Stock and the spherical methods: their formulas, their geometry, their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from ..engine.test_fused import assert_same_bits, make
from . import reference_sphere as reference
from . import test_public
from .test_public import Family, array, assert_merged
from .test_threads import threads

families, family = test_public.families, test_public.family


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def merged(method: str, *models: Tensor, base: Tensor | None = None, **values: Any) -> Tensor:
    """Calls a kernel with the defaults of its spec."""
    spec = methods.get(method)
    defaults = {
        p.name: [p.default] * len(models) if p.per_model else p.default for p in spec.parameters
    }
    return spec.kernel(base, models, **(defaults | values))


def model_stock(base: Tensor, *models: Tensor, filter_wise: bool = False) -> Tensor:
    return merged("model_stock", *models, base=base, filter_wise=filter_wise)


def nuslerp(a: Tensor, b: Tensor, *, t: float = 0.5, **values: Any) -> Tensor:
    return merged("nuslerp", a, b, weight=[1 - t, t], **values)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Models with nothing in common."""
    root: Path = tmp_path_factory.mktemp("strangers")
    return [
        mo.Checkpoint(toys.save(toys.llama(seed), root / str(seed)), name=str(seed))
        for seed in (1, 2, 3)
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
    pair, t = strangers[:2], weight[1] / sum(weight)
    recipe = mo.recipes.nuslerp(pair, weight=weight, **WAYS[way])
    assert_merged(recipe, lambda name: nuslerp_of(*(array(c, name) for c in pair), t=t, way=way))


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("weight", "t"), [([0.0, 0.0], 0.5), ([1.0, -1.0], 0.5), ([1.0, -0.9], -9.0)]
)
def test_nuslerp_beyond_a_model(
    strangers: Family, weight: list[float], t: float, way: str
) -> None:
    """Weights of both signs lead along the great circle beyond one of the models."""
    pair = strangers[:2]
    recipe = mo.recipes.nuslerp(pair, weight=weight, **WAYS[way])
    assert_merged(recipe, lambda name: nuslerp_of(*(array(c, name) for c in pair), t=t, way=way))


# -- Multi-SLERP and Karcher mean ---------------------------------------------------------

EQUAL, UNEQUAL = [1 / 3] * 3, [0.5, 0.125, 0.375]
EXACT = {"tol": 1e-14, "max_iter": 1000}


@pytest.mark.parametrize("weight", [EQUAL, UNEQUAL, [0.75, -0.25, 0.5]])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_multislerp(strangers: Family, weight: list[float], scale: float) -> None:
    given = [scale * w for w in weight]
    recipe = mo.recipes.multislerp(strangers, weight=given)
    plain = mo.recipes.multislerp(strangers, weight=weight, normalize=False)
    for one in (recipe, plain):
        assert_merged(
            one, lambda name: reference.multislerp([array(c, name) for c in strangers], weight)
        )


def test_multislerp_of_task_vectors(family: Family) -> None:
    base, *experts = family
    recipe = mo.recipes.multislerp(experts, base=base, weight=UNEQUAL)

    def expected(name: str) -> np.ndarray:
        origin = array(base, name)
        return origin + reference.multislerp([array(c, name) - origin for c in experts], UNEQUAL)

    assert_merged(recipe, expected)


@pytest.mark.parametrize("weight", [EQUAL, UNEQUAL, [0.0, 0.25, 0.75]])
def test_karcher(strangers: Family, weight: list[float]) -> None:
    recipe = mo.recipes.karcher(strangers, weight=[3 * w for w in weight], **EXACT)
    assert_merged(
        recipe, lambda name: reference.karcher([array(c, name) for c in strangers], weight)
    )


def test_ten_steps_are_enough_for_models(strangers: Family) -> None:
    """At right angles to each other, as models that have nothing in common are."""
    weight = [0.7, 0.1, 0.2]
    default, exact = (
        dict(mo.engine.tensors(mo.recipes.karcher(strangers, weight=weight, **values)))
        for values in ({}, EXACT)
    )
    for name, tensor in default.items():
        assert float((tensor - exact[name]).norm() / exact[name].norm()) < 1e-4


CANCELLING = {
    "opposite": ([[3.0, 4.0], [-3.0, -4.0]], [0.0, 0.0]),
    "opposite, of unequal length": ([[3.0, 4.0], [-6.0, -8.0]], [-1.5, -2.0]),
    "one element": ([[0.5], [-0.25]], [0.125]),
    "the corners of a triangle": ([[2.0, 0.0], [-1.0, 3**0.5], [-1.0, -(3**0.5)]], [0.0, 0.0]),
    "nothing": ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
}


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
@pytest.mark.parametrize("case", CANCELLING)
def test_directions_that_cancel_are_averaged_linearly(method: str, case: str) -> None:
    vectors, average = CANCELLING[case]
    result = merged(method, *(torch.tensor(v) for v in vectors))
    torch.testing.assert_close(result, torch.tensor(average), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_zeros_only_shorten_the_mean(method: str) -> None:
    a, b = (randn(20, seed=i).double() for i in range(2))
    without = merged(method, a, b)
    torch.testing.assert_close(merged(method, a, torch.zeros_like(a), b), without * 2 / 3)


def test_one_opposite_model_does_not_turn_the_karcher_mean() -> None:
    a = randn(20).double()
    result = merged("karcher", a, a, -a)
    torch.testing.assert_close(result, a)  # the mean length is that of a


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
@pytest.mark.parametrize("weight", [[0.0, 0.0], [1.0, -1.0]])
def test_means_without_weight(method: str, weight: list[float]) -> None:
    models = randn(5), randn(5, seed=1)
    with pytest.raises(InfeasibleRecipe, match="cannot be normalised"):
        merged(method, *models, weight=weight)


def test_karcher_takes_no_negative_weight(strangers: Family) -> None:
    with pytest.raises(RecipeError, match=r"weight must be in \[0, ∞\), not -0\.1"):
        mo.recipes.karcher(strangers, weight=[1, 1, -0.1])


# -- NearSwap and Arcee Fusion ------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 1e-7, 0.01, 0.02, 10.0])
def test_nearswap(family: Family, t: float) -> None:
    base, expert = family[:2]
    recipe = mo.recipes.nearswap(base, expert, t=t)
    assert_merged(
        recipe, lambda name: reference.nearswap(array(base, name), array(expert, name), t)
    )


def test_nearswap_swaps_what_is_near() -> None:
    base, model = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 1.125, 0.5, 3.0])
    assert merged("nearswap", model, base=base, t=0.25).tolist() == [1.0, 1.125, 0.75, 1.25]


def test_arcee_fusion(family: Family) -> None:
    """Every element is the expert's or the base's, which one by its importance."""
    base, expert = family[:2]
    result = dict(mo.engine.tensors(mo.recipes.arcee_fusion(base, expert)))
    taken = total = 0
    for name, tensor in result.items():
        importance = reference.importance(array(base, name), array(expert, name))
        edge = reference.unusual(importance)
        swapped = np.where(importance >= edge, array(expert, name), array(base, name))
        clear = np.abs(importance - edge) > 1e-5 * edge  # changes of bfloat16 models may be equal
        assert np.array_equal(tensor.double().numpy()[clear], swapped[clear]), name
        either = (tensor == base.tensor(name)) | (tensor == expert.tensor(name))
        assert either.all()
        taken, total = taken + int((importance >= edge).sum()), total + tensor.numel()
    assert 0.05 < taken / total < 0.2


def test_arcee_fusion_where_nothing_stands_out() -> None:
    """Rows of one element diverge from nothing: all have importance 0, which is the median."""
    for shape in [(), (1,), (5, 1)]:
        base, model = randn(*shape), randn(*shape, seed=1)
        assert torch.equal(merged("arcee_fusion", model, base=base), model)
    base = randn(4, 5)
    assert torch.equal(merged("arcee_fusion", base, base=base), base)
    assert merged("arcee_fusion", torch.empty(0, 3), base=torch.empty(0, 3)).shape == (0, 3)


def test_arcee_fusion_of_tensors_beyond_all_bounds() -> None:
    base = randn(3, 4) * 1e4
    assert torch.isfinite(merged("arcee_fusion", -base, base=base)).all()


# -- geometry in 2 to 50 dimensions -------------------------------------------------------

dimensions = pytest.mark.parametrize("dimension", [2, 3, 10, 50])


def bundle(dimension: int, n: int, seed: int) -> list[Tensor]:
    """Vectors of different lengths that point the same way more or less."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    noise[:, 0] = dimension**0.5
    return list(noise * torch.rand(n, 1, generator=generator, dtype=torch.float64).exp())


@dimensions
@pytest.mark.parametrize("seed", range(5))
def test_at_the_karcher_mean_the_gradient_vanishes(dimension: int, seed: int) -> None:
    """That of Σ w·ω² over the sphere is −2 Σ w·log; and no nearby point is better."""
    models, weight = bundle(dimension, 4, seed), np.array([0.4, 0.3, 0.2, 0.1])
    found = merged("karcher", *models, weight=weight.tolist(), **EXACT).numpy()
    units = [(m / m.norm()).numpy() for m in models]
    length = np.linalg.norm(found)
    assert length == pytest.approx(sum(weight * [float(m.norm()) for m in models]))
    gradient = sum(
        w * reference.logarithm(found / length, u) for w, u in zip(weight, units, strict=True)
    )
    assert np.linalg.norm(gradient) < 1e-12

    def energy(point: np.ndarray) -> float:
        angles = [np.arccos(np.vdot(u, point) / np.linalg.norm(point)) for u in units]
        return float(weight @ np.square(angles))

    rng = np.random.default_rng(seed)
    for _ in range(20):
        other = found / length + 0.01 * rng.standard_normal(dimension)
        assert energy(other) > energy(found)


@dimensions
@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_angles_are_split_exactly(dimension: int, method: str, t: float) -> None:
    """Between unit vectors: on the sphere, in their plane, at the share t of their angle."""
    for seed in range(5):
        a, b = (m / m.norm() for m in bundle(dimension, 2, seed))
        values = {"t": t} if method == "slerp" else {"weight": [1 - t, t]}
        point = merged(method, a, b, **values)
        assert float(point.norm()) == pytest.approx(1, abs=1e-12)
        whole, first, second = (
            2 * np.arcsin(float((x - y).norm()) / 2) for x, y in [(a, b), (a, point), (point, b)]
        )
        assert (first, second) == pytest.approx((t * whole, (1 - t) * whole), abs=1e-12)


@dimensions
def test_the_multislerp_has_mean_direction_and_mean_length(dimension: int) -> None:
    for seed in range(5):
        models, weight = bundle(dimension, 3, seed), torch.tensor(UNEQUAL).double()
        found = merged("multislerp", *models, weight=UNEQUAL)
        direction = sum(w * m / m.norm() for w, m in zip(weight, models, strict=True))
        length = sum(w * m.norm() for w, m in zip(weight, models, strict=True))
        torch.testing.assert_close(found, direction * (length / direction.norm()))
        torch.testing.assert_close(
            found, torch.from_numpy(reference.multislerp([m.numpy() for m in models], UNEQUAL))
        )


@dimensions
@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
def test_with_a_base_it_is_the_same_around_another_origin(dimension: int, method: str) -> None:
    for seed in range(5):
        origin, models = randn(dimension, seed=seed).double(), bundle(dimension, 2, seed)
        moved = merged(method, *(m + origin for m in models), base=origin, weight=[0.3, 0.5])
        torch.testing.assert_close(
            moved, origin + merged(method, *models, weight=[0.3, 0.5]), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_of_two_equally_long_models_the_means_are_the_middle(method: str) -> None:
    a, b = (m / m.norm() for m in bundle(9, 2, seed=0))
    torch.testing.assert_close(merged(method, a, b), nuslerp(a, b))
    if method == "karcher":  # a share of the angle, where multislerp has a share of the chord
        torch.testing.assert_close(
            merged(method, a, b, weight=[0.7, 0.3], **EXACT), nuslerp(a, b, t=0.3)
        )


# -- as search spaces, and coefficients ---------------------------------------------------


@pytest.mark.parametrize("method", ["nuslerp", "karcher", "multislerp"])
def test_of_two_weights_one_share_is_searched(strangers: Family, method: str) -> None:
    recipe = getattr(mo.recipes, method)
    space = recipe(strangers[:2], weight=mo.free(0, 1))
    assert list(space.distributions()) == ["share/1"]
    assert space.bind({"share/1": 0.3}).values["weight"] == pytest.approx((0.3, 0.7))


@pytest.mark.parametrize("method", ["nuslerp", "karcher"])
def test_freed_weights_keep_their_proportions(strangers: Family, method: str) -> None:
    """Also those above the search range, which are scaled into it and not cut off."""
    space = getattr(mo.recipes, method)(strangers[:2], weight=[3.0, 1.0]).free()
    assert space.start() == {"share/1": 0.75}


def test_free_weights_of_either_sign_have_no_shares(strangers: Family) -> None:
    with pytest.raises(RecipeError, match=r"In nuslerp only the proportions.*for all\.$"):
        mo.recipes.nuslerp(strangers[:2], weight=mo.free(-1, 1)).distributions()


def test_rows_have_no_common_coefficients() -> None:
    products = gram([randn(4, 5, seed=i) for i in range(3)])
    stock, nu = methods.get("model_stock"), methods.get("nuslerp")
    assert stock.coefficients(products, filter_wise=True) is None
    assert nu.coefficients(products, weight=[1, 1], flatten=False, row_wise=False) is None


WITH_COEFFICIENTS = [
    (method.name, with_base)
    for method in methods.METHODS.values()
    for with_base in (False, True)
    if method.coefficients and method.base in (with_base, None)
]


@pytest.mark.parametrize(("method", "with_base"), WITH_COEFFICIENTS)
def test_coefficients_give_what_the_kernel_gives(method: str, with_base: bool) -> None:
    """Bit for bit, so an engine may use either."""
    spec = methods.get(method)
    tensors = [randn(40, 50, seed=i) for i in range(2 + with_base)]
    base, models = (tensors[0], tensors[1:]) if with_base else (None, tensors)
    values = {p.name: [0.3, 0.5] if p.per_model else p.default for p in spec.parameters}
    found = spec.coefficients(gram(tensors), **values)
    assert torch.equal(combine(tensors, found), spec.kernel(base, models, **values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_engine_gives_the_same_bits_from_coefficients(dtype: torch.dtype) -> None:
    """On tensors of any size, also one element, none, and rows where coefficients are declined."""
    base, *experts = make(dtype)
    for recipe in (
        mo.recipes.model_stock(base, experts),
        mo.recipes.model_stock(base, experts, filter_wise=True),
        mo.recipes.nuslerp(experts[:2], weight=[0.2, 0.5]),
        mo.recipes.nuslerp(experts[:2], base=base, flatten=False),
        mo.recipes.multislerp(experts, base=base, weight=UNEQUAL),
        mo.recipes.karcher(experts, weight=UNEQUAL),
    ):
        assert_same_bits(recipe)


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


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("model_stock", {"filter_wise": True}),
        ("nuslerp", {"flatten": False}),
        ("nuslerp", {"flatten": False, "row_wise": True}),
        ("arcee_fusion", {}),
    ],
)
def test_rows_give_the_same_bits_with_any_number_of_threads(
    method: str, values: dict[str, Any]
) -> None:
    tensors = [randn(1027, 1029, seed=i) for i in range(3)]
    base = tensors.pop() if methods.get(method).base else None
    models = tensors[:1] if method == "arcee_fusion" else tensors
    results = []
    for n in (1, 2):
        with threads(n):
            results.append(merged(method, *models, base=base, **values))
    assert torch.equal(*results)
