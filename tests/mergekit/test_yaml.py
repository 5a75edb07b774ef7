"""One YAML for both: what we write from it and what mergekit 0.1.5 writes.

Both are told to compute in float32; results in float32 agree within ``CLOSE``, in bfloat16 within
one step besides. Every tensor of every model is compared, so that gradients, filters and slices
are where mergekit has them.
"""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

import merge_optuna as mo
from merge_optuna import recipes

from .. import toys
from .conftest import Mergekit, read

CLOSE = 5e-7
MODELS = {
    "llama": lambda: toys.llama(layers=5),
    "llama, tied": lambda: toys.llama(layers=5, tied=True),
    "gpt2": lambda: toys.gpt2(layers=3),
    "bert": lambda: toys.bert(layers=4),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder with the base and the experts ja, math and code, made when first asked for."""
    made: dict[tuple[str, torch.dtype], Path] = {}

    def folder(architecture: str, dtype: torch.dtype = torch.float32) -> Path:
        if (architecture, dtype) not in made:
            root = tmp_path_factory.mktemp("models")
            toys.family(root, MODELS[architecture], dtype=dtype)
            made[architecture, dtype] = root
        return made[architecture, dtype]

    return folder


def assert_agree(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        step = 0.0
        if tensor.dtype != torch.float32:
            _, exponent = torch.frexp(torch.maximum(tensor.abs(), other.abs()).double())
            step = torch.finfo(tensor.dtype).eps * 2.0 ** (exponent - 1)
        wrong = (tensor.double() - other.double()).abs() > step + CLOSE
        assert not wrong.any(), (name, int(wrong.sum()), wrong.numel())


GRADIENTS = """
    merge_method: task_arithmetic
    base_model: base
    models:
      - model: base
      - model: ja
        parameters:
          weight: [0, 0.3, 0.7, 1]
      - model: math
        parameters:
          weight: [1.0, 0.1]
      - model: code
        parameters:
          weight: [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4]
    dtype: float32
    """
YAMLS = {
    "linear": """
        models:
          - model: ja
            parameters: {weight: 1.0}
          - model: math
            parameters: {weight: 0.3}
          - model: code
            parameters: {weight: 5e-1}
        merge_method: linear
        dtype: float32
        """,
    "linear with a base and one weight for all": """
        models:
          - model: ja
          - model: math
        base_model: base
        merge_method: linear
        parameters: {weight: 0.4, normalize: false}
        dtype: float32
        out_dtype: bfloat16
        """,
    "slerp with gradients by name": """
        models:
          - model: base
          - model: ja
        merge_method: slerp
        base_model: base
        parameters:
          t:
            - filter: self_attn
              value: [0, 0.5, 0.3, 0.7, 1]
            - filter: mlp
              value: [1, 0.5, 0.7, 0.3, 0]
            - value: 0.5
        dtype: float32
        """,
    "slerp from the second of the models": """
        models: [{model: ja}, {model: math}]
        merge_method: slerp
        base_model: math
        parameters: {t: [0.2, 0.9]}
        dtype: float32
        """,
    "task arithmetic with gradients": GRADIENTS,
    "ties with levels": """
        models:
          - model: ja
            parameters:
              density: [1, 0.7, 0.1]
              weight: 1.0
          - model: math
            parameters:
              density: 0.5
              weight:
                - filter: mlp
                  value: [0, 0.3, 0.7, 1]
                - filter: norm
                  value: 0.2
          - model: code
            parameters:
              density: 0.33
              weight:
                - filter: mlp
                  value: 0.5
                - value: 0
        merge_method: ties
        base_model: base
        parameters:
          normalize: true
          int8_mask: true
          weight: 0.8
          lambda: [0.8, 1.2]
        dtype: float32
        """,
    "dare in full density": """
        models:
          - model: base
            # no parameters necessary for the base model
          - model: ja
            parameters:
              weight: [0.1, 0.6]
          - model: math
            parameters:
              weight: [0.6, 0.1]
        merge_method: dare_ties
        base_model: base
        parameters:
          density: 1
          int8_mask: 1
          rescale: true
        dtype: float32
        out_dtype: bfloat16
        """,
    "dare linear": """
        models:
          - model: ja
          - model: math
        merge_method: dare_linear
        base_model: base
        parameters:
          weight:
            - filter: q_proj
              value: [0.1, 0.9]
            - filter: lm_head
              value: 0.3
            - filter: embed
              value: 0.7
            - filter: "*"
              value: [0.5, 0.2, 0.4]
          normalize: true
        dtype: float32
        """,
    "slices of whole models": """
        slices:
          - sources:
              - model: base
                layer_range: [0, 5]
              - model: ja
                layer_range: [0, 5]
        merge_method: slerp
        base_model: base
        parameters:
          t:
            - filter: self_attn
              value: [0, 0.5, 0.3, 0.7, 1]
            - filter: mlp
              value: [1, 0.5, 0.7]
            - value: 0.5 # fallback for rest of tensors
        dtype: float32
        out_dtype: bfloat16
        """,
    "slices of other depths": """
        slices:
          - sources:
              - {model: ja, layer_range: [0, 3], parameters: {weight: [0.2, 0.9]}}
              - {model: math, layer_range: [2, 5], parameters: {weight: 0.5}}
          - sources:
              - {model: code, layer_range: [4, 5]}
              - {model: base, layer_range: [1, 2]}
            parameters:
              weight: [0.3, 0.4]
          - sources:
              - {model: ja, layer_range: [1, 5]}
              - {model: code, layer_range: [1, 5]}
            parameters:
              weight:
                - filter: layers.3.
                  value: 2
                - filter: mlp
                  value: [1, 0, 1]
        merge_method: linear
        parameters: {weight: 1}
        dtype: float32
        """,
    "slices with their own base": """
        slices:
          - sources:
              - {model: base, layer_range: [0, 2]}
              - {model: ja, layer_range: [0, 2]}
              - {model: math, layer_range: [0, 2]}
          - sources:
              - {model: code, layer_range: [2, 5]}
              - {model: ja, layer_range: [2, 5], parameters: {weight: 0.1}}
              - {model: math, layer_range: [2, 5]}
            base_model: code
            parameters:
              lambda:
                - {filter: layers.3., value: 0.5}
                - {filter: "*", value: 0.9}
        merge_method: task_arithmetic
        base_model: base
        parameters: {weight: 0.6}
        dtype: float32
        """,
    "passthrough": """
        slices:
          - sources: [{model: ja, layer_range: [0, 4]}]
          - sources: [{model: math, layer_range: [2, 5]}]
          - sources: [{model: math, layer_range: [2, 5]}]
        merge_method: passthrough
        dtype: bfloat16
        """,
    "passthrough with scales": """
        slices:
          - sources: [{model: ja, layer_range: [0, 4]}]
          - sources:
              - model: ja
                layer_range: [2, 4]
                parameters:
                  scale:
                    - filter: o_proj
                      value: 0.0
                    - filter: down_proj
                      value: 0.0
                    - value: 1.0
          - sources:
              - model: base
                layer_range: [4, 5]
                parameters: {scale: [0.5, 0.7]}
        merge_method: passthrough
        dtype: float32
        """,
    "passthrough of one model": """
        models: [{model: ja}]
        merge_method: passthrough
        parameters:
          scale: [1.0, 0.5, 2.0]
        dtype: float32
        """,
    "nuslerp": """
        models:
          - {model: ja, parameters: {weight: [0.1, 0.9]}}
          - {model: math, parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.6}]}}
        merge_method: nuslerp
        base_model: base
        parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
        dtype: float32
        out_dtype: bfloat16
        """,
    "ties that scales up what is left": """
        models:
          - {model: ja, parameters: {weight: 1, density: 0.3}}
          - {model: math, parameters: {weight: 0.4, density: [0.2, 0.8]}}
        merge_method: ties
        base_model: base
        parameters: {rescale: "yes", lambda: 0.7}
        dtype: float32
        """,
    "a base alone": """
        models: [{model: base}]
        merge_method: dare_ties
        base_model: base
        dtype: float32
        """,
    "the only module, with numbers for booleans": """
        merge_method: task_arithmetic
        base_model: base
        modules:
          default:
            slices:
              - sources:
                  - {model: ja, layer_range: [0, 5], parameters: {weight: [0.2, "7e-1"]}}
                  - {model: math, layer_range: [0, 5]}
                  - {model: base, layer_range: [0, 5]}
            parameters: {weight: 0.3}
        parameters: {normalize: 1.0, weight: 5, lamda: 3}
        dtype: float32
        """,
    "nuslerp beyond a model": """
        models: [{model: ja, parameters: {weight: 1}}, {model: math, parameters: {weight: -0.3}}]
        merge_method: nuslerp
        dtype: float32
        """,
    "nuslerp of weights that cancel": """
        models: [{model: ja, parameters: {weight: 1}}, {model: math, parameters: {weight: -1}}]
        merge_method: nuslerp
        base_model: base
        dtype: float32
        """,
    "nuslerp without a base": """
        models: [{model: ja}, {model: math}]
        merge_method: nuslerp
        parameters: {weight: 1}
        dtype: float32
        """,
    "multislerp": """
        models:
          - {model: ja, parameters: {weight: [0.1, 0.9]}}
          - {model: math, parameters: {weight: 0.3}}
          - {model: code, parameters: {weight: 0.3}}
        merge_method: multislerp
        parameters: {normalize_weights: true}
        dtype: float32
        """,
    "karcher": """
        models: [{model: ja}, {model: math}, {model: code}]
        merge_method: karcher
        parameters: {max_iter: 20, tol: 1e-6}
        dtype: float32
        """,
    "model stock": """
        models: [{model: ja}, {model: math}, {model: code}]
        merge_method: model_stock
        base_model: base
        dtype: float32
        out_dtype: bfloat16
        """,
    "nearswap": """
        models: [{model: ja}]
        merge_method: nearswap
        base_model: base
        parameters: {t: [0.001, 0.01]}
        dtype: float32
        """,
    "breadcrumbs": """
        models:
          - {model: ja, parameters: {weight: 0.5, density: 0.7, gamma: [0.01, 0.1]}}
          - {model: math, parameters: {weight: 0.4}}
        merge_method: breadcrumbs_ties
        base_model: base
        parameters: {density: 0.9}
        dtype: float32
        """,
    "della in full density": """
        models: [{model: ja}, {model: math}]
        merge_method: della
        base_model: base
        parameters: {density: 1, epsilon: 0, weight: [0.4, 0.8], lambda: 1.1, normalize: false}
        dtype: float32
        """,
    "ram": """
        models: [{model: ja}, {model: math}]
        merge_method: ramplus_tl
        base_model: base
        parameters: {epsilon: 0.01, r: 0.2}
        dtype: float32
        """,
}


def located(text: str, folder: Path) -> str:
    """The YAML with the models' names replaced by their folders."""

    def replaced(value: object) -> object:
        if isinstance(value, dict):
            return {k: replaced(v) for k, v in value.items()}
        if isinstance(value, list):
            return [replaced(v) for v in value]
        is_model = isinstance(value, str) and value in ("base", *toys.EXPERTS)
        return str(folder / str(value)) if is_model else value

    return yaml.safe_dump(replaced(yaml.safe_load(textwrap.dedent(text))), sort_keys=False)


