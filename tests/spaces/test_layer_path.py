"""LayerPath: parameters and paths, the first generation, searches that are killed or crowded."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FixedTrial, TrialState
from scipy.stats import norm
from transformers import AutoModelForCausalLM

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, InfeasibleRecipe, RecipeError
from merge_optuna.spaces import LayerPath
from tests import processes, toys
from tests.samplers.storages import make_storage
from tests.spaces import routes

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Llamas, of two and three layers."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("ja", "math")):
        toys.save(toys.noised(toys.llama(seed, layers=2 + seed), seed), root / name)
    return root


@pytest.fixture(scope="module")
def models(folder: Path) -> list[mo.Checkpoint]:
    return routes.models(folder)


# -- Parameters ---------------------------------------------------------------------------


def drawn(space: LayerPath, seed: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return study.ask(space.distributions()).params


def hops_by_hand(params: dict[str, Any], scales: str, layout: str) -> list[tuple[Any, ...]]:
    """Two rounds through A0 A1 B0 B1 B2."""
    order = [("A", 0), ("A", 1), ("B", 0), ("B", 1), ("B", 2)]
    found: list[tuple[str, int, str]] = []
    for r in (1, 2):
        if layout == "paper":
            found += [(m, i, f"{r}/{m}{i}") for m, i in order if params[f"on/{r}/{m}{i}"] > 0]
        else:
            chosen = [(params[f"on/{r}/{i}"], i) for i in range(3)]
            found += [(m, i, f"{r}/{i}") for m, i in chosen if m != "skip"]
    made = []
    before = -1
    for t, (m, i, label) in enumerate(found):
        number = order.index((m, i))
        if scales == "hop":
            w = params[f"scale/{label}"]
        elif scales == "matrix":
            one = "{}{}".format(*order[before])
            w = 1.0 if before < 0 else params[f"scale/{one}/{m}{i}"]
        elif scales == "network":
            x = [2 * (before + 1) / 5 - 1, 2 * number / 5 - 1]
            x.append(2 * t / (10 if layout == "paper" else 6) - 1)
            z = params["network/40"]
            for unit in range(8):
                inner = sum(x[k] * params[f"network/{8 * k + unit}"] for k in range(3))
                z += (
                    math.tanh(inner + params[f"network/{24 + unit}"])
                    * params[f"network/{32 + unit}"]
                )
            w = 0.4 + 1.1 / (1 + math.exp(-z) * 5 / 6)
        else:
            w = 1.0
        made.append(("AB".index(m), i, pytest.approx(w)))
        before = number
    return made


@pytest.mark.parametrize("layout", ["paper", "depth"])
@pytest.mark.parametrize("scales", ["hop", "matrix", "network", "none"])
def test_paths_of_parameters(models: list[mo.Checkpoint], scales: Any, layout: Any) -> None:
    space = LayerPath(models, 2, scales, "stream", 1, 1, layout=layout)
    slots = {"paper": 10, "depth": 6}[layout]
    counts = {"hop": slots, "matrix": 25, "network": 41, "none": 0}
    assert len(space.distributions()) == slots + counts[scales]
    lengths = set()
    for seed in range(10):
        params = drawn(space, seed)
        recipe = space(FixedTrial(params))  # type: ignore[arg-type]
        assert recipe.path is not None
        assert list(map(tuple, recipe.path.hops)) == hops_by_hand(params, scales, layout)
        ends = recipe.path.scale_target, recipe.path.embeddings_from, recipe.path.head_from
        assert ends == ("stream", 1, 1)
        lengths.add(len(recipe.path.hops))
    assert len(lengths) > 2
    assert str(space.bind(space.start())) == "A0-A1"
    assert all(
        distribution._contains(distribution.to_internal_repr(space.start()[name]))
        for name, distribution in space.distributions().items()
    )


def test_a_path_to_begin_with(models: list[mo.Checkpoint]) -> None:
    for text in ("A0-B1×0.8-B2", "B2-A1-A1", "A0-A1×1.2-A0-B2"):
        space = LayerPath(models, 3, start=text)
        assert str(space.bind(space.start())) == text
    space = LayerPath(models, 2, start="A[0:2] B[0:3]")
    assert str(space.bind(space.start())) == "A0-A1-B0-B1-B2"


def test_the_first_generation(models: list[mo.Checkpoint]) -> None:
    """At the paper's size: 32 layers in two models, three times, so 384 parameters."""
    deep = [mo.Checkpoint.from_module(toys.llama(s, layers=32), name=f"m{s}") for s in (0, 1)]
    space = LayerPath(deep, 3, layout="paper")
    sampler = space.sampler(seed=0, population_size=64)
    study = optuna.create_study(sampler=sampler)
    trials = [study.ask(space.distributions()) for _ in range(64)]
    names = list(space.distributions())
    assert len(names) == 384
    x = np.array([[trial.params[name] for name in names] for trial in trials])
    low, high = np.array([[d.low, d.high] for d in space.distributions().values()]).T  # type: ignore[attr-defined]
    clipped = ((x == low) | (x == high)).any(axis=1).mean()
    assert clipped < 0.05
    start = np.array([space.start()[name] for name in names])
    sigma = np.array([1.0 if name.startswith("on/") else 0.125 for name in names])
    z = (x - start) / sigma
    assert abs(z.mean()) < 5 / math.sqrt(z.size)
    assert z.std() == pytest.approx(1, abs=0.02)
    # and without the engine, which draws again what is outside
    outside = norm.cdf((low - start) / sigma) + norm.sf((high - start) / sigma)
    assert 1 - np.prod(1 - outside) < 0.05
    on = x[:, [name.startswith("on/1/A") for name in names]] > 0
    assert on.mean() == pytest.approx(norm.cdf(2), abs=0.01)
    off = x[:, [name.startswith("on/") and "/1/A" not in name for name in names]] > 0
    assert off.mean() == pytest.approx(norm.sf(2), abs=0.01)


