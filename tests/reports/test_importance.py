"""The card ``3-importance`` of searches whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from plotly.graph_objects import Figure

import merge_optuna as mo
from merge_optuna._schema import PATH, SPACE
from merge_optuna.reports import figures
from merge_optuna.reports._view import View
from tests.reports import stored
from tests.toys import family

TRIALS = 200


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> mo.Recipe:
    base, ja, math = family(tmp_path_factory.mktemp("family"))[:3]
    weight = mo.free(0, 1, per="layer")
    density = mo.free(0.1, 1, per="layer")
    return mo.recipes.ties(base, [ja, math], weight=weight, density=density, normalize=False)


def random_search(
    recipe: mo.Recipe, value: Callable[[Mapping[str, float]], float], seed: int = 0
) -> optuna.Study:
    study = stored.study()
    study.set_user_attr(SPACE, recipe.to_yaml())
    rng, space = np.random.default_rng(seed), recipe.distributions()
    for _ in range(TRIALS):
        params = {name: float(rng.uniform(d.low, d.high)) for name, d in space.items()}
        stored.trial(study, value(params), params=params, space=space)
    return study


def card(study: optuna.Study) -> Figure:
    return figures(study)["3-importance"]


def bars(figure: Figure) -> list[dict[str, float]]:
    """Of each panel, percent by label."""
    return [labelled(trace) for trace in figure.data if trace.type == "bar"]


def labelled(trace: Any) -> dict[str, float]:
    upright = isinstance(trace.x[0], str)
    labels, numbers = (trace.x, trace.y) if upright else (trace.y, trace.x)
    return dict(zip(labels, numbers, strict=True))


def test_one_layer_of_one_model_decides(recipe: mo.Recipe) -> None:
    study = random_search(recipe, lambda params: params["weight/math/01"])
    layer, model, parameter = bars(card(study))
    labels = [slot.layer for slot in recipe.slots if slot.name.startswith("weight/math")]
    assert [*layer] == labels  # from input to output
    for panel, answer in ((model, "math"), (layer, "01"), (parameter, "weight")):
        assert max(panel, key=panel.__getitem__) == answer
        assert panel[answer] > 75
        assert all(share < 15 for label, share in panel.items() if label != answer)
    title = card(study).layout.meta["title"]
    assert all(word in title for word in ("model math", "layer 01", "parameter weight"))


def test_where_nothing_decides_nothing_stands_out(recipe: mo.Recipe) -> None:
    rng = np.random.default_rng(1)
    figure = card(random_search(recipe, lambda params: float(rng.random()), seed=3))
    marks = [labelled(trace) for trace in figure.data if trace.type == "scatter"]
    pairs = zip(bars(figure), marks, strict=True)
    found = [(share, chance[label]) for bar, chance in pairs for label, share in bar.items()]
    assert sum(share > chance for share, chance in found) <= 2
    assert all(share < 15 for share, _ in found)


def test_pruned_trials_are_the_worst(recipe: mo.Recipe) -> None:
    study = stored.study()
    rng, space = np.random.default_rng(2), recipe.distributions()
    for _ in range(TRIALS):
        params = {name: float(rng.uniform(d.low, d.high)) for name, d in space.items()}
        if params["density/ja/00"] < 0.6:
            stored.trial(study, params=params, space=space, state=TrialState.PRUNED)
        else:
            stored.trial(study, 0.5, params=params, space=space)
    study.set_user_attr(SPACE, recipe.to_yaml())
    _, model, parameter = bars(card(study))
    assert model["ja"] > 30 > model["math"]
    assert parameter["density"] > 30 > parameter["weight"]


def test_ids_seeds_and_origins_are_left_out() -> None:
    study = stored.study()
    rng = np.random.default_rng(3)
    space = {
        "origin": CategoricalDistribution(["a", "child"]),
        "parent_a": IntDistribution(0, 2**31 - 1),
        "noise_seed": IntDistribution(0, 2**32 - 1),
        "split": FloatDistribution(0, 1),
        "ratio": FloatDistribution(0, 1),
    }
    for i in range(100):
        ratio = float(rng.random())
        params = {"origin": "child", "parent_a": i, "noise_seed": i, "split": float(rng.random())}
        stored.trial(study, ratio, params={**params, "ratio": ratio}, space=space)
    (panel,) = bars(card(study))
    assert set(panel) == {"split", "ratio"}
    assert panel["ratio"] > 75 > 15 > panel["split"]


def test_sources_that_are_gone_leave_names(recipe: mo.Recipe, tmp_path: Path) -> None:
    study = random_search(recipe, lambda params: params["weight/math/01"])
    gone = recipe.to_yaml().replace(str(Path(recipe.checkpoints()[0].ref).parent), str(tmp_path))
    assert gone != recipe.to_yaml()
    study.set_user_attr(SPACE, gone)
    (panel,) = bars(card(study))
    assert set(panel) == {"weight", "density"}


def test_two_objectives(recipe: mo.Recipe) -> None:
    study = stored.study("maximize", "minimize", metrics=["accuracy", "loss"])
    study.set_user_attr(SPACE, recipe.to_yaml())
    rng, space = np.random.default_rng(4), recipe.distributions()
    for _ in range(TRIALS):
        params = {name: float(rng.uniform(d.low, d.high)) for name, d in space.items()}
        x, noise = params["weight/ja/00"], float(rng.random())
        stored.trial(study, x + noise, noise - x, params=params, space=space)
    layer, model, _ = bars(card(study))
    assert model["ja"] > 30 > model["math"]
    assert max(layer, key=layer.__getitem__) == "00"


def test_many_layers_stand_together_and_the_card_stays_small() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: sum(t.suggest_float(f"x{i}", 0, 1) for i in range(100)), n_trials=60)
    figure = card(study)
    (panel,) = bars(figure)
    assert len(panel) == 6
    assert "95 others" in panel
    assert len(figure.to_json()) < 30_000


def test_too_few_trials() -> None:
    study = optuna.create_study()
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_float("y", 0, 1), n_trials=20)
    assert "3-importance" not in figures(study)


def test_good_paths_share_layers() -> None:
    study = stored.study()
    rng = np.random.default_rng(5)
    paths = []
    for _ in range(100):
        layers = [f"{m}{k}" for m in "AB" for k in range(3) if rng.random() < 0.6] or ["A0"]
        paths.append(layers)
        value = 1.0 * ("B1" in layers) - ("A2" in layers) + 0.1 * float(rng.random())
        stored.trial(study, value, **{PATH: "-".join([layers[0], *layers])})
    good, every = card(study).data
    values = [trial.value for trial in study.trials]
    best = [paths[i] for i in np.argsort(values)[::-1][:10]]
    for heat, some in ((good, best), (every, paths)):
        shares = [
            [100 * np.mean([f"{m}{k}" in path for path in some]) for m in "AB"] for k in range(3)
        ]
        np.testing.assert_allclose(heat.z, shares, atol=0.51)
    assert good.z[1][1] == 100
    assert good.z[2][0] == 0
    assert "share B1" in card(study).layout.meta["title"]


def test_places_of_all_granularities(recipe: mo.Recipe) -> None:
    """Every slot says the same as its name, however it is made."""
    base, ja, math = recipe.checkpoints()[:3]
    made = mo.recipes.ties(
        base,
        [ja, math],
        weight=mo.free(0, 1, per="module"),
        density={"mlp": mo.free(0.1, 1, per=2), "*": mo.free(0.1, 1, per=mo.depth(2))},
        lambda_=mo.free(0, 2),
        normalize=False,
    )
    found = {slot.name: (slot.parameter, slot.model, slot.layer) for slot in made.slots}
    assert found["weight/ja/01/mlp"] == ("weight/mlp", "ja", "01")
    assert found["density/math/mlp/00-01"] == ("density/mlp", "math", "00-01")
    assert found["density/math/*/d1"] == ("density/*", "math", "d1")
    assert found["lambda_"] == ("lambda_", "", "")
    tensors = mo.recipes.linear([ja, math], weight=mo.free(0, 1, per="tensor"), normalize=False)
    by_layer = {slot.layer for slot in tensors.slots}
    assert by_layer == {"embed", "00", "01", "head"}
    assert len(tensors.slots) > 20
    shared = mo.recipes.linear([base, ja, math], weight=mo.free(0, 1))
    assert [(slot.name, slot.parameter, slot.model) for slot in shared.slots] == [
        ("share/base", "weight", "base against 2 others"),
        ("share/ja", "weight", "ja against math"),
    ]
    assert View(stored.study()).recipes == {}
