"""What the cards of the five searches have to show, worked out from the trials in the storage.

Nothing here comes from the reports themselves. A figure is what a browser has drawn, as
:meth:`tests.reports.browser.Browser.figures` gives it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

import merge_optuna as mo
from merge_optuna._schema import CLAIM
from merge_optuna.study import layer_shares

Figure = dict[str, Any]
Truth = Callable[[Figure, optuna.Study], None]

FOUR_DIGITS = {"rel": 1e-3, "abs": 1e-6}


def about(value: Any) -> Any:
    """A number as people read it."""
    return pytest.approx(value, **FOUR_DIGITS)


def best_of(study: optuna.Study) -> FrozenTrial:
    return max(complete(study), key=lambda trial: (trial.values[0], -trial.number))


def complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])


def paid(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])


# -- 1-winner -------------------------------------------------------------------------------------


def parameters_in_cells(figure: Figure, study: optuna.Study) -> None:
    """Every parameter of the best trial has a cell, at its model and layer."""
    best, shown = best_of(study), {}
    names = dict.fromkeys(name.partition("/")[0] for name in best.params)
    maps = [trace for trace in figure["traces"] if trace["type"] == "heatmap"]
    for parameter, trace in zip(names, maps, strict=True):
        for layer, row in zip(trace["y"], trace["z"], strict=True):
            for model, cell in zip(trace["x"], row, strict=True):
                shown[f"{parameter}/{model}/{layer}"] = cell
    assert shown == {name: about(value) for name, value in best.params.items()}
    assert f"{best.value:.4g}" in figure["title"]


def shares_in_cells(figure: Figure, study: optuna.Study) -> None:
    """How much of each source is in each layer; all of them together are everything."""
    (panel,) = layer_shares(study)
    (trace,) = [trace for trace in figure["traces"] if trace["type"] == "heatmap"]
    assert np.array(trace["z"]) == about(panel.values)
    assert np.sum(trace["z"], axis=1) == pytest.approx(1, abs=2e-3)
    assert f"{best_of(study).value:.4g}" in figure["title"]


def hops_in_order(figure: Figure, study: optuna.Study) -> None:
    """The path that the trial's own attribute says, step by step, with the scales."""
    said = re.findall(r"([A-Z])(\d+)(?:×([\d.]+))?", best_of(study).user_attrs["path"])
    wanted = [("AB".index(model), int(layer), float(scale or 1)) for model, layer, scale in said]
    models = [t for t in figure["traces"] if t["type"] == "scatter" and t["mode"] == "markers"]
    assert len(models) == 2
    hops = {
        step: (model, layer, scale)
        for model, trace in enumerate(models)
        for step, layer, scale in zip(trace["x"], trace["y"], trace["customdata"], strict=True)
    }
    assert [hops[step] for step in sorted(hops)] == [
        (model, layer, pytest.approx(scale, abs=6e-3)) for model, layer, scale in wanted
    ]


def front_and_baselines(figure: Figure, study: optuna.Study) -> None:
    """Nobody is better in both than a point of the front; the baselines stand beside it."""
    points = {tuple(trial.values) for trial in complete(study)}
    ahead = sorted(
        p for p in points if not any(o[0] >= p[0] and o[1] >= p[1] and o != p for o in points)
    )
    joined = next(trace for trace in figure["traces"] if "lines" in trace["mode"])
    assert sorted(set(zip(joined["x"], joined["y"], strict=True))) == [about(p) for p in ahead]
    drawn = [p for trace in figure["traces"] for p in zip(trace["x"], trace["y"], strict=True)]
    for row in mo.baselines(study):
        if row.name.startswith(("base", "source", "uniform")):
            assert any(point == about(tuple(row.values)) for point in drawn), row.name


# -- 2-progress to 4-examples ---------------------------------------------------------------------


def best_over_time(figure: Figure, study: optuna.Study) -> None:
    """The curves never fall and end at the best; what needs no search has a line each."""
    curves = [trace for trace in figure["traces"] if trace["name"] == "best so far"]
    levels = [*figure["lines"], *(value for t in figure["traces"] for value in t["y"])]
    for objective, curve in zip(range(len(study.directions)), curves, strict=True):
        values = [trial.values[objective] for trial in complete(study)]
        shown = [value for value in curve["y"] if value is not None]
        assert shown == sorted(shown)
        assert (shown[0], shown[-1]) == (about(values[0]), about(max(values)))
        for row in mo.baselines(study):
            if row.name.startswith(("base", "source", "uniform")):
                assert any(level == about(row.values[objective]) for level in levels), row.name


def parts_of_a_whole(figure: Figure, study: optuna.Study) -> None:
    """Shares of importance are between 0 and everything, and something matters."""
    bars = [trace for trace in figure["traces"] if trace["type"] == "bar"]
    shares = [value for trace in bars for value in trace["x"] if isinstance(value, float | int)]
    assert shares
    assert min(shares) >= 0
    assert 0 < max(shares) <= 100


def gained_and_lost(figure: Figure, study: optuna.Study) -> None:
    """On how many examples the winner is better and worse than the best merge without a search."""
    rows = [row for row in mo.baselines(study) if row.values and "not a" not in row.note]
    baseline = max(rows, key=lambda row: row.values[0])
    ours, theirs = (
        np.asarray(scores, np.float64).reshape(len(scores), -1)[:, 0]
        for scores in (mo.scores(study, best_of(study)), baseline.scores)
    )
    said = figure["title"].replace("<br>", " ")
    assert baseline.name in said
    numbers = re.findall(r"\d+", said)
    assert str(np.sum(ours > theirs)) in numbers
    assert str(np.sum(ours < theirs)) in numbers


