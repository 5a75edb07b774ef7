"""A method of the user's own: the one that CONTRIBUTING shows, and what is refused."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna import methods
from merge_optuna.cli import main
from merge_optuna.errors import RecipeError
from merge_optuna.methods import Method, Parameter
from tests import processes
from tests.docs import blocks
from tests.trained import Task

block = partial(blocks.block, "CONTRIBUTING.md")


@pytest.fixture
def folder(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that CONTRIBUTING shows, beside the models and the data that they name."""
    for name in ("largest_change.py", "search.py"):
        (tmp_path / name).write_text(block(name))
    (tmp_path / "models").symlink_to(task.root)
    shutil.copy(task.dev, tmp_path / "dev.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tensors_of(folder: Path) -> Mapping[str, Tensor]:
    checkpoint = mo.Checkpoint(folder)
    return {name: checkpoint.tensor(name) for name in checkpoint.names()}


@pytest.fixture
def registry() -> Iterator[dict[str, Method]]:
    """The methods that are known, which are as before after the test."""
    before = dict(methods.METHODS)
    yield methods.METHODS
    methods.METHODS.clear()
    methods.METHODS.update(before)


def mean(base: Tensor, models: list[Tensor], *, lambda_: float = 1.0) -> Tensor:
    """Base plus the mean change."""
    return base + lambda_ * (sum(models[1:], models[0]) / len(models) - base)


MINE = Method(
    name="mine",
    kernel=mean,
    parameters=(Parameter("lambda_", 1.0, "scale", search=(0, 2)),),
    source="A test",
)


def sources() -> list[mo.Checkpoint]:
    return [mo.Checkpoint.from_module(nn.Linear(3, 2), name=name) for name in "abc"]


def test_it_is_searched_exported_and_rebuilt_in_other_processes(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of CONTRIBUTING, each in a process of its own that knows nothing of the others."""
    for line in block("run").splitlines():
        program, *arguments = line.split()
        assert program == "merge-optuna"
        ran = processes.command(*arguments, cwd=folder).wait()
        assert ran.code == 0, ran.err

    recipe = (folder / "merged" / "recipe.yaml").read_text()
    assert "\nmodule: largest_change\n" in recipe
    scale = float(re.findall(r"lambda_: (\S+)", recipe)[0])
    base, a, b = (tensors_of(folder / "models" / name) for name in ("base", "a", "b"))
    for name, merged in tensors_of(folder / "merged").items():
        if name.startswith("bert."):
            first, second = a[name] - base[name], b[name] - base[name]
            change = torch.where(second.abs() > first.abs(), second, first)
            torch.testing.assert_close(merged, base[name] + scale * change)

    # This process has not imported it, and does not because a file says so.
    with pytest.raises(
        RecipeError, match="Unknown method 'largest_change': the module largest_ch"
    ):
        mo.Recipe.from_yaml(recipe)
    monkeypatch.setattr(
        sys, "argv", ["merge-optuna", "export", "sqlite:///largest-change.db", "out"]
    )
    with pytest.raises(SystemExit):
        main()
    error = capfd.readouterr().err
    assert "merge-optuna --import largest_change" in error
    assert "damaged" not in error
    assert "Traceback" not in error
    assert "largest_change" not in sys.modules


@pytest.mark.usefixtures("registry")
def test_it_is_a_method_like_any_other() -> None:
    with pytest.raises(AttributeError, match="mine"):
        mo.recipes.mine  # noqa: B018
    known = mo.methods.register(MINE)
    assert known.module == __name__
    assert "mine" in dir(mo.recipes)
    assert "mine" not in mo.recipes.__all__
    base, *experts = sources()
    recipe = mo.recipes.mine(base, experts, lambda_=0.5)
    assert mo.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert mo.Recipe.from_json(recipe.to_json()) == recipe
    for name, merged in mo.engine.tensors(recipe):
        expected = mean(base.tensor(name), [e.tensor(name) for e in experts], lambda_=0.5)
        assert torch.equal(merged, expected)
    assert recipe.free().distributions()["lambda_"].high == 2
    with pytest.raises(RecipeError, match="mergekit has no method 'mine'"):
        recipe.to_mergekit()


@pytest.mark.parametrize(
    ("kernel", "found"),
    [
        (lambda base, models, lambda_: models[0].sum(), r"not \(\)\."),
        (lambda base, models, lambda_: None, "not None"),
        (lambda base, models, lambda_: models[0].T, r"not \(3, 2\)"),
    ],
)
def test_a_kernel_of_another_shape(kernel: Any, found: str, registry: dict[str, Method]) -> None:
    methods.register(replace(MINE, kernel=kernel), module=__name__)
    base, *models = sources()
    recipe = mo.recipes.mine(base, models)  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=r"The kernel of mine must return .* \(2, 3\).*" + found):
        dict(mo.engine.tensors(recipe))


def test_the_command_line_lists_it(
    registry: dict[str, Method],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mo.methods.register(MINE)
    monkeypatch.setattr(sys, "argv", ["merge-optuna", "methods"])
    with pytest.raises(SystemExit):
        main()
    assert "Base plus the mean change." in capsys.readouterr().out


@pytest.mark.usefixtures("registry")
def test_the_digest_does_not_depend_on_where_it_is_registered() -> None:
    made = []
    base, *experts = sources()
    for module in ("a.b", "c"):
        methods.METHODS.pop("mine", None)
        mo.methods.register(MINE, module=module)
        made.append(
            mo.recipes.linear(
                [mo.recipes.mine(base, experts, name="inner"), base], weight={"module": 2, "*": 1}
            )
        )
    assert [recipe.models[0].module for recipe in made] == ["a.b", "c"]
    assert made[0].digest == made[1].digest


@pytest.mark.usefixtures("registry")
def test_only_its_own_module_registers_it_again() -> None:
    mo.methods.register(MINE)
    again = replace(MINE, source="A better paper")
    assert mo.methods.register(again).source == "A better paper"
    with pytest.raises(RecipeError, match=f"There is a method 'mine' already, of {__name__}"):
        mo.methods.register(MINE, module="another")
    for name in ("ties", "splice"):
        with pytest.raises(
            RecipeError, match=f"There is a method '{name}' already, of merge_optuna"
        ):
            mo.methods.register(replace(MINE, name=name))


def test_a_row_of_the_table_says_whose_it_is(registry: dict[str, Method]) -> None:
    kernel = methods.sparse.Sparse(methods.sparse.Trim(), methods.sparse.Sum())
    mine = replace(methods.get("ties"), name="mine", kernel=kernel)
    with pytest.raises(RecipeError, match=r"Say whose method it is: .*module=__name__"):
        mo.methods.register(mine)
    mo.methods.register(mine, module=__name__)
    assert "mine" in registry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "my-method"}, "'my-method' cannot be the name"),
        ({"name": "lambda"}, "'lambda' cannot be the name"),
        ({"parameters": (Parameter("name", 1.0, "?"),)}, "'name' cannot be the name"),
        ({"parameters": (Parameter("x", 1.0, "?"),) * 2}, "several things called 'x'"),
        ({"parameters": (Parameter("x", 2.0, "?", high=1.0),)}, r"x must be in \(-∞, 1\], not 2"),
        (
            {"parameters": (Parameter("x", 1.0, "?", low=0, search=(-1, 1)),)},
            "x must be in .* -1",
        ),
        ({"parameters": (Parameter("x", 1.0, "?"),)}, "kernel of mine does not take x"),
        ({"promises": frozenset({"symetric"})}, "mine promises 'symetric'. Promises: idempotent"),
    ],
)
def test_a_wrong_declaration_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(MINE, **changes)


def test_a_recipe_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    data = mo.recipes.linear(sources()).to_data() | {"method": "theirs"}
    for module in ("harmful", "os", "merge_optuna.testing"):
        with pytest.raises(
            RecipeError, match=rf"import {module} in Python, or merge-optuna --imp"
        ):
            mo.Recipe.from_data(data | {"module": module})
    for module in ("harmful; rm -r x", "", 3, None, ["harmful"], {"a": 1}):
        with pytest.raises(RecipeError, match=r"Unknown method 'theirs'\. .*Methods: "):
            mo.Recipe.from_data(data | {"module": module})
    # What is known is known, whatever a file says.
    recipe = mo.Recipe.from_data(data | {"method": "linear", "module": "harmful"})
    assert recipe.module is None
    assert "harmful" not in sys.modules


def test_an_installed_package_declares_its_methods(
    registry: dict[str, Method], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "largest_change.py").write_text(block("largest_change.py"))
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[merge_optuna.methods]\nlargest_change = largest_change\nlost = no_such_module\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert methods.get("largest_change").module == "largest_change"
    assert "largest_change" in registry
    with pytest.raises(RecipeError, match=r"no_such_module of an installed package.*'lost'"):
        methods.get("lost")
    del sys.modules["largest_change"]


def test_a_script_is_known_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        block("largest_change.py")
        + "\nimport sys\nassert METHOD.module == 'mine', METHOD.module\nprint('fine')"
    )
    ran = processes.script(tmp_path / "mine.py", cwd=tmp_path).wait()
    assert (ran.code, ran.out) == (0, "fine\n"), ran.err
