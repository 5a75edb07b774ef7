"""Wrong methods, parameters and values are refused with what to do about it."""

from __future__ import annotations

import inspect
import math
import pickle
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

import merge_optuna as mo
from merge_optuna import methods
from merge_optuna.errors import MergeOptunaError, RecipeError
from merge_optuna.methods import Keys
from merge_optuna.methods.rankmean import Ranks
from tests.methods import stub


@pytest.fixture(scope="module")
def models() -> list[mo.Checkpoint]:
    made = []
    for i, name in enumerate(("base", "ja", "math")):
        module = nn.Linear(3, 2)
        with torch.no_grad():
            module.weight.fill_(i)
            module.bias.fill_(i)
        made.append(mo.Checkpoint.from_module(module, name=name))
    return made


def test_every_method_is_listed_and_described() -> None:
    functions = {
        name
        for name in mo.recipes.__all__
        if inspect.isfunction(found := getattr(mo.recipes, name))
        and found.__annotations__["return"] == "Recipe"
    }
    assert functions - {"path"} == set(methods.METHODS)  # it takes a path, see EVOLVED
    for name, method in methods.METHODS.items():
        assert method is methods.get(name)
        assert method.name == name
        assert callable(getattr(mo.recipes, name))
        assert method.summary.endswith(".") or ":" in method.summary
        assert method.source
        assert not method.elementwise or not {type(need) for need in method.needs} & {Keys, Ranks}
        assert method.promises <= methods.PROMISES.keys()
        for parameter in method.parameters:
            parameter.check(parameter.default)
            assert parameter.summary
            if parameter.search is not None:
                assert parameter.numeric
                assert parameter.search[0] < parameter.search[1]
                parameter.check(float(parameter.search[0]))
                parameter.check(float(parameter.search[1]))


def test_the_page_of_methods_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    assert page.read_text() == methods.markdown(methods.METHODS.values()), (
        "docs/methods.md differs from the specs. Write it again: "
        "merge-optuna methods --markdown > docs/methods.md"
    )


