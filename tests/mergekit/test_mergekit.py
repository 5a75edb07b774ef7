"""The same merges by mergekit 0.1.5, an independent implementation.

mergekit is told to compute in float32 (``dtype: float32``) and to round at the end
(``out_dtype``), which is what this package always does. Then the results agree within ``CLOSE`` in
float32, and within one step of bfloat16 besides. What differs on purpose:

* Equal magnitudes at the trim threshold: mergekit's argsort keeps any of them, we keep those at
  the lowest flat index. Between bfloat16 models many are equal (4 % of the elements here), so
  those elements are left out of the comparison; in float32 there are none.
* DARE: mergekit restores the L1 norm by default (``rescale``), we divide by the realised density
  unless told ``rescale="l1"``; and its masks come from torch's global generator, so it is given
  the uniform numbers that ours are made from.
* DELLA: besides, mergekit refuses a density ± epsilon outside (0, 1), where we make epsilon
  smaller; it ranks along the second dimension, which in tensors of more than two is not what
  belongs to one output; and it has no result for rows of one element.
* ``normalize``: where the weights cancel, mergekit returns NaN, amplified noise or the plain sum;
  we refuse.
* Values interpolated over the layers: mergekit gives final norm and head the value of the *first*
  layer, we that of the last.
* Breadcrumbs: below one element of a tensor mergekit keeps nothing, we keep one.
* SCE: the same for the least that is selected; and models whose mean squared changes are below
  1e-6 in sum have equal weights in mergekit.
* mergekit has no merge method that elects by ``"count"`` or trims over the whole model.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import merge_optuna as mo
from merge_optuna.errors import InfeasibleRecipe

from .. import toys
from ..methods import reference
from .conftest import Mergekit, read

CLOSE = 5e-7  # values are of order 1: four units in the last place
Family = list[mo.Checkpoint]

ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "llama": toys.llama,
    "llama, tied": lambda: toys.llama(tied=True),
    "llama, 5 layers, sharded": lambda: toys.llama(layers=5),
    "gpt2": toys.gpt2,
    "bert": toys.bert,
}
MIXED = [0.9, -0.4, 0.3]
POSITIVE = [0.3, 0.5, 0.9]
DENSITY = [0.2, 0.55, 0.8]


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, torch.dtype], Family]:
    """Families by architecture and data type, made when first asked for."""
    root, made = tmp_path_factory.mktemp("families"), {}

    def family(architecture: str, dtype: torch.dtype) -> Family:
        key = (architecture, dtype)
        if key not in made:
            made[key] = toys.family(
                root / f"{architecture} {dtype}".replace(" ", "_").replace(",", ""),
                ARCHITECTURES[architecture],
                dtype=dtype,
                sharded="sharded" in architecture,
            )
        return made[key]

    return family


@pytest.fixture(params=ARCHITECTURES)
def family(request: pytest.FixtureRequest, families: Callable[..., Family]) -> Family:
    """float32 sources of every architecture."""
    return families(request.param, torch.float32)


def config(
    method: str,
    models: Sequence[mo.Checkpoint],
    base: mo.Checkpoint | None = None,
    *,
    out: torch.dtype = torch.float32,
    per_model: dict[str, Sequence[Any]] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """What one writes for mergekit."""
    made: dict[str, Any] = {
        "merge_method": method,
        "models": [
            {
                "model": model.ref,
                "parameters": {name: values[i] for name, values in (per_model or {}).items()},
            }
            for i, model in enumerate(models)
        ],
        "parameters": parameters,
        "dtype": "float32",
        "out_dtype": str(out).removeprefix("torch."),
    }
    return made | ({} if base is None else {"base_model": base.ref})


def assert_agree(
    recipe: mo.Recipe,
    theirs: dict[str, Tensor],
    out: torch.dtype,
    *,
    left_out: Callable[[str], Tensor | None] = lambda name: None,
) -> float:
    """Compares every tensor; returns the share of elements that were left out."""
    ours = dict(mo.engine.tensors(recipe, dtype=out))
    assert ours.keys() == theirs.keys()
    skipped = total = 0
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape) == (out, tensor.shape)
        error = (tensor.double() - other.double()).abs()
        _, exponent = torch.frexp(torch.maximum(tensor.abs(), other.abs()).double())
        step = torch.finfo(out).eps * 2.0 ** (exponent - 1) if out != torch.float32 else 0.0
        wrong = error > step + CLOSE
        skip = left_out(name)
        if skip is not None:
            wrong &= ~skip
            skipped += int(skip.sum())
        total += tensor.numel()
        assert not wrong.any(), (name, float(error[wrong].max()), int(wrong.sum()), wrong.numel())
    return skipped / total


def delta(family: Family, expert: int, name: str) -> Tensor:
    return family[1 + expert].tensor(name).float() - family[0].tensor(name).float()


FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
OUT = pytest.mark.parametrize("out", [torch.float32, torch.bfloat16], ids=str)


@FLOATS
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalize", [True, False])
def test_linear(
    mergekit: Mergekit,
    families: Callable[..., Family],
    tmp_path: Path,
    dtype: torch.dtype,
    architecture: str,
    normalize: bool,
) -> None:
    models, weight = families(architecture, dtype), [0.1, 0.2, 0.3, 0.9]
    theirs = mergekit.merge(
        config("linear", models, out=dtype, per_model={"weight": weight}, normalize=normalize),
        tmp_path / "out",
    )
    recipe = mo.recipes.linear(models, weight=weight, normalize=normalize)
    assert_agree(recipe, theirs, dtype)


@FLOATS
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(
    mergekit: Mergekit,
    families: Callable[..., Family],
    tmp_path: Path,
    dtype: torch.dtype,
    architecture: str,
    t: float,
) -> None:
    """Of a model and its expert, which is linear (cos > 0.9995) for the large weights' tensors."""
    a, b = families(architecture, dtype)[:2]
    theirs = mergekit.merge(config("slerp", [a, b], a, out=dtype, t=t), tmp_path / "out")
    assert_agree(mo.recipes.slerp(a, b, t=t), theirs, dtype)


