"""The commands that score models without a search."""

from __future__ import annotations

import json
import re
from pathlib import Path

import optuna
import pytest

import merge_optuna as mo
from tests.cli.conftest import Cli
from tests.trained import Task, read_rows, right

optuna.logging.set_verbosity(optuna.logging.ERROR)

KINDS = ["base", "source", "uniform average", "task arithmetic"]


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def mean(model: mo.Checkpoint | mo.Recipe, file: Path) -> float:
    return float(right(mo.Engine().load(model), read_rows(file)).mean())


def test_baselines(task: Task, cli: Cli, tmp_path: Path) -> None:
    file = task.file(tmp_path / "search.py", n_trials=2, test=None, baselines=KINDS)
    code, out, err = cli("baselines", file)
    assert code == 0, err
    assert not list(tmp_path.glob("*.db"))
    base, *experts = task.checkpoints()
    average = mean(mo.recipes.linear(experts), task.dev)
    for expected in (
        "against what accuracy",
        f"base {mean(base, task.dev):.4g}",
        f"source b {mean(experts[1], task.dev):.4g}",
        f"uniform average {average:.4g}",
        "tuned on dev",
        "2240 examples scored in",
    ):
        assert expected in words(out)
    assert out.count("task arithmetic, λ") == 10

    code, out, _ = cli("baselines", file, "--storage", "sqlite:///s.db", "--json")
    rows = json.loads(out)["baselines"]
    study = optuna.load_study(study_name="toy", storage="sqlite:///s.db")
    found = mo.baselines(study)
    assert [(r["name"], r["values"], r["tuned"]) for r in rows] == [
        (row.name, [row.value], row.tuned) for row in found
    ]
    assert study.trials == []
    seconds = [row.seconds for row in found]
    assert cli("run", file, "--storage", "sqlite:///s.db")[0] == 0
    assert [row.seconds for row in mo.baselines(study)] == seconds, "nothing is scored twice"

    code, out, _ = cli("show", "sqlite:///s.db")
    best = study.best_trial
    assert f"best trial {best.number} {best.value:.4g}" in words(out)
    assert f"uniform average {average:.4g}" in words(out)
    assert out.count("task arithmetic, λ") == 1, "the best one"
    told = json.loads(cli("show", "sqlite:///s.db", "--json")[1])["baselines"]
    assert told == rows

    code, out, _ = cli("export", "sqlite:///s.db", "out", "--baseline", "uniform average")
    assert code == 0
    assert mean(mo.Checkpoint("out"), task.dev) == average
    code, _, err = cli("export", "sqlite:///s.db", "x", "--baseline", "avg")
    assert (code, "No baseline is called 'avg'" in err) == (1, True)


def test_check_counts_them(task: Task, cli: Cli, tmp_path: Path) -> None:
    file = task.file(tmp_path / "search.py", n_trials=100, test=None, baselines=True)
    facts = json.loads(cli("check", file, "--json")[1])
    assert facts["baseline_evaluations"] == 18
    first = facts["seconds_first_merge"] - facts["seconds_merge"]
    each = facts["seconds_merge"] + facts["seconds_evaluate"]
    assert facts["hours_baselines"] == pytest.approx((max(0, first) + 18 * each) / 3600)
    out = cli("check", file, "--no-trial")[1]
    assert "baseline evaluations 18" in words(out)
    for kinds, evaluations in (
        (False, None),
        (["base"], 1),
        (["greedy soup"], 3),
        (["ensemble"], 2),
    ):
        file = task.file(tmp_path / "search.py", n_trials=1, test=None, baselines=kinds)
        facts = json.loads(cli("check", file, "--json", "--no-trial")[1])
        assert facts.get("baseline_evaluations") == evaluations


def test_evaluate(task: Task, cli: Cli, tmp_path: Path) -> None:
    file = task.file(tmp_path / "search.py", n_trials=1)
    _, *experts = task.checkpoints()
    recipe = mo.recipes.linear(experts)
    recipe.to_yaml(tmp_path / "average.yaml")
    models = (task.folders[0], "average.yaml")
    expected = {
        "dev": [mean(mo.Checkpoint(models[0]), task.dev), mean(recipe, task.dev)],
        "test": [mean(mo.Checkpoint(models[0]), task.test), mean(recipe, task.test)],
    }
    code, out, err = cli("evaluate", file, *models, "--test", "--json")
    assert code == 0, err
    assert json.loads(out)["models"] == [
        {
            "model": str(model),
            "values": {f"accuracy ({data})": expected[data][i] for data in ("dev", "test")},
        }
        for i, model in enumerate(models)
    ]
    code, out, _ = cli("evaluate", file, *models)
    assert f"average.yaml {expected['dev'][1]:.4g}" in words(out)
    assert "(test)" not in out
    without = task.file(tmp_path / "search.py", n_trials=1, test=None)
    assert "declared without test=" in cli("evaluate", without, *models, "--test")[2]
    assert "gone" in cli("evaluate", file, "./gone")[2]
