"""Searches with several objectives on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import optuna
import pytest

import merge_optuna as mo
from tests import processes
from tests.cli.conftest import Cli
from tests.hub import files_of
from tests.study import halves
from tests.trained import Task


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture(scope="module")
def url(task: Task, tmp_path_factory: pytest.TempPathFactory) -> str:
    where = f"sqlite:///{tmp_path_factory.mktemp('front')}/s.db"
    mo.MergeStudy(
        "halves",
        halves.objective(task),
        n_trials=8,
        sampler=optuna.samplers.RandomSampler(seed=0),
        baselines=["base", "source"],
    ).run(where, progress=False)
    return where


def test_pareto(url: str, cli: Cli) -> None:
    study = optuna.load_study(study_name="halves", storage=url)
    front = mo.pareto(study)
    code, out, _ = cli("pareto", url)
    assert code == 0
    for point in front:
        right, errors = (f"{value:.4g}" for value in point.values)
        assert f"trial {point.number} {right} {errors} " in words(out)
    assert "source a" in out
    assert all(note in words(out) for note in front.notes)
    assert cli("pareto", url, "--markdown")[1] == front.to_markdown()
    data = json.loads(cli("pareto", url, "--study", "halves", "--json")[1])
    assert data == front.to_data()
    assert data["hypervolume"] == front.hypervolume()
    shown = cli("show", url)
    assert shown[0] == 0
    assert all(note in words(shown[1]) for note in front.notes)
    assert json.loads(cli("show", url, "--json")[1])["front"]["reference"] == [*front.reference]


def test_export_front(url: str, cli: Cli, tmp_path: Path) -> None:
    """In a process of its own, from the database alone; then here, once more."""
    study = optuna.load_study(study_name="halves", storage=url)
    front = mo.pareto(study)
    names = [f"trial-{point.number:05}" for point in front]
    made = processes.command("export-front", url, "there", cwd=tmp_path).wait()
    assert made.code == 0, made.err
    assert made.out.splitlines() == [f"Written to {tmp_path}/there/{name}" for name in names]
    alone = mo.export(study, tmp_path / "one", trial=front[0].number)
    there = files_of(tmp_path / "there" / names[0])
    assert files_of(alone)["model.safetensors"] == there["model.safetensors"]
    code, out, _ = cli("export-front", url, "there", "--most", 1)
    assert code == 0
    assert out == f"Written to {tmp_path}/there/trial-{front.spread(1)[0].number:05}\n"
    code, _, err = cli("export", url, "merged")
    assert code == 1
    assert "merge-optuna pareto" in err
    assert cli("export", url, "merged", "--trial", front[-1].number)[0] == 0


def test_points_are_scored_on_test(task: Task, cli: Cli, tmp_path: Path) -> None:
    lines = f"""
from pathlib import Path
from tests.study.halves import Halves
from tests.trained import Task
task = Task(Path({str(task.root)!r}))
objective = mo.MergeObjective(recipe, Halves(task))
"""
    file = task.file(tmp_path / "search.py", n_trials=4, lines=lines, test="Halves(task)")
    code, out, _ = cli("run", file)
    assert code == 0
    assert "trial right (dev) errors (dev) right (test) errors (test)" in words(out)
    result = json.loads(cli("run", file, "--json")[1])
    for best in result["best"]:  # on the same data here
        assert [*best["test"].values()] == best["values"]
    code, out, _ = cli("evaluate", file, *task.folders)
    assert code == 0
    assert "model right (dev) errors (dev)" in words(out)
    facts = json.loads(cli("check", file, "--json")[1])
    assert facts["metrics"] == {"right": "maximize", "errors": "minimize"}
    assert facts["sampler"] == "NSGA2Sampler"


def test_no_trial_is_feasible(cli: Cli, tmp_path: Path) -> None:
    where = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(
        study_name="s", storage=mo.storage(where), directions=["maximize", "minimize"]
    )
    assert cli("pareto", where)[2].endswith("has no completed trial yet.\n")
    study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0], constraints={"safe": 0.5}))
    code, _, err = cli("pareto", where)
    assert code == 1
    assert "Trial 0 is infeasible: safe (violated by 0.5)" in err
    code, out, _ = cli("show", where)
    assert code == 0
    assert "Trial 0 is infeasible" in words(out)
