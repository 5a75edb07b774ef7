"""The scripts in examples/ as written but for the number of trials, and the README's script."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import runpy
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import AutoModelForCausalLM, AutoTokenizer, BertForSequenceClassification

import merge_optuna as mo
from tests import processes
from tests.docs.blocks import block
from tests.trained import Task, read_rows, right, write_rows

optuna.logging.set_verbosity(optuna.logging.ERROR)

EXAMPLES = Path(mo.__file__).parents[1] / "examples"


def example(name: str, folder: Path, *, n_trials: tuple[int, int] | None = None) -> Path:
    """A copy of a script, with another number of trials: (that of the script, the one here)."""
    text = (EXAMPLES / name).read_text()
    if n_trials is not None:
        written, here = (f"n_trials={n}" for n in n_trials)
        assert text.count(written) == 1
        text = text.replace(written, here)
    (folder / name).write_text(text)
    return folder / name


def finished(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=name, storage=mo.storage(url, create=False))
    return [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]


def kill_after(running: processes.Running, database: Path, trials: int) -> None:
    """Kills a process once its search has finished some trials."""
    deadline = time.monotonic() + 600
    while _count(database) < trials:
        assert time.monotonic() < deadline, running.err
        time.sleep(0.05)
    running.kill()
    assert running.wait().code == -9


def _count(database: Path) -> int:
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        try:
            query = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
            return connection.execute(query).fetchone()[0]
        except sqlite3.OperationalError:  # no tables yet
            return 0


def test_search(task: Task, tmp_path: Path) -> None:
    script = example("search.py", tmp_path, n_trials=(100, 40))

    def start() -> processes.Running:
        return processes.script(script, *task.folders, task.dev, cwd=tmp_path)

    done = start().wait()
    assert done.code == 0, done.err
    url = f"sqlite:///{tmp_path}/merge.db"
    trials = finished(url, "a-b")
    assert len(trials) == 40
    assert any(t.state == TrialState.PRUNED for t in trials)

    told = dict(line.split(": ", 1) for line in done.out.splitlines())
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Classification(task.dev))
    base, *experts = task.checkpoints()
    assert float(told["base"]) == objective.score(base)
    assert float(told["uniform average"]) == objective.score(mo.recipes.linear(experts))
    best, params = told["best found"].split(" ", 1)
    assert float(best) == max(t.value for t in trials if t.state == TrialState.COMPLETE)
    assert float(best) >= float(told["base"])
    assert len(ast.literal_eval(params)) == 2 * (4 + 2)  # two layers know two of five depths
    merged = mo.Checkpoint(tmp_path / "merged")
    assert objective.score(merged) == float(best)
    again = start().wait()
    assert (again.code, again.out) == (0, done.out)
    assert len(finished(url, "a-b")) == 40, "nothing is run twice"


def test_pso_merging(task: Task, tmp_path: Path) -> None:
    def start() -> processes.Running:
        return processes.script(EXAMPLES / "pso_merging.py", *task.folders, task.dev, cwd=tmp_path)

    url = f"sqlite:///{tmp_path}/merge.db"
    kill_after(start(), tmp_path / "merge.db", 8)
    done = start().wait()
    assert done.code == 0, done.err
    trials = finished(url, "pso-merging")
    assert len(trials) == 30
    told = dict(line.split(": ", 1) for line in done.out.splitlines())
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Classification(task.dev))
    swarm = [objective.score(checkpoint) for checkpoint in task.checkpoints()]
    assert [t.value for t in trials[:3]] == swarm
    assert [float(told["a"]), float(told["b"])] == swarm[1:]
    assert float(told["best found"]) == max(t.value for t in trials) > max(swarm)
    assert len(ast.literal_eval(told["coefficients"])) == 5
    assert objective.score(mo.Checkpoint(tmp_path / "merged")) == float(told["best found"])
    again = start().wait()
    assert (again.code, again.out) == (0, done.out)
    assert len(finished(url, "pso-merging")) == 30, "nothing is run twice"


def test_define_by_run(task: Task, tmp_path: Path) -> None:
    script = example("define_by_run.py", tmp_path, n_trials=(30, 12))
    done = processes.script(script, *task.folders, task.dev, cwd=tmp_path).wait()
    assert done.code == 0, done.err
    best = ast.literal_eval(done.out)
    recipe = mo.Recipe.from_yaml(tmp_path / "merged/recipe.yaml")
    assert recipe.method == best["method"]
    key = {"ties": "density", "task_arithmetic": "weight"}[recipe.method]
    assert recipe.values[key] == (best[key], best[key])


def test_own_objective(task: Task, tmp_path: Path) -> None:
    script = example("own_objective.py", tmp_path, n_trials=(20, 8))
    done = processes.script(script, *task.folders, cwd=tmp_path).wait()
    assert done.code == 0, done.err
    assert mo.Recipe.from_yaml(tmp_path / "merged/recipe.yaml").method == "task_arithmetic"


def test_fisher(task: Task, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    rows = read_rows(task.test)
    texts.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))

    done = processes.script(
        EXAMPLES / "fisher.py", *task.folders[1:], texts, task.dev, cwd=tmp_path
    ).wait()
    assert done.code == 0, done.err
    told = dict(line.split(": ", 1) for line in done.out.splitlines())
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Classification(task.dev))
    recipe = mo.Recipe.from_yaml(tmp_path / "merged/recipe.yaml")
    assert recipe.method == "fisher"
    best, params = told["best found"].split(" ", 1)
    assert objective.score(recipe) == float(best)
    assert list(ast.literal_eval(params)) == ["share/a"]
    assert float(best) >= float(told["Fisher"]) > 0


def test_several_tasks(task: Task, tmp_path: Path) -> None:
    """The classes of the experts are their tasks here; their base has lost its head."""
    base = BertForSequenceClassification.from_pretrained(task.root / "base")
    base.bert.save_pretrained(tmp_path / "bare")
    for file in task.root.glob("base/*token*"):
        shutil.copy(file, tmp_path / "bare")
    script = example("several_tasks.py", tmp_path, n_trials=(20, 3))
    files = (task.dev, task.test)
    done = processes.script(
        script, tmp_path / "bare", *task.folders[1:], *files, cwd=tmp_path
    ).wait()
    assert done.code == 0, done.err
    told = dict(line.split(": ", 1) for line in done.out.splitlines())
    merged = {}
    for name, file in zip("ab", files, strict=True):
        alone, written = (
            BertForSequenceClassification.from_pretrained(folder).eval()
            for folder in (task.root / name, tmp_path / "merged" / name)
        )
        merged[name] = right(written, read_rows(file)).mean()
        expert = right(alone, read_rows(file)).mean()
        assert told[name] == f"expert {expert:.3f}, merged {merged[name]:.3f}"
    assert float(told["mean of the merged"]) == pytest.approx(np.mean([*merged.values()]))
    assert "The heads of a, b are left out: base has none." in done.err


def test_keep_best(task: Task, tmp_path: Path) -> None:
    dev = write_rows(tmp_path / "dev.jsonl", read_rows(task.dev)[:60])  # it stagnates the sooner

    def start() -> processes.Result:
        arguments = (EXAMPLES / "keep_best.py", *task.folders, dev)
        return processes.script(*arguments, cwd=tmp_path).wait()

    done = start()
    assert done.code == 0, done.err
    trials = finished(f"sqlite:///{tmp_path}/keep.db", "left-alone")
    number, value = done.out.split()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    assert sum(t.number > int(number) for t in complete) == 10
    assert len(trials) < 200
    best = sorted(complete, key=lambda t: (-t.value, t.number))[:3]
    assert best[0].number == int(number)
    folders = {path.name for path in (tmp_path / "best").glob("*") if path.name != ".lock"}
    assert folders == {f"trial-{t.number:05}" for t in best}
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Classification(dev))
    merged = mo.Checkpoint(tmp_path / f"best/trial-{best[0].number:05}")
    assert objective.score(merged) == float(value) == best[0].value
    again = start()
    assert (again.code, again.out) == (0, done.out)
    assert len(finished(f"sqlite:///{tmp_path}/keep.db", "left-alone")) == len(trials)


@pytest.fixture(scope="module")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as examples/small_models.py makes it, with less training and fewer questions."""
    folder = tmp_path_factory.mktemp("language_models")
    threads = torch.get_num_threads()
    with contextlib.chdir(folder), torch.random.fork_rng():
        runpy.run_path(str(EXAMPLES / "small_models.py"))["main"](
            {"base": 100, "japanese": 50, "math": 50}
        )
    torch.set_num_threads(threads)
    for name in ("dev", "test"):
        write_rows(folder / f"{name}.jsonl", read_rows(folder / f"{name}.jsonl")[::5])
    return folder


