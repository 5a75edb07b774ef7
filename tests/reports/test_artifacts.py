"""Files of trials, found as Optuna and optuna-dashboard find them."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import optuna
import pytest
import yaml
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

import merge_optuna as mo
from merge_optuna.reports import _artifacts, _view
from tests import toys
from tests.trained import Task, task  # noqa: F401
from tests.vocabularies import word_level

optuna.logging.set_verbosity(optuna.logging.ERROR)


def of(study: optuna.Study, number: int, folder: Path) -> dict[str, str]:
    """The artifacts of a trial by the names of their files, as Optuna hands them out."""
    store, trial = FileSystemArtifactStore(folder), study.trials[number]
    found = {}
    for meta in get_all_artifact_meta(trial, storage=study._storage):
        with store.open_reader(meta.artifact_id) as file:
            found[meta.filename] = file.read().decode()
    return found


@pytest.fixture(scope="module")
def searched(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[optuna.Study, Path]:  # noqa: F811
    folder = tmp_path_factory.mktemp("artifacts")
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-1, 2, per="layer"))
    objective = mo.MergeObjective(recipe, mo.evaluators.Classification(task.dev))
    search = mo.MergeStudy("toy", objective, n_trials=12, baselines=["base"])
    study = search.run(mo.storage(f"sqlite:///{folder}/merge.db"), progress=False)
    return study, folder / "merge.db.artifacts"


def test_every_new_best_has_its_recipe_picture_and_scores(
    searched: tuple[optuna.Study, Path],
) -> None:
    study, folder = searched
    values = [trial.value for trial in study.trials]
    bests = [n for n, value in enumerate(values) if value > max(values[:n], default=-1.0)]
    assert 1 < len(bests) < 12
    for n in range(12):
        assert bool(of(study, n, folder)) == (n in bests)
    for n in bests:
        files = of(study, n, folder)
        assert files.keys() == {"recipe.yaml", "heat-map.svg", "scores.csv"}
        assert mo.Recipe.from_yaml(files["recipe.yaml"]).digest == mo.recipe_of(study, n).digest
        assert yaml.safe_load(files["recipe.yaml"])
        assert files["heat-map.svg"].startswith("<svg")
        rows = [*csv.DictReader(files["scores.csv"].splitlines())]
        assert [float(row["score"]) for row in rows] == mo.scores(study, n).tolist()
        assert [int(row["example"]) for row in rows] == [*range(160)]


def test_scores_stand_beside_those_of_the_best_baseline(
    searched: tuple[optuna.Study, Path],
) -> None:
    study, folder = searched
    best = study.best_trial.number
    rows = [*csv.DictReader(of(study, best, folder)["scores.csv"].splitlines())]
    right = np.array([float(row["base"]) for row in rows])
    system = study._storage.get_study_system_attrs(study._study_id)
    assert right.mean() == pytest.approx(system["merge_optuna:baseline:base"]["values"][0])


def test_a_search_rebuilds_recipes_by_its_own_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One from the database would read all weights again, for the angles between models."""

    def from_the_database(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(_view, "recipe_of", from_the_database)
    base, one, two = toys.family(tmp_path, experts=2)
    space = mo.spaces.SplitSlerp([base, one, two])
    search = mo.MergeStudy(
        "s",
        mo.MergeObjective(space, lambda model: 1.0),
        4,
        sampler=space.sampler(seed=0, alpha=0, attraction=False),
        baselines=False,
    )
    study = search.run(f"sqlite:///{tmp_path}/s", progress=False)
    written = of(study, 0, tmp_path / "s.artifacts")["recipe.yaml"]
    assert mo.Recipe.from_yaml(written).digest == mo.recipe_of(study, 0).digest


def test_a_failure_has_its_traceback(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number in (1, 2):
            raise OSError(f"disk {trial.number} is full")
        return 1.0

    study = optuna.create_study(storage=mo.storage(f"journal:///{tmp_path}/log"))
    mo.optimize(study, objective, 2, progress=False)
    files = of(study, 1, tmp_path / "log.artifacts")
    assert files == {"traceback.txt": study.trials[1].user_attrs["error"]}
    assert "disk 1 is full" in files["traceback.txt"]
    assert not of(study, 2, tmp_path / "log.artifacts")


def test_they_go_where_they_are_told_to_or_nowhere(tmp_path: Path) -> None:
    for name, reports in {
        "none": mo.reports.Reports(limit_mb=0),
        "told": mo.reports.Reports(tmp_path / "elsewhere"),
    }.items():
        storage = mo.storage(f"sqlite:///{tmp_path}/{name}.db")
        study = optuna.create_study(storage=storage)
        mo.optimize(study, _raises_first, 1, progress=False, reports=reports)
    assert (tmp_path / "elsewhere").is_dir()
    assert not [*tmp_path.glob("*.artifacts")]


def _raises_first(trial: optuna.Trial) -> float:
    if trial.number == 0:
        raise OSError("x")
    return 1.0


def test_there_is_none_for_a_server() -> None:
    assert mo.reports.Reports().folder("postgresql://user@host/db") is None
    assert mo.reports.Reports().folder("sqlite://") is None
    assert mo.reports.Reports().folder("sqlite:////a/b.db") == Path("/a/b.db.artifacts")
    assert mo.reports.Reports().folder("journal:///c.log") == Path("c.log.artifacts")


def test_replies_of_a_generated_task_are_those_of_the_new_best(tmp_path: Path) -> None:
    base, one, two = toys.family(tmp_path, experts=2)
    data = datasets.Dataset.from_dict(
        {"question": ["w1 w2", "w3 w4 w5", "w6"], "answer": ["w7"] * 3}
    )
    words = word_level([f"w{i}" for i in range(61)])
    evaluator = mo.evaluators.Generation(
        data, tokenizer=words, max_new_tokens=3, scorer=lambda answer, row: len(answer)
    )
    tasks = mo.evaluators.Tasks({"long": evaluator})
    recipe = mo.recipes.task_arithmetic(base, [one, two], weight=mo.free(0, 9))
    for name, judge in {"one": evaluator, "several": tasks}.items():
        objective = mo.MergeObjective(recipe, judge)
        search = mo.MergeStudy(name, objective, n_trials=4, baselines=False)
        study = search.run(f"sqlite:///{tmp_path}/{name}", progress=False)
        best = study.best_trial.number
        files = of(study, best, tmp_path / f"{name}.artifacts")
        written = [json.loads(line) for line in files["replies.jsonl"].splitlines()]
        wanted = evaluator.replies(mo.Engine().load(mo.recipe_of(study, best)))
        assert written == [
            {**({"task": "long"} if name == "several" else {}), **r} for r in wanted
        ]
        assert [row["score"] for row in written] == mo.scores(study, best).tolist()


# -- the bound ----------------------------------------------------------------------------------

LIMIT = 40_000


@pytest.fixture
def bounded(tmp_path: Path) -> tuple[optuna.Study, Path]:
    """Ten trials with 10 kB of scores and replies each, of which 40 kB may stay."""
    study = optuna.create_study(storage=mo.storage(f"sqlite:///{tmp_path}/s"))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "mine").write_text("x" * 100_000)
    artifacts = _artifacts.Artifacts(folder, LIMIT)
    for _ in range(10):
        trial = study.ask()
        files = dict.fromkeys(_artifacts._KINDS, "y" * 2000)
        artifacts.put(trial, files)
        time.sleep(0.005)  # file systems may count in milliseconds
        study.tell(trial, 0.0)
    return study, folder


def test_the_oldest_make_room(bounded: tuple[optuna.Study, Path]) -> None:
    study, folder = bounded
    sizes = [sum(map(len, of(study, n, folder).values())) for n in range(10)]
    whole = [size == 10_000 for size in sizes]
    assert whole == sorted(whole), "an older one is whole, and a newer one is not"
    assert any(whole)
    assert not all(whole)
    lines = sum(size for size in sizes if size < 2_000)
    ours = sum(f.stat().st_size for f in folder.iterdir() if f.name != "mine")
    assert ours - lines <= LIMIT
    assert (folder / "mine").stat().st_size == 100_000, "it belongs to somebody else"


def test_what_is_removed_says_so_and_how_to_make_it_again(
    bounded: tuple[optuna.Study, Path],
) -> None:
    study, folder = bounded
    files = of(study, 0, folder)
    assert len(files) == 5
    for text in files.values():
        assert text.count("\n") == 1
        assert "limit_mb" in text
    assert "mo.recipe_of(study, 0)" in files["recipe.yaml"]
    assert yaml.safe_load(files["recipe.yaml"]) is None
    assert "mo.scores(study, 0)" in files["scores.csv"]
    assert json.loads(files["replies.jsonl"]).keys() == {"removed"}
    assert files["heat-map.svg"].startswith("<svg")


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    study = optuna.create_study(storage=mo.storage(f"sqlite:///{tmp_path}/s"))
    reports = mo.reports.Reports(tmp_path / "file" / "in-a-file")
    mo.optimize(study, _raises_first, 3, progress=False, reports=reports)
    assert sum(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials) == 3
    assert sum("NotADirectoryError" in record.message for record in caplog.records) == 1


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    study = optuna.create_study(storage=mo.storage(f"sqlite:///{tmp_path}/s"))
    trial, file, folder = study.ask(), tmp_path / "big.bin", tmp_path / "files"
    folder.mkdir()
    file.write_bytes(os.urandom(5_000))
    store = FileSystemArtifactStore(folder)
    name = upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial)
    _artifacts.Artifacts(folder, 10).put(trial, {_artifacts.TRACEBACK: "z" * 5_000})
    assert (folder / name).stat().st_size == 5_000
