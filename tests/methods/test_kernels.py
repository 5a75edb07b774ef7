"""The kernels on small tensors: edges, ties, shapes, and that they leave their inputs alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna import methods
from merge_optuna.errors import InfeasibleRecipe

from . import reference
from .values import example, most_models


def merged(method: str, *tensors: Tensor, **changes: Any) -> Tensor:
    """Calls a kernel; the first tensor is the base where the method has one."""
    spec = methods.get(method)
    inputs = list(tensors)
    base = inputs.pop(0) if spec.base else None
    return spec.kernel(base, inputs, **example(method, len(inputs), **changes))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs_for(method: str, *shape: int) -> list[Tensor]:
    count = most_models(method) + bool(methods.get(method).base)
    return [randn(*shape, seed=i) for i in range(count)]


# -- every method -------------------------------------------------------------------------


@pytest.mark.parametrize("method", methods.METHODS)
def test_shape_dtype_and_inputs_are_kept(method: str) -> None:
    for shape in [(), (1,), (7,), (3, 5), (2, 3, 4), (0,), (0, 3)]:
        for dtype in (torch.float32, torch.float64):
            tensors = [t.to(dtype) for t in inputs_for(method, *shape)]
            before = [t.clone() for t in tensors]
            result = merged(method, *tensors)
            assert (result.shape, result.dtype) == (torch.Size(shape), dtype)
            assert torch.isfinite(result).all()
            result += 1  # must not reach the sources, which are mapped from disk
            assert all(torch.equal(t, b) for t, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize("method", methods.METHODS)
def test_the_layout_in_memory_does_not_matter(method: str) -> None:
    dense = inputs_for(method, 6, 10)
    strided = [t.T.contiguous().T for t in dense]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(merged(method, *strided), merged(method, *dense), rtol=0, atol=0)


@pytest.mark.parametrize("method", methods.METHODS)
def test_one_value_per_model_is_that_models(method: str) -> None:
    """The last model must count as the reference says when only its values differ."""
    spec = methods.get(method)
    tensors = inputs_for(method, 40)
    plain = merged(method, *tensors)
    for parameter in spec.parameters:
        if parameter.per_model:
            values = list(example(method, most_models(method))[parameter.name])
            values[-1] = 0.0
            changed = merged(method, *tensors, **{parameter.name: values})
            assert not torch.equal(changed, plain), parameter.name


# -- trim ---------------------------------------------------------------------------------


def kept_by_ties(delta: Tensor, density: float) -> Tensor:
    """What one expert's trimming leaves."""
    return merged(
        "ties", torch.zeros_like(delta), delta, weight=[1.0], density=[density], lambda_=1
    )


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100, 1000])
def test_trim_keeps_k_elements(n: int) -> None:
    delta = randn(n)
    for density in (1e-300, 1e-6, 0.01, 0.1, 0.29, 0.3, 0.5, 0.999, 1.0):
        kept = kept_by_ties(delta, density)
        assert int((kept != 0).sum()) == max(1, int(density * n))
        np.testing.assert_array_equal(
            kept.numpy(), np.float32(reference.trimmed(delta.double().numpy(), density))
        )
    assert not kept_by_ties(delta, 0.0).any()


def test_equal_magnitudes_are_kept_from_the_front() -> None:
    delta = torch.tensor([1.0, -1.0, 1.0, 3.0, -1.0, 1.0, 0.5, -3.0])
    for density, kept in [
        (1 / 8, [3]),
        (2 / 8, [3, 7]),
        (3 / 8, [3, 7, 0]),
        (4 / 8, [3, 7, 0, 1]),
        (6 / 8, [3, 7, 0, 1, 2, 4]),
        (7 / 8, [3, 7, 0, 1, 2, 4, 5]),
        (8 / 8, range(8)),
    ]:
        wanted = torch.zeros(8)
        wanted[list(kept)] = delta[list(kept)]
        assert torch.equal(kept_by_ties(delta, density), wanted)


def test_trim_with_many_equal_magnitudes() -> None:
    """As between bfloat16 models; in two dimensions the flat index counts."""
    generator = torch.Generator().manual_seed(3)
    delta = torch.randint(-4, 5, (30, 40), generator=generator).float()
    for density in np.linspace(0.01, 1, 34):
        kept = kept_by_ties(delta, float(density))
        np.testing.assert_array_equal(
            kept.numpy(), reference.trimmed(delta.double().numpy(), density)
        )


