"""M2N2's individuals as segments and coefficients, against slerp of whole flat vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from scipy.special import ndtri

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, RecipeError
from merge_optuna.methods.descent import Descent
from tests import toys
from tests.methods import reference
from tests.spaces import textbook
from tests.spaces.models import Net, Waves, flat, nets

optuna.logging.set_verbosity(optuna.logging.ERROR)


def wide(recipe: mo.Recipe) -> textbook.Vector:
    """The flat model, computed in float64."""
    found = mo.engine.tensors(recipe, dtype=torch.float64, compute_dtype="float64")
    tensors = dict(found)
    return np.concatenate([tensors[name].numpy().ravel() for name in recipe.parts])


def searched(
    space: mo.spaces.SplitSlerp, n_trials: int, seed: int = 0, **options: Any
) -> tuple[optuna.Study, mo.samplers.NichesSampler]:
    sampler = space.sampler(seed=seed, **options)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(mo.MergeObjective(space, Waves()), n_trials=n_trials)
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials)
    return study, sampler


def replayed(
    study: optuna.Study, seeds: Sequence[textbook.Vector], noise: Any = None, **options: Any
) -> list[tuple[textbook.Individual, list[textbook.Individual]]]:
    """The textbook's loop with the matings of a study; scores are the recorded ones."""
    recorded = iter(study.trials)
    matings = iter(study.trials[len(seeds) :])

    def evaluate(x: textbook.Vector) -> textbook.Vector:
        return mo.scores(study, next(recorded)).astype(np.float64)

    def decide(archive: list[textbook.Individual]) -> textbook.Mating:
        p = next(matings).params
        added = None if noise is None else noise(p["noise_seed"])
        return textbook.Mating(p["parent_a"], p["parent_b"], p["ratio"], p["split"], added)

    loop = textbook.m2n2(seeds, evaluate, decide, **options)
    return list(itertools.islice(loop, len(study.trials)))


@pytest.mark.parametrize("angle", ["global", "segment"])
@pytest.mark.parametrize("count", [2, 4])
def test_a_search_is_that_of_whole_vectors(angle: Any, count: int) -> None:
    models = nets(count)
    space = mo.spaces.SplitSlerp(models, angle=angle)
    study, sampler = searched(space, 400, archive_size=5)
    steps = replayed(study, [flat(model) for model in models], size=5, angle=angle)
    depth = dict.fromkeys(range(count), 0)
    for trial, (individual, _) in zip(study.trials, steps, strict=True):
        found = wide(space.rebuild(study, trial))
        assert np.abs(found - individual.x).max() <= 1e-6 * np.abs(individual.x).max()
        if trial.params["origin"] == "child":
            parents = trial.params["parent_a"], trial.params["parent_b"]
            assert parents[0] != parents[1]
            depth[trial.number] = 1 + max(depth[parent] for parent in parents)
    assert max(depth.values()) > 10
    assert {t.number for t in sampler.archive(study)} == {one.id for one in steps[-1][1]}


@pytest.mark.parametrize("angle", ["global", "segment"])
def test_two_hundred_generations(angle: Any) -> None:
    models = nets(3)
    space = mo.spaces.SplitSlerp(models, angle=angle)
    rng = np.random.default_rng(0)
    living = [(space.source(model.name), flat(model)) for model in models]
    for _ in range(200):
        i, j = rng.choice(3, 2, replace=False)
        split, ratio = rng.random(2)
        (a, x), (b, y) = living[i], living[j]
        params = {"split": split, "ratio": ratio}
        child = space.child(params, {"parent_a": a, "parent_b": b})
        living[i] = child, textbook.cross(x, y, ratio, split, angle)
    for symbol, x in living:
        assert np.abs(wide(space.recipe_for(symbol)) - x).max() <= 1e-6 * np.abs(x).max()
        starts = symbol.segments.starts
        assert len(starts) > 20
        for start, before in zip(starts, symbol.before, strict=True):
            vectors = np.stack([flat(model)[:start] for model in models])
            assert np.allclose(before, vectors @ vectors.T, rtol=1e-9)


def test_noise_is_a_function_of_its_seed() -> None:
    models = nets(2)
    space = mo.spaces.SplitSlerp(models, mutation_std=0.05)
    study, sampler = searched(space, 150, archive_size=5)

    def noise(seed: int) -> textbook.Vector:
        """Quantiles of SplitMix64's halves."""
        parts = [
            ndtri((_halves(reference.key(seed, "noise", name), part.size) + 0.5) / 2**32)
            for name, part in space.recipe.parts.items()
        ]
        return 0.05 * np.concatenate(parts)

    steps = replayed(study, [flat(model) for model in models], noise, size=5)
    for trial, (individual, _) in zip(study.trials, steps, strict=True):
        found = wide(space.rebuild(study, trial))  # ancestors are float32
        assert np.abs(found - individual.x).max() <= 2e-5 * np.abs(individual.x).max()
    assert {t.number for t in sampler.archive(study)} == {one.id for one in steps[-1][1]}


