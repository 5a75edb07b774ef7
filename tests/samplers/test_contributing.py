"""The sampler of CONTRIBUTING.md: it runs as written, passes the suite and resumes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution

from tests.docs.blocks import block

CODE = block("CONTRIBUTING.md", "a sampler of your own")

names: dict[str, Any] = {"__name__": __name__}
exec(compile(CODE, "CONTRIBUTING.md", "exec"), names)
OneComma = names["OneComma"]  # to be found by pickle
OneCommaSampler = names["OneCommaSampler"]
TestOneComma = names["TestOneComma"]  # the suite that it inherits

SPACE = {name: FloatDistribution(-5, 5) for name in "abc"}


def search(storage: str | None, *n_trials: int) -> optuna.Study:
    """Each part with a new sampler."""
    for n in n_trials:
        study = optuna.create_study(
            study_name="s",
            storage=storage,
            load_if_exists=True,
            sampler=OneCommaSampler(SPACE, population_size=16, seed=0),
        )
        study.optimize(
            lambda trial: sum((trial.suggest_float(name, -5, 5) - 1) ** 2 for name in SPACE), n
        )
    return study


def test_it_has_the_options_of_its_dataclass() -> None:
    parameters = inspect.signature(OneCommaSampler).parameters
    assert {"population_size", "decay", "seed"} < parameters.keys()
    assert OneCommaSampler()._algorithm == OneComma()


def test_it_optimises_and_resumes(tmp_path: Path) -> None:
    study = search(None, 160)
    assert study.best_value < 0.01
    resumed = search(f"sqlite:///{tmp_path}/x.db", 14, 11)
    assert [t.params for t in resumed.trials] == [t.params for t in study.trials[:25]]
