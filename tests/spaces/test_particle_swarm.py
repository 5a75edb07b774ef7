"""ParticleSwarm: random numbers for every parameter, against whole vectors and plain equations."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import RecipeError, StudyError
from merge_optuna.samplers._protocol.places import CANDIDATE, keyed_rng
from merge_optuna.samplers.plumbing import own_claim
from tests import toys
from tests.methods import reference
from tests.samplers import replay
from tests.samplers.storages import make_storage
from tests.spaces import textbook
from tests.spaces.models import Net, Waves, flat, nets, scores_of

optuna.logging.set_verbosity(optuna.logging.ERROR)


def random_numbers(space: Any, seed: int, which: str) -> np.ndarray:
    """(D,) r1 or r2 of a step, drawn as the documentation says."""
    return np.concatenate(
        [
            reference.uniforms(reference.key(seed, which, name), (part.size,))
            for name, part in space.recipe.parts.items()
        ]
    )


def weights(recipe: mo.Recipe, compute: str = "float32") -> np.ndarray:
    tensors = mo.engine.tensors(recipe, dtype=getattr(torch, compute), compute_dtype=compute)
    return np.concatenate([tensor.numpy().ravel() for _, tensor in tensors])


def searched(space: Any, n_trials: int, seed: int = 0, **options: Any) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=seed, **options))
    study.optimize(mo.MergeObjective(space, Waves(200)), n_trials=n_trials)
    return study


def direct(space: Any, study: optuna.Study, constants: tuple[float, ...] = (0.2, 2, 2)) -> Any:
    """Every trial's individual by the equation, in float32, from the recorded parents."""
    w, c1, c2 = map(np.float32, constants)
    models = {
        name: weights(model) if isinstance(model, mo.Recipe) else flat(model).astype(np.float32)
        for name, model in zip(space.names, space.recipe.models, strict=True)
    }
    made: list[np.ndarray] = []
    for trial in study.trials:
        p = trial.params
        if p["origin"] != "child":
            made.append(models[p["origin"]])
            continue
        x, before, pbest, gbest = (
            made[p[role]] for role in ("position", "before", "pbest", "gbest")
        )
        r1, r2 = (random_numbers(space, p["seed"], r).astype(np.float32) for r in ("r1", "r2"))
        made.append(x + ((x - before) * w + (pbest - x) * c1 * r1 + (gbest - x) * c2 * r2))
    return made