def test_the_first_generation_of_choices(models: list[mo.Checkpoint]) -> None:
    space = LayerPath(models, 2, start="A0-B1", keep=0.7, drop=0.1, insert=0.2)
    sampler = space.sampler(seed=0, population_size=500)
    study = optuna.create_study(sampler=sampler)
    drawn = [study.ask(space.distributions()).params for _ in range(500)]
    expected = {  # the third layer is of B alone, and not on the path
        "on/1/0": {"A": 0.7, "B": 0.2, "skip": 0.1},
        "on/1/1": {"A": 0.2, "B": 0.7, "skip": 0.1},
        "on/1/2": {"B": 0.2, "skip": 0.8},
        "on/2/0": {"A": 0.1, "B": 0.1, "skip": 0.8},
    }
    for name, row in expected.items():
        for choice, p in row.items():
            share = np.mean([params[name] == choice for params in drawn])
            assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 500))
    scales = np.array([params["scale/1/0"] for params in drawn])
    assert scales.mean() == pytest.approx(1, abs=0.03)
    assert scales.std() == pytest.approx(0.125, rel=0.15)
    one = LayerPath(models[:1], 1).sampler(seed=0)
    assert dict(one._algorithm.probabilities)["on/1/0"] == pytest.approx((0.95, 0.05))


def test_a_trial_has_no_scales_of_absent_layers(models: list[mo.Checkpoint]) -> None:
    space = LayerPath(models, 2, max_hops=4)
    study = optuna.create_study(sampler=space.sampler(seed=0, population_size=8))
    study.optimize(mo.MergeObjective(space, routes.Logits()), n_trials=40)
    for trial in study.trials:
        on = {n[3:] for n, choice in trial.params.items() if n[:3] == "on/" and choice != "skip"}
        scales = {name[6:] for name in trial.params if name.startswith("scale/")}
        assert scales == (on if 0 < len(on) <= 4 else set())
        if scales:
            assert mo.recipe_of(study, trial).path == space.bind(trial.params).path


def test_a_path_as_the_start(models: list[mo.Checkpoint]) -> None:
    route = mo.recipes.Route.parse("B0-A1×0.9", "stream")
    recipe = mo.recipes.path(route, models)
    for start in (route, recipe):
        space = LayerPath(models, 2, scale_target="stream", start=start)
        assert space.bind(space.start()).path == route
        with pytest.raises(RecipeError, match="about the stream: give scale_target='stream'"):
            LayerPath(models, start=start)
    with pytest.raises(RecipeError, match="must be a path through the models math, ja"):
        LayerPath(models[::-1], start=recipe)
    with pytest.raises(RecipeError, match="must be a path through the models ja, math"):
        LayerPath(models, start=mo.recipes.linear(models[:1]))


