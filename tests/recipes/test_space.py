"""Free numbers: names, ranges, starts, and the way from a trial to a recipe and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

import merge_optuna as mo
from merge_optuna.errors import RecipeError

Family = list[mo.Checkpoint]
GROUPS = ("embed", "00", "01", "02", "head")
EMBED = "model.embed_tokens.weight"
UP = "model.layers.{}.mlp.up_proj.weight"
QUERY = "model.layers.{}.self_attn.q_proj.weight"


def names(space: mo.Recipe) -> list[str]:
    return list(space.distributions())


# -- what is free ---------------------------------------------------------------------------


def test_nothing_is_free(family: Family) -> None:
    recipe = mo.recipes.ties(family[0], family[1:])
    assert recipe.distributions() == {}
    assert recipe.start() == {}
    assert recipe.bind({}) == recipe
    with pytest.raises(RecipeError, match=r"Nothing is free.*mo\.free"):
        recipe.sampler(seed=0)


@pytest.mark.parametrize(
    ("per", "labels"),
    [
        ("model", [""]),
        ("layer", ["/embed", "/00", "/01", "/02", "/head"]),
        (2, ["/embed", "/00-01", "/02", "/head"]),
        (
            "module",
            ["/embed", *(f"/0{i}/{part}" for i in range(3) for part in ("attn", "mlp")), "/head"],
        ),
        (mo.depth(2), ["/d0", "/d1"]),
    ],
    ids=str,
)
def test_parameter_names_and_distributions(family: Family, per: object, labels: list[str]) -> None:
    base, ja, math, _ = family
    space = mo.recipes.dare_ties(
        base,
        [ja, math],
        weight=mo.free(-1, 2, per=per),
        lambda_=mo.free(0.5, 8, per=per, log=True),
    )
    weights = [f"weight/{model}{label}" for model in ("ja", "math") for label in labels]
    lambdas = [f"lambda_{label}" for label in labels]
    assert space.distributions() == {
        **dict.fromkeys(weights, FloatDistribution(-1, 2)),
        **dict.fromkeys(lambdas, FloatDistribution(0.5, 8, log=True)),
    }
    assert names(space) == weights + lambdas
    # the middle of the range: arithmetic, and geometric on a logarithmic scale
    assert space.start() == {**dict.fromkeys(weights, 0.5), **dict.fromkeys(lambdas, 2.0)}


def test_per_tensor(family: Family) -> None:
    space = mo.recipes.task_arithmetic(family[0], [family[1]], weight=mo.free(0, 1, per="tensor"))
    assert names(space) == [f"weight/ja/{name}" for name in family[0].names()]


def test_one_number_for_one_model_of_several(family: Family) -> None:
    base, ja, math, code = family
    space = mo.recipes.ties(
        base, [ja, math, code], density=[0.5, mo.free(0.1, 1), mo.free(0, 0.5, per=mo.depth(2))]
    )
    assert space.distributions() == {
        "density/math": FloatDistribution(0.1, 1),
        "density/code/d0": FloatDistribution(0, 0.5),
        "density/code/d1": FloatDistribution(0, 0.5),
    }
    bound = space.bind({"density/math": 0.25, "density/code/d0": 0.1, "density/code/d1": 0.3})
    at = [bound.values_at(UP.format(i))["density"] for i in range(3)]
    assert at == [[0.5, 0.25, 0.1], [0.5, 0.25, pytest.approx(0.2)], [0.5, 0.25, 0.3]]


def test_per_group_with_free_entries(family: Family) -> None:
    space = mo.recipes.task_arithmetic(
        family[0],
        [family[1]],
        lambda_=mo.per_group([1, mo.free(0, 4, start=3), 0.5, mo.free(0, 2), 1]),
    )
    assert space.start() == {"lambda_/00": 3.0, "lambda_/02": 1.0}
    bound = space.bind({"lambda_/00": 0.7, "lambda_/02": 0.9})
    assert [bound.values_at(UP.format(i))["lambda_"] for i in range(3)] == [0.7, 0.5, 0.9]
    assert bound.values_at(EMBED)["lambda_"] == 1


def test_per_group_interpolates(family: Family) -> None:
    recipe = mo.recipes.task_arithmetic(
        family[0], [family[1]], lambda_=mo.per_group([0, 1, 5], per=mo.depth(3))
    )
    assert [recipe.values_at(UP.format(i))["lambda_"] for i in range(3)] == [0, 1, 5]
    recipe = mo.recipes.task_arithmetic(
        family[0], [family[1]], lambda_=mo.per_group([0, 4], per="depth(2)")
    )
    assert [recipe.values_at(UP.format(i))["lambda_"] for i in range(3)] == [0, 2, 4]


def test_points_without_a_layer_are_not_searched(family: Family) -> None:
    """Five points over three layers: the second and the fourth lie between layers."""
    space = mo.recipes.task_arithmetic(
        family[0], [family[1]], lambda_=mo.free(0, 2, per=mo.depth(5))
    )
    assert names(space) == ["lambda_/d0", "lambda_/d2", "lambda_/d4"]
    bound = space.bind({"lambda_/d0": 0.1, "lambda_/d2": 0.2, "lambda_/d4": 0.3})
    assert [bound.values_at(UP.format(i))["lambda_"] for i in range(3)] == [0.1, 0.2, 0.3]
    assert bound.distributions() == {}
    assert space.params_of(bound) == {"lambda_/d0": 0.1, "lambda_/d2": 0.2, "lambda_/d4": 0.3}


# -- name filters ---------------------------------------------------------------------------


def test_filters_the_first_that_matches_counts(family: Family) -> None:
    recipe = mo.recipes.task_arithmetic(
        family[0],
        [family[1]],
        lambda_={"layers.1": 0.25, "*up_proj*": 0.5, "embed": 2, "*": 1.0},
    )
    values = {name: recipe.values_at(name)["lambda_"] for name in family[0].names()}
    for name, value in values.items():
        if "layers.1." in name:
            assert value == 0.25
        elif "up_proj" in name:
            assert value == 0.5
        else:
            assert value == (2 if name == EMBED else 1)
    assert set(values.values()) == {0.25, 0.5, 1, 2}


def test_only_groups_of_the_filter_are_free(family: Family) -> None:
    space = mo.recipes.task_arithmetic(
        family[0],
        family[1:3],
        weight=[{"mlp": mo.free(0, 1, per="layer"), "*": mo.free(0, 3)}, 0.5],
    )
    assert names(space) == [
        "weight/ja/mlp/00",
        "weight/ja/mlp/01",
        "weight/ja/mlp/02",
        "weight/ja/*",
    ]
    bound = space.bind({name: 0.1 * (i + 1) for i, name in enumerate(names(space))})
    assert [bound.values_at(UP.format(i))["weight"][0] for i in range(3)] == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    assert bound.values_at(QUERY.format(1))["weight"] == [0.4, 0.5]
    assert bound.distributions() == {}


def test_the_rest_may_be_empty(family: Family) -> None:
    space = mo.recipes.task_arithmetic(
        family[0], [family[1]], lambda_={"model": mo.free(0, 1), "lm_head": 1, "*": mo.free(0, 1)}
    )
    assert names(space) == ["lambda_/model"]
    assert space.bind({"lambda_/model": 0.3}).distributions() == {}


@pytest.mark.parametrize("filters", [{"mlp": 0.5}, {}])
def test_filters_need_a_rest(family: Family, filters: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=r"leave other tensors without a value. Add '\*'"):
        mo.recipes.linear(family[1:], weight=filters)


def test_filters_hold_numbers(family: Family) -> None:
    for wrong in ({"mlp": {"up": 1, "*": 2}, "*": 1}, {3: 1, "*": 1}, {"mlp": None, "*": 1}):
        with pytest.raises(RecipeError, match="Name filters"):
            mo.recipes.linear(family[1:], weight=wrong)


@pytest.mark.parametrize("pattern", ["mpl", "Layers", "layers.7.*", "lm_head.weight"])
def test_filters_that_match_nothing(family: Family, pattern: str) -> None:
    def merge(value: float | mo.recipes.Free) -> mo.Recipe:
        weight = {"lm_head": 1, pattern: value, "*": 0.5}
        return mo.recipes.task_arithmetic(family[0], [family[1]], weight=weight)

    with pytest.raises(RecipeError, match=r"The filter .* matches no merged tensor"):
        merge(mo.free(0, 1)).distributions()
    with pytest.raises(RecipeError, match=r"The filter .* matches no merged tensor"):
        merge(0.3).values_at(EMBED)


# -- shares ---------------------------------------------------------------------------------

METHODS: dict[str, Callable[..., mo.Recipe]] = {
    "linear": lambda family, **values: mo.recipes.linear(family[1:], **values),
    "ties": lambda family, **values: mo.recipes.ties(family[0], family[1:], **values),
    "task_arithmetic": lambda family, **values: mo.recipes.task_arithmetic(
        family[0], family[1:], normalize=True, **values
    ),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("high", [1, 5])
def test_of_n_normalised_weights_n_minus_1_are_free(
    family: Family, method: Callable[..., mo.Recipe], high: float
) -> None:
    space = method(family, weight=mo.free(0, high, per="layer"))
    expected = [f"share/{model}/{group}" for model in ("ja", "math") for group in GROUPS]
    assert space.distributions() == dict.fromkeys(expected, FloatDistribution(0, 1))
    assert names(space) == expected


def test_all_weights_are_free_without_normalising(family: Family) -> None:
    space = mo.recipes.linear(family[1:], weight=mo.free(0, 1), normalize=False)
    assert names(space) == ["weight/ja", "weight/math", "weight/code"]


def test_a_fixed_weight_gives_the_others_their_scale(family: Family) -> None:
    space = mo.recipes.linear(family[1:], weight=[mo.free(-1, 2), mo.free(0, 3), 1.0])
    assert names(space) == ["weight/ja", "weight/math"]


def test_one_normalised_weight_is_no_choice(family: Family) -> None:
    space = mo.recipes.linear(family[1:2], weight=mo.free(0, 1, per="layer"))
    assert names(space) == []
    assert space.bind({}).values_at(EMBED)["weight"] == [1.0]


@pytest.mark.parametrize("n", [2, 3])
def test_the_start_of_shares_gives_equal_weights(family: Family, n: int) -> None:
    space = mo.recipes.linear(family[1 : n + 1], weight=mo.free(0, 1, per="layer"))
    bound = space.bind(space.start())
    assert bound.values_at(EMBED)["weight"] == pytest.approx([1 / n] * n)


def test_the_start_of_shares_has_the_proportions_of_the_given_starts(family: Family) -> None:
    weight = [mo.free(0, 1, start=s) for s in (0.1, 0.6, 0.3)]
    space = mo.recipes.linear(family[1:], weight=weight)
    assert space.bind(space.start()).values_at(EMBED)["weight"] == pytest.approx([0.1, 0.6, 0.3])


@settings(deadline=None, max_examples=50)
@given(weights=st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda w: sum(w) > 1e-6))
def test_shares_reach_every_proportion(family: Family, weights: list[float]) -> None:
    space = mo.recipes.linear(family[1:], weight=mo.free(0, 1))
    params = space.params_of(mo.recipes.linear(family[1:], weight=weights))
    assert all(0 <= value <= 1 for value in params.values())
    expected = [w / sum(weights) for w in weights]
    assert space.bind(params).values_at(EMBED)["weight"] == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_shares_are_of_what_is_left(family: Family, shares: tuple[float, float]) -> None:
    space = mo.recipes.linear(family[1:], weight=mo.free(0, 1))
    bound = space.bind({"share/ja": shares[0], "share/math": shares[1]})
    first, second = shares[0], (1 - shares[0]) * shares[1]
    weights = bound.values_at(EMBED)["weight"]
    assert weights == pytest.approx([first, second, 1 - first - second], abs=1e-12)
    assert min(weights) >= 0


@pytest.mark.parametrize(
    "weight",
    [
        mo.free(-1, 1),
        mo.free(0.1, 1),
        [mo.free(0, 1), mo.free(0, 1), mo.free(0, 2)],
    ],
    ids=["negative", "above-0", "different"],
)
def test_ranges_that_shares_cannot_keep(family: Family, weight: object) -> None:
    space = mo.recipes.linear(family[1:], weight=weight)
    with pytest.raises(
        RecipeError, match=r"only the proportions.*mo\.free\(0, 1.*normalize=False"
    ):
        space.distributions()


# -- from a trial to a recipe and back --------------------------------------------------------


def spaces(family: Family) -> dict[str, mo.Recipe]:
    base, ja, math, code = family
    recipes = mo.recipes
    inner = recipes.linear([ja, math], weight=mo.free(0, 1, per=2), name="mixed")
    return {
        "shares": recipes.linear([ja, math, code], weight=mo.free(0, 1, per="layer")),
        "weights": recipes.task_arithmetic(
            base, [ja, math], weight=mo.free(-2, 2, per=mo.depth(2)), lambda_=mo.free(0, 2)
        ),
        "log": recipes.slerp(ja, math, t=mo.free(0.01, 1, log=True, per="module")),
        "filters": recipes.dare_linear(
            base,
            [ja, math],
            density={"mlp": mo.free(0.1, 1, per="layer"), "*": mo.free(0.5, 1)},
            weight=[mo.per_group([mo.free(0, 1), 0.5, 0.5, mo.free(0, 2), 1]), 0.25],
        ),
        "nested": recipes.ties(base, [inner, code], density=mo.free(0, 1), weight=mo.free(0, 1)),
    }


def numbers(recipe: mo.Recipe, name: str) -> list[float]:
    """All numbers that hold for a tensor, of the recipe and of those inside it."""
    found = []
    for value in recipe.values_at(name).values():
        found += value if isinstance(value, list) else [value] if type(value) is float else []
    for _, inner in recipe.nested:
        found += numbers(inner, name)
    return found


SPACES = ("shares", "weights", "log", "filters", "nested")


@pytest.mark.parametrize("which", SPACES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_params_of_is_the_inverse_of_bind(family: Family, which: str, data: st.DataObject) -> None:
    space = spaces(family)[which]
    params = {
        name: data.draw(st.floats(d.low + 0.01 * (d.high - d.low), d.high * 0.99), label=name)
        for name, d in space.distributions().items()
    }
    bound = space.bind(params)
    again = space.params_of(bound)
    rebuilt = space.bind(again)
    assert again == pytest.approx(params, rel=1e-9)
    assert list(again) == names(space)
    for name in family[0].names():
        assert numbers(rebuilt, name) == pytest.approx(numbers(bound, name), rel=1e-9)


@pytest.mark.parametrize("which", SPACES)
def test_fixed_trials(family: Family, which: str) -> None:
    space = spaces(family)[which]
    trial = optuna.trial.FixedTrial(space.start())
    bound = space(trial)
    assert bound == space.bind(space.start()) == space.suggest(trial)
    assert trial.distributions == space.distributions()
    assert bound.distributions() == {}


def test_a_study(family: Family) -> None:
    """A finished trial's parameters are enough to make its recipe again."""
    space = spaces(family)["nested"]
    made = {}

    def objective(trial: optuna.Trial) -> float:
        made[trial.number] = space(trial)
        return sum(trial.params.values())

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=5)

    for trial in study.trials:
        assert trial.distributions == space.distributions()
        assert space.bind(trial.params) == made[trial.number]
    assert len({recipe.digest for recipe in made.values()}) == 5


