"""The quickstart as a user runs it, stopped and continued once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

import merge_optuna as mo
from tests import processes

SCRIPT = Path(mo.__file__).parents[1] / "studies" / "quickstart.py"
N_TRIALS = 300  # of the script
LOW = range(6)


@pytest.fixture(scope="module")
def held_out() -> tuple[Tensor, np.ndarray]:
    """The 397 digits that the script with seed 0 may neither train on nor search with."""
    pixels, labels = load_digits(return_X_y=True)
    _, test = train_test_split(np.arange(1797), test_size=397, random_state=0)
    images = torch.from_numpy(pixels[test].astype(np.float32) / 8 - 1).reshape(-1, 1, 8, 8)
    return images, labels[test]


def table_of(printed: str) -> dict[str, list[float]]:
    """The rows of the printed table: dev, test, test on 0 to 5, test on 6 to 9."""
    rows = re.findall(r"^(\S.*?)((?: +\d+\.\d){4})\s*$", printed, re.MULTILINE)
    return {name.strip(): [float(cell) for cell in cells.split()] for name, cells in rows}


def percentages(model: nn.Module, images: Tensor, labels: np.ndarray) -> list[float]:
    """Accuracy on all, on the low and on the high digits."""
    with torch.no_grad():
        right = model.eval()(images).logits.argmax(-1).numpy() == labels
    low = np.isin(labels, LOW)
    return [100 * float(part.mean()) for part in (right, right[low], right[~low])]


def average(a: nn.Module, b: nn.Module) -> nn.Module:
    other = b.state_dict()
    a.load_state_dict({name: (t + other[name]) / 2 for name, t in a.state_dict().items()})
    return a


@pytest.mark.parametrize(
    ("first", "total"),
    [
        (25, 50),
        # The whole search takes a minute, and finds what 50 trials nearly find.
        pytest.param(60, N_TRIALS, marks=pytest.mark.slow),
    ],
)
def test_the_search_beats_what_it_merges(
    first: int, total: int, tmp_path: Path, held_out: tuple[Tensor, np.ndarray]
) -> None:
    folder = tmp_path / "runs" / "quickstart" / "seed-0"
    url = f"sqlite:///{folder}/search.db"

    def search(*options: object) -> processes.Result:
        return processes.script(SCRIPT, *options, cwd=tmp_path).wait(600)

    begun = search("--n-trials", first)
    assert begun.code == 0, begun.err
    assert begun.err.count("Training") == 3
    shown = processes.command("show", url, "--json", cwd=tmp_path).wait()
    assert json.loads(shown.out)["trials"]["complete"] == first
    made = {path: path.stat().st_mtime_ns for path in folder.glob("*/model.safetensors")}
    made.pop(folder / "merged" / "model.safetensors")

    done = search(*(() if total == N_TRIALS else ("--n-trials", total)))
    assert done.code == 0, done.err
    assert "Training" not in done.err
    assert made == {path: path.stat().st_mtime_ns for path in made}

    # What it prints is what plain transformers says about the folders.
    table = table_of(done.out)
    assert len(table) == 6

    def load(name: str) -> nn.Module:
        return AutoModelForImageClassification.from_pretrained(folder / name)

    for row, model in {
        "base": load("base"),
        "expert low": load("low"),
        "expert high": load("high"),
        "uniform average of the experts": average(load("low"), load("high")),
        "best DARE-TIES found": load("merged"),
    }.items():
        assert table[row][1:] == pytest.approx(percentages(model, *held_out), abs=0.051), row

    # Sound parts, and a merge that is worth the search. Seed 0 of fourteen after 300 trials:
    # 28.7 over the better expert, 15.4 over the average, 19.7 over the untuned operator, 12.4 over
    # the base.
    best, (_, base, _, _) = table["best DARE-TIES found"][1], table["base"]
    assert base >= 60
    assert table["expert low"][2] >= 90
    assert table["expert high"][3] >= 90
    assert best >= table["expert low"][1] + 10
    assert best >= table["expert high"][1] + 10
    assert best >= table["uniform average of the experts"][1] + 8
    assert best >= table["DARE-TIES, all weights and densities 0.5"][1] + 15
    assert best > base

    # The command line finds the same study, with nothing left to do.
    options = ("--storage", url, "--n-trials", total, "--json")
    ran = processes.command("run", SCRIPT, *options, cwd=tmp_path).wait()
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["trials"]["complete"] == total
    assert 100 * result["test"] == pytest.approx(best, abs=0.051)
