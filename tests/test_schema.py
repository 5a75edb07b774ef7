"""Every attribute of the database is in one table, from which its page is written."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import optuna
import pytest
import torch

import merge_optuna as mo
from merge_optuna import _schema as schema

ROOT = Path(__file__).parents[1]
KEYS = {own.key for attributes in schema.ATTRIBUTES.values() for own in attributes}


def test_the_page_of_the_database_is_up_to_date() -> None:
    assert (ROOT / "docs" / "database.md").read_text() == schema.markdown(), (
        "docs/database.md differs from the table. Write it again: "
        "python -m merge_optuna._schema > docs/database.md"
    )


def test_every_key_has_a_row() -> None:
    public = [value for name, value in vars(schema).items() if name.isupper() and name[0] != "_"]
    assert sorted(value for value in public if isinstance(value, str)) == sorted(KEYS)
    systems = [own.key for own in schema.ATTRIBUTES["trial", "system"]]
    assert all(key.startswith("merge_optuna:") for key in systems)


def test_no_key_is_said_anywhere_else() -> None:
    for file in (ROOT / "merge_optuna").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        calls = [n for n in nodes if isinstance(n, ast.Call) and _sets_an_attribute(n)]
        keys = [call.args[-2] for call in calls]
        assert not any(isinstance(key, ast.Constant) for key in keys), file
        texts = {n.value for n in nodes if isinstance(n, ast.Constant)}
        system = {key for key in KEYS & texts if ":" in key}
        assert bool(system) == (file.name == "_schema.py"), file


def _sets_an_attribute(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", "")
    return name in ("set_user_attr", "set_system_attr") and len(call.args) > 1


@pytest.mark.parametrize("name", ["error", "mine"])
def test_a_name_that_is_taken_is_told(name: str) -> None:
    nets = [mo.Checkpoint.from_module(torch.nn.Linear(2, 1), name=f"n{seed}") for seed in range(2)]

    def space(trial: optuna.Trial) -> mo.Recipe:
        trial.set_user_attr(name, "something")
        return mo.recipes.linear(nets, weight=trial.suggest_float("w", 0, 1))

    study = optuna.create_study(direction="maximize")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.optimize(mo.MergeObjective(space, lambda model: 1.0), n_trials=1)
    told = [str(w.message) for w in caught if "docs/database.md" in str(w.message)]
    assert len(told) == (name == "error")
    assert all("user attribute 'error'" in text for text in told)
    assert study.trials[0].system_attrs.keys() <= KEYS
    assert study.trials[0].user_attrs.keys() - {"mine"} <= KEYS