def test_the_sampler_of_a_space_searches_it(family: Family) -> None:
    space = mo.recipes.linear(family[1:], weight=mo.free(0, 1, per="layer"))
    study = optuna.create_study(sampler=space.sampler(seed=0))
    study.optimize(lambda trial: sum(space(trial).values_at(EMBED)["weight"]), n_trials=3)
    assert all(trial.distributions == space.distributions() for trial in study.trials)


def test_numbers_of_other_parameters_are_ignored(family: Family) -> None:
    space = mo.recipes.task_arithmetic(family[0], [family[1]], lambda_=mo.free(0, 1))
    assert space.bind({"lambda_": 0.5, "learning_rate": 3}).values["lambda_"] == 0.5


def test_missing_parameters_are_listed(family: Family) -> None:
    space = mo.recipes.task_arithmetic(family[0], family[1:3], weight=mo.free(0, 1, per="layer"))
    with pytest.raises(RecipeError, match=r"10 parameters are missing: weight/ja/embed, .*belong"):
        space.bind({"weight/ja": 0.5})


def test_numbers_outside_the_methods_range(family: Family) -> None:
    space = mo.recipes.ties(family[0], [family[1]], density=mo.free(0.1, 0.9))
    for wrong in (1.5, float("nan")):
        with pytest.raises(RecipeError, match=r"density/ja is .*, but must be a number in \[0.1"):
            space.bind({"density/ja": wrong})


