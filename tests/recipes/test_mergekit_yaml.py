"""mergekit configurations as they stand on model cards, and what every tensor gets from them.

Expected numbers are worked out by hand from mergekit's documentation; that mergekit itself gives
the same is in ``tests/mergekit``.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import peft
import pydantic
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, MergeOptunaError, RecipeError
from tests import adapters, hub, toys, vocabularies

LAYERS = 5
Family = list[mo.Checkpoint]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders base, ja, math and code with Llamas of five layers."""
    folder = tmp_path_factory.mktemp("models")
    toys.family(folder, lambda: toys.llama(layers=LAYERS))
    return folder


@pytest.fixture(scope="module")
def family(root: Path) -> Family:
    return [mo.Checkpoint(root / name, name=name) for name in ("base", *toys.EXPERTS[:3])]


@pytest.fixture
def read(root: Path) -> Callable[..., mo.Recipe]:
    """Reads a YAML in which ``@name`` stands for a folder."""

    def read(text: str, **options: bool) -> mo.Recipe:
        return mo.Recipe.from_mergekit(located(text, root), **options)

    return read


def located(text: str, root: Path) -> str:
    text = textwrap.dedent(text)
    for name in ("base", *toys.EXPERTS):
        text = text.replace(f"@{name}", str(root / name))
    return text


def at(recipe: mo.Recipe, parameter: str, rest: str) -> list[Any]:
    """What one kind of tensor gets, layer by layer."""
    return [recipe.values_at(f"model.layers.{i}.{rest}")[parameter] for i in range(LAYERS)]


EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
MLP, ATTENTION, INPUT = (
    "mlp.down_proj.weight",
    "self_attn.q_proj.weight",
    "input_layernorm.weight",
)


# -- what reads -----------------------------------------------------------------------------


def test_a_linear_merge(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        models:
          - model: @ja
            parameters:
              weight: 1.0
          - model: @math
            parameters:
              weight: 3e-1
        merge_method: linear
        dtype: float16
        """
    )
    assert (recipe.method, recipe.model_names, recipe.dtype) == (
        "linear",
        ("ja", "math"),
        "float16",
    )
    assert recipe.values == {"weight": (1.0, 0.3), "normalize": True}


def test_slerp_with_gradients_by_name(read: Callable[[str], mo.Recipe]) -> None:
    """The configuration of most merges on the hub."""
    recipe = read(
        """
        slices:
          - sources:
              - model: @base
                layer_range: [0, 5]
              - model: @ja
                layer_range: [0, 5]
        merge_method: slerp
        base_model: @base
        parameters:
          t:
            - filter: self_attn
              value: [0, 0.5, 0.3]
            - filter: mlp
              value: [1, 0.5, 0.7, 0.3, 0]
            - value: 0.5 # fallback for rest of tensors
        dtype: bfloat16
        """
    )
    assert (recipe.model_names, recipe.dtype) == (("base", "ja"), "bfloat16")
    assert at(recipe, "t", ATTENTION) == pytest.approx([0, 0.25, 0.5, 0.4, 0.3])
    assert at(recipe, "t", MLP) == [1, 0.5, 0.7, 0.3, 0]
    assert at(recipe, "t", INPUT) == [0.5] * LAYERS
    assert [recipe.values_at(name)["t"] for name in (EMBED, NORM, HEAD)] == [0.5] * 3


def test_slerp_starts_at_the_base_wherever_it_stands(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        models: [{model: @ja}, {model: @math}]
        base_model: @math
        merge_method: slerp
        parameters: {t: 0.2}
        """
    )
    assert recipe.model_names == ("math", "ja")
    assert recipe.dtype is None


def test_ties_with_a_base_that_is_not_listed(read: Callable[[str], mo.Recipe]) -> None:
    """Gradients give what stands outside the layers their first number."""
    recipe = read(
        """
        models:
          - model: @ja
            parameters:
              density: [1, 0.7, 0.1] # density gradient
              weight: 1.0
          - model: @math
            parameters:
              density: 0.5
              weight: [0, 0.3, 0.7, 1] # weight gradient
          - model: @code
            parameters:
              density: 0.33
              weight:
                - filter: mlp
                  value: 0.5
                - value: 0
        merge_method: ties
        base_model: @base
        parameters:
          normalize: true
        dtype: float32
        """
    )
    assert recipe.base is not None
    assert (recipe.base.name, recipe.model_names) == ("base", ("ja", "math", "code"))
    densities = at(recipe, "density", ATTENTION)
    assert [d[0] for d in densities] == pytest.approx([1, 0.85, 0.7, 0.4, 0.1])
    assert [w[1] for w in at(recipe, "weight", MLP)] == pytest.approx([0, 0.225, 0.5, 0.775, 1])
    assert [w[2] for w in at(recipe, "weight", MLP)] == [0.5] * LAYERS
    for name in (EMBED, NORM, HEAD):
        assert recipe.values_at(name)["density"] == [1, 0.5, 0.33]
        assert recipe.values_at(name)["weight"] == [1, 0, 0]


def test_dare_ties_with_a_base_in_the_list(read: Callable[[str], mo.Recipe]) -> None:
    with pytest.warns(UserWarning, match=r"parameters\.int8_mask has no effect"):
        recipe = read(
            """
            models:
              - model: @base
                # No parameters necessary for base model
              - model: @ja
                parameters:
                  density: 0.53
                  weight: 0.4
              - model: @math
                parameters:
                  density: 0.53
                  weight: 0.3
            merge_method: dare_ties
            base_model: @base
            parameters:
              int8_mask: true
            dtype: bfloat16
            """
        )
    assert recipe.model_names == ("ja", "math")
    assert recipe.values == {
        "weight": (0.4, 0.3),
        "density": (0.53, 0.53),
        "lambda_": 1.0,
        "rescale": "l1",
        "normalize": False,
        "elect": "mass",
        "seed": 0,
    }


def test_dare_linear_without_rescaling(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        merge_method: dare_linear
        base_model: @base
        models:
          - {model: @ja, parameters: {weight: 0.2}}
          - {model: @base, parameters: {}}
        parameters: {density: 0.9, lambda: 1.1, normalize: "true", rescale: false}
        """
    )
    values = recipe.values
    assert (values["density"], values["lambda_"]) == ((0.9,), 1.1)
    assert (values["rescale"], values["normalize"]) == ("none", True)


def test_task_arithmetic_with_negative_weights(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        base_model: @base
        merge_method: task_arithmetic
        models:
        - model: @ja
          parameters: {weight: -0.3}
        - model: @math
        parameters:
          weight: 1
        out_dtype: bfloat16
        dtype: float32
        """
    )
    assert (recipe.values["weight"], recipe.dtype) == ((-0.3, 1.0), "bfloat16")


