"""Recipes, values, paths and parameters that nobody can mean: each is refused with a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch

import merge_optuna as mo
from merge_optuna.recipes import Hop, LayerPath, Recipe
from merge_optuna.spaces import read
from tests.hostile import check_refused

Family = list[mo.Checkpoint]
GOOGOL = 10**400
linear = mo.recipes.linear


def nested(family: Family, count: int) -> Recipe:
    made: Any = family[0]
    for i in range(count):
        made = linear([made, family[1]], weight=1.0, name=f"r{i}")
    return made


def document(count: int) -> dict[str, Any]:
    made: dict[str, Any] = {"ref": "/nowhere", "name": "a", "digest": "0"}
    for i in range(count):
        made = {"method": "linear", "models": [made], "name": f"r{i}"}
    return made


VALUES = [
    (lambda: mo.depth(10**9), "at least one point, not 1000000000: a whole number up to 10,000."),
    (lambda: mo.depth(10**5000), "not a whole number of 16,610 bits: a whole number up to"),
    (lambda: mo.depth(1.5), "at least one point, not 1.5"),
    (lambda: mo.depth(True), "at least one point, not True"),
    (lambda: mo.depth("x"), "at least one point, not 'x'"),
    (lambda: mo.depth(math.nan), "at least one point, not nan"),
    (lambda: mo.free(0, 1, per=f"depth({'9' * 5000})"), "per must be 'model', 'layer', a number"),
    (lambda: mo.free(0, 1, per="x" * 10**6), "xxx... (1,000,002 characters)."),
    (lambda: mo.free(0, 1, per=10**30), "per must be 'model', 'layer', a number of layers"),
    (lambda: mo.free(0, GOOGOL), "mo.free: high: Input should be a valid number"),
    (lambda: mo.free("0", 1), "mo.free: low: Input should be a valid number"),
    (lambda: mo.free(True, 2), "mo.free: low: Input should be a valid number"),
    (lambda: mo.free(0, math.inf), "mo.free needs finite low < high, not [0.0, inf]."),
    (lambda: mo.free(-1e308, 1e308), "mo.free needs finite low < high, not [-1e+308, 1e+308]."),
    (lambda: mo.free(0, 1, start="0.5"), "mo.free: start"),
    (lambda: mo.free(0, 1, start=object()), "mo.free: start"),
    (lambda: mo.free(0, 1, start=math.nan), "start=nan lies outside [0.0, 1.0]."),
    (lambda: mo.free(0, 1, start=[0.5] * 10**6), "There may be 100,000 values, one per group"),
    (lambda: mo.free(0, 1, log=1), "mo.free: log: Input should be a valid boolean"),
    (lambda: mo.per_group([0.5] * 10**6), "There may be 100,000 values, one per group"),
    (lambda: mo.per_group("abc"), "mo.per_group takes a list of numbers, not 'abc'."),
    (lambda: mo.per_group(3), "mo.per_group takes a list of numbers, not 3."),
]


@pytest.mark.parametrize(("call", "sentence"), VALUES)
def test_values(call: Callable[[], object], sentence: str) -> None:
    check_refused(call, sentence)


WEIGHTS: list[tuple[Any, str]] = [
    (GOOGOL, "weight must be in (-∞, ∞), not a whole number of 1,329 bits."),
    (-GOOGOL, "weight must be in (-∞, ∞), not a whole number"),
    (math.nan, "weight must be in (-∞, ∞), not nan."),
    ("9" * 10**6, "weight must be a number, not '999"),
    (1j, "Expected a number, mo.free, mo.per_group or filters, not 1j."),
    ({f"f{i}": 1.0 for i in range(10**5)} | {"*": 1.0}, "may have 10,000 name filters, this one"),
    ({5: 1.0, "*": 1.0}, "Name filters: filters.0.0: Input should be a valid string"),
    ({"*": {"*": 1.0}}, "Name filters"),
    ([1.0] * 10**5, "weight has 100000 values for 2 models."),
]


@pytest.mark.parametrize(("weight", "sentence"), WEIGHTS)
def test_weights(family: Family, weight: Any, sentence: str) -> None:
    check_refused(lambda: linear(family[:2], weight=weight), sentence)


def test_filters_that_take_long_to_match(family: Family) -> None:
    filters = {"*a" * 5000 + "*": 1.0, "*": 1.0}
    recipe = linear(family[:2], weight=[filters, 1.0])
    check_refused(lambda: recipe.values_at("model.norm.weight"), "matches no merged tensor")


RECIPES: list[tuple[Callable[[Family], object], str]] = [
    (lambda f: nested(f, 300), "More than 50 recipes stand inside each other. Write an inner one"),
    (lambda f: Recipe.from_data(document(3000)), "More than 50 recipes stand inside each other."),
    (lambda f: Recipe.from_data({"method": "linear", "models": [{"ref": "x"}] * 10**5}), "10,000"),
    (lambda f: linear([f[0]] * 10**5), "A recipe may have 10,000 sources, this one has more."),
    (lambda f: linear(f[:2], exclude=[f"f{i}" for i in range(10**5)]).alignment, "exclude='f0'"),
    (lambda f: linear(f[:2], exclude=5), "exclude takes name filters, ['lm_head'], not 5."),
    (lambda f: linear(f[:2], name=123), "name: Input should be a valid string"),
    (lambda f: linear(f[:2], name="x" * 201), "A recipe's name must be without '/', not 'xxx"),
    (lambda f: Recipe.from_data([1]), "Not a recipe, which has fields: [1]."),
    (lambda f: Recipe.from_json(5), "The JSON text is no text: 5."),
    (lambda f: Recipe.from_json("5"), "it does not say 'merge_optuna: 1'"),
]


@pytest.mark.parametrize(("call", "sentence"), RECIPES)
def test_recipes(family: Family, call: Callable[[Family], object], sentence: str) -> None:
    check_refused(lambda: call(family), sentence)


def test_forty_nested_recipes_are_read_from_their_file(family: Family) -> None:
    recipe = nested(family, 40)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_a_file_of_three_hundred_nested_recipes() -> None:
    text = json.dumps({"merge_optuna": 1, **document(300)})
    check_refused(lambda: Recipe.from_json(text), "nested more than 100 deep")
    check_refused(lambda: Recipe.from_yaml(text + "\n"), "nested more than 100 deep")


SOURCES: list[tuple[dict[str, Any], str]] = [
    ({"ref": "/a", "name": 123, "digest": "0"}, "name must be without '/', not 123. It has up to"),
    ({"ref": "/a", "digest": ["2:0"]}, "is not a checkpoint: digest: Input should be"),
    ({"ref": "/a", "name": "a\tb", "digest": "0"}, r"name must be without '/', not 'a\tb'."),
    ({"ref": "/a", "name": "a", "digest": 5}, "'a' is not a checkpoint: digest: Input should be"),
    ({"ref": "/a", "name": "a", "digest": "0", "layer_range": "x"}, "layer_range: Input should"),
    (
        {"ref": "x" * 10**6, "name": "a", "digest": "0"},
        "is no path: File name too long. Check it.",
    ),
    ({"ref": 5, "name": "a", "digest": "0"}, "A source is a checkpoint (ref, name, digest) or"),
]


@pytest.mark.parametrize(("source", "sentence"), SOURCES)
def test_sources_of_documents(source: dict[str, Any], sentence: str) -> None:
    check_refused(lambda: Recipe.from_data({"method": "linear", "models": [source]}), sentence)


@pytest.mark.parametrize("ref", [5, None, b"x", [1]])
def test_places_that_are_none(ref: Any) -> None:
    check_refused(lambda: mo.Checkpoint(ref), "A checkpoint is a folder or a name on the hub, not")


PATHS = [
    (
        lambda: LayerPath.parse("-".join(["A0"] * 10**4)),
        "may have 4,096 layers, this one has 10,0",
    ),
    (
        lambda: LayerPath.parse("-".join(["A0"] * 10**6)),
        "and this is a text of 2,999,999 characters.",
    ),
    (lambda: LayerPath.parse("A[0:999999]"), "may have 4,096 layers, this one has 999,999."),
    (lambda: LayerPath.parse("A[0:1000000000]"), "is no layer (A0, B7×0.8) and no range"),
    (lambda: LayerPath.parse("A" + "1" * 100_000), "is no layer (A0, B7×0.8) and no range"),
    (lambda: LayerPath.parse("x" * 10**7), "and this is a text of 10,000,000 characters."),
    (lambda: LayerPath.parse("A٣"), "is no layer"),
    (lambda: LayerPath.parse("A1*nan"), "must be a number above 0, not nan."),
    (lambda: LayerPath.parse("A1*" + "1" * 10**5), "must be a number above 0, not inf."),
    (lambda: LayerPath.parse(None), "None is no path"),
    (lambda: LayerPath((Hop(0, -5),)), "Hop(model=0, layer=-5, scale=1.0) is no layer of a path"),
    (lambda: LayerPath((Hop(50, 0),)), "is no layer of a path"),
    (lambda: LayerPath((Hop(0, True),)), "is no layer of a path"),
    (lambda: LayerPath((Hop(0, 0, "1"),)), "is no layer of a path"),
    (lambda: LayerPath(((0, 0, 1.0),)), "(0, 0, 1.0) is no layer of a path"),
]


@pytest.mark.parametrize(("call", "sentence"), PATHS)
def test_paths(call: Callable[[], object], sentence: str) -> None:
    check_refused(call, sentence)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (2.0, "weight/ja is 2.0, but must be a number in [0, 1]. Was the trial made with another"),
        (-0.001, "weight/ja is -0.001, but must be a number in [0, 1]."),
        (math.nan, "weight/ja is nan, but must be a number in [0, 1]."),
        ("0.5", "weight/ja is '0.5', but must be a number in [0, 1]."),
        (True, "weight/ja is True, but must be a number in [0, 1]."),
        (None, "weight/ja is None, but must be a number in [0, 1]."),
        (torch.tensor(0.5), "weight/ja is tensor(0.5000), but must be"),
        (GOOGOL, "weight/ja is a whole number of 1,329 bits, but must be"),
    ],
)
def test_parameters_outside_their_range(family: Family, value: Any, sentence: str) -> None:
    space = linear([family[1], family[2]], weight=mo.free(0, 1), normalize=False)
    check_refused(lambda: space.bind({**space.start(), "weight/ja": value}), sentence)


def test_a_trial_of_another_space_is_neither_bound_nor_exported(
    family: Family, tmp_path: Any
) -> None:
    space = linear([family[1], family[2]], weight=mo.free(0, 1), normalize=False)
    wide = {name: optuna.distributions.FloatDistribution(-5, 5) for name in space.start()}
    study = optuna.create_study()
    study.set_user_attr("space", space.to_yaml())
    params = {**space.start(), "weight/math": 4.0}
    study.add_trial(optuna.trial.create_trial(params=params, distributions=wide, value=1.0))
    sentence = "weight/math is 4.0, but must be a number in [0, 1]."
    check_refused(lambda: mo.recipe_of(study), sentence)
    check_refused(lambda: mo.export(study, tmp_path / "merged"), sentence)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (5, "The stored space is no text: 5."),
        ("", "The stored space is not a recipe"),
        ("x: [", "The stored space is not valid YAML"),
        ("space: layer_path\n", "Not a space, which has a name and recipes"),
        ("space: [1]\nrecipes: 5\n", "Not a space, which has a name and recipes"),
        ("space: layer_path\nrecipes: {start: 5}\n", "Not a recipe, which has fields: 5."),
    ],
)
def test_stored_spaces(text: Any, sentence: str) -> None:
    check_refused(lambda: read(text), sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("space: nope\nrecipes: {}\n", "Unknown space 'nope'. Spaces: affine_swarm"),
        (
            "space: layer_path\nrecipes: {}\n",
            "layer_path is made of the recipes start, not of non",
        ),
        ("space: split_slerp\nangle: 5\nrecipes: {models: R}\n", "has the options angle, mut"),
        ("space: layer_path\nrecipes: {start: R}\n", "not 'depths': None, 'repeats': None"),
    ],
)
def test_stored_spaces_that_cannot_be_opened(family: Family, text: str, sentence: str) -> None:
    recipe = json.dumps(linear(family[:2]).to_data())
    check_refused(lambda: read(text.replace("R}", f"{recipe}}}")).open(), sentence)


def test_a_layer_path_of_endless_rounds(family: Family) -> None:
    check_refused(
        lambda: mo.spaces.LayerPath(family[:2], repeats=10**9),
        "6 layers in all, repeats=1000000000 times, are more than the 4,096 that a path may have",
    )
