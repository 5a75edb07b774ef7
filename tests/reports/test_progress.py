"""The card ``2-progress`` against plain loops over the trials."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from plotly.graph_objects import Figure

from merge_optuna._schema import SAME_AS
from merge_optuna.reports import figures
from tests.reports import stored

N = 30


def card(study: optuna.Study) -> Figure:
    return figures(study)["2-progress"]


def traces(figure: Figure) -> dict[str, Figure]:
    return {trace.name.partition(":")[0]: trace for trace in figure.data}


@pytest.fixture
def study() -> optuna.Study:
    """Trials with costs of their own; every fifth pruned, one a copy, one infeasible."""
    rng = np.random.default_rng(0)
    made = stored.study(metrics=["accuracy"])
    for i in range(N):
        pruned = i % 5 == 4
        copied = {SAME_AS: 0, "examples": 0} if i == 7 else {"examples": 10 + i}
        stored.trial(
            made,
            *([] if pruned else [round(0.5 + i / 100 + rng.normal() / 20, 3) if i != 8 else 0.99]),
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            violation=0.1 if i == 8 else None,
            seconds_merge=0.25,
            seconds_evaluate=float(i),
            **copied,
        )
    for place, (name, value) in enumerate([("base", 0.5), ("source a", 0.7), ("average", 0.6)]):
        stored.baseline(made, name, value, place=place)
    return made


def running_best(study: optuna.Study, cost: str) -> list[tuple[float, float]]:
    """What had been paid, and the best so far, whenever that became better; and at the end."""
    paid, best, points = 0.0, -np.inf, []
    for trial in study.trials:
        if cost == "evaluations":
            paid += SAME_AS not in trial.user_attrs
        elif cost == "examples":
            paid += trial.user_attrs["examples"]
        else:
            paid += trial.user_attrs["seconds_merge"] + trial.user_attrs["seconds_evaluate"]
        feasible = trial.state == TrialState.COMPLETE and not sum(trial.constraints.values())
        if feasible and trial.value > best:
            best = trial.value
            points.append((paid, best))
    return [*points, (paid, best)]


@pytest.mark.parametrize("unit", ["evaluations", "examples", "seconds"])
def test_best_over_cost(study: optuna.Study, unit: str) -> None:
    figure = card(study)
    buttons = {button.label: button.args for button in figure.layout.updatemenus[0].buttons}
    moved, axis = buttons[unit]
    place = [trace.name for trace in figure.data].index("best so far")
    x = moved["x"][place]
    drawn = [*zip(x, figure.data[place].y, strict=True)]
    np.testing.assert_allclose(drawn, running_best(study, unit), rtol=1e-3)
    assert unit in axis["xaxis.title.text"]
    for i, trace in enumerate(figure.data):  # each keeps its points
        assert len(moved["x"][i]) == len(trace.y)


def test_it_opens_in_evaluations(study: optuna.Study) -> None:
    figure = card(study)
    for trace, x in zip(
        figure.data, figure.layout.updatemenus[0].buttons[0].args[0]["x"], strict=True
    ):
        assert list(trace.x) == list(x)


def test_baselines_are_lines_with_their_values_best_first(study: optuna.Study) -> None:
    lines = [trace for trace in card(study).data if ":" in trace.name]
    assert [line.name for line in lines] == ["source a: 0.7", "average: 0.6", "base: 0.5"]
    assert [set(line.y) for line in lines] == [{0.7}, {0.6}, {0.5}]
    assert len({(line.line.color, line.line.dash) for line in lines}) == 3


def test_title_says_by_how_much(study: optuna.Study) -> None:
    best = running_best(study, "evaluations")[-1][1]
    title = card(study).layout.meta["title"]
    assert title == f"Best accuracy: {best:.4g}, {best - 0.7:.4g} better than source a"


def test_lower_is_better() -> None:
    study = stored.study("minimize", metrics=["perplexity"])
    for value in (9.0, 5.0, 7.0, 4.5):
        stored.trial(study, value, examples=10)
    stored.baseline(study, "base", 4.0)
    figure = card(study)
    assert list(traces(figure)["best so far"].y) == [9, 5, 4.5, 4.5]
    assert "0.5 worse than base" in figure.layout.meta["title"]
    assert "lower is better" in figure.layout.yaxis.title.text


def test_several_objectives_have_a_panel_each() -> None:
    study = stored.study("maximize", "minimize", metrics=["accuracy", "loss"])
    for pair in [(0.1, 3.0), (0.3, 4.0), (0.2, 2.0)]:
        stored.trial(study, *pair, examples=10)
    stored.baseline(study, "base", 0.25, 2.5)
    best = [list(trace.y) for trace in card(study).data if trace.name == "best so far"]
    assert best == [[0.1, 0.3, 0.3], [3, 2, 2]]
    assert [trace.y[0] for trace in card(study).data if "base" in trace.name] == [0.25, 2.5]


def test_what_is_far_worse_does_not_hide_the_rest() -> None:
    study = stored.study("minimize", metrics=["perplexity"])
    rng = np.random.default_rng(1)
    for i in range(100):
        stored.trial(study, 1e6 if i % 20 == 0 else 5 + rng.random())
    low, high = card(study).layout.yaxis.range
    assert low < 5.1
    assert 6 < high < 20


def test_a_long_search_is_small_and_keeps_every_improvement() -> None:
    study = stored.study()
    rng = np.random.default_rng(2)
    for i in range(2000):
        stored.trial(study, float(i / 4000 + rng.random() / 10), examples=100)
    figure = card(study)
    assert len(figure.to_json()) < 40_000
    best = traces(figure)["best so far"]
    drawn = [*zip(best.x, best.y, strict=True)]
    np.testing.assert_allclose(drawn, running_best_of_values(study), rtol=1e-3)


def running_best_of_values(study: optuna.Study) -> list[tuple[float, float]]:
    values = [trial.value for trial in study.trials]
    peaks = [(i + 1, v) for i, v in enumerate(values) if v > max([-1, *values[:i]])]
    return [*peaks, (len(values), max(values))]


def test_plain_study_of_optuna() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    figure = card(study)
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == [
        "evaluations",
        "seconds",
    ]


def test_nothing_to_show() -> None:
    study = stored.study()
    assert "2-progress" not in figures(study)
    stored.trial(study, 0.5, violation=1.0)
    assert "2-progress" not in figures(study)


def test_labels_stand_at_their_lines_and_not_above_another() -> None:
    study = handmade_lines([0.5, 0.501, 0.502, 0.503, 0.7])
    figure = card(study)
    low, high = figure.layout.yaxis.range
    margin = figure.layout.margin
    pixel = (high - low) / (figure.layout.height - margin.t - margin.b)
    labels = sorted(figure.layout.annotations, key=lambda label: -label.y)
    assert [label.text.split()[-1] for label in labels] == [
        "0.7",
        "0.503",
        "0.502",
        "0.501",
        "0.5",
    ]
    places = np.array([label.y for label in labels])
    assert (-np.diff(places) > 12.9 * pixel).all()
    assert low <= places.min() < places.max() <= high
    assert abs(places[0] - 0.7) < 2 * pixel


def handmade_lines(values: list[float]) -> optuna.Study:
    study = stored.study()
    for i in range(20):
        stored.trial(study, 0.5 + i / 50)
    for place, value in enumerate(values):
        stored.baseline(study, f"b{place}", value, place=place)
    return study