def test_filters_fall_through_to_the_next_level(read: Callable[[str], mo.Recipe]) -> None:
    """Model before slice before all; a level whose filters leave a tensor asks the next."""
    recipe = read(
        """
        slices:
          - sources:
              - model: @ja
                layer_range: [0, 5]
                parameters:
                  weight:
                    - {filter: q_proj, value: 1}
              - model: @math
                layer_range: [0, 5]
            parameters:
              weight:
                - {filter: self_attn, value: [2, 3]}
        merge_method: linear
        parameters:
          weight:
            - {filter: "*", value: 4}
        """
    )
    assert at(recipe, "weight", ATTENTION) == [
        [1, 2],
        [1, 2.25],
        [1, 2.5],
        [1, 2.75],
        [1, 3],
    ]
    assert at(recipe, "weight", "self_attn.k_proj.weight")[4] == [3, 3]
    assert recipe.values_at(EMBED)["weight"] == [4, 4]


def test_a_base_that_linear_merges_too(read: Callable[[str], mo.Recipe]) -> None:
    """mergekit adds a base that is not among the models, and linear has no other use for it."""
    recipe = read(
        """
        models: [{model: @ja}, {model: @math}]
        merge_method: linear
        base_model: @base
        parameters: {weight: 1.0}
        """
    )
    assert recipe.model_names == ("base", "ja", "math")


def test_a_frankenmerge(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        slices:
          - sources:
            - model: @ja
              layer_range: [0, 4]
          - sources:
            - model: @math
              layer_range: [2, 5]
        merge_method: passthrough
        dtype: float16
        """
    )
    assert recipe.model_names == ("ja[0:4]", "math[2:5]")
    assert recipe.frame.config is not None
    assert recipe.frame.config["num_hidden_layers"] == 7
    assert recipe.inputs_at("model.layers.3.mlp.up_proj.weight")[0][0].name == "ja[0:4]"
    assert recipe.inputs_at("model.layers.4.mlp.up_proj.weight") == (
        (recipe.models[1], "model.layers.0.mlp.up_proj.weight"),
    )
    assert recipe.inputs_at(EMBED)[0][0].name == "ja[0:4]"
    assert recipe.inputs_at(NORM)[0][0].name == "math[2:5]"


def test_layers_that_repeat_with_scales(read: Callable[[str], mo.Recipe]) -> None:
    """Repeated layers whose output is turned off: the model stays as it was (LLaMA Pro)."""
    recipe = read(
        """
        slices:
          - sources: [{model: @ja, layer_range: [0, 4]}]
          - sources:
              - model: @ja
                layer_range: [3, 4]
                parameters:
                  scale:
                    - filter: o_proj
                      value: 0.0
                    - filter: down_proj
                      value: 0.0
                    - value: 1.0
          - sources: [{model: @ja, layer_range: [3, 4]}]
          - sources: [{model: @ja, layer_range: [4, 5]}]
        merge_method: passthrough
        dtype: bfloat16
        """
    )
    assert recipe.model_names == ("ja[0:4]", "ja[3:4]", "ja[3:4]#2", "ja[4:5]")
    scales = [recipe.values_at(f"model.layers.{i}.{MLP}")["scale"] for i in range(7)]
    assert scales == [[1], [1], [1], [1], [0], [1], [1]]
    assert recipe.values_at("model.layers.4.mlp.up_proj.weight")["scale"] == [1]


def test_a_passthrough_of_one_model(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        models: [{model: @ja}]
        merge_method: passthrough
        parameters: {scale: [1, 2]}
        """
    )
    assert at(recipe, "scale", MLP) == [[1], [1.25], [1.5], [1.75], [2]]
    assert recipe.values_at(HEAD)["scale"] == [1]


def test_methods_without_parameters(read: Callable[[str], mo.Recipe]) -> None:
    for method in ("arcee_fusion", "model_stock"):
        recipe = read(
            f"""
            merge_method: {method}
            base_model: @base
            models: [{{model: @ja}}{", {model: @math}" if method == "model_stock" else ""}]
            dtype: float32
            """
        )
        assert recipe.base is not None
        assert (recipe.method, recipe.base.name) == (method, "base")


def test_slices_that_are_merged(read: Callable[[str], mo.Recipe]) -> None:
    """Gradients run over a slice; a slice of one layer has the last number."""
    recipe = read(
        """
        slices:
          - sources:
              - {model: @ja, layer_range: [0, 3], parameters: {weight: [0, 1]}}
              - {model: @math, layer_range: [2, 5], parameters: {weight: 0.5}}
          - sources:
              - {model: @ja, layer_range: [4, 5], parameters: {weight: [7, 8]}}
              - {model: @code, layer_range: [0, 1], parameters: {weight: 2}}
        merge_method: linear
        dtype: float32
        """
    )
    first, second = recipe.models
    assert (first.model_names, second.model_names) == (
        ("ja[0:3]", "math[2:5]"),
        ("ja[4:5]", "code[0:1]"),
    )
    assert [first.values_at(f"model.layers.{i}.{MLP}")["weight"] for i in range(3)] == [
        [0, 0.5],
        [0.5, 0.5],
        [1, 0.5],
    ]
    assert second.values_at(f"model.layers.0.{MLP}")["weight"] == [8, 2]
    assert second.values_at(HEAD)["weight"] == [7, 2]


def test_filters_see_the_numbers_of_the_source(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        slices:
          - sources:
              - model: @ja
                layer_range: [2, 5]
                parameters: {scale: [{filter: layers.3., value: 0.5}, {value: 1}]}
        merge_method: passthrough
        """
    )
    scales = [recipe.values_at(f"model.layers.{i}.{MLP}")["scale"] for i in range(3)]
    assert scales == [[1], [0.5], [1]]


def test_every_slice_may_have_its_base(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        slices:
          - sources:
              - {model: @base, layer_range: [0, 2]}
              - {model: @ja, layer_range: [0, 2]}
          - sources:
              - {model: @code, layer_range: [2, 5]}
              - {model: @math, layer_range: [2, 5]}
            base_model: @code
            parameters: {lambda: 0.5}
        merge_method: task_arithmetic
        base_model: @base
        parameters: {weight: 1}
        """
    )
    assert [piece.base.name for piece in recipe.models] == ["base[0:2]", "code[2:5]"]
    assert [piece.values["lambda_"] for piece in recipe.models] == [1.0, 0.5]


def test_merges_of_merges(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        name: mean
        merge_method: linear
        models: [{model: @ja}, {model: @math}]
        parameters: {weight: 1}
        dtype: bfloat16
        ---
        merge_method: slerp
        base_model: mean
        models: [{model: mean}, {model: @code}]
        parameters: {t: 0.4}
        dtype: bfloat16
        """
    )
    assert (recipe.model_names, recipe.models[0].method) == (("mean", "code"), "linear")
    assert (recipe.dtype, recipe.models[0].dtype) == ("bfloat16", None)


def test_the_last_of_named_configurations(read: Callable[[str], mo.Recipe]) -> None:
    text = """
        name: whole
        merge_method: linear
        models: [{model: part}, {model: @math}]
        parameters: {weight: 1}
        ---
        name: part
        merge_method: linear
        models: [{model: @ja}, {model: @code}]
        parameters: {weight: 1}
        """
    assert read(text).model_names == ("part", "math")
    template = "chat_template: '{{ messages }}'"
    text = text.replace("        ---", f"        {template}\n        ---")
    assert read(text).chat_template == "{{ messages }}"


def test_names_of_models_as_mappings(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        models:
          - model: {model: {path: @ja}, lora: null}
            parameters: {weight: 1}
          - model: {model: @math}
            parameters: {weight: 2}
        merge_method: linear
        """
    )
    assert recipe.model_names == ("ja", "math")


