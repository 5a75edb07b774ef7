"""Every method through the public path: recipes on real checkpoints, merged by the engine.

Bound of the comparison: float32 arithmetic (``SLACK``) and then one rounding to the data type of
the output, half a step. Arithmetic in bfloat16, or two roundings, exceed it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import merge_optuna as mo
from merge_optuna.engine import _needs
from merge_optuna.engine.fused import magnitudes

from .. import toys
from . import reference

SLACK = 2e-6  # values are of order 1, and no case amplifies a task vector more than 10 times
# Weights are multiples of 1/8: then votes that cancel in float64 do so in float32 as well.
MIXED = [0.75, -0.5, 0.25]
POSITIVE = [0.25, 0.5, 0.875]
Family = list[mo.Checkpoint]


def array(checkpoint: mo.Checkpoint, name: str) -> np.ndarray:
    return checkpoint.tensor(name).double().numpy()


def half_step(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Half the distance between neighbouring numbers of the data type."""
    _, exponent = np.frexp(values)
    return torch.finfo(dtype).eps * np.ldexp(1.0, exponent - 1) / 2


def assert_merged(recipe: mo.Recipe, expected: Callable[[str], np.ndarray]) -> None:
    merged = dict(mo.engine.tensors(recipe))
    assert list(merged) == list(recipe.frame.names())
    for name, tensor in merged.items():
        dtype = recipe.frame.dtype(name)
        assert tensor.dtype == dtype
        assert tuple(tensor.shape) == recipe.frame.shape(name)
        wanted = expected(name)
        error = np.abs(tensor.double().numpy() - wanted)
        wrong = error > half_step(wanted, dtype) + SLACK
        assert not wrong.any(), (name, error[wrong].max(), int(wrong.sum()), wrong.size)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    root = tmp_path_factory.mktemp("families")
    return {
        "float32": toys.family(root / "fp32"),
        "bfloat16": toys.family(root / "bf16", dtype=torch.bfloat16, sharded=True),
        "float16": toys.family(root / "fp16", toys.bert, dtype=torch.float16),
    }


@pytest.fixture(params=["float32", "bfloat16"])
def family(request: pytest.FixtureRequest, families: dict[str, Family]) -> Family:
    return families[request.param]


def deltas_of(family: Family, name: str) -> list[np.ndarray]:
    base, *experts = (array(checkpoint, name) for checkpoint in family)
    return reference.task_vectors(base, experts)


@pytest.mark.parametrize("weight", [[1.0] * 4, [0.1, 0.2, 0.3, 0.9], [2, -0.5, 0.25, 0.5]])
@pytest.mark.parametrize("normalize", [True, False])
def test_linear(family: Family, weight: list[float], normalize: bool) -> None:
    recipe = mo.recipes.linear(family, weight=weight, normalize=normalize)
    assert_merged(
        recipe,
        lambda name: reference.linear([array(c, name) for c in family], weight, normalize),
    )


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_of_an_expert_and_another_model(
    family: Family, tmp_path_factory: pytest.TempPathFactory, t: float
) -> None:
    a = family[1]  # the norms' weights are parallel to the other model's, the rest is not
    b = mo.Checkpoint.from_module(toys.llama(seed=5), name="other")
    assert_merged(
        mo.recipes.slerp(a, b, t=t),
        lambda name: reference.slerp(array(a, name), array(b, name), t),
    )


@pytest.mark.parametrize(
    ("weight", "lambda_", "normalize"),
    [([1, 1, 1], 1.0, False), (MIXED, 0.7, False), (MIXED, 1.5, True), ([0.2, 0, 0.1], 1, True)],
)
def test_task_arithmetic(
    family: Family, weight: list[float], lambda_: float, normalize: bool
) -> None:
    recipe = mo.recipes.task_arithmetic(
        family[0], family[1:], weight=weight, lambda_=lambda_, normalize=normalize
    )
    assert_merged(
        recipe,
        lambda name: reference.task_arithmetic(
            array(family[0], name), deltas_of(family, name), weight, lambda_, normalize
        ),
    )


