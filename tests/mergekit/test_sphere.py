"""Model Stock and the spherical methods by mergekit 0.1.5, as in ``test_mergekit``.

What differs on purpose:

* Angles: mergekit takes them from float32 sums, we from float64 sums.
* Small task vectors: its Model Stock pulls to the base where the norms of two task vectors have a
  product below 1e-6.
* Opposite tensors (cosine below −0.9995) we interpolate linearly, as slerp does; there mergekit's
  NuSLERP amplifies what little they differ in.
* Weights that cancel: its NuSLERP then takes t = 0.5; we refuse.
* Directions that cancel: its Multi-SLERP refuses more than two models, its Karcher mean is the
  first model; both average linearly here.
* Arcee Fusion takes its quartiles from a random sample of a large tensor; ours are exact.
* mergekit's Karcher mean has no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import merge_optuna as mo

from .. import toys
from ..methods import reference_sphere as reference
from . import test_mergekit
from .conftest import Mergekit
from .test_mergekit import ARCHITECTURES, OUT, Family, assert_agree, config

families, family = test_mergekit.families, test_mergekit.family


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Models with nothing in common."""
    root: Path = tmp_path_factory.mktemp("strangers")
    return [
        mo.Checkpoint(toys.save(toys.llama(seed), root / str(seed)), name=str(seed))
        for seed in (1, 2, 3)
    ]


@OUT
@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("experts", [2, 3])
def test_model_stock(
    mergekit: Mergekit,
    family: Family,
    tmp_path: Path,
    out: torch.dtype,
    filter_wise: bool,
    experts: int,
) -> None:
    base, *others = family[: 1 + experts]
    theirs = mergekit.merge(
        config("model_stock", others, base, out=out, filter_wise=filter_wise), tmp_path / "out"
    )
    recipe = mo.recipes.model_stock(base, others, filter_wise=filter_wise)
    assert_agree(recipe, theirs, out)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("weight", [[1.0, 1.0], [0.2, 0.6], [-0.1, 1.1]])
@pytest.mark.parametrize(("flatten", "row_wise"), [(True, False), (False, False), (False, True)])
def test_nuslerp_of_task_vectors(
    mergekit: Mergekit,
    families: Callable[..., Family],
    tmp_path: Path,
    architecture: str,
    weight: list[float],
    flatten: bool,
    row_wise: bool,
) -> None:
    base, *experts = families(architecture, torch.bfloat16)[:3]
    theirs = mergekit.merge(
        config(
            "nuslerp",
            experts,
            base,
            out=torch.bfloat16,
            per_model={"weight": weight},
            nuslerp_flatten=flatten,
            nuslerp_row_wise=row_wise,
        ),
        tmp_path / "out",
    )
    recipe = mo.recipes.nuslerp(
        experts, base=base, weight=weight, flatten=flatten, row_wise=row_wise
    )
    assert_agree(recipe, theirs, torch.bfloat16)


@pytest.mark.parametrize("values", [{}, {"flatten": False}, {"flatten": False, "row_wise": True}])
def test_nuslerp(
    mergekit: Mergekit, strangers: Family, tmp_path: Path, values: dict[str, Any]
) -> None:
    models = strangers[:2]
    made = config("nuslerp", models, per_model={"weight": [0.4, 0.7]})
    made["parameters"] = {f"nuslerp_{name}": value for name, value in values.items()}
    theirs = mergekit.merge(made, tmp_path / "out")
    recipe = mo.recipes.nuslerp(models, weight=[0.4, 0.7], **values)
    assert_agree(recipe, theirs, torch.float32)


@OUT
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weight", [[0.4, 0.4, 0.4], [0.9, -0.3, 0.4]])
def test_multislerp(
    mergekit: Mergekit,
    strangers: Family,
    tmp_path: Path,
    out: torch.dtype,
    normalize: bool,
    weight: list[float],
) -> None:
    made = config("multislerp", strangers, out=out, per_model={"weight": weight})
    made["parameters"] = {"normalize_weights": normalize}
    recipe = mo.recipes.multislerp(strangers, weight=weight, normalize=normalize)
    assert_agree(recipe, mergekit.merge(made, tmp_path / "out"), out)