def test_slerp_of_models_far_apart(mergekit: Mergekit, tmp_path: Path) -> None:
    a, b = (
        mo.Checkpoint(toys.save(toys.llama(seed), tmp_path / str(seed)), name=str(seed))
        for seed in (1, 2)
    )
    theirs = mergekit.merge(config("slerp", [a, b], a, t=0.4), tmp_path / "out")
    assert_agree(mo.recipes.slerp(a, b, t=0.4), theirs, torch.float32)


@FLOATS
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalize", [True, False])
def test_task_arithmetic(
    mergekit: Mergekit,
    families: Callable[..., Family],
    tmp_path: Path,
    dtype: torch.dtype,
    architecture: str,
    normalize: bool,
) -> None:
    base, *experts = families(architecture, dtype)
    theirs = mergekit.merge(
        config(
            "task_arithmetic",
            experts,
            base,
            out=dtype,
            per_model={"weight": MIXED},
            normalize=normalize,
            **{"lambda": 0.7},
        ),
        tmp_path / "out",
    )
    recipe = mo.recipes.task_arithmetic(
        base, experts, weight=MIXED, lambda_=0.7, normalize=normalize
    )
    assert_agree(recipe, theirs, dtype)


@OUT
@pytest.mark.parametrize(
    ("weight", "density", "normalize", "lambda_"),
    [
        (POSITIVE, DENSITY, True, 1.0),
        (POSITIVE, [0.0, 1e-9, 1.0], True, 0.8),
        (MIXED, DENSITY, False, 1.3),
        ([0.5, 0.0, 0.2], [0.29, 0.5, 0.01], True, 1.0),
    ],
)
def test_ties(
    mergekit: Mergekit,
    family: Family,
    tmp_path: Path,
    out: torch.dtype,
    weight: list[float],
    density: list[float],
    normalize: bool,
    lambda_: float,
) -> None:
    base, *experts = family
    theirs = mergekit.merge(
        config(
            "ties",
            experts,
            base,
            out=out,
            per_model={"weight": weight, "density": density},
            normalize=normalize,
            **{"lambda": lambda_},
        ),
        tmp_path / "out",
    )
    recipe = mo.recipes.ties(
        base, experts, weight=weight, density=density, normalize=normalize, lambda_=lambda_
    )
    at_threshold = tied_elements(family, density)
    assert not any(at_threshold(name).any() for name in base.names())
    assert_agree(recipe, theirs, out)