def test_spaces_of_former_databases(models: list[mo.Checkpoint]) -> None:
    """As 0.1.0.dev stored them."""
    for word, layout, name in (("real", "paper", "on/1/A0"), ("categorical", None, "layer/1/0")):
        space = LayerPath(models, 2, layout=layout or "depth")  # type: ignore[arg-type]
        stored = space.declaration()
        kept = {k: stored.options[k] for k in ("depths", "repeats", "scales", "max_hops")}
        text = replace(stored, options={**kept, "indicators": word}).to_yaml()
        read = mo.spaces._space.read(text)
        assert isinstance(read, mo.spaces._space.Declaration)
        again = read.open()
        assert name in again.distributions()
        assert str(again.bind(again.start())) == "A0-A1"  # type: ignore[attr-defined]
        assert (read.digest == stored.digest) == (layout == "paper")


def test_identical_paths_are_scored_once(models: list[mo.Checkpoint]) -> None:
    class Counted(routes.Logits):
        calls = 0
        deterministic, digest = True, {"dev": "00"}

        def __call__(self, model: torch.nn.Module) -> Any:
            Counted.calls += 1
            return super().__call__(model)

    space = LayerPath(models, 2, scales="none")
    pruner = optuna.pruners.NopPruner()
    study = optuna.create_study(sampler=space.sampler(seed=0), pruner=pruner)
    study.optimize(mo.MergeObjective(space, Counted()), n_trials=60)
    values: dict[str, set[float]] = {}
    for trial in study.trials:
        if trial.state == TrialState.COMPLETE:
            values.setdefault(trial.user_attrs["path"], set()).add(trial.value)  # type: ignore[arg-type]
    assert Counted.calls == len(values) < 50
    assert all(len(found) == 1 for found in values.values())


# -- Blocks -------------------------------------------------------------------------------


def test_blocks_by_hand(models: list[mo.Checkpoint]) -> None:
    space = LayerPath(models, layout="blocks", blocks=2, start="A0-A1-B2")
    sampler = space.sampler(seed=1, sigma0=0.4)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    seen = set()
    for _ in range(200):
        trial = study.ask()
        recipe = space(trial)
        params = trial.params
        path = ["A0", "A1", "B2"]
        pieces: dict[int, list[str]] = {}
        for i in (1, 2):
            if params[f"block/{i}/times"]:
                gene = {n: params[f"block/{i}/{n}"] for n in ("source", "start", "length", "at")}
                layers = [f"{gene['source']}{n}" for n in range({"A": 2, "B": 3}[gene["source"]])]
                first = min(gene["start"], len(layers) - 1)
                block = layers[first : first + gene["length"]] * params[f"block/{i}/times"]
                pieces[gene["at"]] = pieces.get(gene["at"], []) + block
            else:
                assert [n for n in params if n.startswith(f"block/{i}/")] == [f"block/{i}/times"]
        for at in sorted(pieces, reverse=True):
            path[at:at] = pieces[at]
        assert str(recipe) == "-".join(path)
        seen.add(len(path))
        study.tell(trial, float(len(path)))
    assert len(seen) > 5
    assert str(space.bind(space.start())) == "A0-A1-B2"


def test_blocks_beside_choices_and_of_one_model(models: list[mo.Checkpoint]) -> None:
    both = LayerPath(models, 1, blocks=1)
    params = {**both.start(), "block/1/times": 2, "block/1/start": 1, "block/1/length": 2}
    params |= {"block/1/source": "B", "block/1/at": 1, "scale/1/1": 0.5}
    assert str(both.bind(params)) == "A0-B1-B2-B1-B2-A1×0.5"
    one = LayerPath(models[1:], layout="blocks")
    assert "block/3/at" in one.distributions()
    assert not [n for n in one.distributions() if n.endswith("source") or "scale" in n]
    study = optuna.create_study(sampler=one.sampler(seed=0))
    objective = mo.MergeObjective(one, routes.Logits())
    study.optimize(objective, n_trials=30)
    paths = {trial.user_attrs["path"] for trial in study.trials}
    assert "A0-A1-A2" in paths
    assert len(paths) > 5
    best = mo.recipe_of(study)
    assert objective.score(best) == study.best_value
    assert LayerPath(models[1:], layout="blocks").digest == one.digest
    again = mo.spaces._space.read(one.to_yaml())
    assert again.open().bind(study.best_params).path == best.path  # type: ignore[union-attr]


