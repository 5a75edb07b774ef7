"""The card of the population over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from plotly.graph_objects import Figure

import merge_optuna as mo
from tests.spaces.searches import search

optuna.logging.set_verbosity(optuna.logging.ERROR)

KEY = "5-population"
SPACE = {f"x{i}": FloatDistribution(-2, 2) for i in range(3)}


def sphere(trial: optuna.Trial) -> float:
    return sum((trial.suggest_float(name, -2, 2) - 1) ** 2 for name in SPACE)


def run(sampler: Any, n_trials: int, objective: Any = sphere, **options: Any) -> optuna.Study:
    study = optuna.create_study(sampler=sampler, **options)
    study.optimize(objective, n_trials=n_trials)
    return study


def lines(figure: Figure, metric: int = 0) -> dict[str, Any]:
    """Name -> y of the traces of a row; of the band, both."""
    axis = "y" if metric == 0 else f"y{metric + 1}"
    found: dict[str, Any] = {}
    for trace in figure.data:
        if (trace.yaxis or "y") == axis:
            found.setdefault(trace.name, []).append(np.array(trace.y))
    return {name: y if len(y) > 1 else y[0] for name, y in found.items()}


def test_generations() -> None:
    """One worker: generation g is the trials 6g … 6g+5."""
    study = run(mo.samplers.CmaEsSampler(SPACE, seed=0, population_size=6), 60)
    values = np.array([trial.value for trial in study.trials]).reshape(10, 6)
    points = np.array([[*trial.params.values()] for trial in study.trials]).reshape(10, 6, 3)
    figure = mo.reports.figures(study)[KEY]
    shown = lines(figure)
    assert list(figure.data[0].x) == [*range(10)]
    assert shown["best"] == pytest.approx(values.min(axis=1), rel=1e-3)
    assert shown["median"] == pytest.approx(np.median(values, axis=1), rel=1e-3)
    low, high = shown["80 % of the trials"]
    assert low == pytest.approx(np.percentile(values, 10, axis=1), rel=1e-3)
    assert high == pytest.approx(np.percentile(values, 90, axis=1), rel=1e-3)
    uniform = 4 / np.sqrt(12)
    spread = lines(figure, 1)["spread of the parameters"]
    assert spread == pytest.approx(points.std(axis=1).mean(axis=1) / uniform, rel=1e-3)
    first, last = np.median(values[0]), np.median(values[-1])
    assert figure.layout.meta["title"] == (
        f"10 generations: the median went from {first:.4g} to {last:.4g}"
    )
    assert "value: lower is better" in figure.layout.meta["subtitle"]


def test_several_objectives() -> None:
    def two(trial: optuna.Trial) -> tuple[float, float]:
        value = sphere(trial)
        return value, -value / 2

    sampler = mo.samplers.NSGA2Sampler(SPACE, seed=0, population_size=8)
    study = run(sampler, 32, two, directions=["minimize", "maximize"])
    study.set_metric_names(["loss", "gain"])
    figure = mo.reports.figures(study)[KEY]
    values = np.array([trial.values for trial in study.trials]).reshape(4, 8, 2)
    assert lines(figure, 0)["best"] == pytest.approx(values[:, :, 0].min(axis=1), rel=1e-3)
    assert lines(figure, 1)["best"] == pytest.approx(values[:, :, 1].max(axis=1), rel=1e-3)
    assert [figure.layout[axis].title.text for axis in ("yaxis", "yaxis2", "yaxis3")] == [
        "loss",
        "gain",
        "spread",
    ]


def test_failed_and_infeasible_trials_are_not_among_the_values() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = sphere(trial)
        trial.set_constraint("bound", 1.0 if trial.number % 3 == 0 else -1.0)
        return float("nan") if trial.number % 4 == 1 else value

    study = run(
        mo.samplers.DESampler(SPACE, seed=0, population_size=4, max_attempts=1), 16, objective
    )
    values = [
        [t.value for t in study.trials[i : i + 4] if t.number % 3 and t.number % 4 != 1]
        for i in range(0, 16, 4)
    ]
    shown = lines(mo.reports.figures(study)[KEY])
    assert shown["best"] == pytest.approx([min(one) for one in values], rel=1e-3)


def test_an_archive_in_blocks() -> None:
    study = run(mo.samplers.NichesSampler(SPACE, seed=0, archive_size=5), 50)
    values = [trial.value for trial in study.trials]
    figure = mo.reports.figures(study)[KEY]
    assert list(figure.data[0].x) == [0, 20, 40]
    assert lines(figure)["best"] == pytest.approx(
        [min(values[:20]), min(values[20:40]), min(values[40:])], rel=1e-3
    )
    assert "Blocks of 20 trials" in figure.layout.meta["title"]


def test_individuals_have_no_spread() -> None:
    figure = mo.reports.figures(search("swarm", None, 12))[KEY]
    assert set(lines(figure)) == {"80 % of the trials", "median", "best"}
    assert lines(figure, 1) == {}
    assert KEY not in mo.reports.figures(search("niches", None, 8)), "its lineage says more"


def test_no_population() -> None:
    assert KEY not in mo.reports.figures(run(optuna.samplers.RandomSampler(seed=0), 8))
    one = mo.samplers.CmaEsSampler(SPACE, seed=0, population_size=6)
    assert KEY not in mo.reports.figures(run(one, 6)), "a single generation"
