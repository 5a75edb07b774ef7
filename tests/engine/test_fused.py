"""The fused kernels against the methods' own torch kernels: the same bits, in one pass."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna.engine._arrays import flat
from merge_optuna.engine._known import Known
from merge_optuna.engine.fused import way_of
from merge_optuna.engine.fused.evolved import _apply
from merge_optuna.engine.fused.magnitudes import TaskVector, bounds
from merge_optuna.engine.kernels import combination, draws
from merge_optuna.methods._random import keep_mask
from merge_optuna.methods._reduce import stable_sum
from merge_optuna.methods._sparsify import cut_at, kept_count, trim
from merge_optuna.methods.descent import Blend

R = mo.recipes
Family = list[mo.Checkpoint]
quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)


class Odd(nn.Module):
    """Tensors whose sizes are no multiple of a block, of a vector, of two."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in {
            "one": (1,),
            "scalar": (),
            "empty": (0, 3),
            "row": (1023,),
            "matrix": (67, 61),
            "blocks": (2, 1024),
        }.items():
            values = torch.randn(shape, generator=generator)
            self.register_parameter(name, nn.Parameter(values * 0.05))


def make(dtype: torch.dtype, experts: int = 3) -> Family:
    base = Odd(0)
    made = [mo.Checkpoint.from_module(base.to(dtype), name="base")]
    for i, name in enumerate(("ja", "math", "code")[:experts]):
        expert, noise = Odd(0), Odd(1 + i)
        with torch.no_grad():
            for p, q in zip(expert.parameters(), noise.parameters(), strict=True):
                p += 0.1 * q
                if p.numel() > 1000:
                    p[: len(p) // 3] = dict(base.named_parameters())["row"][:1].float()  # ties
        made.append(mo.Checkpoint.from_module(expert.to(dtype), name=name))
    return made


@pytest.fixture(scope="module")
def families() -> dict[torch.dtype, Family]:
    return {dtype: make(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}


def sparse(base: mo.Checkpoint, experts: Family) -> Iterator[mo.Recipe]:
    weight, density = [0.3, 0.5, 0.4], [0.2, 0.55, 0.9]
    common: dict[str, Any] = {"weight": weight, "density": density, "lambda_": 1.1}
    for normalize, elect, over in itertools.product(
        (True, False), ("mass", "count"), ("tensor", "model")
    ):
        yield R.ties(base, experts, normalize=normalize, elect=elect, trim_over=over, **common)
    for normalize, rescale in itertools.product((True, False), ("density", "l1", "none")):
        yield R.dare_linear(base, experts, normalize=normalize, rescale=rescale, **common)
        for elect in ("mass", "count"):
            yield R.dare_ties(
                base, experts, normalize=normalize, rescale=rescale, elect=elect, **common
            )
    epsilon = [0.0, 0.1, 0.3]
    for rescale, elect in itertools.product(("density", "l1", "none"), ("mass", "count")):
        yield R.della(base, experts, rescale=rescale, elect=elect, epsilon=epsilon, **common)
    yield R.della(base, experts, normalize=False, density=[0.0, 1.0, 0.99])
    yield R.della_linear(base, experts, normalize=True, epsilon=epsilon, **common)
    gamma = [0.0, 0.01, 0.3]
    for normalize in (True, False):
        yield R.breadcrumbs(base, experts, normalize=normalize, gamma=gamma, **common)
        yield R.breadcrumbs_ties(base, experts, normalize=normalize, gamma=gamma, **common)
        yield R.breadcrumbs(base, experts, normalize=normalize, rescale="l1", **common)
    for density in ([0.0, 1.0, 0.001], [1e-12, 1 - 1e-12, 0.999]):
        yield R.ties(base, experts, density=density)
        yield R.ties(base, experts, density=density[0], trim_over="model")
        yield R.dare_ties(base, experts, density=density)
        yield R.dare_linear(base, experts, density=density, rescale="l1")
    yield R.ties(base, experts, weight=[-0.3, 0.5, 0.4], density=0.5, normalize=False)


def dense(base: mo.Checkpoint, experts: Family) -> Iterator[mo.Recipe]:
    yield R.linear(experts, weight=[0.3, 0.5, 0.4])
    yield R.linear(experts, weight=[0.3, -0.5, 0.4], normalize=False)
    yield R.linear([*experts, base], weight={"row": 0.2, "*": 0.7})
    sparsified = R.dare_linear(base, experts[:1], density=0.2, name="sparse")
    averaged = R.linear([experts[0], sparsified], name="average")
    for weight in ([0.3, -0.5, 1.5, 0.2], [0, 1, 0, 0], [1, 0, 0, -2], [0, 0, 1, 0], [0] * 4):
        particle = [base, experts[1], sparsified, averaged]
        yield R.linear(particle, weight=weight, normalize=False)
    yield R.task_arithmetic(base, experts, weight=[0.3, -0.5, 0.4], lambda_=0.9)
    yield R.task_arithmetic(base, experts, weight=[0.3, 0.5, 0.4], normalize=True)
    yield R.slerp(*experts[:2], t=0.3)
    inner = R.slerp(*experts[:2], t=0.7, name="inner")
    yield R.ties(base, [inner, experts[2]], density=0.4)
    yield R.task_arithmetic(inner, experts[2:], weight=0.6)


def assert_same_bits(recipe: mo.Recipe, dtype: torch.dtype | None = None) -> None:
    assert way_of(recipe) is not None
    plain = dict(mo.engine.tensors(recipe, dtype=dtype, fused=False))
    for name, tensor in mo.engine.tensors(recipe, dtype=dtype):
        assert tensor.dtype == plain[name].dtype
        assert tensor.shape == plain[name].shape
        assert torch.equal(bits(tensor), bits(plain[name])), (recipe, name)


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("recipes", [sparse, dense])
def test_the_plain_path_gives_the_same_bits(
    families: dict[torch.dtype, Family], dtype: torch.dtype, recipes: Callable[..., Any]
) -> None:
    base, *experts = families[dtype]
    for recipe in recipes(base, experts):
        assert_same_bits(recipe)


def test_sources_of_several_data_types(families: dict[torch.dtype, Family]) -> None:
    base, experts = families[torch.float32][0], families[torch.bfloat16][1:]
    mixed = [experts[0], families[torch.float32][2]]
    for recipe in (
        R.dare_ties(base, experts, density=0.5, weight=0.3),
        R.ties(base, mixed, density=0.5),
        R.linear([base, *experts]),
    ):
        assert_same_bits(recipe)
        assert_same_bits(recipe, torch.bfloat16)


def test_what_has_no_weight_is_not_read(families: dict[torch.dtype, Family]) -> None:
    """Not even the sign of a zero depends on it; the values of the others are as they are."""
    base, expert, *_ = families[torch.bfloat16]
    zeros = Odd(0)
    for parameter in zeros.parameters():
        parameter.data.fill_(-0.0)
    negative = mo.Checkpoint.from_module(zeros.bfloat16(), name="zeros")
    for fused in (True, False):
        recipe = R.linear([base, expert, negative], weight=[0, 0, 1], normalize=False)
        for name, tensor in mo.engine.tensors(recipe, fused=fused):
            assert torch.equal(bits(tensor), bits(negative.tensor(name)))


def test_float64_sources_take_the_plain_path() -> None:
    base, *experts = make(torch.float64)
    recipe = R.ties(base, experts, density=0.5, trim_over="model")
    plain = dict(mo.engine.tensors(recipe, fused=False))
    for name, tensor in mo.engine.tensors(recipe):
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor, plain[name])


def test_other_numbers_with_what_is_known_of_the_sources(
    families: dict[torch.dtype, Family], tmp_path: Path
) -> None:
    """An engine keeps histograms and dot products between trials; each trial is as if first."""
    base, *experts = families[torch.bfloat16]
    engine = mo.Engine(dtype="float32")
    for density, weight in [(0.2, 0.3), (0.7, -0.5), (0.2, 0.9), (0.0, 1.0), (1.0, 0.1)]:
        for recipe in (
            R.ties(base, experts, density=density, weight=weight, normalize=False),
            R.ties(base, experts, density=density, trim_over="model"),
            R.dare_ties(base, experts, density=density, weight=weight, rescale="l1"),
            R.slerp(*experts[:2], t=density),
        ):
            live = engine.load(recipe).state_dict()
            for name, tensor in mo.engine.tensors(recipe, dtype=torch.float32, fused=False):
                assert torch.equal(live[name], tensor)


def test_rounding_is_that_of_torch() -> None:
    """Also of numbers halfway between two, beyond the largest, denormal, and of what is NaN."""
    patterns = np.concatenate(
        [
            np.arange(0, 1 << 32, 65521, dtype=np.uint64).astype(np.uint32),
            np.arange(0x3F800000, 0x3F820000, dtype=np.uint32),
            np.uint32([0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0x477FF000, 0x477FEFFF]),
        ]
    )
    exact = patterns.view(np.float32)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        out = torch.empty(exact.size, dtype=dtype)
        combination.combine(flat(out), (exact,), np.float32([1]))
        expected = torch.from_numpy(exact).to(dtype)
        nan = expected.isnan()
        assert torch.equal(out.isnan(), nan)
        assert torch.equal(bits(out[~nan]), bits(expected[~nan]))


@pytest.mark.parametrize("n", [0, 1, 2, 1023, 1024, 5001])
@pytest.mark.parametrize("density", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_kept_counts_the_mask(n: int, density: float) -> None:
    key = 0x9E3779B97F4A7C15
    mask = keep_mask(key, torch.Size([n]), density, torch.device("cpu"))
    limit = round(density * 2**32)
    assert draws.kept(np.uint64(key), n, np.uint32(limit - 1)) == int(mask.sum())


FLOATS = st.one_of(
    st.floats(-1e4, 1e4, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, -1e-45, 3e-39, 1.0000001]),
)


@quick
@given(
    delta=hnp.arrays(np.float32, st.integers(1, 3000), elements=FLOATS, fill=FLOATS),
    density=st.floats(0, 1),
)
def test_where_to_trim(delta: np.ndarray, density: float) -> None:
    """The radix selection keeps what a sort would, apart from zeros."""
    base = np.zeros_like(delta)
    keep = kept_count(delta.size, density)
    (bound,) = bounds([TaskVector.of(base, delta, Known(), None)], keep)
    magnitude, index = np.abs(delta), np.arange(delta.size)
    kept = (magnitude > bound.threshold) | ((magnitude == bound.threshold) & (index < bound.last))
    expected = trim(torch.from_numpy(delta), cut_at(torch.from_numpy(delta), density)).numpy()
    assert np.array_equal(np.where(kept, delta, 0), expected)


@pytest.mark.parametrize("std", [0.0, 0.01, 3.7])
@pytest.mark.parametrize("first", [0, 2, 32768])
@pytest.mark.parametrize("size", [1, 5, 1000, 3001])
def test_blend(size: int, first: int, std: float) -> None:
    parents = torch.randn((2, size), generator=torch.Generator().manual_seed(size))
    part = mo.methods.Part("w", "00", offset=4, size=1 << 20, row=10, first=first)
    for split in (0, first + 5, first + size // 2, 1 << 30):
        blend = Blend(split, (0.3, -1.7, 1 / 3, 2.2), std, seed=7)
        assert torch.equal(_apply(blend, list(parents), part), blend(list(parents), part))


@quick
@given(data=st.data(), n=st.integers(1, 4), size=st.integers(1, 2100))
def test_dot_products(data: st.DataObject, n: int, size: int) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    models = [rng.standard_normal(size).astype(np.float32) for _ in range(n)]
    gram = combination.gram(tuple(models))
    for i, j in itertools.product(range(n), repeat=2):
        exact = stable_sum(torch.from_numpy(models[i].astype(float) * models[j].astype(float)))
        assert gram[i, j] == pytest.approx(exact, rel=1e-13, abs=1e-12)


KERNELS = sorted(Path(combination.__file__).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("file", KERNELS, ids=lambda file: file.stem)
def test_a_file_of_kernels_names_the_content_of_those_it_calls(file: Path) -> None:
    """numba knows compiled functions by the text of their own file alone."""
    text = file.read_text()
    called = re.findall(r"^from merge_optuna\.engine\.kernels\.(\w+) import", text, re.MULTILINE)
    stamps = [f"{one} {_digest(file.with_name(f'{one}.py'))}" for one in called]
    last = f"# numba: {', '.join(stamps)}"
    assert not called or text.splitlines()[-1] == last, f"the last line of {file} must be {last}"


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]