def right_answers(model: Path, rows: list[dict[str, str]]) -> int:
    """How many questions transformers' own loop answers."""
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    loaded = AutoModelForCausalLM.from_pretrained(model)
    asked = tokenizer(
        [row["question"] for row in rows],
        return_tensors="pt",
        padding=True,
        return_token_type_ids=False,
    )
    written = loaded.generate(**asked, max_new_tokens=12, do_sample=False)
    replies = tokenizer.batch_decode(
        written[:, asked["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return sum(reply.strip() == row["answer"] for reply, row in zip(replies, rows, strict=True))


def test_language_model(language_models: Path, tmp_path: Path) -> None:
    shutil.copytree(language_models, tmp_path, dirs_exist_ok=True)
    (tmp_path / "small_models.py").write_text((EXAMPLES / "small_models.py").read_text())
    text = (EXAMPLES / "language_model.py").read_text()
    assert text.count("n_trials=") == 3
    script = tmp_path / "language_model.py"
    script.write_text(re.sub(r"n_trials=\d+", "n_trials=5", text))
    done = processes.script(script, cwd=tmp_path).wait()
    assert done.code == 0, done.err
    url = f"sqlite:///{tmp_path}/language_model.db"
    assert [len(finished(url, name)) for name in ("nats", "answers", "m2n2")] == [5, 5, 5]

    table = {line[:28].strip(): line[28:].split() for line in done.out.splitlines()}
    dev = read_rows(tmp_path / "dev.jsonl")
    for name, model in (("base", "models/base"), ("best by answers", "merged")):
        right = right_answers(tmp_path / model, dev)
        assert float(table[name][1]) == round(100 * right / len(dev), 1)
    assert f"{right} of {len(dev)} right, as searched" in done.out
    test = read_rows(tmp_path / "test.jsonl")
    assert float(table["base"][2]) == pytest.approx(
        100 * right_answers(tmp_path / "models/base", test) / len(test), abs=0.06
    )


def test_the_first_script_of_the_readme(language_models: Path, tmp_path: Path) -> None:
    """As written but for the number of trials, on models and questions at the paths it names."""
    shutil.copytree(language_models, tmp_path, dirs_exist_ok=True)
    script = tmp_path / "search.py"
    code = block("README.md", "first script")
    script.write_text(re.sub(r"n_trials=\d+", "n_trials=6", code))
    done = processes.script(script, cwd=tmp_path).wait()
    assert done.code == 0, done.err
    trials = finished(f"sqlite:///{tmp_path}/merge.db", "ja-math")
    assert len(trials) == 6
    best = max(t.value for t in trials if t.state == TrialState.COMPLETE)
    assert done.out.splitlines()[-1] == str(best)
    dev = read_rows(tmp_path / "dev.jsonl")
    assert right_answers(tmp_path / "merged", dev) == pytest.approx(best * len(dev))
    base = re.search(r"^base +([\d.]+)", done.out, re.MULTILINE)
    assert base is not None
    right = right_answers(tmp_path / "models/base", dev)
    assert float(base[1]) == pytest.approx(right / len(dev), abs=1e-4)


def test_the_search_file_of_the_command_line(language_models: Path, tmp_path: Path) -> None:
    shutil.copytree(language_models, tmp_path, dirs_exist_ok=True)
    lines = block("docs/howto/command_line.md", "search.py").splitlines()
    assert len(lines) <= 12
    (tmp_path / "search.py").write_text("\n".join(lines))
    check = processes.command("check", "search.py", "--no-trial", "--json", cwd=tmp_path).wait()
    assert check.code == 0, check.err
    found = json.loads(check.out)
    assert (found["study"], found["n_trials"]) == ("ja-math", 100)
    rows = [len(read_rows(tmp_path / f"{name}.jsonl")) for name in ("dev", "test")]
    assert [found["dev_examples"], found["test_examples"]] == rows


README = """
import optuna, merge_optuna as mo

base = mo.Checkpoint("{base}")
ja   = mo.Checkpoint("{a}", name="ja")
math = mo.Checkpoint("{b}", name="math")

{space}

objective = mo.MergeObjective(recipe, mo.evaluators.Classification("{dev}", batch_size=16))
study = optuna.create_study(
    study_name="ja-math", storage=mo.storage("sqlite:///merge.db"), load_if_exists=True,
    directions=objective.directions, sampler={sampler},
    pruner=optuna.pruners.WilcoxonPruner(),
)
mo.optimize(study, objective, n_trials=13)  # the first population are eleven
mo.export(study, "merged/", force=True)
"""
FREE = """
recipe = mo.recipes.dare_ties(
    base, [ja, math], weight=mo.free(0, 1, per="layer"), density=mo.free(0.1, 1, per=mo.depth(5))
)
"""
DEFINE_BY_RUN = """
def recipe(trial):
    return mo.recipes.ties(base, [ja, math], density=trial.suggest_float("density", 0.1, 1))
"""


@pytest.mark.parametrize(
    ("space", "sampler"),
    [(FREE, "recipe.sampler(seed=0)"), (DEFINE_BY_RUN, "optuna.samplers.TPESampler(seed=0)")],
    ids=["free", "define-by-run"],
)
def test_a_script_like_that_of_the_readme(
    task: Task, space: str, sampler: str, tmp_path: Path
) -> None:
    base, a, b = task.folders
    text = README.format(base=base, a=a, b=b, dev=task.dev, space=space, sampler=sampler)
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "search.py").write_text(text)

    def start(name: str) -> processes.Running:
        return processes.script(tmp_path / name / "search.py", cwd=tmp_path / name)

    runs = ["killed", "whole"] if space == FREE else ["killed"]  # Optuna's TPE draws anew
    urls = {name: f"sqlite:///{tmp_path}/{name}/merge.db" for name in runs}
    whole = [start(name) for name in runs[1:]]
    kill_after(start("killed"), tmp_path / "killed/merge.db", 5)
    kept = finished(urls["killed"], "ja-math")
    for running in (start("killed"), *whole):
        result = running.wait()
        assert result.code == 0, result.err
    trials = {name: finished(url, "ja-math") for name, url in urls.items()}
    assert {len(t) for t in trials.values()} == {13}
    assert [(t.number, t.values) for t in trials["killed"][: len(kept)]] == [
        (t.number, t.values) for t in kept
    ]
    results = [[(t.params, t.values, t.state) for t in found] for found in trials.values()]
    weights = [(tmp_path / name / "merged/model.safetensors").read_bytes() for name in urls]
    assert results == results[:1] * len(runs)
    assert weights == weights[:1] * len(runs)


def test_an_objective_by_hand(task: Task) -> None:
    """The same numbers as MergeObjective, with the engine and Optuna alone."""
    recipe = task.recipe()
    evaluator = mo.evaluators.Classification(task.dev, batch_size=40)
    engine = mo.Engine()
    models = set()

    def by_hand(trial: optuna.Trial) -> float:
        model = engine.load(recipe(trial))
        models.add(model)
        scores = np.full(len(evaluator), np.nan)
        for ids, values in evaluator(model):
            scores[ids] = values
        mo.set_scores(trial, scores)
        return evaluator.value(scores)

    def search(objective: optuna.study.study.ObjectiveFuncType) -> optuna.Study:
        study = optuna.create_study(direction="maximize", sampler=recipe.sampler(seed=0))
        study.optimize(objective, n_trials=4)
        return study

    mine, theirs = search(by_hand), search(mo.MergeObjective(recipe, evaluator))
    assert len(models) == 1, "always the same live model"
    assert [(t.params, t.value) for t in mine.trials] == [
        (t.params, t.value) for t in theirs.trials
    ]
    for i in range(4):
        np.testing.assert_array_equal(mo.scores(mine, i), mo.scores(theirs, i))


def test_from_mergekit(task: Task, tmp_path: Path) -> None:
    base, *experts = task.checkpoints()
    config = tmp_path / "config.yml"
    models = [{"model": c.ref, "parameters": {"weight": 0.4, "density": 0.6}} for c in experts]
    config.write_text(
        json.dumps({"merge_method": "ties", "base_model": base.ref, "models": models})
    )
    script = example("from_mergekit.py", tmp_path, n_trials=(40, 15))
    done = processes.script(script, config, task.dev, cwd=tmp_path).wait()
    assert done.code == 0, done.err

    told = dict(line.split(": ", 1) for line in done.out.splitlines())
    yours = mo.Recipe.from_mergekit(config)
    objective = mo.MergeObjective(yours.free(per="layer"), mo.evaluators.Classification(task.dev))
    assert float(told["yours"]) == objective.score(yours)
    assert float(told["best found"]) >= float(told["yours"])
    for found in (mo.Checkpoint(tmp_path / "merged"), mo.Recipe.read(tmp_path / "merged.yml")):
        assert objective.score(found) == float(told["best found"])


def test_plain_objective(tmp_path: Path) -> None:
    """A killed search goes on with the trials it would have run anyway."""

    script = example("plain_objective.py", tmp_path, n_trials=(60, 30))

    def start(name: str) -> processes.Running:
        return processes.script(script, f"sqlite:///{tmp_path}/{name}.db", cwd=tmp_path)

    def trials(name: str) -> list[optuna.trial.FrozenTrial]:
        url = f"sqlite:///{tmp_path}/{name}.db"
        return [t for t in optuna.load_study(study_name="svc", storage=url).trials if t.value]

    killed, whole = start("killed"), start("whole")
    kill_after(killed, tmp_path / "killed.db", 10)
    for run in (start("killed"), whole):
        done = run.wait()
        assert done.code == 0, done.err
        assert "trials, best accuracy 0.9" in done.out
    expected = [t.params for t in trials("whole")]
    assert [t.params for t in trials("killed")][: len(expected)] == expected


def test_m2n2(task: Task, tmp_path: Path) -> None:
    script = example("m2n2.py", tmp_path, n_trials=(100, 40))
    done = processes.script(script, *task.folders[1:], task.dev, cwd=tmp_path).wait()
    assert done.code == 0, done.err
    trials = finished(f"sqlite:///{tmp_path}/evolution.db", "m2n2")
    assert [t.params["origin"] for t in trials[:3]] == ["a", "b", "child"]
    assert len(trials) == 40
    assert max(t.value for t in trials) > max(t.value for t in trials[:2])
    recipe = mo.Recipe.from_yaml(tmp_path / "evolved/recipe.yaml")
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Classification(task.dev))
    assert objective.score(recipe) == max(t.value for t in trials)


def test_evolver(task: Task, tmp_path: Path) -> None:
    done = processes.script(EXAMPLES / "evolver.py", *task.folders, task.dev, cwd=tmp_path).wait()
    assert done.code == 0, done.err
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Classification(task.dev))
    for name, first in (("evolver", 2), ("ties", 1)):
        trials = finished(f"sqlite:///{tmp_path}/evolver.db", name)
        assert len(trials) == first + 10
        recipe = mo.Recipe.from_yaml(tmp_path / f"evolved-{name}/recipe.yaml")
        assert objective.score(recipe) == max(t.value for t in trials)


