"""Any trial of an evolved search is made again from its database, to the last bit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

import merge_optuna as mo
from merge_optuna.errors import CheckpointError
from merge_optuna.spaces import Genealogy, parents_of
from tests import processes, toys
from tests.samplers.storages import make_storage
from tests.spaces.searches import WEIGHTS, Objective, Probe, digest

TRIALS = 8


def spaces(models: Sequence[mo.Checkpoint]) -> dict[str, Genealogy]:
    """Every option that shapes an individual."""
    slerp, cross = mo.spaces.SplitSlerp, mo.spaces.DifferentialCrossover
    linear = mo.recipes.linear(models, weight=[1.0, 2.0, 1.0])
    ties = mo.recipes.ties(models[0], models, density=0.5)
    return {
        "slerp": slerp(models),
        "slerp, segment, snap": slerp(models, angle="segment", snap="layer"),
        "slerp, segment, noise": slerp(models, angle="segment", mutation_std=0.01),
        "slerp, snap, noise": slerp(models, snap="layer", mutation_std=0.01),
        "parameter": cross(models, mutation="difference"),
        "row, toward": cross(models, mutation="toward", granularity="row"),
        "tensor": cross(models, mutation="difference", granularity="tensor"),
        "layer, toward": cross(models, mutation="toward", granularity="layer"),
        "linear": cross(models, mutation="difference", merger=linear),
        "ties, toward": cross(models, mutation="toward", granularity="row", merger=ties),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one study for each space, and the sources beside it; nothing else stays."""
    root = tmp_path_factory.mktemp("searched")
    models = toys.family(root, lambda: toys.llama(layers=1), experts=2, dtype=torch.bfloat16)
    memory = optuna.storages.InMemoryStorage()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name, space in spaces(models).items():
        study = optuna.create_study(
            study_name=name,
            storage=memory,
            direction="maximize",
            sampler=space.sampler(seed=0),
        )
        study.optimize(Objective(space, dtype="float32"), n_trials=TRIALS)
        optuna.copy_study(
            from_study_name=name, from_storage=memory, to_storage=make_storage("sqlite", root)
        )
    return root


def names(root: Path) -> list[str]:
    found: list[str] = optuna.get_all_study_names(make_storage("sqlite", root))
    return found


def study_of(root: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=make_storage("sqlite", root))


def rebuilt(study: optuna.Study, **options: Any) -> dict[int, str]:
    """Digests of the weights of every trial."""
    engine = mo.Engine(dtype="float32")
    return {
        t.number: digest(engine.load(mo.recipe_of(study, t.number, **options)).state_dict())
        for t in study.trials
    }


def scored(study: optuna.Study) -> dict[int, str]:
    return {t.number: t.user_attrs[WEIGHTS] for t in study.trials}


def rebuild_all(root: Path, out: Path) -> None:
    """In another process, youngest first."""
    found = {}
    for name in names(root):
        study = study_of(root, name)
        engine = mo.Engine(dtype="float32")
        found[name] = {
            t.number: digest(engine.load(mo.recipe_of(study, t.number)).state_dict())
            for t in reversed(study.trials)
        }
    out.write_text(json.dumps(found))


def test_every_trial_here_and_in_another_process(root: Path, tmp_path: Path) -> None:
    there = processes.call(rebuild_all, root, tmp_path / "out", cwd=tmp_path)
    for name in names(root):
        study = study_of(root, name)
        expected = scored(study)
        assert len(set(expected.values())) >= 4, name
        assert rebuilt(study) == expected, name
        assert any(parents_of(t) for t in study.trials), name
    result = there.wait()
    assert result.code == 0, result.err
    for name, found in json.loads((tmp_path / "out").read_text()).items():
        assert found == {str(k): v for k, v in scored(study_of(root, name)).items()}, name


def test_scores_are_those_recorded(root: Path) -> None:
    probe = Probe()
    engine = mo.Engine(dtype="float32")
    for name in ("slerp, snap, noise", "row, toward", "linear"):
        study = study_of(root, name)
        for trial in study.trials:
            ((_, found),) = probe(engine.load(mo.recipe_of(study, trial)))
            assert found.tolist() == mo.scores(study, trial).tolist()
            assert probe.value(found) == trial.value


@pytest.mark.parametrize("name", ["slerp", "slerp, segment, noise", "parameter", "ties, toward"])
def test_written_from_the_database_and_from_the_recipe_alone(
    root: Path, name: str, tmp_path: Path
) -> None:
    study = study_of(root, name)
    number = max(t.number for t in study.trials if parents_of(t))
    mo.export(study, tmp_path / "here", trial=number, dtype="float32")
    written = mo.Engine(dtype="float32").load(mo.Checkpoint(tmp_path / "here")).state_dict()
    assert digest(written) == study.trials[number].user_attrs[WEIGHTS]

    url = f"sqlite:///{root}/study.db"
    dtype = ["--dtype", "float32"]
    which = ["--study", name, "--trial", number]
    running = [
        processes.command("export", url, "there", *which, *dtype, cwd=tmp_path),
        processes.command("write", "here/recipe.yaml", "alone", *dtype, cwd=tmp_path),
        processes.command("show", url, *which, cwd=tmp_path),
    ]
    there, alone, shown = [one.wait() for one in running]
    assert there.code == 0, there.err
    assert alone.code == 0, alone.err
    assert shown.code == 0, shown.err
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    here = contents(tmp_path / "here")
    here.pop("recipe.svg", None)  # shares of the sources are told by the genealogy in the database
    written_alone = contents(tmp_path / "alone")
    written_alone.pop("recipe.svg", None)
    assert written_alone == here
    assert mo.Recipe.from_yaml(shown.out) == mo.recipe_of(study, number)
    assert re.search(rf"--trial {number}\b", (tmp_path / "here" / "README.md").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the model card, which tells the folder's name."""
    differing = ("README.md", ".merge_optuna.json")  # which has the size of the card
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in differing}
    assert {"model.safetensors", "config.json", "recipe.yaml"} <= set(files)
    return files


@pytest.mark.parametrize("name", ["slerp", "tensor", "linear"])
def test_sources_that_were_moved_or_changed(root: Path, name: str, tmp_path: Path) -> None:
    study = study_of(root, name)
    moved = {
        source: (tmp_path / source).symlink_to(root / source) or tmp_path / source
        for source in ("base", "ja", "math")
    }
    assert rebuilt(study, sources=moved) == scored(study)
    with pytest.raises(CheckpointError, match=r"'ja' .*was recorded"):
        mo.recipe_of(study, TRIALS - 1, sources={"ja": root / "math"})
