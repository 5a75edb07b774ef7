"""The card of what pruning saved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

import merge_optuna as mo

optuna.logging.set_verbosity(optuna.logging.ERROR)

KEY = "5-pruning"
BAND, BEST, STOPPED, LEFT = (
    "80 % of complete",
    "best",
    "pruned",
    "trials that went on",
)


def curve(number: int) -> Any:
    """Ten reports of a trial, at 10, 20, ... 100 examples."""
    rng = np.random.default_rng(number)
    return rng.random() + rng.normal(size=10) * 0.1


def race(trial: optuna.Trial, *, attrs: bool = True) -> float:
    for step, value in zip(range(10, 101, 10), curve(trial.number), strict=True):
        trial.report(value, step)
        if attrs:
            trial.set_user_attr("examples", step)
            trial.set_user_attr("seconds_evaluate", step * 6.0)
        if step < 100 and trial.should_prune():
            raise optuna.TrialPruned
    return float(value)


def study_with(pruner: Any, n_trials: int = 40, objective: Callable[..., Any] = race) -> Any:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.optimize(objective, n_trials=n_trials)
    return study


def split(study: optuna.Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    return complete, [t for t in study.trials if t.state == TrialState.PRUNED]


def test_everything_in_it() -> None:
    study = study_with(optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=20))
    complete, pruned = split(study)
    assert len(pruned) > 5
    figure = mo.reports.figures(study)[KEY]
    traces = {trace.name: trace for trace in figure.data}
    curves = np.array([curve(trial.number) for trial in complete])
    low, high = (np.array(t.y) for t in figure.data if t.name == BAND)
    assert low == pytest.approx(np.percentile(curves, 10, axis=0), abs=1e-3)
    assert high == pytest.approx(np.percentile(curves, 90, axis=0), abs=1e-3)
    assert list(traces[BEST].x) == [*range(10, 101, 10)]
    assert traces[BEST].y == pytest.approx(curve(study.best_trial.number), abs=1e-3)
    ends = {trial.number: max(trial.intermediate_values) for trial in pruned}
    numbers = [*map(int, traces[STOPPED].text)]
    assert dict(zip(numbers, traces[STOPPED].x, strict=True)) == ends
    assert dict(zip(numbers, traces[STOPPED].y, strict=True)) == {
        number: pytest.approx(curve(number)[end // 10 - 1], abs=1e-3)
        for number, end in ends.items()
    }
    left = dict(zip(traces[LEFT].x, traces[LEFT].y, strict=True))
    everybody = [*ends.values(), *[100] * len(complete)]
    for step, share in left.items():
        assert share == pytest.approx(100 * np.mean([end >= step for end in everybody]), abs=0.1)
    saved = sum(100 - end for end in ends.values())
    minutes = saved * 6 / 60
    assert f"saved {saved / 4000:.0%} of all examples" in figure.layout.meta["title"]
    assert f"about {minutes / 60:.2g} h" in figure.layout.meta["title"]
    assert f"{len(pruned)} of 40 trials" in figure.layout.meta["subtitle"]


def test_a_study_of_plain_optuna_has_steps() -> None:
    study = study_with(
        optuna.pruners.MedianPruner(n_startup_trials=4),
        objective=lambda trial: race(trial, attrs=False),
    )
    saved = sum(100 - max(t.intermediate_values) for t in split(study)[1])
    title = mo.reports.figures(study)[KEY].layout.meta["title"]
    assert title == f"Pruning saved {saved / 4000:.0%} of all steps"


def test_attributes_of_others_that_are_called_like_ours() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("examples", "a few")
        return race(trial, attrs=False)

    study = study_with(optuna.pruners.MedianPruner(n_startup_trials=4), objective=objective)
    assert mo.reports.figures(study)[KEY].layout.meta["title"].endswith("of all steps")


def test_values_that_are_not_finite_have_no_place() -> None:
    inf = float("inf")
    reports = [{1: 0.2, 2: 0.4}, {1: inf, 2: 0.5}, {1: 0.1}, {1: float("nan")}, {1: -inf}]
    study = optuna.create_study()
    for place, values in enumerate(reports):
        value = 0.1 * place if place < 2 else None
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        trial = optuna.trial.create_trial(
            state=state, value=value, intermediate_values=dict(values)
        )
        study.add_trial(trial)
    figure = mo.reports.figures(study)[KEY]
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces[STOPPED].y) == [0.1]
    assert "3 of 5 trials" in figure.layout.meta["subtitle"]
    assert np.isfinite(figure.layout.yaxis.range).all()


def test_batches_are_averaged() -> None:
    """What a WilcoxonPruner reads are means of batches, no values so far."""

    def batches(trial: optuna.Trial) -> float:
        for step, value in enumerate(curve(trial.number)):
            trial.report(value, step)
            trial.set_user_attr("examples", 10 * step + 10)
            if step < 9 and trial.should_prune():
                trial.set_user_attr("reason", f"WilcoxonPruner at step {step}.")
                raise optuna.TrialPruned
        return float(curve(trial.number).mean())

    study = study_with(optuna.pruners.WilcoxonPruner(p_threshold=0.3), objective=batches)
    figure = mo.reports.figures(study)[KEY]
    traces = {trace.name: trace for trace in figure.data}
    best = curve(study.best_trial.number)
    expected = [best[: k + 1].mean() for k in range(10)]
    assert traces[BEST].y == pytest.approx(expected, abs=1e-3)
    for number, x, y in zip(*(traces[STOPPED][key] for key in ("text", "x", "y")), strict=True):
        assert y == pytest.approx(curve(int(number))[: x + 1].mean(), abs=1e-3)
    assert figure.layout.xaxis2.title.text == "batches"


def test_who_does_not_count() -> None:
    """A copy of a result has cost nothing; a recipe that is infeasible was never evaluated."""

    def objective(trial: optuna.Trial) -> float:
        if trial.number == 10:
            trial.set_user_attr("reason", "no such merge")
            raise optuna.TrialPruned
        if trial.number == 11:  # the same as trial 0
            for step in range(10, 101, 10):
                trial.report(0.0, step)
            for name, value in {"same_as": 0, "examples": 0, "seconds_evaluate": 0.0}.items():
                trial.set_user_attr(name, value)
            return 0.0
        return race(trial)

    study = study_with(optuna.pruners.ThresholdPruner(lower=0.3), 30, objective)
    stopped = [t for t in split(study)[1] if t.number != 10]
    saved = sum(100 - max(t.intermediate_values) for t in stopped)
    words = mo.reports.figures(study)[KEY].layout.meta
    assert f"saved {saved / 2800:.0%} of all" in words["title"]
    assert f"{len(stopped)} of 28 trials" in words["subtitle"]


def test_thousands() -> None:
    def reported(number: int) -> FrozenTrial:
        pruned = number % 3 > 0
        end = 200 if not pruned else 20 + number % 100
        return optuna.trial.create_trial(
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            value=None if pruned else number / 2000,
            intermediate_values={step: number / 2000 + step / 1e4 for step in range(end)},
            user_attrs={"examples": end},
        )

    study = optuna.create_study(direction="maximize")
    study.add_trials([reported(number) for number in range(2000)])
    assert len(mo.reports.figures(study)[KEY].to_json()) < 40_000


def test_nothing_was_pruned() -> None:
    assert KEY not in mo.reports.figures(study_with(optuna.pruners.NopPruner(), 6))
    assert KEY not in mo.reports.figures(study_with(optuna.pruners.ThresholdPruner(lower=9), 4))
    assert KEY not in mo.reports.figures(optuna.create_study(directions=["minimize"] * 2))