@pytest.mark.parametrize(
    ("weight", "density", "normalize", "elect"),
    [
        ([1, 1, 1], [0.5] * 3, True, "mass"),
        (POSITIVE, [0.2, 1.0, 0.65], True, "mass"),
        (POSITIVE, [0.2, 1.0, 0.65], True, "count"),
        ([0.25, 0.0, 0.875], [0.6, 0.7, 0.8], True, "mass"),
        (MIXED, [0.1, 0.9, 0.5], False, "mass"),
        (MIXED, [0.1, 0.9, 0.5], False, "count"),
        (MIXED, [1e-9, 0.0, 1e-3], False, "mass"),
        ([1, 1, 1], [0.0, 0.0, 0.0], True, "count"),
        ([-1, -0.5, -0.25], [0.7, 0.8, 0.9], False, "mass"),
    ],
)
@pytest.mark.parametrize("trim_over", ["tensor", "model"])
def test_ties(
    family: Family,
    weight: list[float],
    density: list[float],
    normalize: bool,
    elect: str,
    trim_over: str,
) -> None:
    recipe = mo.recipes.ties(
        family[0],
        family[1:],
        weight=weight,
        density=density,
        lambda_=0.8,
        normalize=normalize,
        elect=elect,
        trim_over=trim_over,
    )
    kept = trimmed_model(family, density) if trim_over == "model" else trimmed(family, density)

    def expected(name: str) -> np.ndarray:
        return array(family[0], name) + 0.8 * reference.disjoint(
            kept(name), weight, elect, normalize
        )

    assert_merged(recipe, expected)


def trimmed(family: Family, density: list[float]) -> Callable[[str], list[np.ndarray]]:
    return lambda name: [
        reference.trimmed(delta, share)
        for delta, share in zip(deltas_of(family, name), density, strict=True)
    ]


def trimmed_model(family: Family, density: list[float]) -> Callable[[str], list[np.ndarray]]:
    """Trimming over the model is trimming one long vector with all tensors in order."""
    names = family[0].names()
    sizes = [array(family[0], name).size for name in names]
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for i, share in enumerate(density):
        long = np.concatenate([deltas_of(family, name)[i].ravel() for name in names])
        parts = np.split(reference.trimmed(long, share), np.cumsum(sizes)[:-1])
        for name, part in zip(names, parts, strict=True):
            pieces[name].append(part.reshape(array(family[0], name).shape))
    return lambda name: pieces[name]


