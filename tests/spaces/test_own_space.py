"""CONTRIBUTING.md, "A space of your own": it is searched, resumed, rebuilt and exported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

import merge_optuna as mo
from merge_optuna.errors import RecipeError
from tests import processes
from tests.docs.blocks import block
from tests.samplers.storages import make_storage
from tests.spaces.models import Waves, flat, nets, scores_of

CODE = block("CONTRIBUTING.md", "new space")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With the file, as its author has it beside the script."""
    (tmp_path / "soups.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("soups", None)


def search(folder: Path, n_trials: int) -> optuna.Study:
    import soups

    space = soups.Soups(nets())
    study = optuna.create_study(
        study_name="s",
        storage=make_storage("sqlite", folder),
        load_if_exists=True,
        direction="maximize",
        sampler=space.sampler(seed=0, archive_size=4),
    )
    study.optimize(mo.MergeObjective(space, Waves()), n_trials=n_trials)
    return study


def rebuild(folder: Path, out: Path) -> None:
    """In a process that has not made the space, but has imported its file."""
    sys.path.insert(0, str(folder))
    importlib.import_module("soups")
    study = optuna.load_study(study_name="s", storage=make_storage("sqlite", folder))
    sources = {net.name: net for net in nets()}
    recipes = [mo.recipe_of(study, trial.number, sources=sources) for trial in study.trials]
    np.save(out, [flat(mo.Engine().load(recipe)) for recipe in recipes])


def test_its_models_are_averages_and_made_again(folder: Path) -> None:
    search(folder, 7)
    study = search(folder, 8)
    whole = [flat(net) for net in nets()]
    expected: list[Any] = []
    for trial in study.trials:  # alone, so an individual's id is its trial's number
        p = trial.params
        if p["origin"] == "child":
            a, b = expected[p["parent_a"]], expected[p["parent_b"]]
            expected.append((1 - p["ratio"]) * a + p["ratio"] * b)
        else:
            expected.append(whole[int(p["origin"][-1])])
        assert trial.value == np.mean(scores_of(np.float32(expected[-1]).astype(float)))
    assert {trial.params["origin"] for trial in study.trials[3:]} == {"child"}
    result = processes.call(rebuild, folder, folder / "out.npy", cwd=folder).wait()
    assert result.code == 0, result.err
    assert np.load(folder / "out.npy") == pytest.approx(np.array(expected), abs=1e-6)
    shares = mo.lineage(study, 7).shares
    assert shares is not None
    mixed = sum(share * whole[int(name[-1])] for name, share in shares.items())
    assert mixed == pytest.approx(expected[7])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("soups:Broth", "no Broth in a module soups that has been imported"),
        ("broths:Soups", "import broths in Python, or merge-optuna --import broths"),
        ("soups:np", "soups:np is no space"),
        ("..soups:Soups", "Unknown space .*split_slerp"),
        ("soups", "Unknown space 'soups'"),
    ],
)
def test_a_space_that_is_not_there(kind: str, said: str, folder: Path) -> None:
    import soups

    (folder / "broths.py").write_text("raise SystemExit('a database is data, not code')")
    space = soups.Soups(nets())
    text = yaml.safe_load(space.to_yaml()) | {"space": kind}
    declared = mo.spaces.read(yaml.safe_dump(text))
    with pytest.raises(RecipeError, match=said):
        declared.open({net.name: net for net in nets()})
