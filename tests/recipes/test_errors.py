"""Mistakes in a recipe are named when it is written, not during a search."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import RecipeError

Family = list[mo.Checkpoint]
Make = Callable[..., Any]


def ties(family: Family, **values: Any) -> mo.Recipe:
    return mo.recipes.ties(family[0], family[1:3], **values)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize(
    "density",
    [
        -0.1,
        1.01,
        math.nan,
        math.inf,
        [0.5, 2],
        mo.free(0, 1.5),
        mo.free(-1, 1),
        {"mlp": 3, "*": 1},
        mo.per_group([0.5, 0.5, 0.5, 7, 0.5]),
        mo.per_group([0.5, 0.5, 0.5, mo.free(0, 2), 0.5]),
    ],
    ids=str,
)
def test_density_outside_its_range(family: Family, method: str, density: Any) -> None:
    with pytest.raises(RecipeError, match=r"density must be in \[0, 1\], not"):
        getattr(mo.recipes, method)(family[0], family[1:3], density=density)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: ties(f, weight="big"), r"weight must be a number, not 'big'"),
        (lambda f: ties(f, weight=True), r"weight must be a number, not True"),
        (lambda f: ties(f, weight=None), r"Expected a number, mo\.free, .*not None"),
        (lambda f: ties(f, weight=math.nan), r"weight must be in \(-∞, ∞\), not nan"),
        (lambda f: ties(f, normalize="yes"), r"normalize must be true or false, not 'yes'"),
        (lambda f: ties(f, normalize=0), r"normalize must be true or false, not 0"),
        (lambda f: ties(f, elect="sum"), r"elect must be 'mass' or 'count', not 'sum'"),
        (lambda f: ties(f, elect=mo.free(0, 1)), r"elect must be one plain value"),
        (lambda f: ties(f, normalize=mo.free(0, 1)), r"normalize must be one plain value"),
        (lambda f: ties(f, normalize={"*": True}), r"normalize must be one plain value"),
        (lambda f: mo.recipes.slerp(*f[1:3], t=1.1), r"t must be in \[0, 1\], not 1\.1"),
        (lambda f: mo.recipes.slerp(*f[1:3], t=[0, 1]), r"t is one value for all.*per_group"),
        (
            lambda f: mo.recipes.dare_ties(f[0], f[1:], seed=0.5),
            r"seed must be a whole number, not 0\.5",
        ),
        (lambda f: mo.recipes.dare_ties(f[0], f[1:], seed=-1), r"seed must be in \[0, "),
        (lambda f: mo.recipes.dare_ties(f[0], f[1:], seed=mo.free(0, 1)), r"seed must be one"),
        (
            lambda f: mo.recipes.dare_ties(f[0], f[1:], rescale="l2"),
            r"'density' or 'l1' or 'none'",
        ),
    ],
)
def test_values_of_the_wrong_kind(family: Family, make: Make, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make(family)


@pytest.mark.parametrize("weight", [[0.5], [0.5, 0.5, 0.5], []], ids=len)
def test_as_many_values_as_models(family: Family, weight: list[float]) -> None:
    words = rf"weight has {len(weight)} values for 2 models.*mo\.per_group"
    with pytest.raises(RecipeError, match=words):
        ties(family, weight=weight)


def test_as_many_values_as_groups(family: Family) -> None:
    recipe = ties(family, lambda_=mo.per_group([1, 2, 3]))
    with pytest.raises(RecipeError, match="3 values for 5 groups per layer: embed, 00, 01, 02"):
        recipe.values_at("model.norm.weight")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"low": 1, "high": 1}, r"finite low < high, not \[1\.0, 1\.0\]"),
        ({"low": 1, "high": 0}, "finite low < high"),
        ({"low": 0, "high": math.inf}, "finite low < high"),
        ({"low": math.nan, "high": 1}, "finite low < high"),
        ({"low": 0, "high": 1, "log": True}, r"mo\.free\(log=True\) needs low > 0, not 0"),
        ({"low": 0, "high": 1, "start": 2}, r"start=2.* lies outside \[0\.0, 1\.0\]"),
        ({"low": 0, "high": 1, "start": [0.5, -1]}, "lies outside"),
        ({"low": 0, "high": 1, "start": math.nan}, "lies outside"),
        ({"low": "a", "high": 1}, r"mo\.free: low: Input should be a valid number"),
    ],
)
def test_ranges_of_free_numbers(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        mo.free(**arguments)


def test_a_free_number_in_a_group_is_one_number() -> None:
    with pytest.raises(RecipeError, match=r"inside mo\.per_group is one number: leave out per="):
        mo.per_group([mo.free(0, 1, per="layer"), 1])


@pytest.mark.parametrize(
    "density",
    [
        mo.free(0, 1, per="layer"),
        mo.per_group([0.1, 0.2, 0.3, 0.4, 0.5]),
        {"mlp": 0.5, "*": 1},
        [0.5, mo.free(0, 1, per=mo.depth(2))],
    ],
    ids=["free", "per_group", "filters", "list"],
)
def test_a_whole_model_has_one_density(family: Family, density: Any) -> None:
    with pytest.raises(RecipeError, match=r"trim_over='model' needs one density per model"):
        ties(family, density=density, trim_over="model")
    assert ties(family, density=[0.5, mo.free(0, 1)], trim_over="model").slots


# -- sources --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda f: mo.recipes.ties(f[0].ref, f[1:]),
            r"expected a mo\.Checkpoint.*mo\.Checkpoint\(",
        ),
        (lambda f: mo.recipes.linear([f[0], "ja"]), r"expected a mo\.Checkpoint.*not 'ja'"),
        (lambda f: mo.recipes.linear([nn.Linear(1, 1)]), r"expected a mo\.Checkpoint"),
        (lambda f: mo.recipes.linear([]), "linear merges at least 1 model, not 0"),
        (lambda f: mo.recipes.ties(f[0], []), "ties merges at least 1 model, not 0"),
        (lambda f: mo.recipes.ties(None, f[1:]), "ties needs a base model"),
        (
            lambda f: mo.Recipe(method="slerp", models=tuple(f[:3])),
            "slerp merges 2 models, not 3",
        ),
        (
            lambda f: mo.Recipe(method="linear", base=f[0], models=tuple(f[1:])),
            "linear takes no base model",
        ),
        (lambda f: mo.Recipe(method="magic", models=tuple(f)), "magic"),
        (
            lambda f: mo.Recipe(method="linear", models=tuple(f), parameters={"wieght": 1}),
            r"linear has no parameter 'wieght'. Did you mean 'weight'\? Its parameters: weight, n",
        ),
    ],
)
def test_sources(family: Family, make: Make, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make(family)


def test_models_one_after_the_other(family: Family) -> None:
    base, a, b, *_ = family
    listed = rf"takes a list of models: \[{a.name}, {b.name}\], not one after the other"
    with pytest.raises(RecipeError, match=rf"^task_arithmetic {listed}"):
        mo.recipes.task_arithmetic(base, a, b)  # type: ignore[arg-type, call-arg]
    with pytest.raises(RecipeError, match=rf"^linear {listed}"):
        mo.recipes.linear(a, b, weight=0.5)  # type: ignore[arg-type, call-arg]


def test_names_are_unique(family: Family, tmp_path: Path) -> None:
    base, ja, math_, code = family
    other = mo.Checkpoint(shutil.copytree(code.ref, tmp_path / "code"), name="ja")
    inside = mo.recipes.linear([code, other], name="mix")
    words = r"Several models are called ja.*mo\.Checkpoint\(folder, name=\.\.\.\)"
    for make in (
        lambda: mo.recipes.linear([ja, other]),
        lambda: mo.recipes.linear([ja, ja]),
        lambda: mo.recipes.task_arithmetic(other, [ja, math_]),
        lambda: mo.recipes.task_arithmetic(base, [inside, ja]),
        lambda: mo.recipes.linear([mo.recipes.linear([math_], name="ja"), ja]),
    ):
        with pytest.raises(RecipeError, match=words):
            make()
    assert mo.recipes.task_arithmetic(ja, [ja, math_]).leaves() == (ja, math_)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a/b", "must be without '/'"),
        ("", "must be without '/'"),
        ("weight", "cannot be called weight"),
        ("share", "cannot be called share"),
    ],
)
def test_names_of_inner_recipes(family: Family, name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        mo.recipes.linear([mo.recipes.slerp(*family[1:3], name=name), family[3]])


def test_exclude_that_matches_nothing(family: Family) -> None:
    recipe = mo.recipes.linear(family[1:], exclude=["norm", "lm_haed"])
    with pytest.raises(RecipeError, match=r"'lm_haed' matches no tensor.*lm_head\.weight"):
        recipe.alignment  # noqa: B018


def test_values_of_an_unbound_recipe(family: Family) -> None:
    recipe = ties(family, density=mo.free(0, 1))
    with pytest.raises(RecipeError, match=r"free numbers.*recipe\.suggest\(trial\)"):
        recipe.values_at("model.norm.weight")
