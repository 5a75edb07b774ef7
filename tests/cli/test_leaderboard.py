"""``merge-optuna leaderboard``, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import merge_optuna as mo
from tests.cli.conftest import Cli
from tests.cli.test_commands import words
from tests.trained import Task


@pytest.fixture(scope="module")
def storage(task: Task, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search with two seeds."""
    url = f"sqlite:///{tmp_path_factory.mktemp('storage')}/s.db"
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    objective = mo.MergeObjective(recipe, mo.evaluators.Classification(task.dev))
    for seed in (0, 1):
        sampler = recipe.sampler(seed=seed)
        declared = mo.MergeStudy(
            f"toy, seed {seed}", objective, 2, sampler=sampler, baselines=["uniform average"]
        )
        declared.run(url, progress=False)
    return url


def test_on_labelled_texts(task: Task, storage: str, cli: Cli) -> None:
    code, out, _ = cli("leaderboard", storage, "--test-file", task.test)
    assert code == 0
    assert "test accuracy" in out
    assert "draws seeds and 160 test examples" in words(out)
    code, out, _ = cli("leaderboard", storage, "--test-file", task.test, "--json")
    data = json.loads(out)
    row = next(row for row in data["rows"] if row["name"] == "toy")
    assert (row["seeds"], row["test"]["examples"], data["on"]) == (2, 160, "test")
    code, out, _ = cli("leaderboard", storage, "--test-file", task.test, "--markdown")
    assert out.startswith("| method | kind |")
    assert "| toy | search | 2 |" in out
    assert "| uniform average | baseline |  |" in out


def test_on_the_test_data_of_a_file(
    task: Task,
    storage: str,
    cli: Cli,
    tmp_path: Path,
) -> None:
    file = task.file(tmp_path / "search.py", n_trials=2)
    code, out, _ = cli("leaderboard", storage, "--file", file, "--study", "toy, seed 0", "--json")
    assert code == 0
    row = next(row for row in json.loads(out)["rows"] if row["kind"] == "search")
    assert (row["name"], row["seeds"]) == ("toy", 1)
    code, _, err = cli("leaderboard", storage, "--file", file, "--test-file", task.test)
    assert code == 2
    assert "has test data of its own" in words(err)
    without = task.file(tmp_path / "without.py", n_trials=2, test="None")
    code, _, err = cli("leaderboard", storage, "--file", without)
    assert (code, "has no test data" in err) == (1, True)


def test_without_test_data_and_without_studies(
    storage: str,
    cli: Cli,
) -> None:
    code, out, _ = cli("leaderboard", storage)
    assert code == 0
    assert "better than they are" in words(out)
    code, _, err = cli("leaderboard", storage, "--study", "other")
    assert (code, "There is no study other in sqlite" in err) == (1, True)
