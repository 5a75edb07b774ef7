"""From a database back to recipes and checkpoints, in this process and in others."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from torch import nn
from transformers import BertForSequenceClassification

import merge_optuna as mo
from merge_optuna.errors import CheckpointError, ExportError, StudyError
from merge_optuna.study import best_trial
from tests import processes
from tests.trained import Task, read_rows, right

optuna.logging.set_verbosity(optuna.logging.ERROR)


def search(
    task: Task, space: Any, url: str | None, name: str = "toy", n_trials: int = 3
) -> optuna.Study:
    evaluator = mo.evaluators.Classification(task.dev)
    declared = mo.MergeStudy(
        name, mo.MergeObjective(space, evaluator), n_trials=n_trials, baselines=False
    )
    return declared.run(url, progress=False)


def by_function(task: Task) -> Any:
    base, *experts = task.checkpoints()

    def space(trial: optuna.Trial) -> mo.Recipe:
        if trial.suggest_categorical("method", ["ties", "dare_ties"]) == "ties":
            return mo.recipes.ties(base, experts, density=trial.suggest_float("density", 0.1, 1))
        return mo.recipes.dare_ties(base, experts, seed=trial.suggest_int("seed", 0, 9))

    return space


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the model card, which tells the folder's name."""
    differing = ("README.md", ".merge_optuna.json")  # which has the size of the card
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in differing}
    assert {"model.safetensors", "config.json", "recipe.yaml", "tokenizer.json"} <= set(files)
    return files