class Tensors(nn.Module):
    """A checkpoint with the given tensors."""

    def __init__(self, *tensors: list[float]) -> None:
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(torch.tensor(t)) for t in tensors])


def test_equal_magnitudes_across_tensors_are_kept_from_the_first() -> None:
    base = mo.Checkpoint.from_module(Tensors([0.0] * 3, [0.0] * 4, [0.0] * 3), name="base")
    expert = mo.Checkpoint.from_module(
        Tensors([1.0, 0.5, -1.0], [2.0, 1.0, -1.0, 1.0], [1.0, -2.0, 0.25]), name="expert"
    )
    for k, wanted in {
        1: ([0, 0, 0], [2, 0, 0, 0], [0, 0, 0]),
        2: ([0, 0, 0], [2, 0, 0, 0], [0, -2, 0]),
        3: ([1, 0, 0], [2, 0, 0, 0], [0, -2, 0]),
        5: ([1, 0, -1], [2, 1, 0, 0], [0, -2, 0]),
        7: ([1, 0, -1], [2, 1, -1, 1], [0, -2, 0]),
        8: ([1, 0, -1], [2, 1, -1, 1], [1, -2, 0]),
        10: ([1, 0.5, -1], [2, 1, -1, 1], [1, -2, 0.25]),
    }.items():
        recipe = mo.recipes.ties(base, [expert], density=k / 10, trim_over="model")
        assert [t.tolist() for _, t in mo.engine.tensors(recipe)] == [list(w) for w in wanted]


# -- sign election and disjoint merge -----------------------------------------------------


def elected(weight: list[float], *deltas: list[float], **changes: Any) -> list[float]:
    base = torch.zeros(len(deltas[0]))
    values = {"density": [1.0] * len(weight), "lambda_": 1.0, **changes}
    result: list[float] = merged(
        "ties", base, *map(torch.tensor, deltas), weight=weight, **values
    ).tolist()
    return result


def test_the_elected_sign_is_that_of_the_weighted_sum() -> None:
    # Column by column: agreement, mass against majority, exact cancellation (+), all zero.
    deltas = [1.0, -5.0, 3.0, 0.0], [2.0, 2.0, -1.0, 0.0], [4.0, 1.0, -2.0, 0.0]
    assert elected([1.0, 1.0, 1.0], *deltas, normalize=False) == [7.0, -5.0, 3.0, 0.0]
    assert elected([1.0, 1.0, 1.0], *deltas, elect="count", normalize=False) == [7, 3, -3, 0]
    assert elected([0.5, 1.0, 1.0], *deltas, normalize=False) == [6.5, 3.0, -3.0, 0.0]


def test_a_negative_weight_turns_the_vote() -> None:
    assert elected([1.0, -1.0], [1.0, 1.0], [3.0, -3.0], normalize=False) == [-3.0, 4.0]
    assert elected(
        [1.0, -1.0, -1.0], [5.0, 1.0], [1.0, -1.0], [1.0, -1.0], normalize=False, elect="count"
    ) == [-2.0, 3.0]


def test_the_mean_is_over_those_who_agree() -> None:
    """An entry that was trimmed away or is zero has no voice and does not dilute the mean."""
    assert elected([1.0, 1.0, 3.0], [2.0, 4.0], [0.0, -1.0], [6.0, 0.5]) == [5.0, 1.375]


@pytest.mark.parametrize("elect", ["mass", "count"])
def test_a_tie_of_votes_elects_plus(elect: str) -> None:
    assert elected([1.0, 1.0], [2.0, -2.0], [-2.0, 2.0], elect=elect) == [2.0, 2.0]


def test_a_weight_of_zero_takes_no_part() -> None:
    deltas = [1.0, -1.0, 2.0], [-4.0, 3.0, 8.0]
    assert elected([0.5, 0.0], *deltas) == deltas[0]
    assert elected([0.0, 0.0], *deltas) == [0.0] * 3  # nobody votes: the base stays


# -- DARE ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_of_nothing_is_the_base(method: str, rescale: str) -> None:
    base, expert = randn(50), randn(50, seed=1)
    dare = {"rescale": rescale, "weight": [1.0]}
    assert torch.equal(merged(method, base, expert, density=[0.0], **dare), base)
    assert torch.equal(merged(method, base, base, density=[0.5], **dare), base)  # a norm of 0
    # A mask of 3 elements that keeps none of them: no division by the realised density 0.
    key = next(k for k in range(9) if not reference.mask(k, (3,), 0.2).any())
    few = merged(method, base[:3], expert[:3], density=[0.2], keys=[key], **dare)
    assert torch.equal(few, base[:3])