def test_folders_of_one_name(root: Path, family: Family, tmp_path: Path) -> None:
    (tmp_path / "ja").symlink_to(root / "math")
    recipe = mo.Recipe.from_mergekit(
        f"models: [{{model: {root}/ja}}, {{model: {tmp_path}/ja}}]\n"
        "merge_method: linear\nparameters: {weight: 1}"
    )
    assert recipe.model_names == ("ja", "ja-2")
    assert recipe.models[1].digest == family[2].digest


@pytest.mark.filterwarnings("ignore:.*matches no tensor")
def test_what_changes_nothing_is_said(read: Callable[[str], mo.Recipe]) -> None:
    """mergekit passes over these; they are common on model cards."""
    with pytest.warns(UserWarning, match="has no effect") as noted:
        read(
            """
            models:
              - model: @ja
                parameters: {weight: 1, density: 0.5, normalize: true}
              - model: @math
                parameters:
                  weight: [{filter: lm_haed, value: 2}, {value: 3}]
            merge_method: linear
            normalize: true
            """
        )
    texts = " ".join(str(warning.message) for warning in noted)
    assert "models[0].parameters.density has no effect: it changes nothing in linear" in texts
    assert "models[0].parameters.normalize has no effect: mergekit reads it for all" in texts
    assert "The YAML text: normalize has no effect" in texts
    assert "models[1].parameters.weight[0]: the filter 'lm_haed' matches no tensor" in texts


def test_what_was_read_can_be_searched(read: Callable[[str], mo.Recipe]) -> None:
    recipe = read(
        """
        models:
          - {model: @ja, parameters: {weight: [0, 0.4, 0.8]}}
          - {model: @math, parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.3}]}}
        merge_method: task_arithmetic
        base_model: @base
        """
    )
    start = recipe.free("weight", per="layer").start()
    assert [start[f"weight/ja/{i:02}"] for i in range(LAYERS)] == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8]
    )
    assert (start["weight/ja/embed"], start["weight/ja/head"]) == (0, 0)
    assert start["weight/math/03"] == 0.3
    with pytest.raises(RecipeError, match=r"weight cannot be freed per model: .*has several"):
        recipe.free("weight")


# -- what mergekit also takes -----------------------------------------------------------------


def test_the_only_module(read: Callable[..., mo.Recipe]) -> None:
    """mergekit writes models and slices as those of the module default."""
    slices = """
        slices:
          - sources:
              - {model: @ja, layer_range: [0, 3], parameters: {weight: [0.1, 0.9]}}
              - {model: @math, layer_range: [2, 5]}
            parameters: {weight: 0.3}
        """
    plain = read(f"merge_method: linear\n{textwrap.dedent(slices)}")
    inside = textwrap.indent(textwrap.dedent(slices), "    ")
    module = read(f"merge_method: linear\nmodules:\n  default:{inside}")
    assert module == plain
    assert module.values["normalize"] is True


def test_parameters_of_a_module_come_before_those_of_all(read: Callable[..., mo.Recipe]) -> None:
    recipe = read(
        """
        merge_method: linear
        parameters: {weight: 3, normalize: false}
        modules:
          default:
            models: [{model: @ja}, {model: @math, parameters: {weight: 1}}]
            parameters: {weight: 2}
        """
    )
    assert recipe.values == {"weight": (2.0, 1.0), "normalize": False}


def test_modules_with_numbers_of_their_own(tmp_path: Path) -> None:
    """Every module is merged in its part: gradients run over its own layers."""
    toys.family(tmp_path, toys.t5, experts=2)
    recipe = mo.Recipe.from_mergekit(
        located(
            """
            merge_method: task_arithmetic
            base_model: @base
            parameters: {weight: 0.7}
            modules:
              encoder:
                models: [{model: @ja, parameters: {weight: [0, 1]}}, {model: @math}]
              decoder:
                models: [{model: @ja}, {model: @math}]
                parameters: {lambda: 0.5, weight: [{filter: layer.0, value: [0.1, 0.3]}]}
              shared:
                models: [{model: @ja}, {model: @math, parameters: {weight: 0.2}}]
            """,
            tmp_path,
        )
    )

    def found(name: str) -> tuple[list[float], float]:
        values = recipe.values_at(name)
        return values["weight"], values["lambda_"]

    q = "layer.0.SelfAttention.q.weight"
    assert found(f"encoder.block.0.{q}") == ([0, 0.7], 1)
    assert found(f"encoder.block.1.{q}") == ([1, 0.7], 1)
    decoder = [found(f"decoder.block.{i}.{q}") for i in range(3)]
    assert decoder == [([w, w], 0.5) for w in pytest.approx([0.1, 0.2, 0.3]).expected]
    assert found("decoder.final_layer_norm.weight") == ([0.7, 0.7], 0.5)
    assert found("shared.weight") == ([0.7, 0.2], 1)


SPELLINGS = [True, False, 0, 1, 1.0, 0.0, 2, 0.5, "Yes", "n", "T", "OFF", "1", "0", "2"]
SPELLINGS += ["3e-1", "2.0", "12", " ", "maybe", "on"]


@pytest.mark.parametrize("value", SPELLINGS, ids=repr)
@pytest.mark.parametrize(
    ("name", "kind"), [("normalize", bool), ("weight", float), ("max_iter", int)]
)
def test_numbers_and_words_are_read_as_by_pydantic(
    read: Callable[..., mo.Recipe], name: str, kind: type, value: Any
) -> None:
    """As mergekit's models of pydantic do."""
    method = "karcher" if name == "max_iter" else "linear"
    parameters = {"weight": 1, name: value} if name == "normalize" else {name: value}
    text = f"merge_method: {method}\nmodels: [{{model: @ja}}, {{model: @math}}]\n"
    text += f"parameters: {json.dumps(parameters)}\n"
    try:
        expected = pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError:
        with pytest.raises(RecipeError, match=f"{name}: "):
            read(text)
        return
    found = read(text).values[name]
    assert (found[0] if name == "weight" else found) == expected
    assert type(found[0] if name == "weight" else found) is kind


def test_an_empty_gradient_asks_the_next_level(read: Callable[..., mo.Recipe]) -> None:
    recipe = read(
        """
        merge_method: linear
        models: [{model: @ja, parameters: {weight: []}}, {model: @math}]
        parameters: {weight: 0.3}
        """
    )
    assert recipe.values["weight"] == (0.3, 0.3)


