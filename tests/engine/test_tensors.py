"""The stream of merged tensors: exact deltas, one rounding, nothing random but by key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, RecipeError
from tests import toys


def bfloat16_steps(error: Tensor, value: Tensor) -> Tensor:
    """The error in steps of bfloat16 (8 bits of mantissa) at that value."""
    exponent = torch.frexp(value).exponent - 1
    return error.abs() / torch.ldexp(torch.ones_like(value), exponent - 7)


def test_bfloat16_sources_are_rounded_once(tmp_path: Path) -> None:
    """Half a step of bfloat16 from the exact value; deltas in bfloat16 would be further off."""
    base, *experts = toys.family(tmp_path, experts=2, dtype=torch.bfloat16)
    weights, lambda_ = [0.37, 0.61], 0.9
    recipe = mo.recipes.task_arithmetic(base, experts, weight=weights, lambda_=lambda_)
    worst = naive = 0.0
    for name, tensor in mo.engine.tensors(recipe):
        assert tensor.dtype == torch.bfloat16
        theta = base.tensor(name)
        deltas = [c.tensor(name).double() - theta.double() for c in experts]
        exact = theta.double() + lambda_ * sum(w * d for w, d in zip(weights, deltas, strict=True))
        worst = max(worst, float(bfloat16_steps(tensor.double() - exact, exact).max()))
        rough = theta + lambda_ * sum(
            w * (c.tensor(name) - theta) for w, c in zip(weights, experts, strict=True)
        )
        naive = max(naive, float(bfloat16_steps(rough.double() - exact, exact).max()))
    assert worst <= 0.5 + 1e-3
    assert naive > 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "float16"])
def test_the_data_type_asked_for(tmp_path: Path, dtype: torch.dtype | str) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.task_arithmetic(base, [ja], weight=0.5)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    full = dict(mo.engine.tensors(recipe))
    for name, tensor in mo.engine.tensors(recipe, dtype=dtype):
        assert torch.equal(tensor, full[name].to(wanted))
        assert tensor.dtype == wanted


def test_names_and_order_are_the_frames(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, toys.gpt2, experts=1)
    for recipe in (mo.recipes.linear([base, ja]), ja, mo.recipes.slerp(ja, base)):
        assert tuple(name for name, _ in mo.engine.tensors(recipe)) == base.names()


def test_a_recipe_inside_a_recipe_equals_two_steps(tmp_path: Path) -> None:
    base, ja, math, code = toys.family(tmp_path)
    inner = mo.recipes.slerp(ja, math, t=0.3, name="mixed")
    outer = {"density": [0.4, 0.8], "weight": [0.7, 0.5], "lambda_": 1.2}
    mo.write(inner, tmp_path / "mixed")
    step = mo.Checkpoint(tmp_path / "mixed", name="mixed")

    nested = dict(mo.engine.tensors(mo.recipes.ties(base, [inner, code], **outer)))
    in_steps = dict(mo.engine.tensors(mo.recipes.ties(base, [step, code], **outer)))

    assert nested.keys() == in_steps.keys()
    for name, tensor in nested.items():
        assert torch.allclose(tensor, in_steps[name], rtol=1e-6, atol=1e-7)
        assert not torch.equal(tensor, base.tensor(name))


def test_random_masks_of_an_inner_recipe_are_keyed_by_its_name(tmp_path: Path) -> None:
    """So that writing the inner model first, under that name, changes nothing."""
    base, ja, math, _ = toys.family(tmp_path)
    inner = mo.recipes.linear([ja, math], name="mixed")
    mo.write(inner, tmp_path / "mixed")
    step = mo.Checkpoint(tmp_path / "mixed", name="mixed")
    nested, in_steps = (
        dict(mo.engine.tensors(mo.recipes.dare_linear(base, [m], density=0.3)))
        for m in (inner, step)
    )
    for name, tensor in nested.items():
        assert torch.allclose(tensor, in_steps[name], rtol=1e-6, atol=1e-7)


def test_a_base_may_be_a_recipe(tmp_path: Path) -> None:
    base, ja, math, code = toys.family(tmp_path)
    start = mo.recipes.linear([base, ja], exclude=["lm_head"])
    merged = dict(mo.engine.tensors(mo.recipes.task_arithmetic(start, [math, code], weight=0.5)))
    for name, tensor in merged.items():
        theta = [c.tensor(name).double() for c in (base, ja, math, code)]
        origin = theta[0] if name == "lm_head.weight" else (theta[0] + theta[1]) / 2
        expected = origin + 0.5 * (theta[2] - origin) + 0.5 * (theta[3] - origin)
        assert torch.allclose(tensor.double(), expected, rtol=1e-5, atol=1e-6)


# -- the same bytes ---------------------------------------------------------------------------

_AGAIN = """
import sys, torch, merge_optuna as mo
torch.set_num_threads(2)
recipe = mo.Recipe.from_yaml(sys.argv[1])
print(recipe.digest)
mo.write(recipe, sys.argv[2], max_shard_size=1 << 19)
"""


def test_the_same_bytes_in_another_process_with_other_threads(tmp_path: Path) -> None:
    """Tensors are large enough that torch would share the work among threads."""
    generator = torch.Generator().manual_seed(0)
    checkpoints = []
    for name in ("base", "ja", "math", "code"):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {
            f"h.{i}.w": torch.randn(320, 512, generator=generator).bfloat16() for i in range(3)
        }
        save_file(tensors, folder / "model.safetensors")
        checkpoints.append(mo.Checkpoint(folder, name=name))
    base, ja, math, code = checkpoints
    inner = mo.recipes.slerp(ja, math, t=mo.per_group([0.2, 0.9], per=mo.depth(2)))
    recipe = mo.recipes.dare_ties(
        mo.recipes.ties(base, [ja, code], trim_over="model", density=0.3),
        [inner, code],
        rescale="l1",
        weight=[0.3, {"h.1": -0.5, "*": 0.8}],
        density=0.6,
    )
    recipe.to_yaml(tmp_path / "recipe.yaml")
    assert torch.get_num_threads() == 1
    mo.write(recipe, tmp_path / "first", max_shard_size=1 << 19)
    mo.write(recipe, tmp_path / "second", max_shard_size=1 << 19)

    done = subprocess.run(
        [sys.executable, "-c", _AGAIN, str(tmp_path / "recipe.yaml"), str(tmp_path / "third")],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == recipe.digest
    first, second, third = (
        {path.name: path.read_bytes() for path in (tmp_path / run).iterdir()}
        for run in ("first", "second", "third")
    )
    assert len([name for name in first if name.endswith(".safetensors")]) == 3
    differing = ("README.md", ".merge_optuna.json")  # the card's title is the folder's name
    shards = [name for name in first if name not in differing]
    assert first.keys() == second.keys() == third.keys()
    assert all(first[name] == second[name] == third[name] for name in shards)


# -- errors -----------------------------------------------------------------------------------


def test_an_unbound_recipe(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    space = mo.recipes.linear([base, ja], weight=mo.free(0, 1, per="layer"))
    with pytest.raises(RecipeError, match="free numbers"):
        list(mo.engine.tensors(space))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    base, ja, math, _ = toys.family(tmp_path)
    file = tmp_path / "math" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4:6] = bad
    save_file(tensors, file)
    math = mo.Checkpoint(tmp_path / "math", name="math")

    mo.engine.check_finite(mo.recipes.linear([base, ja]))
    mo.engine.check_finite(mo.recipes.ties(base, [ja, math], exclude=["layers.1.mlp.up_proj"]))
    words = r"model\.layers\.1\.mlp\.up_proj\.weight of 'math' .*has 2 values .*NaN.*exclude"
    for recipe in (
        mo.recipes.ties(base, [ja, math]),
        mo.recipes.linear([mo.recipes.linear([ja, math]), base]),
    ):
        for _ in range(2):  # the second time as well
            with pytest.raises(CheckpointError, match=words):
                mo.engine.check_finite(recipe)


def test_a_content_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    tensor = mo.Checkpoint.tensor

    def spied(self: mo.Checkpoint, name: str) -> torch.Tensor:
        read.append(name)
        return tensor(self, name)

    monkeypatch.setattr(mo.Checkpoint, "tensor", spied)
    folders = [one.ref for one in toys.family(tmp_path, experts=1)]
    # names of their own: other tests have made the same contents
    sources = [mo.Checkpoint(folder, name=f"once {i}") for i, folder in enumerate(folders)]
    mo.engine.check_finite(mo.recipes.linear(sources, exclude=["layers.1.mlp.up_proj"]))
    assert read
    read.clear()
    again = [mo.Checkpoint(one.ref, name=one.name) for one in sources]
    mo.engine.check_finite(mo.recipes.linear(again))
    assert read == ["model.layers.1.mlp.up_proj.weight"], "of the expert, not looked at before"
    module = mo.Checkpoint.from_module(torch.nn.Linear(2, 2), name="memory")
    for _ in range(2):
        read.clear()
        mo.engine.check_finite(mo.recipes.linear([module]))
        assert read == ["weight", "bias"], "a module may change"