def test_rescaling_by_the_realised_density_cannot_blow_up() -> None:
    """64 elements at density 1/64: dividing by the nominal density would give a factor of 64."""
    delta = torch.ones(64)
    for key in range(20):
        kept = merged(
            "dare_linear",
            torch.zeros(64),
            delta,
            weight=[1.0],
            density=[1 / 64],
            lambda_=1.0,
            keys=[key],
        )
        count = int(reference.mask(key, (64,), 1 / 64).sum())
        torch.testing.assert_close(kept.sum(), torch.tensor(64.0 if count else 0.0))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_l1_rescaling_leaves_what_has_no_norm(method: str) -> None:
    """The factor of a mask that hits only a tiny entry would be infinite in float32."""
    delta = torch.tensor([1.0, 1e-43])
    key = next(k for k in range(20) if reference.mask(k, (2,), 0.5).tolist() == [False, True])
    base = torch.zeros(2)
    l1 = {"rescale": "l1", "weight": [1.0], "lambda_": 1.0, "density": [0.5], "keys": [key]}
    assert torch.equal(merged(method, base, delta, **l1), torch.tensor([0.0, 1e-43]))
    scaled = merged(method, base, torch.tensor([1.0, 1e-6]), **l1)
    torch.testing.assert_close(scaled, torch.tensor([0.0, 1.000001]))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_masks_differ_between_experts_tensors_and_seeds(method: str) -> None:
    ones = [[1.0] * 500, [1.0] * 500]
    base = mo.Checkpoint.from_module(Tensors([0.0] * 500, [0.0] * 500), name="base")
    kept = {}
    for expert in ("ja", "math"):
        source = mo.Checkpoint.from_module(Tensors(*ones), name=expert)
        for seed in (0, 1):
            recipe = getattr(mo.recipes, method)(base, [source], rescale="none", seed=seed)
            for name, tensor in mo.engine.tensors(recipe):
                kept[expert, seed, name] = tuple(tensor.tolist())
                wanted = reference.mask(reference.key(seed, expert, name), (500,), 0.5)
                assert np.array_equal(tensor.numpy() == 1, wanted)
    assert len(set(kept.values())) == 8


# -- DELLA --------------------------------------------------------------------------------


def kept_by_della(delta: Tensor, **changes: Any) -> Tensor:
    """What one expert's MAGPRUNE leaves."""
    values = {"weight": [1.0], "lambda_": 1.0, **changes}
    return merged("della_linear", torch.zeros_like(delta), delta, **values)


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (3, 1), (3, 5), (1, 6), (4, 3, 2), (2, 3, 2, 2)]
)
@pytest.mark.parametrize("density", [0.02, 0.5, 0.9])
def test_magprune_is_by_rows_of_the_first_dimension(
    shape: tuple[int, ...], density: float
) -> None:
    delta = (randn(*shape, seed=1) * 2).round()  # with equal magnitudes, and zeros
    for key in range(20):
        values = {"density": [density], "epsilon": [0.3], "keys": [key]}
        kept = kept_by_della(delta, **values)
        exact = delta.double().numpy()
        chances = reference.chances(exact, density, 0.3)
        mask = reference.mask(key, shape, chances)
        np.testing.assert_allclose(
            kept.numpy(), reference.magpruned(exact, chances, mask, "density"), rtol=1e-6
        )


def test_magprune_keeps_each_rank_with_its_probability() -> None:
    rows = 20_000
    delta = torch.tensor([[-5.0, 1.0, 4.0, 2.0, -3.0]]).repeat(rows, 1)
    values = {"density": [0.5], "epsilon": [0.2], "rescale": "none"}
    count = (kept_by_della(delta, **values) != 0).sum(dim=0).tolist()
    for kept, chance in zip(count, [0.7, 0.3, 0.6, 0.4, 0.5], strict=True):
        assert stats.binomtest(kept, rows, chance).pvalue > 1e-4


def test_magprune_without_a_spread_is_dare() -> None:
    base, *experts = inputs_for("della_linear", 30, 20)
    for rescale in ("density", "l1", "none"):
        dare = merged("dare_linear", base, *experts, rescale=rescale)
        della = merged("della_linear", base, *experts, rescale=rescale, epsilon=[0.0] * 3)
        torch.testing.assert_close(della, dare)


