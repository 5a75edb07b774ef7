"""Model Stock and the spherical methods by mergekit 0.1.5, as in ``test_mergekit``.

What differs on purpose:

* Angles: mergekit takes them from float32 sums, we from float64 sums.
* Small task vectors: its Model Stock pulls to the base where the norms of two task vectors have a
  product below 1e-6.
* Opposite tensors (cosine below −0.9995) we interpolate linearly, as slerp does; there mergekit's
  NuSLERP amplifies what little they differ in.
* Weights that cancel: its NuSLERP then takes t = 0.5; we refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import merge_optuna as mo

from .. import toys
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