@pytest.mark.parametrize(
    "why", ["method", "number", "models", "base", "exclude", "constant", "word", "per", "filters"]
)
def test_params_of_recipes_outside_the_space(family: Family, why: str) -> None:
    base, ja, math, code = family
    ties = mo.recipes.ties
    space = ties(base, [ja, math], density=mo.free(0, 1, per="layer"), lambda_=0.7)
    inside = ties(base, [ja, math], density=0.3, lambda_=0.7)
    assert set(space.params_of(inside).values()) == {0.3}
    by_name = {"mlp": 0.1, "*": 0.2}
    by_depth = mo.per_group([0.1, 0.2], per=mo.depth(2))
    outside = {
        "method": mo.recipes.dare_ties(base, [ja, math], lambda_=0.7),
        "number": ties(base, [ja], lambda_=0.7),
        "models": ties(base, [ja, code], lambda_=0.7),
        "base": ties(code, [ja, math], lambda_=0.7),
        "exclude": ties(base, [ja, math], lambda_=0.7, exclude=["norm"]),
        "constant": ties(base, [ja, math], lambda_=0.8),
        "word": ties(base, [ja, math], lambda_=0.7, elect="count"),
        "per": ties(base, [ja, math], lambda_=0.7, density=by_depth),
        "filters": ties(base, [ja, math], lambda_=0.7, density=by_name),
    }
    with pytest.raises(RecipeError, match=r"but the space is|Expected"):
        space.params_of(outside[why])