def test_the_stub_of_the_functions_is_up_to_date() -> None:
    assert stub.FILE.read_text() == stub.stub(), (
        f"{stub.FILE.name} differs from the specs. Write it again: python -m tests.methods.stub"
    )


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_documentation_of_a_function_says_every_argument_and_the_paper(name: str) -> None:
    function = getattr(mo.recipes, name)
    text = inspect.getdoc(function)
    assert text is not None
    assert f"Source: {methods.get(name).source}." in " ".join(text.split())
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in text
    assert text.count("Raises:\n") == 1
    assert max(map(len, text.splitlines())) <= 95
    assert get_type_hints(function)["return"] is mo.Recipe


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (
            2,
            {"densty": 0.5},
            r"ties\(\) got an unexpected keyword argument 'densty'\. Did you mean ",
        ),
        (2, {"zzz": 0.5}, r"ties\(\) got an unexpected keyword argument 'zzz'$"),
        (1, {}, r"ties\(base, experts, \.\.\.\): missing a required argument: 'experts'"),
        (0, {}, r"ties\(base, experts, \.\.\.\): missing a required argument: 'base'"),
        (3, {}, r"ties\(base, experts, \.\.\.\): too many positional arguments"),
        (2, {"base": None}, r"ties\(base, experts, \.\.\.\): multiple values for argument 'base'"),
    ],
)
def test_a_wrong_call_is_a_type_error(
    models: list[mo.Checkpoint], args: int, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        mo.recipes.ties(*(models[0], models[1:], 0.5)[:args], **kwargs)


def test_a_function_is_one_object_that_is_found_by_its_name() -> None:
    assert mo.recipes.ties is mo.recipes.ties
    assert pickle.loads(pickle.dumps(mo.recipes.ties)) is mo.recipes.ties
    assert set(methods.METHODS) <= set(dir(mo.recipes))
    with pytest.raises(AttributeError, match="no attribute 'tis'"):
        mo.recipes.tis  # noqa: B018


@pytest.mark.parametrize("name", methods.METHODS)
def test_functions_and_specs_have_the_same_parameters_and_defaults(name: str) -> None:
    """A recipe read from YAML gets the spec's defaults, one made by the function its own."""
    given = inspect.signature(getattr(mo.recipes, name)).parameters
    others = {
        *("models", "sources", "a", "b", "base", "expert", "experts", "statistics"),
        *("exclude", "name", "tokenizer", "chat_template", "config"),
    }
    mine = {key: p.default for key, p in given.items() if key not in others}
    specs = {p.name: p.default for p in methods.get(name).parameters}
    assert mine == specs
    assert {key: type(value) for key, value in mine.items()} == {
        key: type(value) for key, value in specs.items()
    }


@pytest.mark.parametrize(
    ("name", "close"), [("tie", "ties"), ("dare-ties", "dare_ties"), ("lerp", "slerp")]
)
def test_an_unknown_method_suggests_a_known_one(name: str, close: str) -> None:
    with pytest.raises(RecipeError, match=f"Unknown method '{name}'. Did you mean '{close}'") as e:
        methods.get(name)
    assert all(known in str(e.value) for known in methods.METHODS)


def test_a_method_like_no_other_lists_them_all(models: list[mo.Checkpoint]) -> None:
    with pytest.raises(
        RecipeError, match=r"Unknown method 'xyz'\. Methods: arcee_fusion, breadcrumbs"
    ) as e:
        mo.Recipe(method="xyz", models=tuple(models))
    assert "Did you mean" not in str(e.value)


def test_an_unknown_parameter_suggests_a_known_one(models: list[mo.Checkpoint]) -> None:
    with pytest.raises(RecipeError, match=r"no parameter 'densty'\. Did you mean 'density'\?"):
        mo.Recipe(
            method="ties", base=models[0], models=tuple(models[1:]), parameters={"densty": 0.5}
        )
    with pytest.raises(RecipeError, match=r"linear has no parameter 'density'.*weight, normalize"):
        mo.Recipe(method="linear", models=tuple(models), parameters={"density": 0.5})


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("ties", {"density": 1.1}, r"density must be in \[0, 1\], not 1\.1\."),
    ("ties", {"density": -0.1}, r"density must be in \[0, 1\], not -0\.1\."),
    ("ties", {"density": [0.5, 2]}, r"density must be in \[0, 1\], not 2\."),
    ("ties", {"density": math.nan}, "density must be in .*nan"),
    ("ties", {"weight": math.inf}, r"weight must be in \(-∞, ∞\), not inf"),
    ("ties", {"weight": "big"}, "weight must be a number, not 'big'"),
    ("ties", {"weight": True}, "weight must be a number, not True"),
    ("ties", {"weight": [1.0]}, "weight has 1 values for 2 models"),
    ("ties", {"weight": None}, "Expected a number.*None"),
    ("ties", {"lambda_": [1.0, 1.0]}, "lambda_ is one value for all models"),
    ("ties", {"lambda_": -math.inf}, r"lambda_ must be in \(-∞, ∞\)"),
    ("ties", {"elect": "sum"}, "elect must be 'mass' or 'count', not 'sum'"),
    ("ties", {"trim_over": "layer"}, "trim_over must be 'tensor' or 'model', not 'layer'"),
    ("ties", {"normalize": 1}, "normalize must be true or false, not 1"),
    (
        "ties",
        {"density": mo.per_group([0.5], per="tensor"), "trim_over": "model"},
        "trim_over='model' needs one density per model",
    ),
    (
        "ties",
        {"density": mo.free(0, 1, per="layer"), "trim_over": "model"},
        "trim_over='model' needs one density per model",
    ),
    ("ties", {"density": mo.free(0, 2)}, r"density must be in \[0, 1\], not 2\.0"),
    ("ties", {"density": {"*": 3}}, r"density must be in \[0, 1\], not 3"),
    ("dare_linear", {"rescale": "l2"}, "rescale must be 'density' or 'l1' or 'none', not 'l2'"),
    ("dare_linear", {"seed": 0.5}, "seed must be a whole number, not 0.5"),
    ("dare_linear", {"seed": -1}, "seed must be in .*not -1"),
    ("dare_linear", {"seed": 2**63}, "seed must be in "),
    ("dare_ties", {"seed": mo.free(0, 9)}, "seed must be one plain value"),
    ("dare_ties", {"elect": {"*": "mass"}}, "elect must be one plain value"),
]


@pytest.mark.parametrize(("method", "values", "message"), BAD)
def test_a_bad_value_is_refused(
    models: list[mo.Checkpoint], method: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        getattr(mo.recipes, method)(models[0], models[1:], **values)


def test_values_at_the_ends_of_their_ranges_are_taken(models: list[mo.Checkpoint]) -> None:
    base, *experts = models
    for density in (0, 0.0, 1, 1.0):
        mo.recipes.ties(base, experts, density=density)
        mo.recipes.dare_ties(base, experts, density=[density, 0.5], seed=2**63 - 1)
    for t in (0, 1, 1.0):
        mo.recipes.slerp(base, experts[0], t=t)
    with pytest.raises(RecipeError, match=r"t must be in \[0, 1\], not 1\.0001"):
        mo.recipes.slerp(base, experts[0], t=1.0001)


def test_sources_are_counted(models: list[mo.Checkpoint]) -> None:
    with pytest.raises(RecipeError, match="slerp merges 2 models, not 3"):
        mo.Recipe(method="slerp", models=tuple(models))
    with pytest.raises(RecipeError, match="ties needs a base model"):
        mo.Recipe(method="ties", models=tuple(models))
    with pytest.raises(RecipeError, match="linear takes no base model"):
        mo.Recipe(method="linear", base=models[0], models=tuple(models[1:]))
    with pytest.raises(RecipeError, match="merges at least 1 model, not 0"):
        mo.recipes.linear([])


def test_errors_are_of_one_family_and_builtin() -> None:
    with pytest.raises(MergeOptunaError):
        methods.get("?")
    with pytest.raises(ValueError, match="Unknown method"):
        methods.get("?")
