"""Every command, as a user calls it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import optuna
import pytest
import yaml

import merge_optuna as mo
from merge_optuna.cli import tables
from merge_optuna.samplers.plumbing import owner_of
from tests import processes, toys
from tests.cli.conftest import Cli
from tests.hub import Hub, files_of
from tests.spaces import routes
from tests.trained import Task, read_rows, right


@pytest.fixture(scope="module")
def database(task: Task, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two studies: ``toy`` with complete, pruned and failed trials, and an empty one."""
    scores = iter([0.5, float("nan"), OSError("gone"), 0.75, OSError("gone"), 0.25, 0.75])

    def evaluate(model: Any) -> float:
        score = next(scores)
        if isinstance(score, OSError):
            raise score
        return score

    url = f"sqlite:///{tmp_path_factory.mktemp('storage')}/s.db"
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Function(evaluate, name="luck"))
    mo.MergeStudy("toy", objective, n_trials=5, baselines=False).run(url, progress=False)
    mo.MergeStudy("other", objective, n_trials=5, baselines=False).open(url)
    return url


_LAYERS = ["embed", "00", "01", "head"]  # of the models of the task


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# -- run --------------------------------------------------------------------------------------


def test_run(task: Task, cli: Cli, tmp_path: Path) -> None:
    file = task.file(tmp_path / "search.py", n_trials=4)
    code, out, err = cli("run", file, "--out", "merged")
    assert code == 0
    study = optuna.load_study(study_name="toy", storage="sqlite:///toy.db")
    recipe = mo.recipe_of(study)
    test = right(mo.Engine().load(recipe), read_rows(task.test)).mean()
    for expected in (
        f"best trial {study.best_trial.number}",
        f"accuracy (dev) {study.best_value:.4g}",
        f"accuracy (test) {test:.4g}",
        "trials 4 complete",
        f"kept in {tmp_path}/toy.db",
        f"written to {tmp_path}/merged",
        "merge-optuna dashboard sqlite:///toy.db",
    ):
        assert expected in words(out)
    assert f"The study 'toy' is kept in {tmp_path}/toy.db" in err
    assert "\r" not in out + err, "this is no terminal"
    assert "4/4" in err
    assert mo.Recipe.from_yaml("merged/recipe.yaml") == recipe
    card = Path("merged/README.md").read_text()
    assert f"| accuracy (dev) | {study.best_value} |" in card
    assert f"| accuracy (test) | {test} |" in card

    code, out, err = cli("run", file, "--json")
    result = json.loads(out)
    assert (code, len(study.trials)) == (0, 4), "nothing is run twice"
    assert result == {
        "storage": "sqlite:///toy.db",
        "study": "toy",
        "directions": ["maximize"],
        "metrics": ["accuracy"],
        "trials": {"complete": 4, "pruned": 0, "failed": 0, "running": 0},
        "best": [
            {
                "trial": study.best_trial.number,
                "values": [study.best_value],
                "params": study.best_params,
                "recipe": study.best_trial.user_attrs["recipe"],
            }
        ],
        "test": test,
    }
    shown = words(cli("show", "sqlite:///toy.db")[1].replace("─", ""))
    assert f"on held-out data accuracy trial {study.best_trial.number} {test:.4g}" in shown
    code, out, err = cli("run", file, "--storage", "sqlite:///toy.db", "--n-trials", 6)
    assert (code, len(study.trials)) == (0, 6)


def test_run_tells_where_the_best_are(task: Task, cli: Cli, tmp_path: Path) -> None:
    file = task.file(
        tmp_path / "search.py", n_trials=3, test=None, keep_best=2, folder="'runs/best'"
    )
    facts = json.loads(cli("check", file, "--no-trial", "--json")[1])
    assert (facts["keep_best"], facts["folder"]) == (2, "runs/best")
    assert not (tmp_path / "runs").exists()
    code, out, _ = cli("run", file)
    assert code == 0
    kept = json.loads(cli("run", file, "--json")[1])["kept"]
    assert len(kept) == 2
    for path in kept:
        assert f"best trials in {path}" in words(out)
        assert mo.Recipe.from_yaml(f"{path}/recipe.yaml").method == "task_arithmetic"