def tied_elements(family: Family, density: Sequence[float]) -> Callable[[str], Tensor]:
    """Elements whose magnitude equals the smallest kept one, where not all of those are kept."""

    def at(name: str) -> Tensor:
        tied = torch.zeros(family[0].shape(name), dtype=torch.bool)
        for expert, share in enumerate(density):
            magnitude = delta(family, expert, name).abs()
            k = max(1, int(share * magnitude.numel())) if share else 0
            ranked = magnitude.flatten().sort(descending=True).values
            if 0 < k < len(ranked) and ranked[k - 1] == ranked[k]:
                tied |= magnitude == ranked[k]
        return tied

    return at


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ties_of_bfloat16_models(
    mergekit: Mergekit, families: Callable[..., Family], tmp_path: Path, architecture: str
) -> None:
    family = families(architecture, torch.bfloat16)
    base, *experts = family
    theirs = mergekit.merge(
        config(
            "ties",
            experts,
            base,
            out=torch.bfloat16,
            per_model={"weight": POSITIVE, "density": DENSITY},
        ),
        tmp_path / "out",
    )
    recipe = mo.recipes.ties(base, experts, weight=POSITIVE, density=DENSITY)
    share = assert_agree(recipe, theirs, torch.bfloat16, left_out=tied_elements(family, DENSITY))
    assert 0 < share < 0.05