# -- Trials -------------------------------------------------------------------------------


def test_infeasible_paths_are_pruned_with_the_reason(models: list[mo.Checkpoint]) -> None:
    space = LayerPath(models, max_hops=5)
    objective = mo.MergeObjective(space, routes.Logits())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.start())
    study.enqueue_trial({name: "skip" for name in space.distributions() if "on" in name})
    study.optimize(objective, n_trials=12)
    fine, empty, *others = study.trials
    assert fine.state == TrialState.COMPLETE
    assert fine.user_attrs["path"] == "A0-A1"
    assert empty.state == TrialState.PRUNED
    assert empty.user_attrs["reason"] == "The path is empty: no layer is on."
    reasons = {trial.user_attrs.get("reason") for trial in others}
    assert "The path has 6 layers, more than max_hops=5." in reasons
    assert objective.engine.views == {}  # the models of the path are the only ones
    with pytest.raises(InfeasibleRecipe, match="The path is empty"):
        mo.recipe_of(study, 1)


def test_a_search_finds_a_better_path_and_exports_it(folder: Path, tmp_path: Path) -> None:
    declared = routes.declared(folder)
    url = f"sqlite:///{tmp_path}/s.db"
    study = declared.run(url, progress=False)
    assert isinstance(declared.sampler, mo.samplers.CatCmaEsSampler)
    first = declared.objective.score(routes.models(folder)[0])
    assert study.best_value < first
    stored = optuna.load_study(study_name="dfs", storage=mo.storage(url))
    recipe = mo.recipe_of(stored)
    assert f"{recipe.path:.2f}" == study.best_trial.user_attrs["path"]
    written = AutoModelForCausalLM.from_pretrained(mo.export(stored, tmp_path / "out"))
    assert type(written).__name__ == "LlamaForCausalLM"
    assert len(written.model.layers) == len(recipe.path.hops)
    scores = np.concatenate([scores for _, scores in routes.Logits()(written.eval())])
    assert scores.mean() == pytest.approx(study.best_value, rel=1e-4)
    moved = folder.rename(tmp_path / "moved")
    try:
        sources = {name: moved / name for name in ("ja", "math")}
        assert mo.recipe_of(stored, sources=sources).digest == recipe.digest
        again = mo.export(stored, tmp_path / "again", sources=sources)
        one, other = (dict(mo.engine.tensors(mo.Checkpoint(f))) for f in (tmp_path / "out", again))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    finally:
        moved.rename(folder)


def test_after_a_search_in_parameter_space(models: list[mo.Checkpoint], tmp_path: Path) -> None:
    tuned = mo.Checkpoint(
        toys.save(toys.noised(toys.llama(0), 5), tmp_path / "tuned"), name="tuned"
    )
    ps = mo.MergeObjective(
        mo.recipes.linear([models[0], tuned], weight=mo.free(0, 1)), routes.Logits()
    )
    first = mo.MergeStudy("ps", ps, n_trials=5, baselines=False).run(progress=False)
    space = LayerPath([mo.recipe_of(first), models[1]], 2)
    objective = mo.MergeObjective(space, routes.Logits())
    study = optuna.create_study(sampler=space.sampler(seed=0))
    study.enqueue_trial(space.start())
    study.optimize(objective, n_trials=8)
    assert study.trials[0].value == pytest.approx(first.best_value, rel=1e-6)
    recipe = mo.recipe_of(study, study.trials[-1])
    written = AutoModelForCausalLM.from_pretrained(mo.write(recipe, tmp_path / "out"))
    scores = np.concatenate([scores for _, scores in routes.Logits()(written.eval())])
    assert scores.mean() == pytest.approx(study.trials[-1].value, rel=1e-4)


def test_pruners_see_batches(models: list[mo.Checkpoint]) -> None:
    space = LayerPath(models, 2)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    study = optuna.create_study(sampler=space.sampler(seed=1), pruner=pruner)
    study.optimize(mo.MergeObjective(space, routes.Logits()), n_trials=30)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert len(pruned) < 30
    for trial in pruned:
        assert trial.user_attrs["path"]
        assert "MedianPruner at step" in trial.user_attrs["reason"]