def test_run_refuses_a_full_folder_before_the_search(task: Task, cli: Cli, tmp_path: Path) -> None:
    file = task.file(tmp_path / "search.py", n_trials=2, test=None)
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged/thesis.tex").touch()
    code, out, err = cli("run", file, "--out", "merged")
    assert (code, out) == (1, "")
    assert f"Error: The folder '{tmp_path}/merged' is not empty." in err.splitlines()[-1]
    (tmp_path / "merged/config.json").write_text("{}")  # which makes it no checkpoint of ours
    code, out, err = cli("run", file, "--out", "merged", "--force")
    assert (code, out) == (1, "")
    assert "which would be deleted: config.json, thesis.tex. Move it away" in err
    assert not (tmp_path / "toy.db").exists()
    for place in (".", "~", "/"):
        code, out, err = cli("run", file, "--out", place, "--force")
        assert (code, out) == (1, "")
        assert "Choose a folder of its own, e.g. " in err
    (tmp_path / "merged/config.json").unlink()
    (tmp_path / "merged/thesis.tex").unlink()
    for _ in range(2):
        assert cli("run", file, "--out", "merged", "--force")[0] == 0
    (tmp_path / "merged/thesis.tex").touch()
    code, out, err = cli("run", file, "--out", "merged", "--force")
    assert (code, out) == (1, "")
    assert "which would be deleted: thesis.tex. Move it away" in err


def test_code_is_copied_when_it_is_trusted(task: Task, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(task.root, tmp_path / "models")
    base = tmp_path / "models/base"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "own.C"}}))
    (base / "own.py").write_text("class C: ...\n")
    mo.recipes.linear([mo.Checkpoint(base, name="base")]).to_yaml("recipe.yaml")
    with pytest.warns(UserWarning, match=r"of 'base' names code \(own.py\), which is not copied"):
        assert cli("write", "recipe.yaml", "plain")[0] == 0
    code, _, err = cli("write", "recipe.yaml", "trusted", "--trust-remote-code")
    assert (code, err) == (0, "")
    found = [Path(folder, "own.py").exists() for folder in ("plain", "trusted")]
    assert found == [False, True]


def test_run_without_a_completed_trial(task: Task, cli: Cli, tmp_path: Path) -> None:
    lines = "objective.evaluator = mo.evaluators.Function(lambda model: float('nan'))"
    file = task.file(tmp_path / "search.py", n_trials=2, lines=lines)
    code, out, _ = cli("run", file)
    assert code == 0
    assert "trials 0 complete, 2 pruned" in words(out)
    assert json.loads(cli("run", file, "--json")[1])["best"] == []
    code, _, err = cli("run", file, "--out", "merged")
    assert code == 1
    assert err.splitlines()[-1] == "Error: The study 'toy' has no completed trial yet."


def test_run_two_objectives(task: Task, cli: Cli, tmp_path: Path) -> None:
    lines = """
import huggingface_hub.constants
import numpy as np
class Two:
    directions, metric_names = ("maximize", "minimize"), ("up", "down")
    def __len__(self):
        return 1
    def __call__(self, model):
        yield np.zeros(1, int), np.array([float(next(model.parameters())[0, 0])])
    def value(self, scores):
        return float(scores[0]), float(scores[0])
objective = mo.MergeObjective(recipe, Two())
"""
    sampler = "optuna.samplers.NSGAIISampler(seed=0)"
    file = task.file(tmp_path / "search.py", n_trials=3, lines=lines, test=None, sampler=sampler)
    code, out, err = cli("run", file, "--json")
    assert code == 0
    assert "front=3" in err
    assert len(json.loads(out)["best"]) == 3, "all on the front"
    out = words(cli("run", file)[1])
    assert "best trial" not in out
    assert "trial up (dev) down (dev)" in out
    assert "3 points, hypervolume" in out
    code, _, err = cli("run", file, "--out", "merged")
    assert code == 1
    assert "export-front" in err
    assert "--trial" in err.splitlines()[-1]
    code, _, err = cli("export", "sqlite:///toy.db", "merged")
    assert code == 1
    assert "merge-optuna pareto" in err
    assert "--trial" in err


