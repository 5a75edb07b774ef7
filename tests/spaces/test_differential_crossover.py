"""Evolver's individuals by their ancestors, against differential evolution on flat vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, RecipeError, StudyError
from merge_optuna.samplers import JDE, SHADE
from tests import toys
from tests.methods import reference
from tests.spaces import textbook
from tests.spaces.models import Net, Waves, flat, nets

optuna.logging.set_verbosity(optuna.logging.ERROR)

MERGERS = {
    "average": lambda models: mo.recipes.linear(models),
    "ties": lambda models: mo.recipes.ties(
        mo.Checkpoint.from_module(Net(9), name="base"), models, density=0.5
    ),
}


def narrow(recipe: mo.Recipe) -> textbook.Vector:
    """The flat model, float32 as float64."""
    tensors = dict(mo.engine.tensors(recipe))
    return np.concatenate([tensors[name].double().numpy().ravel() for name in tensors])


def searched(
    space: mo.spaces.DifferentialCrossover, n_trials: int, seed: int = 0, **options: Any
) -> optuna.Study:
    sampler = space.sampler(seed=seed, **options)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(mo.MergeObjective(space, Waves(200)), n_trials=n_trials)
    assert all(t.state == optuna.trial.TrialState.COMPLETE for t in study.trials)
    return study


def mask_of(space: mo.spaces.DifferentialCrossover, seed: int, CR: float) -> textbook.Mask:
    """(D,) what comes from the mutant, drawn as the documentation says."""
    parts = []
    for name, part in space.recipe.parts.items():
        shape = space.frame.shape(name)
        size, kind = int(np.prod(shape)), space.granularity
        if kind == "parameter":
            drawn = reference.mask(reference.key(seed, kind, name), (size,), CR)
        elif kind == "row":
            rows = shape[0] if len(shape) > 1 else 1
            drawn = reference.mask(reference.key(seed, kind, name), (rows,), CR)
            drawn = np.repeat(drawn, size // rows)
        else:
            group = name if kind == "tensor" else part.layer
            drawn = reference.mask(reference.key(seed, kind, group), (1,), CR).repeat(size)
        parts.append(drawn)
    return np.concatenate(parts)


def direct(
    space: mo.spaces.DifferentialCrossover, study: optuna.Study, models: Sequence[Any]
) -> list[np.ndarray]:
    """Every trial's child by the equations, in float32, each from the recorded parents."""
    born = {model.name: flat(model).astype(np.float32) for model in models}
    children: dict[int, np.ndarray] = {}
    for trial in study.trials:
        p = trial.params
        if p["origin"] != "child":
            if p["origin"] in born:
                children[trial.number] = born[p["origin"]]
            continue
        if space.merger is None:
            roles = [children[p[r]] for r in ("target", "donor_a", "donor_b") if r in p]
        else:
            now = {n: children.get(p[f"member/{n}"], born[n]) for n in born}
            roles = [now[p[r]] for r in ("target", "donor_a", "donor_b") if r in p]
        target, a, b = (*roles, roles[0])[:3]
        mutant = target + (a - b) * np.float32(p["F"])
        children[trial.number] = np.where(mask_of(space, p["mask_seed"], p["CR"]), mutant, target)
    return [children.get(trial.number) for trial in study.trials]


@pytest.mark.parametrize("granularity", ["parameter", "row", "tensor", "layer"])
@pytest.mark.parametrize("mutation", ["difference", "toward"])
def test_children_are_bit_for_bit_the_direct_ones(mutation: Any, granularity: Any) -> None:
    models = nets(4)
    space = mo.spaces.DifferentialCrossover(models, mutation=mutation, granularity=granularity)
    study = searched(space, 60)
    for trial, expected in zip(study.trials, direct(space, study, models), strict=True):
        assert np.array_equal(narrow(space.rebuild(study, trial)), expected.astype(np.float64))
    if granularity == "parameter":
        shares = [
            mask_of(space, t.params["mask_seed"], t.params["CR"]).mean() for t in study.trials[4:]
        ]
        assert abs(np.mean(shares) - 0.5) < 0.05


