"""The card of the winner, against trials, whole weight vectors and Optuna's own front."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.recipes import Panel
from merge_optuna.reports import _heat_map, _winner
from merge_optuna.reports._view import View
from merge_optuna.study import Ancestor, Lineage, layer_shares
from tests import toys
from tests.spaces.models import nets
from tests.spaces.searches import search
from tests.study.linears import Near, linears

optuna.logging.set_verbosity(optuna.logging.ERROR)

NETS = {net.name: net for net in nets()}
SIZES = {"w1": 32, "b1": 8, "w2": 32, "b2": 2}


def card(study: optuna.Study, sources: Mapping[str, Any] | None = None) -> Any:
    """What a browser gets."""
    figure = _winner.draw(View(study, sources))
    assert figure is not None
    text = figure.to_json()
    assert len(text) < 30_000
    return json.loads(text)


def size(model: nn.Module) -> float:
    return float(sum(parameter.abs().mean() for parameter in model.parameters()))


def heat_maps(figure: Any) -> dict[str, tuple[list[str], list[str], list[list[float]]]]:
    """Rows, columns and numbers by the name of the panel."""
    maps = [trace for trace in figure["data"] if trace["type"] == "heatmap"]
    return {one["name"]: (one["y"], one["x"], one["z"]) for one in maps}


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


# -- recipes with free numbers ----------------------------------------------------------------


def test_every_free_number_is_in_its_cell(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, lambda: toys.llama(layers=4))
    weight, density = mo.free(-1, 1, per="layer"), mo.free(0.1, 1)
    recipe = mo.recipes.dare_linear(base, experts, weight=weight, density=density)
    objective = mo.MergeObjective(recipe, size)
    declared = mo.MergeStudy("toy", objective, n_trials=4, sampler=optuna.samplers.RandomSampler())
    study = declared.run(f"sqlite:///{tmp_path}/s.db", progress=False)
    figure = card(study)
    found, best = heat_maps(figure), study.best_trial
    seen = {
        f"{name}/{model}" + ("" if row == "all" else f"/{row}"): z[i][j]
        for name, (rows, columns, z) in found.items()
        for i, row in enumerate(rows)
        for j, model in enumerate(columns)
    }
    assert seen == {name: rounded(value) for name, value in best.params.items()}
    assert found["weight"][0] == ["embed", "00", "01", "02", "03", "head"]
    title = figure["layout"]["meta"]["title"]
    assert f"Trial {best.number} won: score {best.value:.4g}" in title
    beaten = mo.baselines(study).best
    assert beaten is not None
    assert f"{abs(best.value - beaten.value):.4g}" in title
    assert beaten.name in title


def test_another_machine_has_no_sources(tmp_path: Path) -> None:
    """What was searched is in the names of the parameters."""
    base, *experts = toys.family(tmp_path / "m", experts=2)
    weight, lambda_ = mo.free(0, 1, per="layer"), mo.free(0.5, 1)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=weight, lambda_=lambda_)
    study = optuna.create_study(direction="maximize")
    study.optimize(mo.MergeObjective(recipe, size), n_trials=2)
    here = heat_maps(card(study))
    (tmp_path / "m").rename(tmp_path / "away")
    assert heat_maps(card(study)) == here


def test_the_coefficients_of_a_swarm() -> None:
    models = nets()
    space = mo.spaces.AffineSwarm(models[0], models[1:], sparsified=False)
    study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=0))
    study.optimize(mo.MergeObjective(space, size), n_trials=6)
    [(_, columns, [row])] = heat_maps(card(study, NETS)).values()
    params = study.best_params
    assert {f"weight/{n}": x for n, x in zip(columns, row, strict=True)} == {
        name: rounded(value) for name, value in params.items()
    }


def test_many_layers_stand_side_by_side() -> None:
    rng = np.random.default_rng(0)
    rows = ("embed", *(f"{i:02}" for i in range(32)), "head")
    given = {name: rng.random((34, 3)) for name in ("weight", "density")}
    panels = [Panel(name, rows, ("a", "b", "c"), values) for name, values in given.items()]
    scale = Panel("lambda_", ("all",), ("all",), np.array([[1.25]]))
    figure = _heat_map.drawn([*panels, scale], "title", "how").to_plotly_json()
    assert figure["layout"]["meta"]["subtitle"] == "how; lambda_\u00a01.25"
    assert figure["layout"]["height"] <= 450, "what the dashboard shows of a card"
    found = heat_maps(figure)
    assert found.keys() == given.keys()
    for name, (models, layers, z) in found.items():
        assert (*models,) == ("a", "b", "c")
        assert (*layers,) == rows
        np.testing.assert_allclose(np.array(z).T, given[name], rtol=1e-3)
    low, high = (figure["layout"][axis]["domain"] for axis in ("yaxis2", "yaxis"))
    assert low[1] < high[0], "none over another"


# -- evolved weights --------------------------------------------------------------------------


def by_layer(lineage: Lineage, mix: Callable[[Ancestor, Mapping[str, Any]], Any]) -> Any:
    """(layers, sources), by recursion over the elements of whole models, 1,000 times as many."""
    size = 1_000 * sum(SIZES.values())
    known: dict[int, Any] = {}
    for one in lineage.ancestors:
        if one.parents:
            known[one.trial] = mix(one, {n: known[number] for n, number in one.parents.items()})
        else:
            known[one.trial] = np.tile(np.array([*NETS]) == one.origin, (size, 1)).astype(float)
    ends = 1_000 * np.cumsum([*SIZES.values()])[:-1]
    return np.stack([part.mean(0) for part in np.split(known[lineage.trial.trial], ends)])


@pytest.mark.parametrize("kind", ["niches", "niches-noise", "map-elites"])
def test_shares_of_spliced_layers(kind: str) -> None:
    def mix(one: Ancestor, parents: Mapping[str, Any]) -> Any:
        a, b = parents["parent_a"], parents["parent_b"]
        before = np.arange(len(a)) < one.params["split"] * len(a)
        t = np.where(before, one.params["ratio"], 1 - one.params["ratio"])[:, None]
        return (1 - t) * a + t * b

    study = search(kind, None, 25)
    child = max(t.number for t in study.trials if t.params["origin"] == "child")
    [panel] = layer_shares(study, child, sources=NETS)
    assert panel.rows == (*SIZES,)
    assert panel.columns == (*NETS,)
    np.testing.assert_allclose(panel.values, by_layer(mo.lineage(study, child), mix), atol=2e-3)
    np.testing.assert_allclose(panel.values.sum(1), 1)
    [best] = layer_shares(study, sources=NETS)
    shown = heat_maps(card(study, NETS))["share"][2]
    assert shown == [[rounded(x) for x in row] for row in best.values]


def test_shares_of_crossed_layers() -> None:
    rng = np.random.default_rng(0)

    def mix(one: Ancestor, parents: Mapping[str, Any]) -> Any:
        target = parents["target"]
        mutant = target + one.params["F"] * (parents["donor_a"] - parents["donor_b"])
        return np.where(rng.random((len(target), 1)) < one.params["CR"], mutant, target)

    study = search("evolver", None, 12)
    child = max(t.number for t in study.trials if t.params["origin"] == "child")
    [panel] = layer_shares(study, child, sources=NETS)
    assert panel.rows == ("all",), "nothing that is drawn depends on the layer"
    for row in by_layer(mo.lineage(study, child), mix):
        np.testing.assert_allclose(panel.values[0], row, atol=0.05)


def test_shares_are_of_the_weights_that_were_merged() -> None:
    """A splice of models at right angles: its coefficients are those of the recipe."""
    study = search("niches", None, 25)
    child = next(t.number for t in study.trials if t.params["origin"] == "child")
    recipe = mo.recipe_of(study, child, sources=NETS)
    edges = np.cumsum([0, *SIZES.values()])
    starts = [*recipe.individual.starts, edges[-1]]
    factors = np.zeros((74, 3))
    for low, high, row in zip(starts, starts[1:], recipe.individual.coefficients, strict=False):
        factors[low:high] = row / row.sum()  # spherical ones sum to more than 1
    of_layers = [factors[low:high].mean(0) for low, high in itertools.pairwise(edges)]
    [panel] = layer_shares(study, child, sources=NETS)
    np.testing.assert_allclose(panel.values, of_layers, atol=0.1)


def test_shares_in_the_members_of_a_population() -> None:
    study = search("evolver-merged", None, 12)
    child = max(t.number for t in study.trials if t.params["origin"] == "child")
    [panel] = layer_shares(study, child, sources=NETS)
    members = mo.lineage(study, child).members
    assert members is not None
    assert panel.rows == panel.columns == (*NETS,)
    for row, slot in zip(panel.values, NETS, strict=True):
        assert [*row] == [members[slot].get(name, 0) for name in NETS]
    assert layer_shares(study, 0, sources=NETS) == (), "the merge of the models as they are"


def test_no_tensor_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuilding a trial reads all models, for angles or the weights of parents."""
    studies = [search(kind, None, 25) for kind in ("niches", "niches-noise", "evolver", "swarm")]

    def read(store: Any, name: str) -> Any:
        raise AssertionError(f"{name} is read")

    monkeypatch.setattr(type(nets()[0].store), "tensor", read)
    for study in studies:
        assert heat_maps(card(study, NETS))
    with pytest.raises(AssertionError, match="is read"):
        mo.recipe_of(studies[0], len(studies[0].trials) - 1, sources=NETS)


