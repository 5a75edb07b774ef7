"""mo.scan: every block once, coarse first, against paths written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from transformers import AutoModelForCausalLM

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.search._scan import Scan
from tests import processes, toys
from tests.samplers.storages import make_storage
from tests.spaces import routes

optuna.logging.set_verbosity(optuna.logging.ERROR)
DEPTH = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    toys.save(toys.noised(toys.llama(0, layers=DEPTH), 0), root / "ja")
    return root


def scan(folder: Path, **options: Any) -> optuna.Study:
    model = mo.Checkpoint(folder / "ja", name="ja")
    return mo.scan(model, routes.Logits(), progress=False, **options)


def test_every_block_is_scored_once_and_the_best_is_exported(folder: Path, tmp_path: Path) -> None:
    study = scan(folder, storage=f"sqlite:///{tmp_path}/s.db")
    expected = ["A0-A1-A2-A3"]
    for start in range(DEPTH):
        for stop in range(start + 1, DEPTH + 1):
            layers = [*range(stop), *range(start, stop), *range(stop, DEPTH)]
            expected.append("-".join(f"A{layer}" for layer in layers))
    paths = [trial.user_attrs["path"] for trial in study.trials]
    assert paths[0] == expected[0]
    assert sorted(paths) == sorted(expected)
    model = mo.Checkpoint(folder / "ja", name="ja")
    engine, evaluator = mo.Engine(), routes.Logits()
    for trial in study.trials[:4]:
        live = engine.load(mo.recipes.path(trial.user_attrs["path"], [model]))
        scores = np.concatenate([scores for _, scores in evaluator(live)])
        assert trial.value == pytest.approx(scores.mean(), rel=1e-9)
    written = AutoModelForCausalLM.from_pretrained(mo.export(study, tmp_path / "out"))
    assert len(written.model.layers) == study.best_trial.user_attrs["path"].count("A") > DEPTH
    scores = np.concatenate([scores for _, scores in evaluator(written.eval())])
    assert scores.mean() == pytest.approx(study.best_value, rel=1e-4)


def test_a_coarse_grid_comes_first() -> None:
    blocks = Scan(depth=16, shortest=1, longest=16, times=1).blocks
    assert len(blocks) == len(set(blocks)) == 16 * 17 // 2
    assert all(length + start <= 16 for start, length in blocks)
    assert set(blocks[:3]) == {(0, 1), (8, 1), (0, 9)}  # a step of 8, after that of 16
    assert {(s, n) for s, n in blocks[:10]} == {
        (s, n) for s in range(0, 16, 4) for n in range(1, 17, 4) if s + n <= 16
    }
    short = Scan(depth=16, shortest=3, longest=6, times=2).blocks
    assert {length for _, length in short} == {3, 4, 5, 6}


def test_options_and_further_trials(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    first = scan(folder, storage=url, n_trials=3, max_length=2, times=2)
    assert len(first.trials) == 3
    study = scan(folder, storage=url, max_length=2, times=2)
    paths = [trial.user_attrs["path"] for trial in study.trials]
    assert len(set(paths)) == len(paths) == 1 + 4 + 3
    assert "A0-A1-A0-A1-A0-A1-A2-A3" in paths
    assert len(scan(folder, storage=url, max_length=2, times=2).trials) == len(paths)


def test_a_narrower_scan_is_whole(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    scan(folder, storage=url, n_trials=3)  # the model, and blocks of one layer
    study = scan(folder, storage=url, min_length=4)
    assert len(study.trials) == 4
    assert study.trials[-1].user_attrs["path"] == "-".join(f"A{i}" for i in (0, 1, 2, 3) * 2)


def test_other_times_need_a_study_of_their_own(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    scan(folder, storage=url, n_trials=2)
    with pytest.raises(StudyError, match=r"'scan' repeats each block 1 times, not 2: .*, name="):
        scan(folder, storage=url, times=2)
    assert len(scan(folder, storage=url, n_trials=2, times=2, name="twice").trials) == 2


def test_trials_that_begin_together_take_different_blocks() -> None:
    plan, study = Scan(depth=4, shortest=1, longest=4, times=1), optuna.create_study()
    began = [study.ask() for _ in range(3)]  # none has written what it takes
    found = [plan.following(study, trial.number) for trial in began]
    assert found[0] == {"block/1/times": 0}
    assert [(one["block/1/start"], one["block/1/length"]) for one in found[1:] if one] == [
        *plan.blocks[:2]
    ]
    began[1].suggest_int("block/1/times", 0, 3)  # only in part
    assert plan.following(study, 2) == found[2]


def run(folder: str, kill: int | None = None) -> None:
    from merge_optuna.testing import kill_at, on_write

    storage = make_storage("sqlite", Path(folder))
    if kill is not None:
        storage = on_write(storage, kill_at(kill, after=True, trial=4))
    scan(Path(folder), storage=storage)


def test_killed_and_shared(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ja").symlink_to(folder / "ja")
    assert processes.call(run, str(tmp_path), 5, cwd=tmp_path).wait().code == -9
    both = [processes.call(run, str(tmp_path), cwd=tmp_path) for _ in range(2)]
    for one in both:
        result = one.wait()
        assert result.code == 0, result.err
    study = optuna.load_study(study_name="scan", storage=make_storage("sqlite", tmp_path))
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert {t.user_attrs["path"] for t in done} == {
        t.user_attrs["path"] for t in scan(folder).trials
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": 4}, "times must be a whole number from 1 to 3, not 4: the model has 4 layers"),
        ({"max_length": 5}, "max_length must be a whole number from 1 to 4, not 5"),
        ({"min_length": 3, "max_length": 2}, "min_length must be a whole number from 1 to 2"),
    ],
)
def test_what_is_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        scan(folder, **options)