@pytest.mark.parametrize("mutation", ["difference", "toward"])
@pytest.mark.parametrize("scoring", ["individual", "average", "ties"])
def test_who_survives(mutation: Any, scoring: str) -> None:
    """The textbook's loop with recorded values: its targets and donors are those of the study."""
    models = nets(4)
    merger = MERGERS[scoring](models) if scoring in MERGERS else None
    space = mo.spaces.DifferentialCrossover(models, mutation=mutation, merger=merger)
    first = 1 if merger else 4
    study = searched(space, first + 84)
    names = [model.name for model in models]
    values = iter([t.value for t in study.trials])
    crosses = iter(study.trials[first:])
    donors = ["donor_a", "donor_b"][: 2 if mutation == "difference" else 1]
    living: list[int] = [0] * 4 if merger else [0, 1, 2, 3]  # ids, by slot
    accepted = []

    def decide(generation: int, target: int) -> textbook.Cross:
        trial = next(crosses)
        p = trial.params
        if merger:
            assert p["target"] == names[target]
            assert [p[f"member/{name}"] for name in names] == living
            slots = [names.index(p[donor]) for donor in donors]
        else:
            assert p["target"] == living[target]
            slots = [living.index(p[donor]) for donor in donors]
        assert target not in slots
        assert len(set(slots)) == len(slots)
        return textbook.Cross(tuple(slots), mask_of(space, p["mask_seed"], p["CR"]), p["F"])

    loop = textbook.evolver(
        [flat(model) for model in models],
        lambda x: next(values),
        decide,
        generations=21,
        merge=(lambda population: np.mean(population, axis=0)) if merger else None,
    )
    bred = direct(space, study, models)
    for trial, change in zip(study.trials[first:], loop, strict=True):
        assert change.value == trial.value
        assert np.allclose(bred[trial.number], change.child, rtol=1e-4, atol=1e-4)
        if change.accepted:
            living[change.target] = trial.number
            accepted.append(trial.number)
    assert len(accepted) >= 3


def test_cached_or_replayed(tmp_path: Path) -> None:
    models = nets(4)

    def run(**options: Any) -> list[Any]:
        space = mo.spaces.DifferentialCrossover(models, **options)
        study = searched(space, 60)
        return [
            (t.params, t.value, narrow(space.rebuild(study, t)).tobytes()) for t in study.trials
        ]

    plain = run()
    one = 4 * 74
    for options in (
        {"cache_bytes": 0},
        {"cache_bytes": 2 * one},
        {"cache_folder": tmp_path / "all"},
        {"cache_folder": tmp_path / "some", "cache_bytes": 2 * one},
        {"cache_folder": tmp_path / "all"},  # finds the files of the first
    ):
        assert run(**options) == plain
    assert len(list((tmp_path / "some").iterdir())) == 2


@pytest.mark.parametrize("scoring", ["average", "ties"])
def test_what_is_exported_is_the_merge_of_the_population(scoring: str, tmp_path: Path) -> None:
    bases = [toys.bert(seed) for seed in range(4)]
    folders = []
    for i, model in enumerate(bases):
        model.save_pretrained(tmp_path / f"m{i}")
        folders.append(mo.Checkpoint(tmp_path / f"m{i}", name=f"m{i}"))
    base, *models = folders
    merge = (
        (lambda them: mo.recipes.linear(them))
        if scoring == "average"
        else (lambda them: mo.recipes.ties(base, them, density=0.4))
    )
    space = mo.spaces.DifferentialCrossover(models, merger=merge(models))
    study = searched(space, 25)
    trial = study.trials[-1]
    plain = mo.spaces.DifferentialCrossover(models)
    born = dict(zip([m.name for m in models], models, strict=True))
    individual = space.individual(study, trial.number)
    members = []
    for name in born:
        one = individual[name]
        recipe = plain.recipe.with_individual(type(plain.recipe.individual)(one))
        mo.write(recipe, tmp_path / f"alone-{name}")
        members.append(mo.Checkpoint(tmp_path / f"alone-{name}", name=name))
    expected = dict(mo.engine.tensors(merge(members)))
    mo.export(study, tmp_path / "merged", trial=trial)
    written = mo.Checkpoint(tmp_path / "merged")
    assert all(torch.equal(written.tensor(name), expected[name]) for name in expected)
    again = mo.Recipe.from_yaml(tmp_path / "merged/recipe.yaml")
    for name, tensor in mo.engine.tensors(again):
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("adaptation", [JDE(tau=0.5), SHADE(memory=4)])
@pytest.mark.parametrize("merged", [False, True])
def test_adaptation(adaptation: Any, merged: bool) -> None:
    models = nets(4)
    merger = mo.recipes.linear(models) if merged else None
    space = mo.spaces.DifferentialCrossover(models, merger=merger)
    study = searched(space, 60, adaptation=adaptation)
    children = [t.params for t in study.trials if t.params["origin"] == "child"]
    assert len({p["F"] for p in children}) > 3
    assert all(0 < p["F"] <= 1 and 0 <= p["CR"] <= 1 for p in children)


