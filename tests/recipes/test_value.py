"""A recipe is a value: equal, hashable, with a digest, the same after YAML and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, RecipeError
from tests import toys

Family = list[mo.Checkpoint]


def examples(family: Family) -> dict[str, mo.Recipe]:
    base, ja, math, code = family
    recipes = mo.recipes
    return {
        "linear": recipes.linear([ja, math], weight=[0.1, 1 / 3]),
        "slerp": recipes.slerp(ja, math, t=mo.per_group([0, 1], per=mo.depth(2))),
        "task_arithmetic": recipes.task_arithmetic(base, [ja], lambda_=1e-7, exclude=["norm"]),
        "ties": recipes.ties(base, [ja, math, code], elect="count", trim_over="model"),
        "dare_linear": recipes.dare_linear(base, [ja], seed=2**60 + 1, rescale="l1"),
        "dare_ties": recipes.dare_ties(
            base,
            [ja, math],
            weight=[mo.free(0, 1, per="layer", start=[0.1, 0.2, 0.3, 0.4, 0.5]), 0.5],
            density={"mlp": mo.free(0.01, 1, log=True), "*": 0.5},
            lambda_=mo.per_group([mo.free(0, 1), 1, 1, 1, mo.free(0, 2, start=0.5)]),
        ),
        "nested": recipes.ties(
            recipes.linear([base, code], name="start"),
            [recipes.slerp(ja, math, t=mo.free(0, 1, per=2)), code],
        ),
    }


KINDS = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "nested")


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips(family: Family, tmp_path: Path, kind: str) -> None:
    recipe = examples(family)[kind]
    text = recipe.to_yaml(tmp_path / "recipe.yaml")
    assert (tmp_path / "recipe.yaml").read_text() == text
    made = [
        mo.Recipe.from_yaml(text),
        mo.Recipe.from_yaml(tmp_path / "recipe.yaml"),
        mo.Recipe.from_yaml(str(tmp_path / "recipe.yaml")),
        mo.Recipe.from_json(recipe.to_json()),
        mo.Recipe.from_data(recipe.to_data()),
    ]
    for again in made:
        assert again == recipe
        assert hash(again) == hash(recipe)
        assert again.digest == recipe.digest
        assert again.to_yaml() == text
        assert again.distributions() == recipe.distributions()
        assert again.start() == recipe.start()


def test_what_a_file_says(family: Family) -> None:
    """The format, spelled out: files of earlier versions stay readable."""
    base, ja, math, _ = family
    recipe = mo.recipes.ties(
        base,
        [ja, math],
        weight=mo.free(0, 1, per=mo.depth(2)),
        density=[0.5, {"mlp": 0.25, "*": 1}],
        lambda_=mo.per_group([1, 2, 3, 4, 5]),
        exclude=["norm"],
    )
    free = {"low": 0.0, "high": 1.0, "per": "depth(2)"}
    assert yaml.safe_load(recipe.to_yaml()) == {
        "merge_optuna": 1,
        "method": "ties",
        "base": {"ref": base.ref, "name": "base", "digest": base.digest},
        "models": [{"ref": m.ref, "name": m.name, "digest": m.digest} for m in (ja, math)],
        "parameters": {
            "weight": [free, free],
            "density": [0.5, {"filters": {"mlp": 0.25, "*": 1.0}}],
            "lambda_": {"per": "layer", "values": [1.0, 2.0, 3.0, 4.0, 5.0]},
            "normalize": True,
            "elect": "mass",
            "trim_over": "tensor",
        },
        "exclude": ["norm"],
    }
    assert json.loads(recipe.to_json()) == yaml.safe_load(recipe.to_yaml())


def test_a_file_written_by_hand(family: Family) -> None:
    """Digests, names and defaults may be left out."""
    base, ja = family[:2]
    recipe = mo.Recipe.from_yaml(
        f"""
        merge_optuna: 1
        method: task_arithmetic
        base: {{ref: {base.ref}}}
        models:
        - ref: {ja.ref}
        parameters: {{weight: 2, lambda_: {{low: 0, high: 1}}}}
        """
    )
    assert recipe.models[0].name == mo.Checkpoint(ja.ref).name
    assert recipe.values == {
        "weight": (2.0,),
        "lambda_": mo.free(0, 1),
        "normalize": False,
    }


def test_defaults_are_part_of_the_value(family: Family) -> None:
    base, ja, math, _ = family
    plain = mo.recipes.ties(base, [ja, math])
    spelled = mo.recipes.ties(
        base,
        [ja, math],
        weight=[1, 1],
        density=0.5,
        lambda_=1,
        normalize=True,
        elect="mass",
        trim_over="tensor",
        exclude=(),
    )
    assert plain == spelled
    assert plain.digest == spelled.digest
    assert hash(plain) == hash(spelled)
    assert {plain: 1}[spelled] == 1


def test_numbers_of_other_libraries(family: Family) -> None:
    recipe = mo.recipes.linear(family[1:3], weight=list(np.array([0.25, 0.75])))
    assert recipe == mo.recipes.linear(family[1:3], weight=[0.25, 0.75])
    assert mo.Recipe.from_yaml(recipe.to_yaml()) == recipe
    space = mo.recipes.linear(family[1:3], weight=mo.free(0, 1))
    bound = space.bind({"share/ja": np.float64(0.25)})
    assert bound == recipe
    assert mo.Recipe.from_yaml(bound.to_yaml()).digest == recipe.digest


def test_every_difference_changes_the_digest(family: Family) -> None:
    base, ja, math, code = family
    ties = mo.recipes.ties
    different = [
        ties(base, [ja, math]),
        ties(base, [math, ja]),
        ties(base, [ja, code]),
        ties(ja, [base, math]),
        ties(base, [ja, math], weight=0.5),
        ties(base, [ja, math], weight=[0.5, 1]),
        ties(base, [ja, math], weight=mo.free(0, 1)),
        ties(base, [ja, math], weight=mo.free(0, 1, start=0.25)),
        ties(base, [ja, math], weight=mo.free(0, 1, per="layer")),
        ties(base, [ja, math], weight=mo.free(0, 1, per=1)),
        ties(base, [ja, math], normalize=False),
        ties(base, [ja, math], elect="count"),
        ties(base, [ja, math], exclude=["norm"]),
        mo.recipes.dare_ties(base, [ja, math]),
        mo.recipes.dare_ties(base, [ja, math], seed=1),
    ]
    assert len({recipe.digest for recipe in different}) == len(different)
    assert len(set(different)) == len(different)


def test_the_place_of_a_source_does_not_matter(family: Family, tmp_path: Path) -> None:
    base, ja, math, _ = family
    recipe = mo.recipes.ties(base, [ja, math])
    moved = [
        mo.Checkpoint(shutil.copytree(c.ref, tmp_path / c.name), name=c.name)
        for c in (base, ja, math)
    ]
    again = mo.recipes.ties(moved[0], moved[1:])
    assert again == recipe
    assert again.digest == recipe.digest
    assert hash(again) == hash(recipe)


def test_a_recipe_cannot_be_changed(family: Family) -> None:
    recipe = mo.recipes.linear(family[1:])
    for change in ({"method": "slerp"}, {"parameters": ()}):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(recipe, *next(iter(change.items())))


def test_using_a_recipe_does_not_change_its_value(family: Family) -> None:
    used, fresh = (mo.recipes.linear(family[1:], weight=mo.free(0, 1)) for _ in range(2))
    assert used.slots
    assert used.alignment.layout.names
    assert used.digest == fresh.digest
    assert used == fresh
    assert used.to_yaml() == fresh.to_yaml()


# -- sources --------------------------------------------------------------------------------


def test_leaves_are_each_checkpoint_once(family: Family) -> None:
    base, ja, math, code = family
    inner = mo.recipes.linear([ja, math], name="inner")
    recipe = mo.recipes.task_arithmetic(base, [inner, ja, code])
    assert recipe.leaves() == (base, ja, math, code)
    assert recipe.frame == base
    assert mo.recipes.slerp(inner, code).frame == ja


def test_a_changed_source_is_refused(tmp_path: Path) -> None:
    checkpoints = toys.family(tmp_path, experts=2)
    text = mo.recipes.linear(checkpoints).to_yaml()
    toys.save(toys.llama(7), tmp_path / "ja")
    recipe = mo.Recipe.from_yaml(text)
    with pytest.raises(CheckpointError, match="'ja' was recorded as"):
        recipe.alignment  # noqa: B018


def test_modules_are_passed_again() -> None:
    models = {f"m{i}": toys.llama(i) for i in range(2)}
    made = {name: mo.Checkpoint.from_module(m, name=name) for name, m in models.items()}
    text = mo.recipes.linear([mo.recipes.linear([made["m0"]]), made["m1"]]).to_yaml()

    again = mo.Recipe.from_yaml(text).with_sources(made)

    assert again.alignment.copied == {}
    other = mo.Checkpoint.from_module(toys.llama(5), name="m1")
    with pytest.raises(CheckpointError, match=r"'m1'.*digest.*was recorded. Pass the model"):
        mo.Recipe.from_yaml(text).with_sources({"m1": other})


# -- damaged documents ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "merge_optuna: 1",
            "merge_optuna: 99",
            r"not a recipe: it does not say 'merge_optuna: 1'",
        ),
        ("merge_optuna: 1\n", "", "does not say 'merge_optuna: 1'"),
        ("method: ties", "method: tise", "tise"),
        ("method: ties", "method: [ties", "not valid YAML"),
        ("models:", "modles:", r"models: Field required; modles: Extra inputs"),
        ("- ref:", "- path:", r"A source is a checkpoint \(ref, name, digest\) or a recipe"),
        ("- ref: /", "- ref: 3 #", "A source is a checkpoint"),
        ("  density:", "  densty:", "no parameter 'densty'. Did you mean 'density'"),
        ("lambda_: 1.0", "lambda_: lots", "lambda_ must be a number, not 'lots'"),
        ("lambda_: 1.0", "lambda_: null", "lambda_|Not a recipe"),
        ("lambda_: 1.0", "lambda_: {low: 1, high: 0}", "finite low < high"),
        ("lambda_: 1.0", "lambda_: {filters: {mlp: 1.0}}", r"leave other tensors.*Add '\*'"),
        ("lambda_: 1.0", "lambda_: {low: 1, hihg: 2}", "Not a recipe"),
        ("normalize: true", "normalize: 1", "normalize must be true or false, not 1"),
        ("elect: mass", "elect: sum", "elect must be 'mass' or 'count', not 'sum'"),
        ("trim_over: tensor", "trim_over: tensor\n3: 4", r"fields .* are not all words"),
    ],
)
def test_damaged_files(family: Family, old: str, new: str, words: str) -> None:
    text = mo.recipes.ties(family[0], [family[1]]).to_yaml()
    assert old in text
    with pytest.raises(RecipeError, match=words):
        mo.Recipe.from_yaml(text.replace(old, new, 1))


def test_texts_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(RecipeError, match=r"other.yaml is not a recipe"):
        mo.Recipe.from_yaml(tmp_path / "other.yaml")
    with pytest.raises(RecipeError, match="not valid JSON"):
        mo.Recipe.from_json("{")
    with pytest.raises(FileNotFoundError):
        mo.Recipe.from_yaml(tmp_path / "none.yaml")