def test_whole_numbers_in_other_clothes(read: Callable[..., mo.Recipe]) -> None:
    text = "merge_method: karcher\nmodels: [{model: @ja}, {model: @math}]\nparameters: "
    recipe = read(text + "{max_iter: 12000.0, tol: 1e-10}")
    assert (recipe.values["max_iter"], recipe.values["tol"]) == (12_000, 1e-10)
    with pytest.raises(RecipeError, match=r"max_iter must be a whole number, not 1\.5"):
        read(text + "{max_iter: 1.5}")


@pytest.mark.parametrize("rescale", [True, False])
def test_ties_that_scales_up_what_is_left(read: Callable[..., mo.Recipe], rescale: bool) -> None:
    recipe = read(
        f"""
        merge_method: ties
        base_model: @base
        models: [{{model: @ja}}, {{model: @math}}]
        parameters: {{weight: 1, density: 0.3, rescale: {rescale}}}
        """
    )
    assert (recipe.method, recipe.values["normalize"]) == (
        "breadcrumbs_ties" if rescale else "ties",
        True,
    )
    if rescale:
        assert (recipe.values["rescale"], recipe.values["gamma"]) == ("l1", (0.0, 0.0))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "sce", "ram"])
def test_a_base_alone_is_itself(root: Path, tmp_path: Path, method: str) -> None:
    """So adapters are baked in: mergekit has nothing to add to a base without models."""
    module = toys.llama(layers=LAYERS)
    adapter = adapters.save_adapter(
        module, peft.LoraConfig(r=2, target_modules=["q_proj"]), tmp_path / "lora"
    )
    model = f"{root}/base+{adapter}"
    recipe = mo.Recipe.from_mergekit(
        f"merge_method: {method}\nbase_model: {model}\nmodels: [{{model: {model}}}]\n"
    )
    merged = adapters.merged_by_peft(module, adapter).state_dict()
    name = f"model.layers.2.{ATTENTION}"
    torch.testing.assert_close(dict(mo.engine.tensors(recipe))[name], merged[name])


@pytest.mark.filterwarnings("ignore:.*no effect")
def test_layers_of_a_merge_in_the_middle(
    read: Callable[..., mo.Recipe], root: Path, tmp_path: Path
) -> None:
    """Against the layers of the merge that was written first."""
    middle = """
        merge_method: ties
        base_model: @base
        models:
          - {model: @ja, parameters: {weight: [0.1, 0.9], density: [{filter: mlp, value: 0.3}]}}
          - {model: @math, parameters: {weight: 0.4}}
        parameters: {lambda: [{filter: layers.3., value: 0.5}, {value: 1}]}
        """
    end = """
        merge_method: passthrough
        slices:
          - sources: [{model: MIDDLE, layer_range: [1, 3]}]
          - sources: [{model: @code, layer_range: [0, 2]}]
          - sources: [{model: MIDDLE, layer_range: [2, 5], parameters: {scale: [1, 2]}}]
        """
    mo.write(read(middle), tmp_path / "middle")
    at_once = read(
        f"name: middle\n{textwrap.dedent(middle)}\n---\n"
        + textwrap.dedent(end).replace("MIDDLE", "middle")
    )
    after = read(end.replace("MIDDLE", str(tmp_path / "middle")))
    found, expected = (dict(mo.engine.tensors(recipe)) for recipe in (at_once, after))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_layers_of_a_stack_in_the_middle(
    read: Callable[..., mo.Recipe], root: Path, tmp_path: Path
) -> None:
    """The embedding and the head are those of the stack, whichever layers are taken."""
    middle = """
        merge_method: passthrough
        slices:
          - sources: [{model: @ja, layer_range: [0, 2]}]
          - sources: [{model: @math, layer_range: [1, 5], parameters: {scale: [1, 2]}}]
          - sources: [{model: @code, layer_range: [4, 5]}]
        """
    end = "merge_method: passthrough\nslices: [{sources: [{model: MIDDLE, layer_range: [3, 5]}]}]"
    mo.write(read(middle), tmp_path / "middle")
    at_once = read(
        f"name: middle\n{textwrap.dedent(middle)}\n---\n" + end.replace("MIDDLE", "middle")
    )
    after = read(end.replace("MIDDLE", str(tmp_path / "middle")) + "\n")
    found, expected = (dict(mo.engine.tensors(recipe)) for recipe in (at_once, after))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_parameters_of_the_base_have_no_effect(read: Callable[..., mo.Recipe]) -> None:
    with pytest.warns(UserWarning, match=r"models\[0\]\.parameters has no effect: .*is the base"):
        recipe = read(
            """
            merge_method: ties
            base_model: @base
            models: [{model: @base, parameters: {weight: 3}}, {model: @ja}]
            parameters: {weight: 1}
            """
        )
    assert recipe.values["weight"] == (1.0,)


def test_a_tokenizer_of_a_merge_in_the_middle(words: Path) -> None:
    text = located(
        "name: mean\nmerge_method: linear\nmodels: [{model: @base}, {model: @ja}]\n"
        "parameters: {weight: 1}\ntokenizer_source: union\n---\n"
        "merge_method: linear\nmodels: [{model: mean}, {model: @math}]\n"
        "parameters: {weight: 1}\ntokenizer: {source: union}\n",
        words,
    )
    with pytest.warns(UserWarning, match="tokenizer_source has no effect: the last configuration"):
        recipe = mo.Recipe.from_mergekit(text)
    assert recipe.tokenizer == mo.Vocabulary("union")
    assert recipe.models[0].tokenizer is None


