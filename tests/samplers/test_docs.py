"""The new sampler of docs/samplers.md: it runs as written and passes the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

import merge_optuna as mo
from tests.docs.blocks import block

PAGE = (Path(mo.__file__).parents[1] / "docs" / "samplers.md").read_text()
CODE = block("docs/samplers.md", "new sampler")


def run_page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "tests.samplers.test_docs"}
    exec(compile(CODE, "docs/samplers.md", "exec"), names)
    return names


names = run_page()
Jaya = names["Jaya"]  # to be found by pickle
TestJaya = names["TestJaya"]


def test_it_is_short() -> None:
    assert 20 < len(CODE.strip().splitlines()) < 40


def test_it_optimises_and_resumes(tmp_path: Path) -> None:
    space = {name: FloatDistribution(-5, 5) for name in "abc"}

    def objective(trial: optuna.Trial) -> float:
        return sum((trial.suggest_float(name, -5, 5) - 1) ** 2 for name in space)

    def search(storage: str | None, *n_trials: int) -> optuna.Study:
        for n in n_trials:
            study = optuna.create_study(
                study_name="s",
                storage=storage,
                load_if_exists=True,
                sampler=names["JayaSampler"](space, population_size=8, seed=0),
            )
            study.optimize(objective, n_trials=n)
        return study

    study = search(None, 400)
    assert study.best_value < 1e-3
    resumed = search(f"sqlite:///{tmp_path}/x.db", 30, 25)
    assert [t.params for t in resumed.trials] == [t.params for t in study.trials[:55]]


@pytest.mark.parametrize(
    "name", ["DESampler", "PSOSampler", "GASampler", "NSGA2Sampler", "NichesSampler"]
)
def test_every_sampler_of_the_table_exists(name: str) -> None:
    assert f"`{name}`" in PAGE
    assert name in mo.samplers.__all__
