"""What the commands say of constraints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import optuna
import pytest

import merge_optuna as mo
from tests.cli.conftest import Cli
from tests.trained import Task

NAME = "accuracy no worse than 2"


def test_a_constraint_that_nothing_meets(task: Task, cli: Cli, tmp_path: Path) -> None:
    lines = f"""
other = mo.evaluators.NoWorse(mo.evaluators.Classification("{task.test}"), 2)
objective = mo.MergeObjective(recipe, objective.evaluator, constraints=[other])
"""
    file = task.file(tmp_path / "search.py", n_trials=3, lines=lines, test=None)
    with pytest.warns(UserWarning, match="None of the 3 completed trials"):
        code, out, _ = cli("run", file, "--out", "merged")
    assert code == 0
    study = optuna.load_study(study_name="toy", storage="sqlite:///toy.db")
    best = min(study.trials, key=lambda t: (t.constraints[NAME], -t.values[0], t.number))
    score = 2 - best.constraints[NAME]
    said = (
        f"None of the 3 completed trials of 'toy' keeps all constraints. Loosen them with slack=, "
        f"or search on. Trial {best.number} is infeasible: {NAME} ({score:.4g}, must be at least "
        f"2: violated by {2 - score:.2g})."
    )
    assert said in re.sub(r"\s+", " ", out)
    card = Path("merged/README.md").read_text()
    assert f"| {NAME} | {score:.4g}, must be at least 2: violated by {2 - score:.2g} |" in card
    assert mo.Recipe.read("merged/recipe.yaml").digest == mo.recipe_of(study, best.number).digest

    code, out, _ = cli("show", "sqlite:///toy.db", "--json")
    shown = json.loads(out)["best"]
    assert shown[0]["trial"] == best.number
    assert shown[0]["infeasible"] == said
    one = shown[0]["constraints"][NAME]
    assert (one["value"], one["violation"]) == (score, best.constraints[NAME])
    _, out, _ = cli("show", "sqlite:///toy.db")
    assert said in re.sub(r"\s+", " ", out)


def test_one_that_is_met(task: Task, cli: Cli, tmp_path: Path) -> None:
    lines = f"""
other = mo.evaluators.NoWorse(mo.evaluators.Classification("{task.test}"), 0, name="test")
objective = mo.MergeObjective(recipe, objective.evaluator, constraints=[other])
"""
    file = task.file(tmp_path / "search.py", n_trials=2, lines=lines, test=None)
    code, out, _ = cli("check", file)
    assert code == 0
    assert re.search(r"constraints +test: 160 examples", out)
    code, out, err = cli("run", file)
    assert code == 0
    assert re.search(r"test +0\.\d+, must be at least 0: kept", out)
    assert "infeasible" not in out + err