def test_every_particle_is_the_equation_bit_for_bit() -> None:
    base, *experts = nets(3)
    for constants in ((0.2, 2.0, 2.0), (0.7, 1.5, 1.3)):
        w, c1, c2 = constants
        space = mo.spaces.ParticleSwarm(base, experts, w=w, c1=c1, c2=c2)
        study = searched(space, 50)
        assert [t.params["origin"] for t in study.trials[:6]] == [*space.names, "child"]
        for trial, expected in zip(study.trials, direct(space, study, constants), strict=True):
            assert np.array_equal(weights(space.rebuild(study, trial)), expected)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_swarm_of_whole_weight_vectors(seed: int) -> None:
    """In float64 and by the paper's loop, which scores and chooses by itself."""
    base, *experts = nets(3)
    space = mo.spaces.ParticleSwarm(base, experts, cache_bytes=0)
    initial = [weights(space.recipe_for(space.source(name)), "float64") for name in space.names]

    def value(x: np.ndarray) -> float:
        return float(np.sum(scores_of(x, 200)))

    def r(step: int, particle: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = int(keyed_rng(seed, CANDIDATE, step, particle).integers(2**32))
        return random_numbers(space, drawn, "r1"), random_numbers(space, drawn, "r2")

    study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        return value(weights(space(trial), "float64"))

    study.optimize(objective, n_trials=40)
    swarms = list(textbook.pso_merging(initial, value, r, steps=8))
    expected = np.concatenate([swarm.x for swarm in swarms])
    for trial, x in zip(study.trials, expected, strict=True):
        found = weights(space.rebuild(study, trial), "float64")
        assert np.abs(found - x).max() <= 1e-9 * np.abs(x).max(), trial.number
    assert study.best_value == swarms[-1].best_value > max(t.value for t in study.trials[:5])


def test_cached_or_replayed(tmp_path: Path) -> None:
    base, *experts = nets(3)

    def run(**options: Any) -> list[Any]:
        space = mo.spaces.ParticleSwarm(base, experts, **options)
        study = searched(space, 30)
        return [
            (t.params, t.value, weights(space.rebuild(study, t)).tobytes()) for t in study.trials
        ]

    plain, one = run(), 4 * 74  # nothing is forgotten by default
    for options in (
        {"cache_bytes": 0},
        {"cache_bytes": 3 * one},
        {"cache_folder": tmp_path, "cache_bytes": 3 * one},
    ):
        assert run(**options) == plain


def test_float64_models_are_not_cached_in_float32() -> None:
    models = [Net(seed).double() for seed in range(3)]
    base, *experts = [mo.Checkpoint.from_module(m, name=f"net{i}") for i, m in enumerate(models)]
    found = []
    for cache_bytes in (0, 1 << 30):
        space = mo.spaces.ParticleSwarm(base, experts, cache_bytes=cache_bytes)
        study = searched(space, 20)
        found.append(weights(space.rebuild(study, study.trials[-1]), "float64"))
    assert np.array_equal(*found)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_new_process_for_every_trial(kind: str, tmp_path: Path) -> None:
    base, *experts = nets(3)
    whole = searched(mo.spaces.ParticleSwarm(base, experts), 14)
    for _ in range(14):
        space = mo.spaces.ParticleSwarm(base, experts)
        study = optuna.create_study(
            study_name="s",
            storage=make_storage(kind, tmp_path),
            direction="maximize",
            sampler=space.sampler(seed=0),
            load_if_exists=True,
        )
        study.optimize(mo.MergeObjective(space, Waves(200)), n_trials=1)
    assert [(t.params, t.value) for t in study.trials] == [
        (t.params, t.value) for t in whole.trials
    ]


def test_from_the_database_alone(tmp_path: Path) -> None:
    base, *experts = toys.family(tmp_path, toys.gpt2, experts=2, dtype=torch.bfloat16)
    space = mo.spaces.ParticleSwarm(base, experts, seed=3, exclude="*ln*", w=0.4)
    live: list[dict[str, torch.Tensor]] = []

    def keep(model: nn.Module) -> float:
        live.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return len(live) % 7

    search = mo.MergeStudy("s", mo.MergeObjective(space, keep), n_trials=12, baselines=False)
    study = search.run(f"sqlite:///{tmp_path}/s.db", progress=False)
    assert isinstance(study.sampler, mo.samplers.SwarmSampler)
    again = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s.db")
    for number in (0, 4, 11):
        mo.export(again, tmp_path / "merged", trial=number, force=True)
        merged = mo.Checkpoint(tmp_path / "merged")
        for name in merged.names():
            assert torch.equal(merged.tensor(name), live[number][name]), (number, name)
    assert all(
        torch.equal(live[1][n], experts[0].tensor(n)) for n in merged.names() if "ln" not in n
    )
    assert all(torch.equal(live[11][n], base.tensor(n)) for n in merged.names() if "ln" in n)


# -- Failures and workers ---------------------------------------------------------------------


def test_a_particle_stays_where_a_candidate_has_failed() -> None:
    base, *experts = nets(3)
    space = mo.spaces.ParticleSwarm(base, experts)
    study = optuna.create_study(
        direction="maximize", sampler=space.sampler(seed=0, max_attempts=1)
    )
    failed = {0, 8, 13, 17}

    def evaluate(model: nn.Module) -> float:
        if len(study.trials) - 1 in failed:
            raise OSError
        return float(scores_of(flat(model), 200).mean())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(mo.MergeObjective(space, evaluate), n_trials=25)
    states = [t.state for t in study.trials]
    assert {i for i, state in enumerate(states) if state == TrialState.FAIL} == failed
    params = [t.params for t in study.trials]
    assert params[5]["origin"] in space.names, "the base could not be scored: once more a model"
    assert params[13]["position"] == 3, "not at 8"
    assert params[18]["position"] == 3
    assert params[18]["before"] == 3
    assert params[23]["position"] == 18
    assert params[23]["before"] == 3
    parents = [p.get(role) for p in params for role in ("position", "before", "pbest", "gbest")]
    assert not failed & set(parents)


def test_with_workers_nobody_waits() -> None:
    """Three to seven in flight: every claim is what the rules imply."""
    base, *experts = nets(3)
    space = mo.spaces.ParticleSwarm(base, experts)
    rng = np.random.default_rng(0)
    study = optuna.create_study(direction="minimize", sampler=space.sampler(seed=0))
    flying: list[optuna.Trial] = []
    for _ in range(45):
        while len(flying) < rng.integers(3, 8):
            trial = study.ask()
            space(trial)
            flying.append(trial)
        trial = flying.pop(int(rng.integers(len(flying))))
        study.tell(trial, float(rng.integers(20)))
    assert replay.contradictions(study.trials, study.sampler) == []
    assert replay.doubly_assigned(study.trials) == []
    further = [c for t in study.trials if (c := own_claim(t)) is not None and c.k > 0]
    assert further
    for trial in study.trials:
        for number in mo.spaces.parents_of(trial).values():
            assert study.trials[number].state == TrialState.COMPLETE


# -- What is refused --------------------------------------------------------------------------


def test_errors() -> None:
    base, a, b = nets(3)
    with pytest.raises(RecipeError, match=r"ParticleSwarm\(base, \[a, b\]\)"):
        mo.spaces.ParticleSwarm(base, [])
    with pytest.raises(StudyError, match=r"w between 0 and 1, got 1\.5"):
        mo.spaces.ParticleSwarm(base, [a], w=1.5)
    space = mo.spaces.ParticleSwarm(base, [a, b])
    objective = mo.MergeObjective(space, Waves())
    others = mo.spaces.DifferentialCrossover([base, a, b])
    with pytest.raises(StudyError, match=r"searches a mo\.spaces\.ParticleSwarm"):
        mo.samplers.SwarmSampler(others.distributions())
    with pytest.raises(StudyError, match="PSOSampler knows nothing of parents"):
        mo.samplers.PSOSampler(space.distributions())
    for sampler, message in (
        (optuna.samplers.TPESampler(seed=0), "TPESampler knows nothing of parents.*SwarmSampler"),
        (others.sampler(seed=0), "made for another space"),
    ):
        study = optuna.create_study(directions=objective.directions, sampler=sampler)
        with pytest.raises(StudyError, match=message):
            objective.check_study(study)