def test_a_generation_without_change_can_end_a_search() -> None:
    models = nets(4)
    for merger in (None, mo.recipes.linear(models)):
        space = mo.spaces.DifferentialCrossover(models, merger=merger)
        study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=1))
        rule = mo.callbacks.UnchangedGeneration(4)
        study.optimize(mo.MergeObjective(space, Waves(30)), n_trials=300, callbacks=[rule])
        assert len(study.trials) < 300
        values = [t.value for t in study.trials]
        won = []
        for trial in study.trials[1 if merger else 4 :]:
            before = max(values[: trial.number]) if merger else values[trial.params["target"]]
            won.append(trial.value > before)
        assert not any(won[-4:])
        assert all(any(won[i : i + 4]) for i in range(len(won) - 4))


def test_presets() -> None:
    models = nets(3)
    base = mo.Checkpoint.from_module(Net(9), name="base")
    for merger, first in ((None, 3), ("average", 1), ("ties", 1), (MERGERS["ties"](models), 1)):
        search = mo.presets.evolver(base, models, Waves(), merger=merger, generations=4)
        assert search.n_trials == first + 12
        study = search.run(progress=False)
        assert len(study.trials) == first + 12
        recipe = mo.recipe_of(study, sources=search.sources)
        assert search.objective.score(recipe) == study.best_value
    search = mo.presets.m2n2(base, models, Waves(), n_trials=30)
    study = search.run(progress=False)
    assert [t.params["origin"] for t in study.trials[:5]] == [
        "base",
        "net0",
        "net1",
        "net2",
        "child",
    ]
    with pytest.raises(RecipeError, match="needs the base"):
        mo.presets.evolver(None, models, Waves(), merger="ties")


def test_errors() -> None:
    models = nets(3)
    for arguments, message in (
        ({"population": models[:1]}, "at least 2 models, not 1"),
        ({"population": models[:2], "mutation": "difference"}, "Use mutation='toward'"),
        ({"mutation": "best"}, "mutation must be"),
        ({"granularity": "column"}, "granularity must be"),
        ({"merger": "ties"}, "merger must be a recipe"),
        ({"merger": mo.recipes.linear(models[:2])}, "same models in the same order"),
        ({"merger": mo.recipes.linear(models, weight=mo.free(0, 1))}, "free numbers"),
    ):
        with pytest.raises(RecipeError, match=message):
            mo.spaces.DifferentialCrossover(**{"population": models, **arguments})
    other = mo.Checkpoint.from_module(Net(3, width=9), name="other")
    with pytest.raises(CheckpointMismatch, match="w1"):
        mo.spaces.DifferentialCrossover([*models, other])
    space = mo.spaces.DifferentialCrossover(models)
    with pytest.raises(StudyError, match="scoring='merged'"):
        space.sampler(scoring="merged")


def test_a_model_that_cannot_be_scored_leaves_the_others() -> None:
    models = nets(4)
    space = mo.spaces.DifferentialCrossover(models)
    waves = Waves()
    broken = flat(models[2])[0]

    def evaluate(model: torch.nn.Module) -> float:
        if flat(model)[0] == broken and np.array_equal(flat(model), flat(models[2])):
            raise RuntimeError("cannot be scored")
        return float(np.mean(next(waves(model))[1]))

    study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=0))
    study.optimize(mo.MergeObjective(space, evaluate), n_trials=40)
    failed = [t for t in study.trials if t.state == optuna.trial.TrialState.FAIL]
    assert [t.params["origin"] for t in failed] == ["net2"] * 3
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(complete) == 37
    lost = 2  # its place in the log: it is ranked last, nobody's parent
    for trial in complete[3:]:
        assert lost not in [trial.params[r] for r in ("target", "donor_a", "donor_b")]