# -- start ----------------------------------------------------------------------------------


def test_starts(family: Family) -> None:
    base, ja = family[:2]
    one = mo.recipes.task_arithmetic(base, [ja], lambda_=mo.free(0, 2, per="layer", start=0.3))
    assert set(one.start().values()) == {0.3}
    each = mo.recipes.task_arithmetic(
        base, [ja], lambda_=mo.free(0, 2, per="layer", start=[0.1, 0.2, 0.3, 0.4, 0.5])
    )
    assert list(each.start().values()) == [0.1, 0.2, 0.3, 0.4, 0.5]
    wrong = mo.recipes.task_arithmetic(
        base, [ja], lambda_=mo.free(0, 2, per="layer", start=[0.1, 0.2])
    )
    with pytest.raises(RecipeError, match=r"start has 2 numbers.*5 groups per layer: embed, 00"):
        wrong.start()


# -- freeing what is there --------------------------------------------------------------------


def test_free_starts_at_the_present_values(family: Family) -> None:
    base, ja, math, _ = family
    recipe = mo.recipes.ties(base, [ja, math], weight=[0.3, 0.6], density=[0.5, 0.25], lambda_=2.5)
    space = recipe.free("density", "lambda_")
    assert space.distributions() == {
        "density/ja": FloatDistribution(0, 1),
        "density/math": FloatDistribution(0, 1),
        "lambda_": FloatDistribution(0, 5),  # twice the value, as the search range ends at 2
    }
    assert space.start() == {"density/ja": 0.5, "density/math": 0.25, "lambda_": 2.5}
    assert space.bind(space.start()) == recipe
    assert space.values["weight"] == (0.3, 0.6)