def test_front(tmp_path: Path) -> None:
    """Models that have learned next to nothing: what is tested is that all of it fits together."""
    (tmp_path / "small_models.py").write_text((EXAMPLES / "small_models.py").read_text())
    training = {"base": (30, 3e-3), "thinker": (5, 5e-4), "fast": (5, 5e-4)}
    text = (EXAMPLES / "small_reasoners.py").read_text()
    for name, value in {"TRAINING": training, "HELD_OUT": 80}.items():
        text, found = re.subn(rf"(?m)^{name} = [^#\n]*", f"{name} = {value}  ", text)
        assert found == 1
    assert text.count("range(6000)") == 1
    (tmp_path / "small_reasoners.py").write_text(text.replace("range(6000)", "range(600)"))
    text = (EXAMPLES / "front.py").read_text()
    assert len(text.splitlines()) <= 80
    text, found = re.subn(r"n_trials=\d+", "n_trials=6", text)
    assert found == 2
    assert text.count("(0.4, 4.6)") == 1
    worst, longest = -0.1, 12.5
    (tmp_path / "front.py").write_text(text.replace("(0.4, 4.6)", f"({worst}, {longest})"))

    done = processes.script(tmp_path / "front.py", cwd=tmp_path).wait()
    assert done.code == 0, done.err
    url = f"sqlite:///{tmp_path}/front.db"
    for name in ("sweep", "front"):
        known = [t.values for t in finished(url, name) if max(t.constraints.values()) <= 0]
        assert len(finished(url, name)) == 6
        volume, height = 0.0, longest
        for accuracy, tokens in sorted(known, reverse=True):  # strip by strip of fewer tokens
            volume += (accuracy - worst) * max(0.0, height - tokens)
            height = min(height, tokens)
        assert f"hypervolume of the {name}: {volume:.3f}" in done.out
    assert (tmp_path / "front.html").stat().st_size > 0
    assert "as searched." in done.out