def test_modules_in_memory(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("SIZE = 3")
    (tmp_path / "search.py").write_text("""
import torch
import merge_optuna as mo
from helper import SIZE  # a module beside the file

def module(value):
    made = torch.nn.Linear(SIZE, 2)
    torch.nn.init.constant_(made.weight, value)
    torch.nn.init.zeros_(made.bias)
    return made

a, b = (mo.Checkpoint.from_module(module(i), name=n) for i, n in enumerate("ab"))
recipe = mo.recipes.linear([a, b], weight=[1, mo.free(0, 1)])
study = mo.MergeStudy(
    "memory",
    mo.MergeObjective(recipe, lambda model: float(model.weight.mean())),
    n_trials=2,
    test=lambda model: float(model.weight.sum()),
    baselines=False,
)
if __name__ == "__main__":
    raise RuntimeError("it is not the main program")
""")
    code, out, err = cli("run", "search.py", "--out", "merged", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["test"] == pytest.approx(6 * result["best"][0]["values"][0])
    written = mo.Checkpoint("merged").tensor("weight")
    assert float(written.mean()) == pytest.approx(result["best"][0]["values"][0])


def test_the_file_of_a_study_with_a_long_name(task: Task, cli: Cli, tmp_path: Path) -> None:
    file = task.file(tmp_path / "search.py", name="'ja & m/x?'", n_trials=1, test=None)
    assert cli("run", file)[0] == 0
    assert optuna.get_all_study_names("sqlite:///ja-m-x-.db") == ["ja & m/x?"]
    code, out, _ = cli("run", file, "--storage", "journal:///x.log")
    assert code == 0
    assert f"kept in {tmp_path}/x.log" in words(out)
    assert "merge-optuna dashboard journal:///x.log" in out


def test_ctrl_c(task: Task, tmp_path: Path) -> None:
    file = task.file(tmp_path / "a search.py", n_trials=500, test=None)
    running = processes.command("run", file, "--json", cwd=tmp_path)
    deadline = time.monotonic() + 600
    while not re.search(r" ([3-9]|\d\d+)/500", running.err):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.interrupt()
    result = running.wait()
    assert (result.code, result.out) == (130, ""), result.err
    assert "Traceback" not in result.err
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    states = [t.state.name for t in study.trials]
    done = states.count("COMPLETE")
    assert 3 <= done < 500
    owned = [t for t in study.trials if owner_of(t) is not None]
    assert all(t.state.is_finished() for t in owned)
    *_, said, command = result.err.splitlines()
    assert said == f"Stopped: {done} of 500 trials are done and kept. Go on with:"
    assert command == f"  merge-optuna run '{file}' --json"
    # started again it goes on with the very trials that it would have run
    again = processes.command("run", file, "-n", done + 1, cwd=tmp_path).wait()
    assert again.code == 0, again.err
    whole = optuna.create_study(direction="maximize", sampler=task.recipe().sampler(seed=0))
    whole.optimize(mo.MergeObjective(task.recipe(), lambda model: 1.0), n_trials=done + 1)
    completed = [t.params for t in study.trials if t.state.name == "COMPLETE"]
    assert completed[:9] == [t.params for t in whole.trials][:9], "the first generation"


# -- files that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "defines no mo.MergeStudy. Add at module level: study = mo.MergeStudy("),
        ("study = other = S('a')", None),
        ("study, other = S('a'), S('b')", "several mo.MergeStudy: study, other. Keep one"),
        (
            "mo.MergeObjective(mo.recipes.ties(base, [a]), len)",
            "Nothing is free in this recipe. Use mo.free for a parameter.",
        ),
        (
            "mo.MergeObjective(recipe, mo.evaluators.Classification('gone.jsonl'))",
            "No file 'gone.jsonl'. ",
        ),
        ("mo.Checkpoint('./gone')", "No folder '{cwd}/gone'. "),
    ],
)
def test_one_clear_message(
    task: Task, cli: Cli, tmp_path: Path, command: str, content: str, message: str | None
) -> None:
    (tmp_path / "search.py").write_text(f"""
import merge_optuna as mo
base, a = (mo.Checkpoint("{task.root}/" + name, name=name) for name in ("base", "a"))
recipe = mo.recipes.ties(base, [a], density=mo.free(0, 1))
S = lambda name: mo.MergeStudy(name, mo.MergeObjective(recipe, lambda model: 1.0), n_trials=1)
{content}
""")
    code, out, err = cli(command, "search.py")
    if message is None:
        assert code == 0
        return
    assert (code, out) == (1, "")
    error = err.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message.format(cwd=tmp_path) in error
    assert "Traceback" not in err
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_mistake_in_the_file_is_shown_from_there_on(
    command: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "search.py").write_text("import beside\n\nbeside.read('{')")
    (tmp_path / "beside.py").write_text("import json\n\ndef read(x): return json.loads(x)")
    code, out, err = cli(command, "search.py")
    assert (code, out) == (1, "")
    error, head, first, *others = err[err.index("Error: ") :].splitlines()
    assert error == "Error: search.py fails:"
    assert head == "Traceback (most recent call last):"
    assert first == '  File "search.py", line 3, in <module>'
    assert any("beside.py" in line for line in others)
    assert others[-1].startswith("json.decoder.JSONDecodeError: Expecting property name")
    (tmp_path / "search.py").write_text("import json\n\nx = (")
    code, out, err = cli(command, "search.py")
    assert (code, err.count("File")) == (1, 1)
    assert "line 3" in err
    assert err.splitlines()[-1] == "SyntaxError: '(' was never closed"