def test_free_weights_that_are_normalised_keep_their_proportions(family: Family) -> None:
    recipe = mo.recipes.linear(family[1:], weight=[1, 3, 4])
    space = recipe.free("weight", per="layer")
    bound = space.bind(space.start())
    assert bound.values_at(EMBED)["weight"] == pytest.approx([1 / 8, 3 / 8, 4 / 8])


def test_free_per_group(family: Family) -> None:
    base, ja = family[:2]
    recipe = mo.recipes.task_arithmetic(base, [ja], lambda_=mo.per_group([-1, 0, 0.5, 1, 2]))
    space = recipe.free("lambda_", per="layer")
    assert list(space.start()) == [f"lambda_/{group}" for group in GROUPS]
    assert list(space.start().values()) == [-1, 0, 0.5, 1, 2]
    assert set(map(str, space.distributions().values())) == {str(FloatDistribution(-1, 4))}
    assert space.bind(space.start()) == recipe
    finer = mo.recipes.task_arithmetic(base, [ja], lambda_=0.3).free("lambda_", per=mo.depth(2))
    assert finer.start() == {"lambda_/d0": 0.3, "lambda_/d1": 0.3}


def test_free_with_bounds(family: Family) -> None:
    recipe = mo.recipes.task_arithmetic(family[0], [family[1]])
    space = recipe.free("weight", low=-2, high=2)
    assert space.distributions() == {"weight/ja": FloatDistribution(-2, 2)}


