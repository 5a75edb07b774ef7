"""The study of fronts: its numbers by other ways, and a small run of it as a user runs it."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
import torch

import merge_optuna as mo
from tests.studies.test_emotions import write_encoder

STUDIES = Path(mo.__file__).parents[1] / "studies"
KEPT = STUDIES / "fronts"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDIES))
    import fronts

    return fronts


def write_glue(folder: Path, rng: np.random.Generator) -> None:
    """A class of texts and a number for pairs; the first example of each split is in two."""
    for task, kind in (("sst2", int), ("stsb", float)):
        place = folder / f"glue_{task}"
        place.mkdir(parents=True)
        before: list[dict[str, Any]] = []
        for split, n in (("train", 400), ("dev", 40), ("test", 40)):
            rows = []
            for own, shared in rng.integers(2, size=(n, 2)).tolist():
                noise = " ".join(f"noise{i}" for i in rng.integers(20, size=5))
                row = {"text": f"own{own} shared{shared} {noise}", "label": kind(own)}
                if task == "stsb":
                    row |= {"text2": f"own{own} {noise[:6]}", "label": 2.5 * (own + shared)}
                rows.append(row)
            rows[:1] = before[1:2] or rows[:1]
            before = rows
            with gzip.open(place / f"{split}.jsonl.gz", "wt") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def experiment(study: ModuleType, **changed: Any) -> Any:
    from _fronts_experiment import Experiment

    given = {
        "name": "",
        "title": "",
        "models": {},
        "dev": None,
        "test": None,
        "way": None,
        "searches": (),
    }
    box = {"reference": (0.0, 10.0), "ideal": (1.0, 0.0), "plain": None}
    box |= {"searches": (), "trials": 9, "population": 4}
    return Experiment(**{**given, **box, **changed})


def test_hypervolume_is_that_of_a_fine_grid(study: ModuleType) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.2, 0], [1, 12], size=(6, 2))  # some beyond the box
    cells = (np.arange(1000) + 0.5) / 1000
    x, y = np.meshgrid(cells, 10 * cells)
    covered = np.any([(x < a) & (y > b) for a, b in points], axis=0)
    found = experiment(study).hypervolume(points.tolist())
    assert found == pytest.approx(covered.mean(), abs=2e-3)
    assert experiment(study).hypervolume([]) == 0


def test_a_front_is_what_no_trial_dominates(study: ModuleType) -> None:
    values = np.random.default_rng(0).integers([0, 2], [2, 9], size=(40, 2)).astype(float).tolist()
    made = optuna.create_study(directions=["maximize", "minimize"])
    made.add_trials([optuna.trial.create_trial(values=pair) for pair in values])
    expected = {
        (a, b)
        for a, b in values
        if not any(c >= a and d <= b and (c, d) != (a, b) for c, d in values)
    }
    found = study.front(made)
    assert sorted(point for _, point in found) == sorted(expected)
    assert all(values.index([*point]) == number for number, point in found)
    volume = experiment(study).hypervolume([point for _, point in found])
    assert 10 * volume == pytest.approx(mo.pareto(made).hypervolume((0, 10)))


def test_sweeps_have_as_many_points_and_cover_the_box(study: ModuleType) -> None:
    for name, points in study.SWEEPS.items():
        assert len({*points(100)}) == 100, name
        assert all(0 <= weight <= 1.5 for point in points(100) for weight in point)


def test_the_tables_and_figures_are_those_of_the_results(
    study: ModuleType, tmp_path: Path
) -> None:
    for file in KEPT.glob("*.json"):
        shutil.copy(file, tmp_path)
    study.report(tmp_path)
    made = [*tmp_path.glob("*.svg"), tmp_path / "results.md"]
    assert len(made) > 1
    for file in made:
        assert file.read_text("utf-8") == (KEPT / file.name).read_text("utf-8")
    for file in tmp_path.glob("*.svg"):
        ElementTree.parse(file)


@pytest.mark.parametrize("file", [*KEPT.glob("*.json")], ids=lambda file: file.stem)
def test_what_the_results_have_to_say(file: Path) -> None:
    found = json.loads(file.read_text("utf-8"))
    assert found["kill"]["code"] == -9
    assert found["kill"]["same"] == found["kill"]["of"]
    assert 0 < found["kill"]["at"] < found["kill"]["of"]
    assert len(found["exported"]) >= 3
    assert all(written["plain"] == written["study"] for written in found["exported"])


@pytest.mark.slow
def test_a_small_run(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import _fronts_glue
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    write_glue(tmp_path / "data", np.random.default_rng(0))
    write_encoder(tmp_path / "encoder")
    monkeypatch.setattr(_fronts_glue, "RATE", 5e-3)
    monkeypatch.chdir(tmp_path)
    options = ["--data", "data", "--experiments", "glue", "--trials", "36", "--seeds", "0"]
    options += ["--encoder", "encoder"]
    monkeypatch.setattr(sys, "argv", ["fronts.py", *options, "--results", "results"])
    study.main()
    found = json.loads((tmp_path / "results" / "glue.json").read_text())
    assert (found["kill"]["same"], found["kill"]["code"]) == (found["kill"]["of"], -9)
    assert 0 < found["kill"]["at"] < found["kill"]["of"] == 18
    assert f"| {study.OURS} | search | 1 |" in (tmp_path / "results" / "results.md").read_text()

    for file in found["exported"]:  # by a plain loop of transformers
        folder = tmp_path / "runs" / "fronts" / "glue" / "exported" / file["trial"]
        rows = _fronts_glue.read(tmp_path / "data", "sst2", "dev")
        assert len(rows) < 40  # without the one that is in train
        model = AutoModelForSequenceClassification.from_pretrained(folder / "sst2").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder / "sst2")
        with torch.no_grad():
            predicted = [
                int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax())
                for row in rows
            ]
        right = np.mean([p == row["label"] for p, row in zip(predicted, rows, strict=True)])
        assert file["plain"] == pytest.approx(file["study"], abs=1e-6)  # alignment in memory
        assert file["study"][0] == pytest.approx(right, abs=1e-12)