@pytest.mark.parametrize("sampler", ["own", "ga", "tpe", "nsga"])
def test_choices_are_for_other_samplers_too(models: list[mo.Checkpoint], sampler: str) -> None:
    space = LayerPath(models, 2)
    made = {
        "own": space.sampler(seed=0, population_size=8),
        "ga": mo.samplers.GASampler(
            space.distributions(), initial_population=[space.start()], population_size=8, seed=0
        ),
        "tpe": optuna.samplers.TPESampler(seed=0),
        "nsga": optuna.samplers.NSGAIISampler(seed=0, population_size=8),
    }
    study = optuna.create_study(sampler=made[sampler])
    study.optimize(mo.MergeObjective(space, routes.Logits()), n_trials=24)
    paths = [trial.user_attrs.get("path") for trial in study.trials]
    assert len(set(paths)) > 12
    assert (paths[0] == "A0-A1") == (sampler == "ga")


def test_first_trials_are_tried_once(models: list[mo.Checkpoint], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    space = LayerPath(models, 2)
    other = {**space.start(), "scale/1/1": 0.5}
    search = mo.MergeStudy(
        "s",
        mo.MergeObjective(space, routes.Logits()),
        n_trials=5,
        first=[space.start(), other],
        baselines=False,
    )
    search.run(url, n_trials=1, progress=False)
    study = search.run(url, progress=False)
    paths = [trial.user_attrs["path"] for trial in study.trials]
    assert paths[:2] == ["A0-A1", "A0-A1×0.50"]
    assert len(paths) == 5
    assert not {"A0-A1", "A0-A1×0.50"} & set(paths[2:])


def test_the_preset(models: list[mo.Checkpoint]) -> None:
    search = mo.presets.data_flow(models[1], models[:1], routes.Logits(), max_hops=7)
    assert (search.name, search.n_trials) == ("data-flow", 12_801)
    assert search.sampler.population_size() == 128  # type: ignore[union-attr]
    space = search.objective.space
    assert isinstance(space, LayerPath)
    assert space.recipe.model_names == ("ja", "math")
    assert len(space.distributions()) == 2 * 15
    begun = mo.presets.data_flow(None, models, routes.Logits(), start="B1-A0", repeats=3)
    assert str(begun.objective.space.recipe) == "B1-A0"
    small = mo.presets.data_flow(
        None, models, routes.Logits(), generations=2, population_size=4, scales="none"
    )
    study = small.run(progress=False)
    assert len(study.trials) == 9
    assert study.trials[0].user_attrs["path"] == "A0-A1"
    assert len(study.trials[1].params) == 15


# -- Path and weights at once -------------------------------------------------------------


def joint(folder: Path, **options: Any) -> LayerPath:
    """Paths through an average of two models, whose weights are free, and one of them."""
    one, other = (mo.Checkpoint(folder / name, name=name) for name in ("math", "other"))
    weight = mo.free(0, 1, per="layer")
    merged = mo.recipes.linear([one, other], weight=weight, normalize=False, name="merged")
    return LayerPath([merged, one], 1, **options)


@pytest.fixture(scope="module")
def three(folder: Path) -> Path:
    toys.save(toys.noised(toys.llama(1, layers=3), 7), folder / "other")
    return folder


def test_numbers_of_a_layer_are_there_while_it_is_on_the_path(three: Path) -> None:
    space = joint(three)
    study = optuna.create_study(sampler=space.sampler(seed=0, population_size=8))
    objective = mo.MergeObjective(space, routes.Logits())
    study.optimize(objective, n_trials=40)
    for trial in study.trials:
        on = {int(n[5:]) for n, choice in trial.params.items() if n[:3] == "on/" and choice == "A"}
        weights = {name for name in trial.params if name.startswith("merged/weight/math/")}
        places = {"embed", "head", *(f"{layer:02}" for layer in on)}
        known = {name.rpartition("/")[2] for name in weights}
        anywhere = any(choice != "skip" for n, choice in trial.params.items() if n[:3] == "on/")
        assert known == (places if anywhere else set())
    free = space.declaration().recipes["start"]
    assert free.slots
    for trial in study.trials[::9]:
        if trial.state != TrialState.COMPLETE:
            continue
        recipe = mo.recipe_of(study, trial)
        assert not recipe.slots
        assert objective.score(recipe) == trial.value
        merged = recipe.models[0]
        assert isinstance(merged, mo.Recipe)
        by_hand = mo.recipes.path(recipe.path, [merged, recipe.models[1]])  # type: ignore[arg-type]
        fresh = mo.MergeObjective(LayerPath([merged, recipe.models[1]], 1), routes.Logits())
        assert fresh.score(by_hand) == trial.value


def test_the_start_of_both_is_that_of_each(three: Path) -> None:
    space = joint(three, start="A0-B1-A2", scales="none")
    recipe = space.bind(space.start())
    assert str(recipe) == "A0-B1-A2"
    weights = {n: v for n, v in space.start().items() if n.startswith("merged/")}
    assert len(weights) == 2 * 5
    assert recipe == space.untuned()
    sampler = space.sampler(seed=0, population_size=200)
    study = optuna.create_study(sampler=sampler)
    drawn = [study.ask(space.distributions()).params for _ in range(200)]
    values = np.array([params["merged/weight/math/01"] for params in drawn])
    assert values.mean() == pytest.approx(weights["merged/weight/math/01"], abs=0.05)
    assert values.std() == pytest.approx(1 / 6, rel=0.2)


def test_an_exported_path_of_both_scores_the_same(three: Path, tmp_path: Path) -> None:
    space = joint(three)
    objective = mo.MergeObjective(space, routes.Logits())
    search = mo.MergeStudy("joint", objective, n_trials=12, baselines=False)
    url = f"sqlite:///{tmp_path}/s.db"
    search.run(url, n_trials=5, progress=False)
    study = search.run(url, progress=False)
    whole = search.run(progress=False)
    assert [(t.params, t.value) for t in study.trials] == [
        (t.params, t.value) for t in whole.trials
    ]
    written = AutoModelForCausalLM.from_pretrained(mo.export(study, tmp_path / "out"))
    scores = np.concatenate([scores for _, scores in routes.Logits()(written.eval())])
    assert scores.mean() == pytest.approx(study.best_value, rel=1e-4)
    again = optuna.load_study(study_name="joint", storage=mo.storage(url))
    assert mo.recipe_of(again).digest == mo.recipe_of(study).digest


# -- Processes ----------------------------------------------------------------------------


def test_killed_and_started_again(folder: Path, tmp_path: Path) -> None:
    """After the claim, and in the middle of the parameters."""
    names = {"whole": "sqlite", "claimed": "sqlite", "suggesting": "journal"}
    for name in names:
        (tmp_path / name).mkdir()
        for model in ("ja", "math"):
            (tmp_path / name / model).symlink_to(folder / model)

    def start(name: str, kill: int | None = None) -> processes.Running:
        return processes.call(routes.run, str(tmp_path / name), names[name], kill, cwd=tmp_path)

    first = [start("whole"), start("claimed", 2), start("suggesting", 9)]
    assert [running.wait().code for running in first] == [0, -9, -9]
    for again in [start("claimed"), start("suggesting")]:
        result = again.wait()
        assert result.code == 0, result.err
    complete = {}
    for name, kind in names.items():
        study = optuna.load_study(study_name="dfs", storage=make_storage(kind, tmp_path / name))
        done = [t for t in study.trials if t.state == TrialState.COMPLETE]
        complete[name] = [(t.params, t.value, t.user_attrs["path"]) for t in done]
        assert len(study.trials) == routes.TRIALS + (name != "whole")
    assert len(complete["whole"]) == routes.TRIALS
    assert complete["claimed"] == complete["suggesting"] == complete["whole"]


def test_blocks_go_on(folder: Path, tmp_path: Path) -> None:
    """Numbers of absent blocks are absent: what was learned of others is in the storage, too."""
    found = []
    for name, stops in (("whole", [26]), ("parts", [7, 15, 26])):
        for stop in stops:
            search = routes.declared(folder, layout="blocks")
            url = f"sqlite:///{tmp_path}/{name}.db"
            study = search.run(url, n_trials=stop, progress=False)
        found.append([(trial.params, trial.value) for trial in study.trials])
    assert found[0] == found[1]
    assert len({len(params) for params, _ in found[0]}) > 1


def test_workers(folder: Path, tmp_path: Path) -> None:
    for model in ("ja", "math"):
        (tmp_path / model).symlink_to(folder / model)
    make_storage("sqlite", tmp_path)
    running = [processes.call(routes.run, str(tmp_path), "sqlite", cwd=tmp_path) for _ in range(2)]
    for one in running:
        result = one.wait()
        assert result.code == 0, result.err
    study = optuna.load_study(study_name="dfs", storage=make_storage("sqlite", tmp_path))
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(done) == routes.TRIALS
    assert len({tuple(t.params.values()) for t in done}) == routes.TRIALS
    objective = routes.declared(tmp_path).objective
    for trial in done[::5]:
        recipe = mo.recipe_of(study, trial)
        assert f"{recipe.path:.2f}" == trial.user_attrs["path"]
        assert objective.score(recipe) == trial.value


# -- What is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": "hops"}, "scales must be one of hop, matrix, network, none, not 'hops'"),
        ({"scale_target": "tree"}, "scale_target must be 'branch' or 'stream', not 'tree'"),
        ({"layout": "wide"}, "layout must be one of depth, paper, blocks, not 'wide'"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1, not 0"),
        ({"max_hops": 0}, "max_hops must be a whole number of at least 1, not 0"),
        ({"max_hops": 1}, "begins with has 2 layers, more than max_hops=1"),
        ({"repeats": 1.5}, "repeats must be a whole number of at least 1, not 1.5"),
        ({"start": ["A0"]}, "start must be 'first', the text of a path or a path, not"),
        ({"blocks": -1}, "blocks must be a whole number of at least 0, not -1"),
        ({"keep": 1.5}, "keep must be a probability between 0 and 1, not 1.5"),
        ({"keep": 0.9, "drop": 0.1}, r"keep=0.9 and drop=0.1 leave nothing .* below 1"),
        ({"head_from": 2}, r"wants model 2; there are 0 \(A\), 1 \(B\)"),
        ({"head_from": "B"}, r"wants model 'B'; there are 0 \(A\), 1 \(B\)"),
        ({"start": "A7"}, "wants layer 7 of 'ja', which has 2, 0 to 1"),
        ({"start": "B1-A1", "repeats": 1}, "more than repeats=1 rounds .* its layer 1 none is"),
        ({"start": "A0×0.8", "scales": "none"}, "other than 1 only with scales='hop'"),
        ({"start": "A0×0.1"}, r"begins with are in \[0.4, 1.5\]"),
    ],
)
def test_options(models: list[mo.Checkpoint], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        LayerPath(models, **options)


def test_models_that_do_not_fit(models: list[mo.Checkpoint], tmp_path: Path) -> None:
    def of(model: torch.nn.Module) -> mo.Checkpoint:
        return mo.Checkpoint.from_module(model, name=type(model).__name__.lower())

    with pytest.raises(RecipeError, match=r"a vit; it can through those of llama, mistral, qwen2"):
        LayerPath([of(toys.vit())])
    with pytest.raises(CheckpointMismatch, match="model_type is 'gpt2' and 'llama'"):
        LayerPath([models[0], of(toys.gpt2())])
    with pytest.raises(CheckpointMismatch, match=r"their shapes differ in .*down_proj"):
        LayerPath([models[0], of(toys.llama(0, intermediate_size=40))])
    with pytest.raises(RecipeError, match=r"needs at least one model: LayerPath\(\[a, b\]\)"):
        LayerPath([])
    with pytest.raises(RecipeError, match="takes a list of models"):
        mo.presets.data_flow(None, routes.Logits(), models)  # type: ignore[arg-type]
    with pytest.raises(mo.errors.StudyError, match=r"objective= is what a trial does, mo\.Merge"):
        mo.MergeStudy("x", LayerPath(models), n_trials=3)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"Expected a recipe or a mo\.Checkpoint, not 'A0-A1'"):
        mo.write("A0-A1", tmp_path / "z")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="takes a list of models"):
        LayerPath(models[0])  # type: ignore[arg-type]
    with pytest.raises(
        RecipeError, match=r"'matrix' is for 12 layers .* 15: 225 scales.*'network'"
    ):
        LayerPath([models[0], of(toys.llama(0, layers=13))], scales="matrix")


def test_another_space(models: list[mo.Checkpoint], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"

    def search(**options: Any) -> mo.MergeStudy:
        space = LayerPath(models, **options)
        return mo.MergeStudy(
            "s", mo.MergeObjective(space, routes.Logits()), n_trials=2, baselines=False
        )

    search().run(url, progress=False)
    with pytest.raises(mo.errors.StudyError, match="max_hops=None, now 9"):
        search(max_hops=9).run(url, progress=False)
    with pytest.raises(mo.errors.StudyError, match=r"another space: path A\[?0.*, now A0-B1"):
        search(start="A0-B1").run(url, progress=False)