def _halves(key: int, n: int) -> textbook.Vector:
    return reference.splitmix64(key, (n + 1) // 2).view("<u4")[:n].astype(np.float64)


@pytest.mark.parametrize("cache_bytes", [0, 2 * 4 * 74, 1 << 20])
def test_what_is_kept_changes_nothing(cache_bytes: int, tmp_path: Any) -> None:
    models = nets(2)

    def run(**options: Any) -> list[tuple[dict[str, Any], list[float]]]:
        space = mo.spaces.SplitSlerp(models, mutation_std=0.05, **options)
        study, _ = searched(space, 60, archive_size=4)
        return [(t.params, list(mo.scores(study, t))) for t in study.trials]

    plain = run()
    assert run(cache_bytes=cache_bytes) == plain
    assert run(cache_bytes=cache_bytes, cache_folder=tmp_path / "parents") == plain


@pytest.mark.parametrize("mutation_std", [0.0, 0.01])
def test_live_bits_are_those_of_the_recipe(mutation_std: float) -> None:
    space = mo.spaces.SplitSlerp(nets(2, width=40), mutation_std=mutation_std)
    study, _ = searched(space, 40)
    for trial in study.trials[::5]:
        recipe = space.rebuild(study, trial)
        again = mo.Recipe.from_json(recipe.to_json()).with_sources(
            {model.name: model for model in recipe.leaves()}
        )
        assert again == recipe
        assert again.digest == recipe.digest
        plain = dict(mo.engine.tensors(again, fused=False))
        live = mo.Engine().load(recipe).state_dict()
        for name, tensor in mo.engine.tensors(recipe):
            assert torch.equal(tensor, plain[name])
            assert torch.equal(tensor, live[name])


def test_sources_are_themselves() -> None:
    models = nets(2)
    for std in (0.0, 0.01):
        space = mo.spaces.SplitSlerp(models, mutation_std=std)
        for model in models:
            tensors = dict(mo.engine.tensors(space.recipe_for(space.source(model.name))))
            assert all(torch.equal(tensors[name], model.tensor(name)) for name in tensors)


def test_ablations() -> None:
    space = mo.spaces.SplitSlerp(nets(3))
    study, _ = searched(space, 60, split_point=False)
    assert {t.params["split"] for t in study.trials[3:]} == {1.0}
    study, _ = searched(space, 60, attraction=False, alpha=0)
    assert any(t.params["parent_a"] == t.params["parent_b"] for t in study.trials[3:])
    noisy = mo.spaces.SplitSlerp(nets(3), mutation_std=0.01)
    study, _ = searched(noisy, 60, crossover=False)
    for trial in study.trials[3:]:
        assert trial.params["parent_a"] == trial.params["parent_b"]
    with pytest.raises(mo.errors.StudyError, match="every child is its parent"):
        space.sampler(crossover=False)


def test_splits_between_layers() -> None:
    folder_models = [
        mo.Checkpoint.from_module(toys.llama(seed, layers=3), name=f"m{seed}") for seed in (1, 2)
    ]
    space = mo.spaces.SplitSlerp(folder_models, snap="layer")
    parts = list(space.recipe.parts.values())
    assert [part.layer for part in parts] == sorted(
        (part.layer for part in parts), key=["embed", "00", "01", "02", "head"].index
    )
    firsts = {}
    for part in parts:
        firsts.setdefault(part.layer, part.offset)
    borders = {*firsts.values(), space.recipe.flat_size}
    places = {space.place(split) for split in np.linspace(0, 1, 101)}
    assert places == borders
    for split in np.linspace(0, 0.999, 57):
        exact = split * space.recipe.flat_size
        assert abs(space.place(split) - exact) <= min(abs(b - exact) for b in borders) + 1


def test_parallel_models_are_interpolated_linearly() -> None:
    a = mo.Checkpoint.from_module(Net(0), name="a")
    doubled = Net(0)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter *= 2
    b = mo.Checkpoint.from_module(doubled, name="b")
    space = mo.spaces.SplitSlerp([a, b])
    parents = {"parent_a": space.source("a"), "parent_b": space.source("b")}
    child = space.child({"split": 1.0, "ratio": 0.25}, parents)
    assert np.allclose(wide(space.recipe_for(child)), 1.25 * flat(a), rtol=1e-12)


def test_errors() -> None:
    models = nets(2)
    for arguments, message in (
        ({"seeds": models[:1]}, "at least two seeds"),
        ({"angle": "none"}, "angle must be"),
        ({"snap": "tensor"}, "snap must be"),
        ({"mutation_std": -1.0}, "mutation_std must not"),
    ):
        with pytest.raises(RecipeError, match=message):
            mo.spaces.SplitSlerp(**{"seeds": models, **arguments})
    other = mo.Checkpoint.from_module(Net(3, width=9), name="other")
    with pytest.raises(CheckpointMismatch, match="w1"):
        mo.spaces.SplitSlerp([*models, other])


def test_ten_thousand_results_keep_little() -> None:
    """What the living individuals take, however large the models are."""
    space = mo.spaces.SplitSlerp(nets(2, width=400))
    study, sampler = searched(space, 600, archive_size=20)
    living = [space.individual(study, t.number) for t in sampler.archive(study)]
    assert sum(one.nbytes for one in living) < 200_000


def test_the_graph_of_ancestors_is_shared() -> None:
    space = mo.spaces.SplitSlerp(nets(2), mutation_std=0.01)
    study, _ = searched(space, 100, archive_size=5)
    last = space.individual(study, 99)
    order = Descent(last).order(cached=False)
    assert len({one.digest for one in order}) == len(order)


def test_the_parents_are_an_attribute() -> None:
    study, _ = searched(mo.spaces.SplitSlerp(nets(2)), 12)
    for trial in study.trials:
        parents = {k: trial.params[k] for k in ("parent_a", "parent_b") if k in trial.params}
        assert trial.user_attrs.get("parents", {}) == parents  # alone, without failures