def test_the_cut_of_each_whole_model_is_found_once(
    families: dict[str, Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes several passes over the model, so not once per tensor."""
    found: list[str] = []
    for module, name in ((_needs, "model_cuts"), (magnitudes, "bounds")):
        original = getattr(module, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            found.append(name)
            return original(*args)

        monkeypatch.setattr(module, name, counted)
    base = families["float32"][0]
    experts = [
        mo.Checkpoint.from_module(toys.noised(toys.llama(), i), name=str(i)) for i in range(20)
    ]
    recipe = mo.recipes.ties(base, experts, density=0.5, trim_over="model")
    assert len(list(mo.engine.tensors(recipe, fused=False))) == len(base.names())
    assert found == ["model_cuts"] * 20
    assert len(list(mo.engine.tensors(recipe))) == len(base.names())
    assert found == ["model_cuts"] * 20 + ["bounds"] * 20


BREADCRUMBS = [
    {"weight": POSITIVE},
    {"weight": POSITIVE, "density": [0.3, 1.0, 0.8], "gamma": [0.1, 0.2, 0.3], "normalize": True},
    {"weight": MIXED, "density": [0.0, 1e-9, 0.4], "gamma": [0.5, 0.9, 0.0], "lambda_": 1.3},
]


def middles(family: Family, settings: dict[str, Any]) -> Callable[[str], list[np.ndarray]]:
    density, gamma = settings.get("density", [0.5] * 3), settings.get("gamma", [0.01] * 3)

    def at(name: str) -> list[np.ndarray]:
        deltas = deltas_of(family, name)
        kept = [reference.middle(*each) for each in zip(deltas, density, gamma, strict=True)]
        if settings["rescale"] == "l1":
            kept = [reference.with_l1_of(*each) for each in zip(deltas, kept, strict=True)]
        return kept

    return at


@pytest.mark.parametrize("settings", BREADCRUMBS)
@pytest.mark.parametrize("rescale", ["none", "l1"])
def test_breadcrumbs(family: Family, settings: dict[str, Any], rescale: str) -> None:
    settings = {**settings, "rescale": rescale}
    recipe = mo.recipes.breadcrumbs(family[0], family[1:], **settings)
    kept = middles(family, settings)
    assert_merged(
        recipe,
        lambda name: reference.task_arithmetic(
            array(family[0], name),
            kept(name),
            settings["weight"],
            settings.get("lambda_", 1.0),
            settings.get("normalize", False),
        ),
    )


@pytest.mark.parametrize("settings", BREADCRUMBS)
@pytest.mark.parametrize("elect", ["mass", "count"])
def test_breadcrumbs_ties(family: Family, settings: dict[str, Any], elect: str) -> None:
    settings = {**settings, "rescale": "none"}
    recipe = mo.recipes.breadcrumbs_ties(family[0], family[1:], elect=elect, **settings)
    kept = middles(family, settings)

    def expected(name: str) -> np.ndarray:
        merged = reference.disjoint(
            kept(name), settings["weight"], elect, settings.get("normalize", False)
        )
        return array(family[0], name) + settings.get("lambda_", 1.0) * merged

    assert_merged(recipe, expected)


DARE = [
    {"weight": POSITIVE, "density": [0.3, 1.0, 0.8]},
    {"weight": POSITIVE, "density": [0.3, 0.5, 0.8], "normalize": True},
    {"weight": MIXED, "density": [0.0, 0.2, 0.99]},
    {"weight": MIXED, "density": [0.5, 1e-12, 0.4], "seed": 2**63 - 1, "lambda_": 1.3},
]


def dropped(
    family: Family, density: list[float], seed: int, rescale: str
) -> Callable[[str], list[np.ndarray]]:
    def at(name: str) -> list[np.ndarray]:
        return [
            reference.dropped(
                delta,
                reference.mask(reference.key(seed, model.name, name), delta.shape, share),
                rescale,
            )
            for delta, share, model in zip(
                deltas_of(family, name), density, family[1:], strict=True
            )
        ]

    return at


@pytest.mark.parametrize("settings", DARE)
@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
def test_dare_linear(family: Family, settings: dict[str, Any], rescale: str) -> None:
    recipe = mo.recipes.dare_linear(family[0], family[1:], rescale=rescale, **settings)
    kept = dropped(family, settings["density"], settings.get("seed", 0), rescale)
    assert_merged(
        recipe,
        lambda name: reference.task_arithmetic(
            array(family[0], name),
            kept(name),
            settings["weight"],
            settings.get("lambda_", 1.0),
            settings.get("normalize", False),
        ),
    )


@pytest.mark.parametrize("settings", DARE)
@pytest.mark.parametrize(
    ("rescale", "elect"), [("density", "mass"), ("density", "count"), ("l1", "mass")]
)
def test_dare_ties(family: Family, settings: dict[str, Any], rescale: str, elect: str) -> None:
    if settings.get("normalize"):
        settings = {**settings, "weight": [abs(w) for w in settings["weight"]]}
    recipe = mo.recipes.dare_ties(family[0], family[1:], rescale=rescale, elect=elect, **settings)
    weight = settings["weight"]
    kept = dropped(family, settings["density"], settings.get("seed", 0), rescale)

    def expected(name: str) -> np.ndarray:
        merged = reference.disjoint(kept(name), weight, elect, settings.get("normalize", False))
        return array(family[0], name) + settings.get("lambda_", 1.0) * merged

    assert_merged(recipe, expected)


DELLA = [
    {"weight": POSITIVE, "density": [0.3, 1.0, 0.8], "epsilon": [0.1, 0.3, 0.2]},
    {"weight": POSITIVE, "density": [0.3, 0.5, 0.9], "epsilon": 0.4, "normalize": True},
    {"weight": MIXED, "density": [0.0, 0.05, 0.99], "epsilon": [0.5, 0.0, 0.5], "seed": 3},
]


def magpruned(family: Family, settings: dict[str, Any]) -> Callable[[str], list[np.ndarray]]:
    epsilon = settings["epsilon"]
    epsilon = epsilon if isinstance(epsilon, list) else [epsilon] * 3

    def at(name: str) -> list[np.ndarray]:
        kept = []
        for delta, share, spread, model in zip(
            deltas_of(family, name), settings["density"], epsilon, family[1:], strict=True
        ):
            chances = reference.chances(delta, share, spread)
            key = reference.key(settings.get("seed", 0), model.name, name)
            mask = reference.mask(key, delta.shape, chances)
            kept.append(reference.magpruned(delta, chances, mask, settings["rescale"]))
        return kept

    return at


@pytest.mark.parametrize("settings", DELLA)
@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
def test_della_linear(family: Family, settings: dict[str, Any], rescale: str) -> None:
    settings = {**settings, "rescale": rescale}
    recipe = mo.recipes.della_linear(family[0], family[1:], **settings)
    kept = magpruned(family, settings)
    assert_merged(
        recipe,
        lambda name: reference.task_arithmetic(
            array(family[0], name),
            kept(name),
            settings["weight"],
            1.0,
            settings.get("normalize", False),
        ),
    )


@pytest.mark.parametrize("settings", DELLA)
@pytest.mark.parametrize(("rescale", "elect"), [("density", "mass"), ("l1", "count")])
def test_della(family: Family, settings: dict[str, Any], rescale: str, elect: str) -> None:
    settings = {**settings, "rescale": rescale, "lambda_": 1.2}
    if settings.setdefault("normalize", False):
        settings["weight"] = [abs(w) for w in settings["weight"]]
    recipe = mo.recipes.della(family[0], family[1:], elect=elect, **settings)
    kept = magpruned(family, settings)

    def expected(name: str) -> np.ndarray:
        merged = reference.disjoint(kept(name), settings["weight"], elect, settings["normalize"])
        return array(family[0], name) + 1.2 * merged

    assert_merged(recipe, expected)


# -- consensus ----------------------------------------------------------------------------


@pytest.mark.parametrize("select_topk", [1.0, 0.6, 0.1, 1e-9, 0.0])
def test_sce(family: Family, select_topk: float) -> None:
    assert_merged(
        mo.recipes.sce(family[0], family[1:], select_topk=select_topk),
        lambda name: reference.sce(array(family[0], name), deltas_of(family, name), select_topk),
    )


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.02, 9.0])
def test_ram(family: Family, epsilon: float) -> None:
    """Changes are normal with a deviation of 0.02."""
    assert_merged(
        mo.recipes.ram(family[0], family[1:], epsilon=epsilon),
        lambda name: reference.ram(array(family[0], name), deltas_of(family, name), epsilon),
    )


@pytest.mark.parametrize(
    ("r", "alpha", "epsilon"), [(0.1, 0.2, 1e-5), (1.0, 5.0, 0.02), (0.5, 0.3, 0.03), (2, 1, 9)]
)
def test_ramplus_tl(family: Family, r: float, alpha: float, epsilon: float) -> None:
    assert_merged(
        mo.recipes.ramplus_tl(family[0], family[1:], r=r, alpha=alpha, epsilon=epsilon),
        lambda name: reference.ram(
            array(family[0], name), deltas_of(family, name), epsilon, r, alpha
        ),
    )


@pytest.mark.parametrize(("tall", "agree"), [([0.4] * 3, 2), ([0.2, 0.6, 1.0], 1), ([1] * 3, 3)])
def test_consensus_ta(families: dict[str, Family], tall: list[float], agree: int) -> None:
    family = families["float32"]  # of bfloat16 deltas some meet the threshold exactly
    assert_merged(
        mo.recipes.consensus_ta(family[0], family[1:], tall=tall, agree=agree, lambda_=0.7),
        lambda name: reference.consensus_ta(
            array(family[0], name), deltas_of(family, name), tall, agree, 0.7
        ),
    )


def moved(base: mo.Checkpoint, name: str, scales: dict[str, float]) -> mo.Checkpoint:
    """A model that differs from the base by as much as the first part of a name that fits says."""
    module = toys.llama()
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            scale = next(size for part, size in scales.items() if part in key)
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(base.tensor(key) + noise)
    return mo.Checkpoint.from_module(module, name=name)


def test_rankmean_over_blocks(families: dict[str, Family]) -> None:
    """One model has changed its second block most, the other two their first."""
    base = families["float32"][0]
    models = [
        moved(base, "a", {"layers.0": 0.01, "layers.1": 0.02, "": 9.0}),
        moved(base, "bc", {"layers.0": 0.8, "layers.1": 0.4, "": 0.1}),
        moved(base, "def", {"layers.0": 0.2, "layers.1": 0.1, "": 0.0}),
    ]

    def expected(name: str) -> np.ndarray:
        ranks = [1, 2, 2] if "layers.0" in name else [2, 1, 1] if "layers.1" in name else [1] * 3
        return reference.rankmean([array(model, name) for model in models], ranks)

    assert_merged(mo.recipes.rankmean(base, models), expected)


def test_rankmean_over_tensors(family: Family) -> None:
    base, *models = family
    ranks = []
    for i in range(len(models)):
        change = {name: np.abs(deltas_of(family, name)[i]).sum() for name in base.names()}
        order = sorted(base.names(), key=lambda name: change[name])
        ranks.append({name: 1 + order.index(name) for name in order})
    assert ranks[0] != ranks[1]
    assert_merged(
        mo.recipes.rankmean(base, models, rank_over="tensor"),
        lambda name: reference.rankmean(
            [array(model, name) for model in models], [rank[name] for rank in ranks]
        ),
    )


@pytest.mark.parametrize(
    ("frame", "other"),
    [("bfloat16", "float32"), ("float32", "bfloat16"), ("float16", "float16")],
)
def test_sources_may_have_different_data_types(
    families: dict[str, Family], frame: str, other: str
) -> None:
    family = [families[frame][0], *families[other][1:]]
    density = [0.3, 0.75, 0.5]
    recipe = mo.recipes.ties(family[0], family[1:], weight=MIXED, density=density, normalize=False)
    kept = trimmed(family, density)
    assert_merged(
        recipe,
        lambda name: array(family[0], name) + reference.disjoint(kept(name), MIXED, "mass", False),
    )


def test_float64_is_merged_in_float64(tmp_path: Path) -> None:
    family = toys.family(tmp_path, dtype=torch.float64)
    recipe = mo.recipes.linear(family, weight=[0.1, 0.2, 0.3, 0.4])
    for name, tensor in mo.engine.tensors(recipe):
        wanted = reference.linear([array(c, name) for c in family], [0.1, 0.2, 0.3, 0.4], True)
        assert tensor.dtype == torch.float64
        np.testing.assert_allclose(tensor.numpy(), wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("density", [0.25, 0.3, 0.6])
@pytest.mark.parametrize("trim_over", ["tensor", "model"])
def test_float64_is_trimmed(tmp_path: Path, trim_over: str, density: float) -> None:
    """Sources that differ beyond float32, so that no delta is a float32 number."""
    models = [toys.llama().double(), *(toys.llama().double() for _ in range(2))]
    for i, model in enumerate(models):
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.02
    base, *experts = (
        mo.Checkpoint(toys.save(m, tmp_path / str(i), dtype=torch.float64), name=str(i))
        for i, m in enumerate(models)
    )
    merged = mo.recipes.ties(base, experts, density=density, trim_over=trim_over, normalize=False)
    names = base.names()
    sizes = [array(base, name).size for name in names]
    long = [
        np.concatenate([(array(e, name) - array(base, name)).ravel() for name in names])
        for e in experts
    ]
    if trim_over == "model":
        kept = [reference.trimmed(delta, density) for delta in long]
    else:
        cut = [np.split(delta, np.cumsum(sizes)[:-1]) for delta in long]
        kept = [np.concatenate([reference.trimmed(p, density) for p in parts]) for parts in cut]
    wanted = reference.disjoint(kept, [1, 1], "mass", False)
    wanted += np.concatenate([array(base, name).ravel() for name in names])
    found = np.concatenate([t.numpy().ravel() for _, t in mo.engine.tensors(merged)])
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)


def test_values_per_layer_and_by_name(families: dict[str, Family]) -> None:
    """Groups of a two-layer Llama: embed, 00, 01, head."""
    family = families["float32"]
    recipe = mo.recipes.task_arithmetic(
        family[0],
        family[1:],
        weight=[
            mo.per_group([0.5, 1.0, 1.5, 2.0]),
            {"mlp": 0.25, "*norm.weight": 0.0, "*": 0.75},
            0.125,
        ],
        lambda_=mo.per_group([1.0, 0.5, 0.25, 2.0]),
    )

    def expected(name: str) -> np.ndarray:
        group = (
            0 if "embed" in name else 1 if "layers.0" in name else 2 if "layers.1" in name else 3
        )
        by_name = 0.25 if "mlp" in name else 0.0 if name.endswith("norm.weight") else 0.75
        return reference.task_arithmetic(
            array(family[0], name),
            deltas_of(family, name),
            [0.5 + 0.5 * group, by_name, 0.125],
            [1.0, 0.5, 0.25, 2.0][group],
            False,
        )

    assert_merged(recipe, expected)


def test_a_recipe_inside_a_recipe_is_rounded_once(families: dict[str, Family]) -> None:
    family = families["bfloat16"]
    inner = mo.recipes.linear(family[1:], weight=[0.1, 0.2, 0.7])
    recipe = mo.recipes.task_arithmetic(family[0], [inner, family[1]], weight=[0.7, 0.4])

    def expected(name: str) -> np.ndarray:
        base, *experts = (array(c, name) for c in family)
        mean = reference.linear(experts, [0.1, 0.2, 0.7], True)
        return base + 0.7 * (mean - base) + 0.4 * (experts[0] - base)

    assert_merged(recipe, expected)