@pytest.mark.parametrize("name", YAMLS)
@pytest.mark.parametrize("architecture", ["llama", "llama, tied"])
@pytest.mark.filterwarnings(
    "ignore:.*has no effect", "ignore:.*matches no tensor", "ignore:.*ignores the key"
)
def test_both_write_the_same(
    mergekit: Mergekit, folders: Callable[..., Path], tmp_path: Path, architecture: str, name: str
) -> None:
    text = located(YAMLS[name], folders(architecture))
    theirs = mergekit.merge(yaml.safe_load(text), tmp_path / "theirs")
    ours = read(mo.write(mo.Recipe.from_mergekit(text), tmp_path / "ours"))
    assert_agree(ours, theirs)


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_gradients_of_other_architectures(
    mergekit: Mergekit, folders: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    text = located(GRADIENTS, folders(architecture))
    theirs = mergekit.merge(yaml.safe_load(text), tmp_path / "theirs")
    ours = read(mo.write(mo.Recipe.from_mergekit(text), tmp_path / "ours"))
    assert_agree(ours, theirs)


# -- from recipes -------------------------------------------------------------------------

Family = list[mo.Checkpoint]
PER_LAYER = [0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
PER_MODULE = [round(0.1 * i, 1) for i in range(12)]

RECIPES: dict[str, Callable[[Family], mo.Recipe]] = {
    "linear": lambda m: recipes.linear(m, weight=[0.1, 0.2, 0.3, 0.9]),
    "slerp per layer": lambda m: recipes.slerp(m[0], m[1], t=mo.per_group(PER_LAYER)),
    "task arithmetic over depth and by name": lambda m: recipes.task_arithmetic(
        m[0],
        m[1:],
        weight=[
            mo.per_group([0.1, 0.8, 0.4], per=mo.depth(3)),
            {"mlp": 0.2, "*": 0.7},
            {"mlp.up": mo.per_group(PER_LAYER), "self_attn": 0.3, "*": 0.1},
        ],
        lambda_=0.8,
    ).with_fields(dtype="bfloat16"),
    "ties per module and per two layers": lambda m: recipes.ties(
        m[0],
        m[1:3],
        weight=[mo.per_group(PER_MODULE, per="module"), 0.5],
        density=[0.3, mo.per_group(PER_LAYER[:5], per=2)],
    ),
    "dare in full density per tensor": lambda m: recipes.dare_ties(
        m[0],
        m[1:3],
        density=1.0,
        rescale="none",
        weight=mo.per_group([0.01 * i for i in range(len(m[0].names()))], per="tensor"),
    ),
    "passthrough": lambda m: recipes.passthrough(
        [m[1].layers(0, 3), m[2].layers(1, 4), m[2].layers(1, 4), m[0].layers(4, 5)],
        scale=[1.0, {"down_proj": 0.5, "*": 1.0}, mo.per_group([0.1, 0.2, 0.3]), 1.0],
    ),
    "stacked merges": lambda m: recipes.passthrough(
        [
            recipes.ties(
                m[0].layers(0, 3), [m[1].layers(0, 3), m[3].layers(1, 4)], weight=[0.4, 0.6]
            ),
            recipes.ties(
                m[2].layers(2, 5),
                [m[1].layers(2, 5)],
                weight=mo.per_group([0.1, 0.2, 0.3, 0.4, 0.5]),
                normalize=False,
            ),
        ]
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_mergekit_does_what_the_recipe_does(
    mergekit: Mergekit, folders: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    root = folders("llama")
    family = [mo.Checkpoint(root / name, name=name) for name in ("base", "ja", "math", "code")]
    recipe = RECIPES[name](family)
    theirs = mergekit.merge(yaml.safe_load(recipe.to_mergekit()), tmp_path / "theirs")
    assert_agree(read(mo.write(recipe, tmp_path / "ours")), theirs)


def test_several_configurations_by_the_command(
    mergekit: Mergekit, folders: Callable[..., Path], tmp_path: Path
) -> None:
    root = folders("llama")
    base, ja, math, code = (
        mo.Checkpoint(root / name, name=name) for name in ("base", "ja", "math", "code")
    )
    recipe = recipes.task_arithmetic(
        recipes.linear([ja, math], name="mean"),
        [base, recipes.slerp(code, ja, t=0.3, name="way")],
        weight=[0.3, 0.9],
    )
    recipe.to_mergekit(tmp_path / "multi.yml")
    command = Path(mergekit.python).with_name("mergekit-multi")
    subprocess.run(
        [
            *(command, tmp_path / "multi.yml", "--out-path", tmp_path / "theirs"),
            *("--intermediate-dir", tmp_path / "between", "--no-copy-tokenizer", "--quiet"),
        ],
        check=True,
        capture_output=True,
    )
    ours = mo.write(mo.Recipe.from_mergekit(tmp_path / "multi.yml"), tmp_path / "ours")
    assert_agree(read(ours), read(tmp_path / "theirs"))
