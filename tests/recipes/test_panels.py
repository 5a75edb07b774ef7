"""Recipes as tables of layers and models: against what each tensor is merged with."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import merge_optuna as mo
from merge_optuna.recipes import Panel, Recipe, panels_of, summary_of

LAYERS = ("embed", "00", "01", "02", "head")


def drawn(space: Recipe) -> Recipe:
    """A recipe of a space, all numbers different."""
    space_of = space.distributions().items()
    rng = np.random.default_rng(0)
    return space.bind({name: float(rng.uniform(d.low, d.high)) for name, d in space_of})


def by_name(recipe: Recipe) -> dict[str, Panel]:
    return {panel.parameter: panel for panel in panels_of(recipe)}


def layer_of(tensor: str) -> str:
    """Of the tensors of a Llama, written down anew."""
    if tensor.startswith("model.layers."):
        return f"{int(tensor.split('.')[2]):02}"
    return "embed" if "embed" in tensor else "head"


@pytest.mark.parametrize("per", ["model", "layer", 2, mo.depth(2), mo.depth(7)])
def test_every_tensor_is_merged_with_the_numbers_of_its_layer(
    family: list[mo.Checkpoint], per: object
) -> None:
    base, *experts = family
    recipe = drawn(
        mo.recipes.ties(
            base, experts, weight=mo.free(0, 1, per=per), lambda_=mo.free(0, 2, per=per)
        )
    )
    weight, lambda_ = by_name(recipe)["weight"], by_name(recipe)["lambda_"]
    assert weight.columns == ("ja", "math", "code")
    assert len(lambda_.columns) == 1
    rows = {"model": 1, 2: 4}.get(per, 5)  # with 2: embedding, layers 0 and 1, layer 2, head
    assert weight.values.shape == (rows, 3)
    place = {layer: i for i, layer in enumerate(LAYERS)}
    if per == 2:
        assert weight.rows == ("embed", "00-01", "02", "head")
        place = {"embed": 0, "00": 1, "01": 1, "02": 2, "head": 3}
    for tensor in recipe.alignment.layout.names:
        row = place[layer_of(tensor)] if rows > 1 else 0
        used = recipe.values_at(tensor)
        assert weight.values[row].tolist() == used["weight"]
        assert lambda_.values[row].tolist() == [used["lambda_"]]


def test_attention_and_feed_forward_have_a_panel_each(family: list[mo.Checkpoint]) -> None:
    base, *experts = family
    recipe = drawn(mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1, per="module")))
    panels = by_name(recipe)
    assert list(panels) == ["weight/attn", "weight/mlp", "weight"]
    assert panels["weight"].rows == ("embed", "head")
    for layer, (part, tensor) in itertools.product(
        range(3), [("attn", "self_attn.v_proj"), ("mlp", "mlp.up_proj")]
    ):
        used = recipe.values_at(f"model.layers.{layer}.{tensor}.weight")["weight"]
        assert panels[f"weight/{part}"].values[layer].tolist() == used


def test_values_per_tensor_are_means_and_say_so(family: list[mo.Checkpoint]) -> None:
    base, *experts = family
    recipe = drawn(mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1, per="tensor")))
    panel = by_name(recipe)["weight/mlp, mean"]
    names = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm"]
    used = [recipe.values_at(f"model.layers.1.{name}.weight")["weight"] for name in names]
    np.testing.assert_allclose(panel.values[1], np.mean(used, axis=0), rtol=1e-12)


def test_filters_have_a_panel_each_and_only_the_models_and_layers_they_are_about(
    family: list[mo.Checkpoint],
) -> None:
    base, ja, math, _ = family
    weight = [{"mlp": mo.per_group([1, 2, 3, 4, 5]), "layers.2": 0.5, "*": 0.25}, 0.75]
    panels = by_name(mo.recipes.task_arithmetic(base, [ja, math], weight=weight))
    shown = {n: (p.rows, p.columns, p.values.tolist()) for n, p in panels.items()}
    assert shown == {
        "weight/mlp": (("00", "01", "02"), ("ja",), [[2], [3], [4]]),
        "weight/layers.2": (("all",), ("ja",), [[0.5]]),
        "weight/*": (("all",), ("ja",), [[0.25]]),
        "weight": (("all",), ("math",), [[0.75]]),
    }


def test_models_of_different_granularity_stand_side_by_side(family: list[mo.Checkpoint]) -> None:
    base, *experts = family
    weight = [mo.per_group([1, 2, 3, 4, 5]), 7.0, mo.per_group([1, 5], per=mo.depth(2))]
    [panel] = panels_of(mo.recipes.task_arithmetic(base, experts, weight=weight))
    assert panel.rows == LAYERS
    assert panel.values.T.tolist() == [[1, 2, 3, 4, 5], [7] * 5, [1, 1, 3, 5, 5]]


def test_what_is_excluded_has_no_row(family: list[mo.Checkpoint]) -> None:
    base, *experts = family
    weight = mo.free(0, 1, per="layer")
    recipe = mo.recipes.task_arithmetic(base, experts, weight=weight, exclude=["embed", "lm_head"])
    [panel] = panels_of(drawn(recipe))
    assert panel.rows == ("00", "01", "02", "head")  # the last norm is merged


def test_defaults_are_left_out_but_for_the_first(family: list[mo.Checkpoint]) -> None:
    base, *experts = family
    assert list(by_name(mo.recipes.ties(base, experts))) == ["weight"]
    assert list(by_name(mo.recipes.ties(base, experts, density=0.3))) == ["weight", "density"]
    assert panels_of(mo.recipes.model_stock(base, experts)) == ()


def test_recipes_inside_are_named(family: list[mo.Checkpoint]) -> None:
    _, ja, math, code = family
    inner = mo.recipes.linear([ja, math], weight=[0.2, 0.8], name="both")
    panels = by_name(mo.recipes.slerp(inner, code, t=0.3))
    assert list(panels) == ["t", "both/weight"]
    assert panels["t"].values.tolist() == [[0.3]]
    assert panels["both/weight"].columns == ("ja", "math")
    path = mo.recipes.path("A0 A1", [inner])
    assert list(by_name(path)) == ["both/weight"]  # the path itself is no table


def test_layers_of_stacked_models_are_those_of_the_merged_one(family: list[mo.Checkpoint]) -> None:
    _, ja, math, _ = family
    scales = [mo.per_group([1, 2, 3]), mo.per_group([4, 5])]  # with embedding; with head
    recipe = mo.recipes.passthrough([ja.layers(0, 2), math.layers(1, 2)], scale=scales)
    [panel] = panels_of(recipe)
    assert panel.rows == LAYERS
    np.testing.assert_array_equal(
        panel.values.T, [[1, 2, 3, np.nan, np.nan], [np.nan] * 3 + [4, 5]]
    )


def test_coefficients_of_segments_are_means_over_the_elements(
    family: list[mo.Checkpoint],
) -> None:
    _, ja, math, _ = family
    starts = [0, 1000, 5001, 20000]
    coefficients = [[0.3, 0.7], [1.0, 0.5], [0.0, 1.0], [0.25, -0.25]]
    rows = [[start, *row] for start, row in zip(starts, coefficients, strict=True)]
    recipe = Recipe(method="splice", models=(ja, math), individual=rows)
    [panel] = panels_of(recipe)
    # Every element of the flat model with its coefficients, and its layer.
    parts = recipe.parts.values()
    layers = np.repeat([layer_of(p.name) for p in parts], [p.size for p in parts])
    segment = np.searchsorted(starts, np.arange(len(layers)), side="right") - 1
    elements = np.array(coefficients)[segment]
    assert panel.rows == LAYERS
    for layer, row in zip(panel.rows, panel.values, strict=True):
        np.testing.assert_allclose(row, elements[layers == layer].mean(0), rtol=1e-12)


def test_free_numbers_are_refused(family: list[mo.Checkpoint]) -> None:
    base, *experts = family
    with pytest.raises(mo.errors.RecipeError, match="Bind them first"):
        panels_of(mo.recipes.ties(base, experts, weight=mo.free(0, 1)))


def test_a_line_says_what_each_model_has(family: list[mo.Checkpoint]) -> None:
    base, ja, math, code = family
    weights = [mo.per_group([0.1, 0.2, 0.3, 0.4, 0.5]), 0.25]
    ties = mo.recipes.ties(base, [ja, math], weight=weights, density=[0.5, 0.123456])
    assert summary_of(ties) == "ties: ja weight 0.3 density 0.5, math weight 0.25 density 0.123"
    inner = mo.recipes.linear([ja, math], weight=[0.2, 0.8], name="both")
    path = mo.recipes.path("A0 A1 A2 B1×0.81234 B2×1.5 B0 A1 B2", [inner, code])
    assert summary_of(path) == (
        "path through both (A), code (B): A[0:3] B1×0.81 B2×1.50 B0 A1 B2; "
        "both = linear: ja 0.2, math 0.8"
    )
    steps = [
        {"model": 0},
        {"model": 1},
        {"operation": "crossover", "of": [0, 1], "F": 0.5, "CR": 0.9, "seed": 3, "donors": 1},
    ]
    line = "descent from ja, math: 1 step, the last a crossover F 0.5 CR 0.9"
    assert summary_of(Recipe(method="descent", models=(ja, math), individual=steps)) == line


def test_a_line_ends(family: list[mo.Checkpoint]) -> None:
    path = mo.recipes.path("-".join(["A0×0.5", "A2×1.25"] * 40), family[1:2])
    assert len(summary_of(path)) == 200
    assert summary_of(path).endswith("…")