@pytest.mark.parametrize("kind", ["recipe", "function"])
def test_the_same_bytes_wherever_it_is_made(task: Task, kind: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = search(task, task.recipe() if kind == "recipe" else by_function(task), url)
    here = contents(mo.export(study, tmp_path / "here"))

    # another process, without the script that made the study; the best trial and by number
    best = best_trial(study).number
    for i, which in enumerate([[], ["--study", "toy", "--trial", best]]):
        made = processes.command("export", url, f"export{i}", *which, cwd=tmp_path).wait()
        assert made.code == 0, made.err
        assert contents(tmp_path / f"export{i}") == here
    # from the exported recipe alone
    made = processes.command("write", "here/recipe.yaml", "written", cwd=tmp_path).wait()
    assert made.code == 0, made.err
    assert contents(tmp_path / "written") == here
    # from the shown recipe
    shown = processes.command("show", url, "--trial", best, cwd=tmp_path).wait()
    (tmp_path / "shown.yaml").write_text(shown.out)
    mo.write(mo.Recipe.from_yaml(tmp_path / "shown.yaml"), tmp_path / "shown")
    assert contents(tmp_path / "shown") == here
    # and by hand
    recipe = mo.recipe_of(study, best)
    if kind == "recipe":
        assert recipe == task.recipe().bind(study.trials[best].params)
    mo.write(recipe, tmp_path / "by_hand")
    assert contents(tmp_path / "by_hand") == here


def test_an_exported_model_scores_as_its_trial(task: Task, tmp_path: Path) -> None:
    study = search(task, task.recipe(), None)
    for trial in study.trials:
        folder = mo.export(study, tmp_path / str(trial.number), trial=trial)
        model = BertForSequenceClassification.from_pretrained(folder).eval()
        assert right(model, read_rows(task.dev)).mean() == trial.value


def test_the_command_of_the_model_card(task: Task, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = search(task, task.recipe(), url, name="ja & math")
    number = np.int64(1)  # as from a data frame
    folder = mo.export(
        study, tmp_path / "my model", trial=number, score={"accuracy (test)": 0.123}
    )
    card = (folder / "README.md").read_text()
    assert f"| accuracy (dev) | {study.trials[1].value} |" in card
    assert "| accuracy (test) | 0.123 |" in card
    assert "| study | ja & math |" in card
    for checkpoint in task.checkpoints():
        assert checkpoint.digest in card
    command = re.search(r"```sh\n(.*)\n```", card)
    assert command is not None
    program, *argv = shlex.split(command[1])
    assert program == "merge-optuna"
    before = contents(folder)
    made = processes.command(*argv, "--force", cwd=tmp_path).wait()
    assert made.code == 0, made.err
    assert contents(folder) == before
    with pytest.raises(ExportError, match="not empty"):
        mo.export(study, folder)


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_the_card_names_the_storage(task: Task, scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}:///{tmp_path}/s"
    study = search(task, task.recipe(), url, n_trials=1)
    card = (mo.export(study, tmp_path / "out") / "README.md").read_text()
    assert f"merge-optuna export {url} {tmp_path}/out --study toy --trial 0" in card


def test_dtype_and_tokenizer(task: Task, tmp_path: Path) -> None:
    study = search(task, task.recipe(), None, n_trials=1)
    mo.export(study, tmp_path / "out", dtype="bfloat16", tokenizer="b")
    written = mo.Checkpoint(tmp_path / "out")
    assert {written.dtype(name) for name in written.names()} == {torch.bfloat16}


# -- modules in memory ------------------------------------------------------------------------


def module(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("kind", ["recipe", "function"])
def test_modules_are_passed_again(kind: str, tmp_path: Path) -> None:
    def sources() -> dict[str, mo.Checkpoint]:
        return {n: mo.Checkpoint.from_module(module(i), name=n) for i, n in enumerate("ab")}

    def space(trial: optuna.Trial) -> mo.Recipe:
        return mo.recipes.linear([*sources().values()], weight=[1, trial.suggest_float("w", 0, 1)])

    free = mo.recipes.linear([*sources().values()], weight=mo.free(0, 1))
    objective = mo.MergeObjective(
        free if kind == "recipe" else space, lambda model: float(model.weight.sum())
    )
    url = f"sqlite:///{tmp_path}/s.db"
    declared = mo.MergeStudy("toy", objective, n_trials=3, baselines=False)
    declared.run(url, progress=False)
    again = optuna.load_study(study_name="toy", storage=url)
    assert set(declared.sources) == ({"a", "b"} if kind == "recipe" else set())
    with pytest.raises(CheckpointError, match="sources="):
        mo.export(again, tmp_path / "out")
    swapped = {"a": mo.Checkpoint.from_module(module(1), name="a")}
    with pytest.raises(CheckpointError, match="was recorded"):
        mo.recipe_of(again, sources=swapped)
    mo.export(again, tmp_path / "out", sources=sources())
    written = mo.Checkpoint(tmp_path / "out")
    assert float(written.tensor("weight").sum()) == pytest.approx(again.best_value, abs=1e-6)


# -- which trial ------------------------------------------------------------------------------


def test_the_best_trial() -> None:
    study = optuna.create_study(study_name="s", direction="maximize")
    for value, violation in [(1.0, -1.0), (3.0, 0.5), (2.0, 0.0), (2.0, -2.0), (4.0, 0.1)]:
        study.add_trial(create_trial(value=value, constraints={"c": violation}))
    study.add_trial(create_trial(state=TrialState.PRUNED))
    assert best_trial(study).number == 2, "feasible, best, earliest"


def test_refused(task: Task, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s")
    with pytest.raises(StudyError, match="'s' has no completed trial"):
        mo.recipe_of(study)
    study.optimize(lambda trial: 1.0, n_trials=1)
    with pytest.raises(StudyError, match="'s' holds no recipes"):
        mo.recipe_of(study)
    for number in (1, -1):
        with pytest.raises(StudyError, match=f"no trial {number}; it has 1"):
            mo.export(study, tmp_path / "out", trial=number)
    assert not (tmp_path / "out").exists()


def test_no_study() -> None:
    with pytest.raises(StudyError, match=r"Expected a study, not 3\. Give the study, and trial="):
        mo.recipe_of(3)  # type: ignore[arg-type]


def test_a_changed_source_is_refused(task: Task, tmp_path: Path) -> None:
    base, a, _ = task.checkpoints()
    mo.write(a, tmp_path / "expert")
    expert = mo.Checkpoint(tmp_path / "expert", name="expert")
    recipe = mo.recipes.ties(base, [expert], density=mo.free(0, 1))
    url = f"sqlite:///{tmp_path}/s.db"
    search(task, recipe, url, n_trials=1)
    mo.write(base, tmp_path / "expert", force=True)
    study = optuna.load_study(study_name="toy", storage=url)
    with pytest.raises(CheckpointError, match="expert' has changed"):
        mo.export(study, tmp_path / "out")