def layers_of_good_paths(figure: Figure, study: optuna.Study) -> None:
    """In how many percent of the best tenth of the paths, and of all, each layer is."""
    trials = sorted(complete(study), key=lambda trial: -trial.values[0])
    paths = [set(re.findall(r"[A-Z]\d+", trial.user_attrs["path"])) for trial in trials]
    good, every = [trace for trace in figure["traces"] if trace["type"] == "heatmap"]
    for trace, among in ((good, paths[: -(-len(paths) // 10)]), (every, paths)):
        for layer, row in zip(trace["y"], trace["z"], strict=True):
            for model, percent in zip("AB", row, strict=True):
                share = np.mean([f"{model}{layer}" in path for path in among])
                assert percent == pytest.approx(100 * share, abs=0.51)


# -- 5: how it got there --------------------------------------------------------------------------


def ancestors_by_trial(figure: Figure, study: optuna.Study) -> None:
    """Every dot is a trial at its value; the winning line ends with the best trial."""
    line = next(trace for trace in figure["traces"] if trace["name"] == "winning line")
    best = best_of(study)
    assert (line["x"][-1], line["y"][-1]) == (best.number, about(best.value))
    families = {child: set(parents) for child, parents in _parents(study)}
    for parent, child in zip(line["x"], line["x"][1:], strict=False):
        assert parent in families[child]
    trials = study.get_trials(deepcopy=False)
    for trace in figure["traces"]:
        for number, value in zip(trace["x"], trace["y"], strict=True):
            if number is not None:
                assert value == about(trials[int(number)].value)


def _parents(study: optuna.Study) -> Iterator[tuple[int, Sequence[int]]]:
    for trial in complete(study):
        yield trial.number, tuple(trial.user_attrs.get("parents", {}).values())


def scores_of_the_best(figure: Figure, study: optuna.Study) -> None:
    """A row per trial; what is in the cells is how good these trials are at examples."""
    (trace,) = [trace for trace in figure["traces"] if trace["type"] == "heatmap"]
    cells = np.array(trace["z"], float)
    assert len(trace["y"]) == len(cells) >= 2
    assert cells.min() >= 0
    assert cells.max() == pytest.approx(1, abs=1e-3)


def median_by_generation(figure: Figure, study: optuna.Study) -> None:
    """The median and the best of the trials of each generation, objective by objective."""
    generations: dict[int, list[Sequence[float]]] = {}
    for trial in complete(study):
        if (generation := _generation(trial)) is not None:
            generations.setdefault(generation, []).append(trial.values)
    for name, summary in (("median", np.median), ("best", np.max)):
        traces = [trace for trace in figure["traces"] if trace["name"] == name]
        for objective, trace in zip(range(len(study.directions)), traces, strict=True):
            shown = dict(zip(trace["x"], trace["y"], strict=True))
            assert shown == {
                number: about(summary(np.array(values)[:, objective]))
                for number, values in generations.items()
            }


def _generation(trial: FrozenTrial) -> int | None:
    """As the sampler has written it down: one of ours, or NSGA-II."""
    if CLAIM in trial.system_attrs:
        return trial.system_attrs[CLAIM]["generation"]
    return next((v for k, v in trial.system_attrs.items() if k.endswith(":generation")), None)


def examples_saved(figure: Figure, study: optuna.Study) -> None:
    """The share of the examples that nobody had to score."""
    trials = paid(study)
    whole = max(trial.user_attrs["examples"] for trial in trials) * len(trials)
    saved = 1 - sum(trial.user_attrs["examples"] for trial in trials) / whole
    assert f"{100 * saved:.0f}" in re.findall(r"\d+", figure["title"])
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert f"{len(pruned)} of {len(trials)} trials" in figure["title"].replace("<br>", " ")


OWN: dict[tuple[str, str], Truth] = {
    ("free", "1-winner"): parameters_in_cells,
    ("evolved", "1-winner"): shares_in_cells,
    ("path", "1-winner"): hops_in_order,
    ("fronts", "1-winner"): front_and_baselines,
    ("groups", "1-winner"): parameters_in_cells,
    ("path", "3-importance"): layers_of_good_paths,
}
"""Cards that show something else in one of the searches."""
CARDS: dict[str, Truth] = {
    "2-progress": best_over_time,
    "3-importance": parts_of_a_whole,
    "4-examples": gained_and_lost,
    "5-lineage": ancestors_by_trial,
    "5-niches": scores_of_the_best,
    "5-population": median_by_generation,
    "5-pruning": examples_saved,
}
EXPECTED = {
    "free": {"1-winner", "2-progress", "3-importance", "5-population", "5-pruning"},
    "evolved": {"1-winner", "2-progress", "5-lineage", "5-niches"},
    "path": {"1-winner", "2-progress", "3-importance", "5-population"},
    "fronts": {"1-winner", "2-progress", "5-population"},
    "groups": {"1-winner", "2-progress", "3-importance", "4-examples"},
}
"""Cards that a search must have; it may have others."""


def check(search: str, key: str, figure: Figure, study: optuna.Study) -> None:
    """Asserts the values of a card."""
    truth = OWN.get((search, key)) or CARDS[key]
    truth(figure, study)