@OUT
@pytest.mark.parametrize(
    ("weight", "density", "gamma", "normalize", "lambda_", "rescale"),
    [
        (POSITIVE, DENSITY, [0.01, 0.1, 0.3], True, 1.0, False),
        (MIXED, [0.0, 1.0, 0.4], [0.5, 0.5, 0.9], False, 1.3, False),
        (MIXED, DENSITY, [0.1, 0.2, 0.0], False, 1.0, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs(
    mergekit: Mergekit,
    family: Family,
    tmp_path: Path,
    out: torch.dtype,
    method: str,
    weight: list[float],
    density: list[float],
    gamma: list[float],
    normalize: bool,
    lambda_: float,
    rescale: bool,
) -> None:
    base, *experts = family
    per_model = {"weight": weight, "density": density, "gamma": gamma}
    theirs = mergekit.merge(
        config(
            method,
            experts,
            base,
            out=out,
            per_model=per_model,
            normalize=normalize,
            rescale=rescale,
            **{"lambda": lambda_},
        ),
        tmp_path / "out",
    )
    recipe = getattr(mo.recipes, method)(
        base,
        experts,
        normalize=normalize,
        lambda_=lambda_,
        rescale="l1" if rescale else "none",
        **per_model,
    )

    def too_small(name: str) -> Tensor:
        size = base.tensor(name).numel()
        return torch.full(base.shape(name), any(0 < d * size < 1 for d in density))

    share = assert_agree(recipe, theirs, out, left_out=too_small)
    assert share < 1e-3  # the classifier's bias of BERT


# -- DARE ---------------------------------------------------------------------------------


def our_uniforms(family: Family, seed: int) -> dict[str, Tensor]:
    """What our masks are made from, by the digest of the task vector, from the reference."""
    uniforms = {}
    for expert in range(len(family) - 1):
        for name in family[0].names():
            tau = delta(family, expert, name).contiguous()
            key = reference.key(seed, family[1 + expert].name, name)
            numbers = torch.from_numpy(reference.uniforms(key, tau.shape))
            uniforms[hashlib.sha256(tau.numpy().tobytes()).hexdigest()] = numbers
    return uniforms


@pytest.mark.parametrize(
    ("weight", "density", "normalize", "lambda_", "out"),
    [
        (POSITIVE, [1.0, 1.0, 1.0], True, 1.0, torch.bfloat16),
        (MIXED, [1.0, 1.0, 1.0], False, 0.6, torch.float32),
        (POSITIVE, DENSITY, True, 1.0, torch.float32),
        (MIXED, [0.5, 0.9, 0.0], False, 0.6, torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["l1", "none"])
def test_dare(
    mergekit: Mergekit,
    family: Family,
    tmp_path: Path,
    method: str,
    rescale: str,
    weight: list[float],
    density: list[float],
    normalize: bool,
    lambda_: float,
    out: torch.dtype,
) -> None:
    base, *experts = family
    theirs = mergekit.merge(
        config(
            method,
            experts,
            base,
            out=out,
            per_model={"weight": weight, "density": density},
            normalize=normalize,
            rescale=rescale == "l1",
            **{"lambda": lambda_},
        ),
        tmp_path / "out",
        uniforms=our_uniforms(family, seed=5),
    )
    recipe = getattr(mo.recipes, method)(
        base,
        experts,
        weight=weight,
        density=density,
        normalize=normalize,
        lambda_=lambda_,
        rescale=rescale,
        seed=5,
    )
    assert_agree(recipe, theirs, out)


@pytest.mark.parametrize(
    ("weight", "density", "epsilon", "normalize", "lambda_", "out"),
    [
        (POSITIVE, DENSITY, [0.1, 0.3, 0.15], True, 1.0, torch.float32),
        (MIXED, [0.5, 0.0, 1.0], [0.45, 0.0, 0.1], False, 0.6, torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["della_linear", "della"])
@pytest.mark.parametrize("rescale", ["l1", "none"])
def test_della(
    mergekit: Mergekit,
    family: Family,
    tmp_path: Path,
    method: str,
    rescale: str,
    weight: list[float],
    density: list[float],
    epsilon: list[float],
    normalize: bool,
    lambda_: float,
    out: torch.dtype,
) -> None:
    base, *experts = family
    per_model = {"weight": weight, "density": density, "epsilon": epsilon}
    theirs = mergekit.merge(
        config(
            method,
            experts,
            base,
            out=out,
            per_model=per_model,
            normalize=normalize,
            rescale=rescale == "l1",
            **{"lambda": lambda_},
        ),
        tmp_path / "out",
        uniforms=our_uniforms(family, seed=5),
    )
    recipe = getattr(mo.recipes, method)(
        base,
        experts,
        normalize=normalize,
        lambda_=lambda_,
        rescale=rescale,
        seed=5,
        **per_model,
    )

    def close_calls(name: str) -> Tensor:
        """Where the number drawn is the probability but for float32, in which mergekit has it."""
        close = np.zeros(base.shape(name), dtype=bool)
        for expert, (share, spread) in enumerate(zip(density, epsilon, strict=True)):
            tau = delta(family, expert, name).double().numpy()
            drawn = reference.uniforms(reference.key(5, experts[expert].name, name), tau.shape)
            close |= abs(drawn - reference.chances(tau, share, spread)) < 1e-7
        # One element more or less changes the norm, and with it the tensor.
        return torch.from_numpy(close | (close.any() and rescale == "l1"))

    share = assert_agree(recipe, theirs, out, left_out=close_calls)
    assert share < 0.1


# -- consensus ----------------------------------------------------------------------------


@OUT
@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("sce", {"select_topk": 1.0}),
        ("sce", {"select_topk": 0.3}),
        ("sce", {"select_topk": 0.0}),
        ("ram", {}),
        ("ram", {"epsilon": 0.02}),
        ("ramplus_tl", {}),
        ("ramplus_tl", {"r": 0.7, "alpha": 3.0, "epsilon": 0.03}),
    ],
    ids=str,
)
def test_consensus(
    mergekit: Mergekit,
    family: Family,
    tmp_path: Path,
    out: torch.dtype,
    method: str,
    values: dict[str, float],
) -> None:
    base, *experts = family
    theirs = mergekit.merge(config(method, experts, base, out=out, **values), tmp_path / "out")
    recipe = getattr(mo.recipes, method)(base, experts, **values)

    def too_small(name: str) -> Tensor:
        none_of_theirs = 0 < values.get("select_topk", 1.0) * base.tensor(name).numel() < 1
        return torch.full(base.shape(name), none_of_theirs)

    assert assert_agree(recipe, theirs, out, left_out=too_small) < 1e-3


def test_sce_of_models_close_to_the_base(mergekit: Mergekit, tmp_path: Path) -> None:
    """mergekit weights them equally where mean squares are below 1e-6; we never do."""
    base, *experts = toys.family(tmp_path / "close", scale=1e-4)
    theirs = mergekit.merge(config("sce", experts, base), tmp_path / "out")
    wrong = dict(mo.engine.tensors(mo.recipes.sce(base, experts)))
    assert any((wrong[name] - theirs[name]).abs().max() > 1e-7 for name in base.names())
    for name in base.names():
        exact = base.tensor(name).double().numpy()
        deltas = [delta([base, *experts], i, name).double().numpy() for i in range(len(experts))]
        np.testing.assert_allclose(
            wrong[name].numpy(), reference.sce(exact, deltas, 1.0), atol=1e-7
        )


# -- values per layer and by name; the command --------------------------------------------


def test_values_interpolated_over_the_layers(
    mergekit: Mergekit, families: Callable[..., Family], tmp_path: Path
) -> None:
    """What mergekit calls a gradient is ``per=mo.depth(k)``, but for what follows the layers."""
    base, *experts = families("llama, 5 layers, sharded", torch.float32)
    points = [[0.0, 1.0, 0.2], [1.0, 0.5, 0.5], [0.3, 0.3, 0.6]]
    theirs = mergekit.merge(
        config("task_arithmetic", experts, base, per_model={"weight": points}), tmp_path / "out"
    )
    weight = [
        {
            "model.norm": values[0],
            "lm_head": values[0],
            "*": mo.per_group(values, per=mo.depth(3)),
        }
        for values in points
    ]
    recipe = mo.recipes.task_arithmetic(base, experts, weight=weight)
    assert_agree(recipe, theirs, torch.float32)


def test_values_by_name(
    mergekit: Mergekit, families: Callable[..., Family], tmp_path: Path
) -> None:
    base, *experts = families("llama", torch.float32)
    filters = {"mlp": 0.25, "self_attn": -0.5, "*": 0.75}
    written = [
        {"value": value} if name == "*" else {"filter": name, "value": value}
        for name, value in filters.items()
    ]
    theirs = mergekit.merge(
        config("task_arithmetic", experts, base, per_model={"weight": [written] * 3}),
        tmp_path / "out",
    )
    recipe = mo.recipes.task_arithmetic(base, experts, weight=filters)
    assert_agree(recipe, theirs, torch.float32)


def test_the_command_and_the_written_model(
    mergekit: Mergekit, families: Callable[..., Family], tmp_path: Path
) -> None:
    base, *experts = families("llama, tied", torch.bfloat16)
    (tmp_path / "mine.yml").write_text(
        yaml.safe_dump(
            config(
                "dare_ties",
                experts,
                base,
                out=torch.bfloat16,
                per_model={"weight": MIXED, "density": [1.0] * 3},
            )
        )
    )
    command = Path(mergekit.python).with_name("mergekit-yaml")
    folder = tmp_path / "theirs"
    subprocess.run(
        [command, tmp_path / "mine.yml", folder, "--no-copy-tokenizer", "--quiet"],
        check=True,
        capture_output=True,
    )
    recipe = mo.recipes.dare_ties(base, experts, weight=MIXED, density=1.0)
    ours = read(mo.write(recipe, tmp_path / "ours"))
    theirs = read(folder)
    assert_agree(recipe, theirs, torch.bfloat16)
    assert_agree(recipe, ours, torch.bfloat16)


# -- where we refuse ----------------------------------------------------------------------


def test_weights_that_cancel(
    mergekit: Mergekit, families: Callable[..., Family], tmp_path: Path
) -> None:
    models = families("llama", torch.float32)
    nothing = [0.0, 0.0, 0.0, 0.0]
    theirs = mergekit.merge(
        config("linear", models, per_model={"weight": nothing}), tmp_path / "nan"
    )
    assert all(tensor.isnan().all() for tensor in theirs.values())
    with pytest.raises(InfeasibleRecipe):
        dict(mo.engine.tensors(mo.recipes.linear(models, weight=nothing)))

    base, *experts = models
    almost = [1.0, -0.99, 0.0]
    theirs = mergekit.merge(
        config("ties", experts, base, per_model={"weight": almost, "density": [1.0] * 3}),
        tmp_path / "large",
    )
    largest = max(delta(models, i, name).abs().max() for i in range(3) for name in base.names())
    change = max((theirs[name] - base.tensor(name)).abs().max() for name in base.names())
    assert change > 10 * largest
    with pytest.raises(InfeasibleRecipe):
        dict(mo.engine.tensors(mo.recipes.ties(base, experts, weight=almost, density=1.0)))