def test_shares_that_are_not_known() -> None:
    plain = optuna.create_study()
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="descends from no other"):
        layer_shares(plain)


# -- layer paths ------------------------------------------------------------------------------


def test_the_route_and_its_scales(tmp_path: Path) -> None:
    models = toys.family(tmp_path, lambda: toys.llama(layers=3), experts=2)[1:]
    space = mo.spaces.LayerPath(models, repeats=2)
    study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=1))
    study.optimize(mo.MergeObjective(space, size), n_trials=8)
    figure = card(study)
    written = study.best_trial.user_attrs["path"]
    hops = [re.fullmatch(r"([AB])(\d+)(?:×(.+))?", hop).groups() for hop in written.split("-")]  # type: ignore[union-attr]
    expected = {
        step: (["ja", "math"]["AB".index(model)], int(layer), float(scale or 1))
        for step, (model, layer, scale) in enumerate(hops, 1)
    }
    marks = [t for t in figure["data"] if t.get("mode") == "markers"]
    found = {
        step: (trace["name"].split()[0], layer, scale)
        for trace in marks
        for step, layer, scale in zip(trace["x"], trace["y"], trace["customdata"], strict=True)
    }
    assert {s: (m, y) for s, (m, y, _) in found.items()} == {
        s: (m, y) for s, (m, y, _) in expected.items()
    }
    assert [found[s][2] for s in found] == pytest.approx([expected[s][2] for s in found], rel=1e-2)
    bars = [t for t in figure["data"] if t["type"] == "bar"]
    tops = {x: 1 + y for bar in bars for x, y in zip(bar["x"], bar["y"], strict=True)}
    assert tops == pytest.approx({s: scale for s, (_, _, scale) in expected.items()}, rel=1e-2)
    [line] = [t for t in figure["data"] if t.get("mode") == "lines"]
    assert line["y"] == [layer for _, layer, _ in expected.values()]


