"""optuna-dashboard as a real process on the database of a real search."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import merge_optuna as mo
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

N_TRIALS = 8


@pytest.fixture(scope="module")
def study(task: Task, tmp_path_factory: pytest.TempPathFactory) -> optuna.Study:
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-2, 2, per="layer"))
    evaluator = mo.evaluators.Classification(task.dev, batch_size=20)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=40)
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard')}/merge.db"
    objective = mo.MergeObjective(recipe, evaluator)
    return mo.MergeStudy("toy", objective, n_trials=N_TRIALS, pruner=pruner, baselines=False).run(
        url, progress=False
    )


@pytest.fixture(scope="module")
def address(study: optuna.Study) -> Iterator[str]:
    url = str(study._storage._backend.engine.url)  # type: ignore[attr-defined]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    process = subprocess.Popen(
        [program, url, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        process.communicate(timeout=300)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("optuna-dashboard does not listen.")


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=300) as answer:
        return json.load(answer)


def test_the_dashboard_shows_the_search(study: optuna.Study, address: str) -> None:
    (summary,) = get(f"{address}/studies")["study_summaries"]
    assert summary["study_name"] == "toy"
    assert summary["directions"] == ["maximize"]

    shown = get(f"{address}/studies/{summary['study_id']}?after=0")
    assert shown["name"] == "toy"
    assert shown["objective_names"] == ["accuracy"]
    names = [
        f"weight/{model}/{layer}" for model in "ab" for layer in ("embed", "00", "01", "head")
    ]
    assert sorted(p["name"] for p in shown["union_search_space"]) == sorted(names)
    assert sorted(p["name"] for p in shown["intersection_search_space"]) == sorted(names)
    assert {"key": "examples", "sortable": True} in shown["union_user_attrs"]
    assert {"key": "seconds_evaluate", "sortable": True} in shown["union_user_attrs"]

    states = set()
    assert len(shown["trials"]) == N_TRIALS
    for trial, expected in zip(shown["trials"], study.trials, strict=True):
        states.add(trial["state"])
        params = {p["name"]: float(p["param_internal_value"]) for p in trial["params"]}
        assert params == expected.params
        steps = {v["step"]: v["value"] for v in trial["intermediate_values"]}
        assert steps == expected.intermediate_values
        attributes = {a["key"]: a["value"] for a in trial["user_attrs"]}
        assert attributes == {key: str(value) for key, value in expected.user_attrs.items()}
        assert {"examples", "seconds_merge", "seconds_evaluate"} <= set(attributes)
        if trial["state"] == "Complete":
            assert trial["values"] == expected.values
        else:
            assert attributes["reason"].startswith("MedianPruner")
    assert states == {"Complete", "Pruned"}