# -- tokenizers, adapters, the hub -----------------------------------------------------------


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders base, ja and math with models that know other words."""
    folder = tmp_path_factory.mktemp("words")
    vocabularies.word_family(folder)
    return folder


def test_a_union_of_tokenizers(words: Path) -> None:
    recipe = mo.Recipe.from_mergekit(
        located(
            """
            merge_method: dare_ties
            base_model: @base
            models:
              - {model: @ja, parameters: {weight: [0.2, 0.4]}}
              - {model: @math, parameters: {weight: 0.3}}
            parameters: {density: 0.5}
            tokenizer_source: union
            chat_template: auto
            """,
            words,
        )
    )
    expected = mo.recipes.dare_ties(
        *(recipe.base, recipe.models),
        weight=[mo.per_group([0.2, 0.2, 0.4, 0.2]), 0.3],
        rescale="l1",
        tokenizer="union",
        chat_template="auto",
    )
    assert recipe == expected
    assert mo.Recipe.from_mergekit(recipe.to_mergekit()) == recipe
    sizes = {len(recipe.base.origin.tensor(EMBED)), recipe.frame.shape(EMBED)[0]}
    assert len(sizes) == 2


def test_rows_of_single_tokens(words: Path) -> None:
    tokenizer = """
        source: @ja
        tokens:
          neko: {source: @math, force: true}
          fox: {source: {kind: zero}}
          <new>: {source: {kind: model_token, model: @base, token: owl}}
          sum: {source: {kind: model_token, model: @ja, token_id: 7}}
        pad_to_multiple_of: 8
        """
    text = located(
        "merge_method: linear\nmodels: [{model: @base}, {model: @ja}, {model: @math}]\n"
        "parameters: {weight: 1}\ntokenizer:" + tokenizer,
        words,
    )
    recipe = mo.Recipe.from_mergekit(text)
    assert recipe.tokenizer == mo.Vocabulary(
        "ja",
        tokens={
            "neko": mo.TokenRow("math", force=True),
            "fox": "zero",
            "<new>": mo.TokenRow("base", token="owl"),
            "sum": mo.TokenRow("ja", token=7),
        },
        pad_to_multiple_of=8,
    )
    assert yaml.safe_load(recipe.to_mergekit())["tokenizer"] == yaml.safe_load(text)["tokenizer"]
    assert mo.Recipe.from_mergekit(recipe.to_mergekit()) == recipe


def test_stacked_layers_of_models_with_other_tokens(words: Path, tmp_path: Path) -> None:
    recipe = mo.Recipe.from_mergekit(
        located(
            """
            slices:
              - sources: [{model: @ja, layer_range: [0, 1]}]
              - sources: [{model: @math, layer_range: [0, 2]}]
            merge_method: passthrough
            tokenizer: {source: union}
            """,
            words,
        )
    )
    assert recipe.frame.config is not None
    assert recipe.frame.config["num_hidden_layers"] == 3
    rows = recipe.frame.shape(EMBED)[0]
    assert recipe.frame.config["vocab_size"] == rows == recipe.frame.shape(HEAD)[0]
    model = AutoModelForCausalLM.from_pretrained(mo.write(recipe, tmp_path / "out"))
    assert model.get_input_embeddings().weight.shape[0] == rows
    assert mo.Recipe.from_mergekit(recipe.to_mergekit()) == recipe


def test_a_lora_on_a_model(root: Path, tmp_path: Path) -> None:
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"])
    module = toys.llama(layers=LAYERS)
    adapter = adapters.save_adapter(module, lora, tmp_path / "lora")
    text = f"""
        merge_method: task_arithmetic
        base_model: @base
        models: [{{model: @base+{adapter}, parameters: {{weight: 0.5}}}}, {{model: @ja}}]
        parameters: {{weight: 1}}
        """
    recipe = mo.Recipe.from_mergekit(located(text, root))
    assert recipe.model_names == ("base+lora", "ja")
    assert recipe.models[0].base == recipe.base
    merged = adapters.merged_by_peft(module, adapter).state_dict()
    name = f"model.layers.2.{ATTENTION}"
    torch.testing.assert_close(recipe.models[0].tensor(name), merged[name])
    written = yaml.safe_load(recipe.to_mergekit())
    assert written["models"][1]["model"] == f"{root}/base+{adapter}"
    assert mo.Recipe.from_mergekit(recipe.to_mergekit()).digest == recipe.digest


def test_models_on_the_hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    commits = [
        hub.put_into_cache(tmp_path / "cache", f"org/{name}", hub.files_of(root / name), revision)
        for name, revision in [("ja", "v2"), ("math", "main")]
    ]
    recipe = mo.Recipe.from_mergekit(
        "merge_method: linear\nmodels: [{model: org/ja@v2}, {model: org/math}]\n" + WEIGHT
    )
    assert recipe.model_names == ("ja@v2", "math")
    assert [model.revision for model in recipe.models] == commits
    again = recipe.to_mergekit()
    assert f"org/ja@{commits[0]}" in again
    assert mo.Recipe.from_mergekit(again) == recipe


# -- what does not read ---------------------------------------------------------------------

LINEAR = "models: [{model: @ja}, {model: @math}]\nmerge_method: linear\n"
WEIGHT = "parameters: {weight: 1}\n"
REFUSED = {
    "models: [{model: @ja}]": "The YAML text: no merge_method",
    "models: [{model: @ja}]\nmerge_method: tie_s": "merge_method: 'tie_s' is not supported. Supp",
    "merge_method: linear\n": "The YAML text: expected one of models, slices and modules",
    LINEAR + "slices: [{sources: [{model: @ja, layer_range: [0, 1]}]}]": "expected one of models,",
    LINEAR: r"models\[0\]: linear needs a weight here",
    LINEAR + "parameters: {weight: [{filter: mlp, value: 1}]}": "parameters.weight.* is left with",
    LINEAR + "parameters: {weight: high}": "parameters.weight: expected a number, not 'high'",
    LINEAR + "parameters: {weight: [1, x]}": r"parameters.weight\[1\]: expected a number",
    LINEAR + "parameters: {weight: [{filter: mlp}]}": r"weight\[0\]: a condition needs a value",
    LINEAR + "parameters: {weight: 1, normalize: [{filter: mlp, value: true}, {value: false}]}": (
        "parameters.normalize.*must be the same for all tensors, not False, True"
    ),
    LINEAR + WEIGHT + "dtype: int4": "dtype: expected float32, bfloat16 or float16, not 'int4'",
    LINEAR + WEIGHT + "tokenizer_source: @code": "tokenizer_source: .* a model that is merged",
    LINEAR + WEIGHT + "tokenizer: {source: base}\ntokenizer_source: base": "leave one of them out",
    LINEAR + WEIGHT + "tokenizer: {tokens: {x: {force: true}}}": "tokenizer.tokens.x: say where",
    LINEAR + WEIGHT + "tokenizer: {pad_to_multiple_of: 0}": "tokenizer: .*pad_to_multiple_of",
    LINEAR + WEIGHT + "chat_template: chatm": "chat_template: expected 'auto', 'alpaca', 'chatml",
    f"name: a\n{LINEAR}{WEIGHT}tokenizer_source: base\n---\nmodels: [{{model: a}}]\n"
    f"merge_method: linear\n{WEIGHT}": "tokenizer_source: say it in the last configuration",
    "merge_method: linear\nmodels: [{model: @ja+/no/such}]": r"models\[0\]\.model: ",
    "merge_method: linear\nmodels: [{model: /no/such@main}]": r"models\[0\]\.model: .*revision",
    "merge_method: linear\nmodules: {default: {parameters: {weight: 1}}}": (
        "modules.default: expected either models or slices"
    ),
    "merge_method: linear\nmodules: {default: {models: []}, text: {models: []}}": (
        "'default' is the whole model: it cannot stand beside others"
    ),
    "merge_method: linear\nparameters: {weight: 1}\n"
    "modules: {vision_tower: {models: [{model: @ja}]}}": "belongs to none of these modules: vis",
    "merge_method: linear\nparameters: {weight: 1}\nmodules: {decoder: {models: [{model: @ja}]}, "
    "encoder: {models: [{model: @math}]}}": "'encoder' must merge the same whole models as 'dec",
    "experts: [{source_model: @ja}]\ngate_mode: random": "this is a file of mergekit-moe",
    "genome: {models: [@ja]}\ntasks: [a]": "mergekit-evolve.*from_mergekit_evolve",
    "donor: @ja\nmodel: @math": "mergekit-tokensurgeon",
    "merge_method: linear\nmodels: [{model: a/model.safetensors}]": (
        r"models\[0\]\.model: .*configuration of mergekit-pytorch"
    ),
    "merge_method: linear\nmodels: [{model: @ja}, {model: @ja}]\n" + WEIGHT: (
        r"models\[0\]: .*ja is merged with itself"
    ),
    "merge_method: linear\nmodels: [@ja]": r"models\[0\]: expected names with values",
    "merge_method: linear\nmodels: [{model: @ja+a+b}]": r"models\[0\]\.model: .*one adapter",
    "merge_method: linear\nmodels: [{model: /no/such}]": r"models\[0\]\.model: No folder",
    "merge_method: ties\nmodels: [{model: @ja}]\n" + WEIGHT: "ties needs a base_model",
    "merge_method: ties\nbase_model: @base\nmodels: [{model: @ja, parameters: {density: 1.5}}]\n"
    + WEIGHT: r"models\[0\]\.parameters\.density: density must be in \[0, 1\], not 1.5",
    "merge_method: slerp\nbase_model: @base\nmodels: [{model: @ja}, {model: @math}]\n"
    "parameters: {t: 0.5}": "slerp merges 2 models, not 3",
    "merge_method: passthrough\nmodels: [{model: @ja}, {model: @math}]": (
        "passthrough takes one model here, not 2"
    ),
    "merge_method: passthrough\nslices: [{sources: [{model: @ja}]}]": (
        r"slices\[0\]\.sources\[0\]: no layer_range"
    ),
    "merge_method: passthrough\nslices: [{sources: [{model: @ja, layer_range: [3, 7]}]}]": (
        r"slices\[0\]\.sources\[0\]\.layer_range: There are no layers 3 to 7 .* has 5, 0 to 4"
    ),
    "merge_method: passthrough\nslices: [{sources: [{model: @ja, layer_range: 0-4}]}]": (
        "layer_range: expected .first layer, layer behind the last."
    ),
    "merge_method: passthrough\nslices: [{sources: [{model: @ja, layer_range: [0, 1.5]}]}]": (
        r"layer_range\[1\]: expected a whole number, not 1.5"
    ),
    f"name: a\n{LINEAR}{WEIGHT}---\nmerge_method: passthrough\n"
    "slices: [{sources: [{model: a, layer_range: [3, 7]}]}]": (
        r"layer_range: There are no layers 3 to 6 in 'a': it has 5"
    ),
    "merge_method: linear\nslices: [{sources: [{model: @ja, layer_range: [0, 2]}, "
    "{model: @math, layer_range: [0, 3]}]}]\n" + WEIGHT: (
        r"slices\[0\]: the sources of a slice need equally many layers"
    ),
    "name: a\nmerge_method: linear\nmodels: [{model: a}]": "'a' is made of itself",
    f"name: a\n{LINEAR}{WEIGHT}---\nname: a\n{LINEAR}{WEIGHT}": "configurations called 'a'",
    f"name: a\n{LINEAR}{WEIGHT}---\nname: b\n{LINEAR}{WEIGHT}": "a, b are no models of each other",
    "models: [\nmerge_method": "The YAML text is not valid YAML",
    "\n": "The YAML text is empty",
}


@pytest.mark.parametrize("text", REFUSED)
def test_an_error_names_the_key_and_its_place(read: Callable[[str], mo.Recipe], text: str) -> None:
    with pytest.raises(MergeOptunaError, match=REFUSED[text]) as caught:
        read(f"{text}\n")
    assert isinstance(caught.value, RecipeError | CheckpointError)


MISSPELLED = {
    "x: 1": "The YAML text: mergekit ignores the key 'x'. It reads base_model, ",
    "dype: float32": "The YAML text: mergekit ignores the key 'dype'. Did you mean 'dtype'?",
    "density: 0.5": "The YAML text: density has no effect: mergekit reads it under 'parameters'",
    "parameters: {weight: 1, weigth: 2}": "parameters: mergekit ignores the key 'weigth'. Did you",
    "parameters: {weight: [{filtr: a, value: 1}]}": (
        r"weight\[0\]: mergekit ignores the key 'filtr'. Did you mean 'filter'"
    ),
    "parameters: {weight: 1, lamda: 2}": "mergekit ignores the key 'lamda'. It reads normalize, w",
}


@pytest.mark.parametrize("line", MISSPELLED)
def test_a_key_that_mergekit_ignores(read: Callable[..., mo.Recipe], line: str) -> None:
    """A warning, since the file is a valid one; an error for who asks for it."""
    text = LINEAR + ("" if "parameters" in line else WEIGHT) + line
    with pytest.warns(UserWarning, match=MISSPELLED[line]):
        read(text)
    with pytest.raises(RecipeError, match=MISSPELLED[line]):
        read(text, strict=True)


def test_a_strict_reader_takes_what_mergekit_reads(read: Callable[..., mo.Recipe]) -> None:
    """What mergekit reads without an effect on the result, and what we wrote ourselves."""
    text = """
        merge_method: ties
        base_model: @base
        models: [{model: @ja, parameters: {weight: 1}}]
        parameters: {int8_mask: true}
        """
    with pytest.warns(UserWarning, match="int8_mask has no effect"):
        recipe = read(text, strict=True)
    assert mo.Recipe.from_mergekit(recipe.to_mergekit(), strict=True) == recipe


def test_a_key_that_stands_twice(read: Callable[..., mo.Recipe]) -> None:
    text = LINEAR + "parameters: {weight: 1, weight: 2}"
    with pytest.warns(UserWarning, match="'weight' stands twice"):
        assert read(text).values["weight"] == (2.0, 2.0)
    with pytest.raises(RecipeError, match="'weight' stands twice"):
        read(text, strict=True)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("merge_method: linear\nmodels: 3")
    with pytest.raises(RecipeError, match=r"mine\.yml: models: expected a list, not 3"):
        mo.Recipe.from_mergekit(tmp_path / "mine.yml")


# -- there and back ---------------------------------------------------------------------------

PER_LAYER = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
R = mo.recipes
ROUND_TRIPS: dict[str, Callable[[Family], mo.Recipe]] = {
    "numbers": lambda m: R.linear(m, weight=[1, 2, 3, 0.5], normalize=False),
    "slerp": lambda m: R.slerp(m[2], m[0], t=0.3),
    "per layer": lambda m: R.slerp(m[0], m[1], t=mo.per_group(PER_LAYER)),
    "per layer, even ends": lambda m: R.slerp(
        m[0], m[1], t=mo.per_group([0.1, *PER_LAYER[1:6], 0.1])
    ),
    "over depth": lambda m: R.slerp(m[0], m[1], t=mo.per_group([0, 1, 0.5], per=mo.depth(3))),
    "over depth, equal ends": lambda m: R.slerp(
        m[0], m[1], t=mo.per_group([0, 1, 0], per=mo.depth(3))
    ),
    "over the depth of all layers": lambda m: R.slerp(
        m[0], m[1], t=mo.per_group([0, 0.2, 0.3, 0.4, 0.5], per=mo.depth(5))
    ),
    "per module": lambda m: R.slerp(
        m[0], m[1], t=mo.per_group([0.05 * i for i in range(12)], per="module")
    ),
    "per two layers": lambda m: R.slerp(m[0], m[1], t=mo.per_group(PER_LAYER[:5], per=2)),
    "by name": lambda m: R.ties(
        m[0],
        m[1:],
        weight=[{"mlp": 0.2, "*": 0.5}, {"self_attn": mo.per_group(PER_LAYER), "*": 1}, 0.3],
        density={"lm_head": 0.1, "model.layers.*mlp*": 0.2, "*": 1},
        lambda_={"norm": 0.5, "*": 1},
    ),
    "dare": lambda m: R.dare_linear(m[0], m[1:], density=0.4, rescale="l1", seed=7),
    "nuslerp": lambda m: R.nuslerp(m[:2], weight=[0.3, 0.1], base=m[2], flatten=False),
    "nuslerp without a base": lambda m: R.nuslerp(m[:2]),
    "multislerp": lambda m: R.multislerp(m, weight=[1, 2, 3, 4], normalize=False, eps=1e-6),
    "karcher": lambda m: R.karcher(m, max_iter=3),
    "della": lambda m: R.della(
        *(m[0], m[1:]),
        epsilon=[0.1, mo.per_group([0.1, *PER_LAYER[1:4], 0.2, 0.1, 0.3]), 0.2],
        rescale="l1",
        seed=1,
    ).with_fields(dtype="bfloat16"),
    "della linear": lambda m: R.della_linear(
        m[0], m[1:], density=0.9, epsilon=0.1, rescale="none"
    ),
    "breadcrumbs": lambda m: R.breadcrumbs(m[0], m[1:], gamma={"mlp": 0.1, "*": 0.02}),
    "breadcrumbs, ties": lambda m: R.breadcrumbs_ties(m[0], m[1:], density=0.9, rescale="l1"),
    "sce": lambda m: R.sce(m[0], m[1:], select_topk=0.3),
    "ram": lambda m: R.ram(m[0], m[1:]),
    "ram+": lambda m: R.ramplus_tl(m[0], m[1:], r=0.2, epsilon=1e-3),
    "model stock": lambda m: R.model_stock(m[0], m[1:], filter_wise=True),
    "nearswap": lambda m: R.nearswap(m[0], m[1], t=mo.per_group([0, 0.1], per=mo.depth(2))),
    "arcee fusion": lambda m: R.arcee_fusion(m[0], m[1]),
    "another data type": lambda m: R.linear(m).with_fields(dtype="bfloat16"),
    "the same data type, said": lambda m: R.linear(m).with_fields(dtype="float32"),
    "a name": lambda m: R.linear(m, name="mean"),
    "other names": lambda m: R.dare_ties(
        *(mo.Checkpoint(m[0].ref), [mo.Checkpoint(m[1].ref, name="new")]), rescale="none"
    ),
    "stacked": lambda m: R.passthrough(
        [m[1].layers(0, 4), m[2].layers(1, 2), m[2].layers(1, 2), m[1].layers(2, 5, name="end")],
        scale=[1, {"mlp": 0.5, "*": 1}, 2, mo.per_group([0.1, 0.2, 0.3, 0.4])],
    ),
    "stacked merges": lambda m: R.passthrough(
        [
            R.linear([m[1].layers(0, 2), m[0].layers(0, 2)], weight=[0.2, 0.8]),
            R.linear([m[2].layers(2, 5), m[1].layers(2, 5)], weight=mo.per_group(PER_LAYER[:5])),
        ]
    ),
    "some layers": lambda m: R.linear([m[1].layers(0, 2), m[0].layers(0, 2)]),
    "merges of merges": lambda m: R.task_arithmetic(
        R.linear(m[:2], name="mean"), [m[2], R.slerp(m[3], m[0], t=0.2, name="way")]
    ),
    "merges of merges without names": lambda m: R.linear([R.linear(m[:2]), R.slerp(m[3], m[0])]),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_there_and_back(family: Family, name: str) -> None:
    recipe = ROUND_TRIPS[name](family)
    text = recipe.to_mergekit()
    back = mo.Recipe.from_mergekit(text)
    assert back.digest == recipe.digest
    assert back.to_mergekit() == text


def test_plain_recipes_make_plain_yaml(family: Family) -> None:
    """What is read from a configuration is written without anything of ours."""
    recipe = R.ties(family[0], family[1:3], weight=[0.3, mo.per_group(PER_LAYER)], density=0.4)
    assert yaml.safe_load(recipe.to_mergekit()) == {
        "merge_method": "ties",
        "base_model": family[0].ref,
        "models": [
            {"model": family[0].ref},
            {"model": family[1].ref, "parameters": {"weight": 0.3, "density": 0.4}},
            {
                "model": family[2].ref,
                "parameters": {
                    "weight": [
                        {"filter": "lm_head.weight", "value": 0.6},
                        {"filter": "model.embed_tokens.weight", "value": 0.9},
                        {"filter": "model.norm.weight", "value": 0.6},
                        {"value": PER_LAYER[1:-1]},
                    ],
                    "density": 0.4,
                },
            },
        ],
        "dtype": "float32",
    }


def test_a_changed_configuration_is_not_what_we_said_beside_it(family: Family) -> None:
    recipe = R.slerp(*family[:2], t=mo.per_group(PER_LAYER[:5], per=2))
    text = recipe.to_mergekit().replace("0.3", "0.35", 1)
    with pytest.raises(RecipeError, match=r"merge_optuna\.recipe: this is another merge"):
        mo.Recipe.from_mergekit(text)


CANNOT: dict[str, tuple[Callable[[Family], mo.Recipe], str]] = {
    "free numbers": (lambda m: R.linear(m, weight=mo.free(0, 1)), "3 numbers are free"),
    "rescaling by the density": (
        lambda m: R.dare_ties(m[0], m[1:]),
        "rescale='density'",
    ),
    "election by count": (lambda m: R.ties(m[0], m[1:], elect="count"), "elect='count' in ties"),
    "trimming whole models": (
        lambda m: R.ties(m[0], m[1:], trim_over="model"),
        "trim_over='model' in ties",
    ),
    "tensors left out": (
        lambda m: R.linear(m, exclude="lm_head"),
        "leaves out 1, among",
    ),
    "slices of two methods": (
        lambda m: R.passthrough([R.linear(m[:2]), R.slerp(*m[:2])]),
        "merges all slices by one method, not by linear and slerp",
    ),
    "weights on the sphere": (lambda m: R.karcher(m, weight=[1, 2, 3, 4]), "in karcher, only 1.0"),
    "another method": (lambda m: R.rankmean(m[0], m[1:]), "mergekit has no method 'rankmean'"),
    "a scaled merge": (
        lambda m: R.passthrough([R.linear(m[:2])], scale=2),
        "cannot stack 'recipe0'",
    ),
    "a model twice": (
        lambda m: R.linear([m[0], mo.Checkpoint(m[0].ref, name="again")]),
        "cannot merge a model with itself",
    ),
    "modules in memory": (
        lambda m: R.linear(
            [mo.Checkpoint.from_module(toys.llama(i), name=f"m{i}") for i in range(2)]
        ),
        "'m0' is a module in memory",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_mergekit_cannot_say(family: Family, name: str) -> None:
    make, problem = CANNOT[name]
    with pytest.raises(RecipeError, match=problem):
        make(family).to_mergekit()


def test_either_kind_of_file_is_read(family: Family, tmp_path: Path) -> None:
    recipe = R.linear(family[:2], weight=[0.4, 0.6])
    recipe.to_yaml(tmp_path / "ours.yml")
    recipe.to_mergekit(tmp_path / "theirs.yml")
    assert mo.Recipe.read(tmp_path / "ours.yml") == recipe
    assert mo.Recipe.read(tmp_path / "theirs.yml") == recipe
    with pytest.raises(RecipeError, match="is not a recipe: it does not say"):
        mo.Recipe.from_yaml(tmp_path / "theirs.yml")


@pytest.mark.parametrize("form", [str, json.dumps], ids=["words", "quotes"])
def test_a_file_is_told_by_its_keys(family: Family, tmp_path: Path, form: Any) -> None:
    recipe = R.linear(family[:2], weight=[0.4, 0.6])
    file = tmp_path / "theirs.yml"
    text = recipe.to_mergekit().replace("merge_method:", f"{form('merge_method')}:")
    file.write_text(text)
    assert mo.Recipe.read(file) == recipe
    file.write_text(json.dumps(yaml.safe_load(text)))
    assert mo.Recipe.read(file) == recipe


@pytest.mark.parametrize(
    ("key", "tool"),
    [
        ("genome", "mergekit-evolve"),
        ("experts", "mergekit-moe"),
        ("donor", "mergekit-tokensurgeon"),
        ("approximation_method", "mergekit-tokensurgeon"),
        ("layer_slices", "bakllama"),
    ],
)
def test_a_file_of_another_tool_is_named_as_such(tmp_path: Path, key: str, tool: str) -> None:
    file = tmp_path / "config.yml"
    file.write_text(f"'{key}': x\n")
    with pytest.raises(RecipeError, match=f"this is a file of {tool}"):
        mo.Recipe.read(file)


def test_a_key_in_a_text_of_ours_is_none(family: Family, tmp_path: Path) -> None:
    recipe = R.linear(family[:2], chat_template="{{ messages }} merge_method: none")
    (tmp_path / "ours.yml").write_text(recipe.to_yaml().replace(" merge_method", "\nmerge_method"))
    assert mo.Recipe.read(tmp_path / "ours.yml") == recipe


# -- exports that open nothing ----------------------------------------------------------------


@pytest.fixture
def turned(tmp_path: Path) -> Family:
    """Two models of four layers whose rotary positions have another base."""
    return [
        mo.Checkpoint(toys.save(toys.llama(i, layers=4, rope_theta=theta), tmp_path / name))
        for i, (name, theta) in enumerate({"one": 1e4, "two": 5e4}.items())
    ]


EXPORTED: dict[str, Callable[[Family], mo.Recipe]] = {
    "whole models": lambda m: R.slerp(*m, config="base"),
    "layers": lambda m: R.passthrough([m[0].layers(0, 2), m[1].layers(1, 3)], config="base"),
    "a path": lambda m: R.path("A0 B1*0.8 A1", m, config="base"),
    "another form": lambda m: R.slerp(
        *m, t=mo.per_group([0.1, 0.3, 0.2, 0.4], per=3), config="base"
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_neither_opens_nor_doubts_what_is_decided(turned: Family, name: str) -> None:
    recipe = EXPORTED[name](turned)
    expected = recipe.to_mergekit()
    for model in turned:  # it stays mapped; whoever opens it again finds none
        (Path(model.ref) / "model.safetensors").rename(Path(model.ref) / "elsewhere")
    assert recipe.to_mergekit() == expected
    for model in turned:
        (Path(model.ref) / "elsewhere").rename(Path(model.ref) / "model.safetensors")
    with pytest.warns(UserWarning, match="This recipe does as mergekit"):
        back = mo.Recipe.from_mergekit(expected)
    assert back.digest == recipe.digest or recipe.path is None
    if "merge_optuna:" not in expected:
        assert dict(mo.engine.tensors(back)).keys() == dict(mo.engine.tensors(recipe)).keys()


def test_a_path_with_a_config_goes_through_its_layers_only(turned: Family) -> None:
    path = R.path("A0-B1-B2-A3-B3", turned, config="base", head_from=1)
    text = path.to_mergekit()
    ranges = [
        (Path(source["model"]).name, source["layer_range"])
        for one in yaml.safe_load(text)["slices"]
        for source in one["sources"]
    ]
    assert ranges == [("one", [0, 1]), ("two", [1, 3]), ("one", [3, 4]), ("two", [3, 4])]
    told = yaml.safe_load(text)
    del told["merge_optuna"]["recipe"]
    with pytest.warns(UserWarning, match="config='base'"):
        read = mo.Recipe.from_mergekit(yaml.safe_dump(told))
    theirs, ours = dict(mo.engine.tensors(read)), dict(mo.engine.tensors(path))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


def test_a_path_is_not_whole_models(turned: Family) -> None:
    """What stands beside the slices is compared with them, also where the slices are wrong."""
    path = R.path("A0-B1-A1", turned, config="base")
    told = yaml.safe_load(path.to_mergekit())
    for one in told["slices"]:
        one["sources"][0]["layer_range"] = [0, 4]
    with (
        pytest.warns(UserWarning, match="config='base'"),
        pytest.raises(RecipeError, match="this is another merge"),
    ):
        mo.Recipe.from_mergekit(yaml.safe_dump(told))


def test_layers_of_a_view_are_a_view_of_the_layers(turned: Family, words: Path) -> None:
    seen = R.linear(turned, config="base").models[1]
    some = seen.layers(1, 3)
    assert some.origin == turned[1].layers(1, 3)
    assert some.config is not None
    assert some.config["rope_parameters"]["rope_theta"] == 1e4
    assert some == seen.layers(1, 3) != seen.layers(0, 2)
    known = [mo.Checkpoint(words / name) for name in ("ja", "math")]
    aligned = R.linear(known, tokenizer="union").models[1]
    assert aligned.layers(1, 2).origin == known[1].layers(1, 2)
    assert aligned.layers(1, 2).shape(EMBED) == aligned.shape(EMBED) != known[1].shape(EMBED)
    assert aligned.layers(1, 2) != aligned.layers(0, 1)