# -- fronts -----------------------------------------------------------------------------------


class Two(Near):
    """How near the weights are to the last numbers, and how far from the first."""

    directions, metric_names = ("maximize", "minimize"), ("nearness", "distance")

    def value(self, scores: np.ndarray) -> tuple[float, float]:  # type: ignore[override]
        return float(scores[2:].mean()), float(scores[0] ** 2)


def test_the_front_beside_the_baselines() -> None:
    base, *experts = linears(0, 1, 2.5)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 2))
    objective = mo.MergeObjective(recipe, Two(0.2, 0.4, 1.5, 3))
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = mo.MergeStudy("two", objective, sampler=sampler, n_trials=40).run(progress=False)
    figure = card(study)
    traces = {trace["name"]: trace for trace in figure["data"]}
    points = {*zip(traces["front"]["x"], traces["front"]["y"], strict=True)}
    assert points == {(rounded(a), rounded(b)) for a, b in (t.values for t in study.best_trials)}
    others = {*zip(traces["other trials"]["x"], traces["other trials"]["y"], strict=True)}
    everybody = {(rounded(a), rounded(b)) for a, b in (t.values for t in study.trials)}
    assert points | others == everybody
    beside = traces["baselines"]
    shown = dict(
        zip(beside["customdata"], zip(beside["x"], beside["y"], strict=True), strict=True)
    )
    known = mo.baselines(study)
    assert {"base", "source a", "source b", "uniform average"} <= shown.keys()
    for name, at in shown.items():
        assert at == tuple(map(rounded, known[name].values or ()))
    written = [text for text in beside["text"] if text]
    assert written[0] == "base", "some names can be read, none lies over another"
    assert all(any(name.endswith(text) for name in shown) for text in written)
    assert figure["layout"]["height"] <= 450
    axes = [figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
    assert axes == ["nearness (higher is better)", "distance (lower is better)"]


def test_three_objectives_are_two_plots() -> None:
    study = optuna.create_study(directions=["maximize"] * 3)

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        x = trial.suggest_float("x", 0, 1)
        return x, 1 - x, x * (1 - x)

    study.optimize(objective, n_trials=10)
    figure = card(study)
    fronts = [trace for trace in figure["data"] if trace["name"].startswith("front")]
    assert [trace["yaxis"] for trace in fronts] == ["y", "y2"]
    for i, trace in enumerate(fronts, 1):
        found = {*zip(trace["x"], trace["y"], strict=True)}
        assert found == {(rounded(t.values[0]), rounded(t.values[i])) for t in study.best_trials}
    low, high = (figure["layout"][axis]["domain"] for axis in ("yaxis2", "yaxis"))
    assert low[1] < high[0]


# -- studies that have no winner --------------------------------------------------------------


def test_nothing_to_show() -> None:
    for directions in (["minimize"], ["minimize", "maximize"]):
        assert _winner.draw(View(optuna.create_study(directions=directions))) is None
    plain = optuna.create_study()
    plain.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert _winner.draw(View(plain)) is None


def test_sources_that_are_gone(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path / "models", experts=2)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    study = optuna.create_study(direction="maximize")
    study.optimize(mo.MergeObjective(recipe, size), n_trials=1)
    (tmp_path / "models").rename(tmp_path / "moved")
    [(rows, columns, z)] = heat_maps(card(study)).values()
    assert (rows, columns) == (["all"], ["ja", "math"])
    assert z == [[rounded(study.best_params[f"weight/{name}"]) for name in columns]]
    moved = {name: tmp_path / "moved" / name for name in ("base", "ja", "math")}
    assert "weight" in heat_maps(card(study, moved))