def test_free_without_names_searches_what_the_spec_says(family: Family) -> None:
    base, ja, math, _ = family
    recipe = mo.recipes.breadcrumbs(base, [ja, math], weight=[0.5, 1.5], density=0.3, gamma=0.2)
    space = recipe.free(per="layer")
    assert set(map(str, space.distributions().values())) == {
        str(FloatDistribution(0, 1)),  # weight and density
        str(FloatDistribution(0, 0.1)),
    }
    assert space.start() == {
        f"{name}/{model}/{group}": value
        for name, values in {
            "weight": (0.5, 1),
            "density": (0.3, 0.3),
            "gamma": (0.1, 0.1),
        }.items()
        for model, value in zip(("ja", "math"), values, strict=True)
        for group in GROUPS
    }


def test_free_without_names_searches_lambda_beside_shares(family: Family) -> None:
    """Normalised weights leave the scale open; their proportions survive the clipping."""
    base, ja, math, code = family
    experts = [ja, math, code]
    space = mo.recipes.ties(base, experts, weight=[1, 3, 4], lambda_=2.5).free()
    assert space.start() == pytest.approx(
        {"share/ja": 1 / 8, "share/math": 3 / 7, "lambda_": 2}
        | {f"density/{model}": 0.5 for model in ("ja", "math", "code")}
    )
    assert space.distributions()["lambda_"] == FloatDistribution(0, 2)
    plain = mo.recipes.ties(base, experts, normalize=False).free()
    assert "lambda_" not in plain.distributions()


@pytest.mark.parametrize("method", mo.methods.METHODS)
def test_every_method_can_be_freed_as_it_is(family: Family, method: str, tmp_path: Path) -> None:
    spec = mo.methods.get(method)
    experts = family[1 : 1 + int(min(3, spec.models[1]))]
    base = family[0] if spec.base else None
    tokens = {"input_ids": torch.arange(3, 15).reshape(2, 6)}
    statistics = [
        getattr(mo.statistics, spec.statistics)(model, [tokens], folder=tmp_path / model.name)
        for model in (experts if spec.statistics else ())
    ]
    recipe = mo.Recipe(
        method=method, base=base, models=tuple(experts), statistics=tuple(statistics)
    )
    if not any(p.search for p in spec.parameters):
        with pytest.raises(RecipeError, match=f"No parameter of {method} has a search range"):
            recipe.free()
        return
    space = recipe.free()
    assert space.slots
    bound = dict(mo.engine.tensors(space.bind(space.start())))
    for name, tensor in mo.engine.tensors(recipe):
        torch.testing.assert_close(bound[name], tensor, rtol=1e-5, atol=1e-6)