@pytest.mark.parametrize("width", [200, 80, 40])
def test_numbers_are_never_cut_short(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    numbers = [f"0.{i}23 [-0.0{i}1, +0.{i}56]" for i in range(1, 5)]
    head = ["method", *(f"column {i}" for i in range(4))]
    rows = [[name, *numbers] for name in ("a search with a name of some length", "another")]
    tables.table(head, rows)
    out = capsys.readouterr().out
    assert all(out.count(number) == 2 for number in numbers)
    assert max(map(len, out.splitlines())) <= width
    assert not any(line != line.rstrip() for line in out.splitlines())
    # What does not fit beside each other comes below, with the names of the rows again.
    assert out.count("another") == (1 if width == 200 else 2 if width == 80 else 4)


def test_texts_are_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    note = "many words " * 9
    tables.table(["", "", "note"], [["uniform average", 0.123456, note]], title="A title")
    out = capsys.readouterr().out
    assert out.startswith("A title\n")
    assert max(map(len, out.splitlines())) <= 60
    assert "0.1235" in out
    assert out.count("many") == out.count("words") == 9
    tables.table(["", "", "note"], [["uniform average", 0.123456, note]], cut=True)
    [row] = [line for line in capsys.readouterr().out.splitlines() if "uniform" in line]
    assert row.endswith("…")
    assert len(row) <= 60


def test_columns_without_anything_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    tables.table(["name", "", "note"], [["a", "", 1.0], ["b", "", 2.5]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["name", "note"]
    assert lines[2:4] == [["a", "1"], ["b", "2.5"]]


@pytest.mark.parametrize("argv", [["run", "gone.py"], ["run"], ["runs"], ["run", "-n", "0", "x"]])
def test_wrong_usage(cli: Cli, argv: list[str]) -> None:
    code, out, err = cli(*argv)
    assert (code, out) == (2, "")
    assert "Error" in err


def test_check(task: Task, cli: Cli, tmp_path: Path) -> None:
    lines = """
other = mo.recipes.ties(base, [a, b], density=mo.free(0, 1), exclude=["classifier", "pooler"])
objective = mo.MergeObjective(other, mo.evaluators.Classification(objective.evaluator and DEV))
"""
    lines = lines.replace("objective.evaluator and DEV", f'"{task.dev}"')
    file = task.file(tmp_path / "search.py", n_trials=7, lines=lines)
    code, out, _ = cli("check", file, "--json", "--no-trial")
    assert code == 0
    facts = json.loads(out)
    assert facts == {
        "study": "toy",
        "n_trials": 7,
        "method": "ties",
        "sources": {name: str(task.root / name) for name in ("base", "a", "b")},
        "merged_tensors": 37,
        "left_out_tensors": {
            "excluded": [
                *("bert.pooler.dense.bias", "bert.pooler.dense.weight"),
                *("classifier.bias", "classifier.weight"),
            ]
        },
        "dimensions": 2,
        "metrics": {"accuracy": "maximize"},
        "dev_examples": 160,
        "test_examples": 160,
        "sampler": "CmaEsSampler",
        "population": 4 + int(3 * np.log(2)),
    }
    code, out, _ = cli("check", file, "--json")
    costs = {name: value for name, value in json.loads(out).items() if name not in facts}
    assert {**costs, **facts} == json.loads(out)
    seconds = ("seconds_first_merge", "seconds_merge", "seconds_evaluate", "hours")
    assert all(0 < costs.pop(name) < 60 for name in seconds)
    assert 1e7 < costs.pop("peak_anonymous_bytes") < costs.pop("peak_rss_bytes") < 1e11
    assert costs == {"peak_gpu_bytes": None, "float32_speedup": None}
    code, out, _ = cli("check", file)
    assert re.search(r"seconds evaluate 0\.\d+ peak rss [\d.]+ [MG]B peak anonymous", words(out))
    assert "hours for 7 trials 0.00" in words(out)
    assert "seconds" not in cli("check", file, "--no-trial")[1]
    assert "merged tensors 37" in words(out)
    assert "bert.pooler.dense.bias, " in words(out)
    assert "(4 in all): excluded" in words(out)
    assert [p.name for p in tmp_path.iterdir()] == ["search.py"], "nothing is stored"


def test_check_a_function(task: Task, cli: Cli, tmp_path: Path) -> None:
    lines = "objective = mo.MergeObjective(lambda trial: recipe(trial), lambda model: 1.0)"
    file = task.file(tmp_path / "search.py", n_trials=7, lines=lines, test=None)
    facts = json.loads(cli("check", file, "--json", "--no-trial")[1])
    assert facts == {
        "study": "toy",
        "n_trials": 7,
        "metrics": {"score": "maximize"},
        "dev_examples": 1,
        "test_examples": None,
    }
    assert json.loads(cli("check", file, "--json")[1])["seconds_merge"] > 0


# -- storages ---------------------------------------------------------------------------------


def test_show_the_studies(cli: Cli, database: str) -> None:
    code, out, _ = cli("show", database)
    assert code == 0
    lines = [line.split() for line in out.splitlines() if line.split()]
    assert ["toy", "luck", "4", "1", "2", "0", "0.75"] in lines
    assert ["other", "luck", "0", "0", "0", "0", "none"] in lines
    studies = json.loads(cli("show", database, "--json")[1])["studies"]
    assert sorted(s["study"] for s in studies) == ["other", "toy"]


def test_show_a_study(cli: Cli, database: str) -> None:
    code, out, _ = cli("show", database, "--study", "toy")
    assert code == 0
    assert "toy: 4 complete, 1 pruned, 2 failed" in out
    table = [line.split()[:2] for line in out.splitlines() if line.split()]
    numbers = [row[0] for row in table if row[0] in set("0123456")]  # layers have two digits
    assert numbers == ["3", "6", "0", "5"], "best first, the earliest among equals"
    assert out.count("task_arithmetic: a ") == 5, "of the best one, and of all four"
    assert "pruned 1 The score is not finite: nan." in words(out)
    assert "failed 2 OSError: gone" in words(out)
    result = json.loads(cli("show", database, "--study", "toy", "--json")[1])
    study = optuna.load_study(study_name="toy", storage=database)
    assert [best["params"] for best in result["best"]] == [
        study.trials[n].params for n in (3, 6, 0, 5)
    ]
    assert result["failed"] == {"OSError: gone": 2}


def test_the_best_recipe_is_a_table_of_layers_and_models(
    cli: Cli, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli("show", database, "--study", "toy")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    best = optuna.load_study(study_name="toy", storage=database).trials[3]
    line = "Best recipe, trial 3: task_arithmetic: " + ", ".join(
        f"{name} {np.mean([best.params[f'weight/{name}/{x}'] for x in _LAYERS]):.3g}"
        for name in "ab"
    )
    assert line in words(out)
    rows = [line.split() for line in out.splitlines()]
    for layer in _LAYERS:
        assert [layer, *(f"{best.params[f'weight/{n}/{layer}']:.3g}" for n in "ab")] in rows
    shown = json.loads(cli("show", database, "--study", "toy", "--json")[1])["winner"]
    assert shown["trial"] == 3
    [panel] = shown["panels"]
    assert panel["rows"] == _LAYERS
    assert panel["values"] == [[best.params[f"weight/{n}/{x}"] for n in "ab"] for x in _LAYERS]


def test_what_cannot_be_rebuilt_is_said(cli: Cli, task: Task, tmp_path: Path) -> None:
    shutil.copytree(task.root, tmp_path / "models")
    moved = Task(tmp_path / "models")
    objective = mo.MergeObjective(moved.recipe(), lambda model: 1.0)
    url = f"sqlite:///{tmp_path}/s.db"
    study = mo.MergeStudy("toy", objective, n_trials=1, baselines=False).run(url, progress=False)
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    code, out, _ = cli("show", url)
    assert code == 0
    assert "The recipe of trial 0 cannot be shown:" in out
    assert study.trials[0].user_attrs["recipe"][:60] in words(out)
    argv = [x for n in ("base", "a", "b") for x in ("--source", f"{n}={tmp_path}/elsewhere/{n}")]
    assert "Best recipe, trial 0" in cli("show", url, *argv)[1]


def test_show_what_is_no_merge(cli: Cli, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/plain.db"
    study = optuna.create_study(study_name="plain", storage=url)
    code, out, _ = cli("show", url)
    assert code == 0
    assert "No trial is complete yet." in out
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    code, out, _ = cli("show", url)
    assert code == 0
    assert "value: lower is better" in out
    assert "recipe" not in out
    assert f"x={study.best_params['x']:.4g}" in out


def test_paths_are_shown_as_paths(cli: Cli, tmp_path: Path) -> None:
    for seed, name in enumerate(("ja", "math")):
        toys.save(toys.llama(seed), tmp_path / name)
    url = f"sqlite:///{tmp_path}/paths.db"
    study = routes.declared(tmp_path).run(url, n_trials=3, progress=False)
    code, out, _ = cli("show", url)
    assert code == 0
    assert str(study.best_trial.user_attrs["path"])[:20] in out
    assert "on/1/A0=" not in out
    assert "path: A" in cli("show", url, "--trial", study.best_trial.number)[1]
    result = json.loads(cli("show", url, "--json")[1])
    assert result["best"][0]["path"] == study.best_trial.user_attrs["path"]


def test_show_a_recipe(cli: Cli, database: str) -> None:
    study = optuna.load_study(study_name="toy", storage=database)
    code, out, _ = cli("show", database, "--study", "toy", "--trial", 5)
    assert code == 0
    assert mo.Recipe.from_yaml(out) == mo.recipe_of(study, 5)
    data = json.loads(cli("show", database, "--study", "toy", "--trial", 5, "--json")[1])
    assert mo.Recipe.from_data(data["recipe"]) == mo.recipe_of(study, 5)
    assert yaml.safe_load(out)["method"] == data["recipe"]["method"]


def test_export_and_write(task: Task, cli: Cli, database: str, tmp_path: Path) -> None:
    argv = ("export", database, "out", "--study", "toy", "--dtype", "bfloat16")
    code, out, _ = cli(*argv, "--trial", 5, "--tokenizer", "a")
    assert (code, out) == (0, f"Written to {tmp_path}/out\n")
    study = optuna.load_study(study_name="toy", storage=database)
    expected = mo.export(study, tmp_path / "expected", trial=5, dtype="bfloat16")
    weights = (expected / "model.safetensors").read_bytes()
    assert Path("out/model.safetensors").read_bytes() == weights
    code, _, err = cli(*argv)
    assert code == 1
    assert err.startswith(f"Error: The folder '{tmp_path}/out' is not empty.")
    code, out, _ = cli("write", "out/recipe.yaml", "again", "--dtype", "bfloat16")
    assert (code, out) == (0, f"Written to {tmp_path}/again\n")
    assert Path("again/model.safetensors").read_bytes() == weights
    expected = mo.Recipe.from_yaml("out/recipe.yaml").with_fields(dtype="bfloat16")
    expected.to_mergekit("mergekit.yml")
    code, out, _ = cli("write", "mergekit.yml", "theirs")
    assert (code, out) == (0, f"Written to {tmp_path}/theirs\n")
    assert Path("theirs/model.safetensors").read_bytes() == weights
    assert cli(*argv, "--force")[0] == 0
    assert mo.Recipe.from_yaml("out/recipe.yaml") == mo.recipe_of(study, 3)


def test_a_misspelled_key_of_mergekits_yaml(task: Task, cli: Cli, tmp_path: Path) -> None:
    _, a, b = task.folders
    (tmp_path / "mine.yml").write_text(
        f"merge_method: linear\nmodels: [{{model: {a}}}, {{model: {b}}}]\n"
        "parameters: {weight: 1}\ndype: bfloat16\n"
    )
    code, _, err = cli("write", "mine.yml", "out", "--strict")
    assert (code, Path("out").exists()) == (1, False)
    assert "mine.yml: mergekit ignores the key 'dype'. Did you mean 'dtype'?" in err
    with pytest.warns(UserWarning, match="ignores the key 'dype'"):
        code, _, _ = cli("write", "mine.yml", "out")
    assert (code, Path("out/mergekit_config.yml").exists()) == (0, True)


def test_moved_sources(task: Task, cli: Cli, database: str, tmp_path: Path) -> None:
    study = optuna.load_study(study_name="toy", storage=database)
    shutil.copytree(task.root, tmp_path / "models")
    text = mo.recipe_of(study, 5).to_yaml().replace(str(task.root), str(tmp_path / "models"))
    Path("recipe.yaml").write_text(text)
    (tmp_path / "models").rename(tmp_path / "moved")

    code, _, err = cli("write", "recipe.yaml", "out")
    assert code == 1
    assert f"'base' was recorded at '{tmp_path}/models/base', where nothing is now" in err
    assert "is now: sources={'base': folder} (--source base=DIR)" in err

    moved = [f"--source={name}=moved/{name}" for name in ("base", "a", "b")]
    assert cli("write", "recipe.yaml", "out", *moved)[0] == 0
    expected = mo.write(mo.recipe_of(study, 5), tmp_path / "expected")
    weights = (expected / "model.safetensors").read_bytes()
    assert Path("out/model.safetensors").read_bytes() == weights
    assert f"{tmp_path}/moved/base" in Path("out/recipe.yaml").read_text()

    argv = (database, "--study", "toy", "--trial", 5, *moved)
    assert f"{tmp_path}/moved/a" in cli("show", *argv)[1]
    assert cli("export", database, "again", *argv[1:])[0] == 0
    assert Path("again/model.safetensors").read_bytes() == weights

    code, _, err = cli("write", "recipe.yaml", "no", "--source", "base=moved/a")
    assert code == 1
    assert "The given source 'base'" in err
    code, _, err = cli("write", "recipe.yaml", "no", "--source", "bse=moved/base")
    assert code == 1
    assert "No source is called bse; they are called base, a, b." in err
    code, _, err = cli("write", "recipe.yaml", "no", "--source", "moved/base")
    assert code == 2
    assert "must be NAME=REF" in err
    assert not Path("no").exists()


def test_push(
    task: Task, cli: Cli, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked before the work whether it can succeed; the client talks to a real server."""
    hub = Hub()
    file = task.file(tmp_path / "search.py", n_trials=1, test=None)
    recipe = mo.recipe_of(optuna.load_study(study_name="toy", storage=database), 5)
    recipe.to_yaml("recipe.yaml")
    commands: list[tuple[object, ...]] = [
        ("write", "recipe.yaml", "1"),
        ("export", database, "2", "--study", "toy"),
        ("run", file, "--out", "3"),
    ]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for command in commands:
        code, _, err = cli(*command, "--push", "lab/merged")
        assert code == 1
        assert "HF_HUB_OFFLINE is set" in err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with hub.serve() as endpoint:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        for command in commands:
            code, _, err = cli(*command, "--push", "lab/merged")
            assert code == 1
            assert "The hub refuses your token" in err
        code, _, err = cli("run", file, "--push", "lab/merged")
        assert code == 2
        assert "--push needs --out" in err
        assert not any(Path(out).exists() for out in "123")
        assert not list(tmp_path.glob("*.db"))

        monkeypatch.setenv("HF_TOKEN", hub.token)
        for i, command in enumerate(commands, 1):
            code, out, err = cli(*command, "--push", f"lab/merged{i}", "--private")
            assert code == 0, err
            assert f"{endpoint}/lab/merged{i}/commit/" in out
            files = hub.repos[f"lab/merged{i}"]["main"]
            assert files.pop(".private") == b"private"
            written = files_of(Path(str(i)))
            del written[".merge_optuna.json"]  # tells what is whose on this disk
            assert files == written


def test_storages_that_do_not_fit(cli: Cli, database: str, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    optuna.create_study(study_name="plain", storage="sqlite:///plain.db")
    for argv, message in {
        ("show", "sqlite:///gone.db"): f"there is no file {tmp_path}/gone.db",
        ("export", "sqlite:///gone.db", "out"): f"there is no file {tmp_path}/gone.db",
        ("show", "gone.db"): "'gone.db' is not a storage URL",
        ("show", database, "--study", "tos"): f"no study 'tos' in {database}, only toy, other.",
        ("show", database, "--trial", "1"): "2 studies in",
        ("export", database, "out"): "2 studies in",
        ("export", database, "out", "--study", "other"): "'other' has no completed trial",
        ("export", database, "out", "--study", "toy", "--trial", "9"): "has no trial 9",
        ("export", "sqlite:///plain.db", "out", "--trial", "0"): "has no trial 0",
        ("export", "sqlite:///empty.db", "out"): "There is no study in sqlite:///empty.db.",
        ("write", "sizes.yaml", "out"): "sizes.yaml is not a recipe",
    }.items():
        (tmp_path / "sizes.yaml").write_text("a: 1\n")
        code, out, err = cli(*argv)
        assert (code, out) == (1, ""), argv
        assert err.startswith("Error: ")
        assert message in err
        assert "Traceback" not in err
    assert not (tmp_path / "gone.db").exists()
    assert not (tmp_path / "out").exists()


# -- methods ----------------------------------------------------------------------------------


def test_methods(cli: Cli) -> None:
    code, out, _ = cli("methods")
    assert code == 0
    told = json.loads(cli("methods", "--json")[1])
    for method in mo.methods.METHODS.values():
        assert told[method.name]["summary"] in out
        assert method.source in out
        assert list(told[method.name]["parameters"]) == [p.name for p in method.parameters]
        for parameter in method.parameters:
            about = told[method.name]["parameters"][parameter.name]
            assert about["range"] == parameter.range
            assert about["default"] == parameter.default
            assert about["search"] == (parameter.search_in_words or None)
    assert "density [0, 1] 0.5 [0, 1] each model" in words(out)
    code, out, _ = cli("methods", "regmean")
    assert "regmean: any number of models, each with its mo.statistics.gram" in words(out)
    code, out, _ = cli("methods", "slerp")
    assert "mo.statistics" not in out
    assert (code, out.count("arXiv")) == (0, 0)
    assert "slerp: 2 models" in out
    code, out, _ = cli("methods", "slerp", "--markdown")
    assert code == 0
    assert "| `t` |  | [0, 1] | `0.5` | [0, 1] | 0 gives the first model, 1 the second |" in out
    code, _, err = cli("methods", "tise")
    assert code == 1
    assert err.startswith("Error: Unknown method 'tise'. Did you mean 'ties'?")