@pytest.mark.parametrize("density", [1e-12, 0.01, 0.1])
def test_magprune_cannot_blow_up(density: float) -> None:
    """The smallest is kept with probability 0 and the next ones hardly ever, but then divided."""
    for key in range(50):
        delta = torch.ones(64)
        kept = kept_by_della(delta, density=[density], epsilon=[0.5], keys=[key])
        assert float(kept.sum()) == pytest.approx(64 if kept.any() else 0)


# -- slerp --------------------------------------------------------------------------------


def test_slerp_of_unit_vectors_stays_on_the_sphere() -> None:
    a, b = (t.double() / t.double().norm() for t in (randn(999), randn(999, seed=1)))
    for t in (0.1, 0.5, 0.9):
        result = merged("slerp", a, b, t=t)
        assert float(result.norm()) == pytest.approx(1.0)
        angle = float(torch.acos(a @ b))
        assert float(torch.acos(a @ result)) == pytest.approx(t * angle)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_slerp_of_parallel_vectors_is_linear(factor: float) -> None:
    a = randn(100)
    result = merged("slerp", a, a * factor, t=0.25)
    torch.testing.assert_close(result, a * (0.75 + 0.25 * factor))


@pytest.mark.parametrize("cos", [0.9990, 0.9994, 0.9996, -0.9994, -0.9996])
def test_slerp_turns_linear_at_a_cosine_of_9995(cos: float) -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([cos, (1 - cos**2) ** 0.5])
    result = merged("slerp", a, b, t=0.3)
    linear = 0.7 * a + 0.3 * b
    assert torch.equal(result, a * 0.7 + b * 0.3) == (abs(cos) > 0.9995)
    np.testing.assert_allclose(
        result.numpy(), reference.slerp(a.numpy(), b.numpy(), 0.3), rtol=1e-5
    )
    if abs(cos) < 0.9995:
        assert (result - linear).norm() > 1e-6


def test_slerp_ends_at_its_models() -> None:
    a, b = randn(64), randn(64, seed=1)
    assert torch.equal(merged("slerp", a, b, t=0.0), a)
    assert torch.equal(merged("slerp", a, b, t=1.0), b)


# -- what has no result -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "dare_linear"])
@pytest.mark.parametrize("weight", [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [0.5, -0.45, 0.04]])
def test_weights_that_cannot_be_normalised(method: str, weight: list[float]) -> None:
    tensors = inputs_for(method, 5)
    with pytest.raises(InfeasibleRecipe, match=r"cannot be normalised.*normalize=False"):
        merged(method, *tensors, weight=weight, normalize=True)
    assert torch.isfinite(merged(method, *tensors, weight=weight, normalize=False)).all()


def test_mixed_signs_are_normalised_up_to_tenfold_amplification() -> None:
    tensors = inputs_for("linear", 5)[:2]
    allowed = merged("linear", *tensors, weight=[1.1, -0.89], normalize=True)
    torch.testing.assert_close(allowed, (tensors[0] * 110 - tensors[1] * 89) / 21)
    with pytest.raises(InfeasibleRecipe, match="cannot be normalised"):
        merged("linear", *tensors, weight=[1.1, -0.905], normalize=True)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "dare_linear"])
def test_the_smallest_weight_can_be_normalised(method: str) -> None:
    tensors = inputs_for(method, 5)
    weights = {"weight": [0.0, 5e-324, 0.0], "normalize": True}
    change = {} if method == "linear" else {"lambda_": 1.0}
    result = merged(method, *tensors, **weights, **change)
    torch.testing.assert_close(result, tensors[-2])


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_an_elected_mean_needs_weights_of_one_sign(method: str) -> None:
    tensors = inputs_for(method, 5)
    with pytest.raises(InfeasibleRecipe, match=r"normalize=True needs weights of at least 0"):
        merged(method, *tensors, weight=[1.0, -0.1, 1.0], normalize=True)
    result = merged(method, *tensors, weight=[1.0, -0.1, 1.0], normalize=False)
    assert torch.isfinite(result).all()


def test_the_engine_passes_the_reason_on() -> None:
    models = [mo.Checkpoint.from_module(Tensors([1.0, 2.0]), name=name) for name in "ab"]
    with pytest.raises(InfeasibleRecipe, match=r"\[1\.0, -1\.0\] sum to 0 "):
        dict(mo.engine.tensors(mo.recipes.linear(models, weight=[1.0, -1.0])))