@pytest.mark.parametrize("weight", [[1.0, -1.0], [0.0, 0.0], [1.0, -0.4]])
def test_nuslerp_of_weights_of_any_sign(
    mergekit: Mergekit, strangers: Family, tmp_path: Path, weight: list[float]
) -> None:
    models = strangers[:2]
    theirs = mergekit.merge(
        config("nuslerp", models, per_model={"weight": weight}), tmp_path / "out"
    )
    assert_agree(mo.recipes.nuslerp(models, weight=weight), theirs, torch.float32)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_multislerp_of_task_vectors(
    mergekit: Mergekit, families: Callable[..., Family], tmp_path: Path, architecture: str
) -> None:
    base, *experts = families(architecture, torch.bfloat16)
    weight = [0.2, 0.5, 0.9]
    theirs = mergekit.merge(
        config("multislerp", experts, base, out=torch.bfloat16, per_model={"weight": weight}),
        tmp_path / "out",
    )
    recipe = mo.recipes.multislerp(experts, base=base, weight=weight)
    assert_agree(recipe, theirs, torch.bfloat16)


@pytest.mark.parametrize("values", [{}, {"max_iter": 2}, {"max_iter": 50, "tol": 1e-6}])
@pytest.mark.parametrize("models", ["strangers", "family"])
def test_karcher(
    mergekit: Mergekit,
    strangers: Family,
    families: Callable[..., Family],
    tmp_path: Path,
    models: str,
    values: dict[str, Any],
) -> None:
    """In bfloat16: in float32 the one may stop a step of ``tol`` before the other."""
    sources = strangers if models == "strangers" else families("bert", torch.bfloat16)
    out = torch.bfloat16
    theirs = mergekit.merge(config("karcher", sources, out=out, **values), tmp_path / "out")
    assert_agree(mo.recipes.karcher(sources, **values), theirs, out)


@OUT
@pytest.mark.parametrize("t", [1e-4, 0.01, 0.02])
def test_nearswap(
    mergekit: Mergekit, family: Family, tmp_path: Path, out: torch.dtype, t: float
) -> None:
    base, expert = family[:2]
    theirs = mergekit.merge(config("nearswap", [expert], base, out=out, t=t), tmp_path / "out")
    assert_agree(mo.recipes.nearswap(base, expert, t=t), theirs, out)


@OUT
def test_arcee_fusion(
    mergekit: Mergekit, family: Family, tmp_path: Path, out: torch.dtype
) -> None:
    base, expert = family[:2]
    theirs = mergekit.merge(config("arcee_fusion", [expert], base, out=out), tmp_path / "out")

    def at_threshold(name: str) -> torch.Tensor:
        """Where float32 and float64 may decide differently."""
        importance = reference.importance(*(c.tensor(name).double().numpy() for c in family[:2]))
        edge = reference.unusual(importance)
        return torch.from_numpy(abs(importance - edge) <= 1e-3 * edge)

    recipe = mo.recipes.arcee_fusion(base, expert)
    assert assert_agree(recipe, theirs, out, left_out=at_threshold) < 0.005


# -- where we differ ----------------------------------------------------------------------


def test_model_stock_of_small_changes(mergekit: Mergekit, tmp_path: Path) -> None:
    """Task vectors of one direction and a norm of 1e-4: their average is kept, not the base."""
    module = toys.llama()
    models = [module, toys.noised(module, 7, 1e-5), toys.noised(module, 7, 1.1e-5)]
    base, *experts = (
        mo.Checkpoint(toys.save(model, tmp_path / str(i)), name=str(i))
        for i, model in enumerate(models)
    )
    name = "model.norm.weight"
    theirs = mergekit.merge(config("model_stock", experts, base), tmp_path / "out")[name]
    ours = dict(mo.engine.tensors(mo.recipes.model_stock(base, experts)))[name]
    change = experts[0].tensor(name) - base.tensor(name)
    assert float((ours - base.tensor(name)).norm() / change.norm()) == pytest.approx(1.05, 0.02)
    assert float((theirs - base.tensor(name)).norm() / change.norm()) < 0.1