def test_free_without_names_leaves_what_is_free(family: Family) -> None:
    recipe = mo.recipes.slerp(*family[1:3], t=mo.free(0.25, 0.5))
    with pytest.raises(RecipeError, match="t of slerp are free already"):
        recipe.free()
    weight = mo.free(-1, 1)
    space = mo.recipes.task_arithmetic(family[0], family[1:], weight=[weight, 0.5, 0.5])
    with pytest.raises(RecipeError, match="weight of task_arithmetic are free already"):
        space.free()
    freed = mo.recipes.ties(family[0], family[1:2], density=mo.free(0.2, 0.4)).free()
    assert freed.distributions()["density/ja"] == FloatDistribution(0.2, 0.4)
    assert freed.distributions()["lambda_"] == FloatDistribution(0, 2)


def test_bounds_need_names(family: Family) -> None:
    recipe = mo.recipes.linear(family)
    with pytest.raises(RecipeError, match="low and high need the names"):
        recipe.free(low=0.1)


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ([], {}, r"density cannot be freed per model: .*another granularity"),
        (["elect"], {}, r"elect cannot be free: it is 'mass' or 'count'"),
        (["normalize"], {}, r"normalize cannot be free: it is true or false"),
        (["densty"], {}, r"ties has no parameter 'densty'. Did you mean 'density'\?"),
        (["weight"], {}, r"weight cannot be freed per model: it is free already"),
        (["density"], {}, r"density cannot be freed per model: .*another granularity"),
        (["density"], {"per": "layers"}, r"per must be 'model'"),
        (["lambda_"], {"low": 2.0}, r"lambda_ cannot be freed .*\(1\.0,\) lie outside \[2"),
        (["lambda_"], {"low": 1.0, "high": 1.0}, r"finite low < high"),
    ],
)
def test_what_cannot_be_freed(family: Family, names: list[str], options: dict, words: str) -> None:
    recipe = mo.recipes.ties(
        family[0],
        [family[1]],
        weight=mo.free(0, 1),
        density=mo.per_group([0.1, 0.2, 0.3, 0.4, 0.5]),
    )
    with pytest.raises(RecipeError, match=words):
        recipe.free(*names, **options)


# -- nested ---------------------------------------------------------------------------------


def test_names_of_nested_recipes_have_a_prefix(family: Family) -> None:
    base, ja, math, code = family
    first = mo.recipes.linear([base, ja], weight=mo.free(0, 1), name="start")
    second = mo.recipes.slerp(ja, math, t=mo.free(0, 1, per=mo.depth(2)))
    space = mo.recipes.task_arithmetic(first, [second, code], weight=mo.free(0, 1))
    expected = [
        "weight/recipe0",
        "weight/code",
        "start/share/base",
        "recipe0/t/d0",
        "recipe0/t/d1",
    ]
    assert names(space) == expected
    assert len(set(names(space))) == len(expected)
    params = {name: 0.1 * (i + 1) for i, name in enumerate(expected)}
    bound = space.bind(params)
    assert bound.values_at(EMBED)["weight"] == [0.1, 0.2]
    assert isinstance(bound.base, mo.Recipe)
    assert bound.base.values_at(EMBED)["weight"] == pytest.approx([0.3, 0.7])
    assert isinstance(bound.models[0], mo.Recipe)
    assert bound.models[0].values_at(UP.format(1))["t"] == pytest.approx(0.45)
    assert space.params_of(bound) == pytest.approx(params)


def test_the_same_recipe_twice_is_refused(family: Family) -> None:
    inner = mo.recipes.linear(family[1:3], name="mix")
    with pytest.raises(RecipeError, match="Several models are called mix"):
        mo.recipes.linear([inner, inner])
    with pytest.raises(RecipeError, match="Several models are called mix"):
        mo.recipes.task_arithmetic(inner, [inner])
