"""AffineSwarm: a swarm of coefficients is the paper's swarm of whole weight vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor, nn

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch, RecipeError, StudyError
from merge_optuna.samplers._protocol.places import CANDIDATE, keyed_rng
from merge_optuna.samplers.plumbing import own_claim
from tests import processes, toys
from tests.samplers.storages import make_storage
from tests.spaces import driver, textbook

optuna.logging.set_verbosity(optuna.logging.ERROR)

STEPS = 50
FINE, PRUNED, FAILED = range(3)


# -- The paper's swarm ------------------------------------------------------------------------


class Net(nn.Module):
    """67 parameters in float64, so that everything is computed in float64."""

    def __init__(self, seed: int, around: Net | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in {"a": (7, 5), "b": (31,), "c": ()}.items():
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            if around is not None:
                values = getattr(around, name).detach() + 0.3 * values
            self.register_parameter(name, nn.Parameter(values))


def flat(model: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy()


def weights(recipe: mo.Recipe | mo.Checkpoint) -> np.ndarray:
    tensors = mo.engine.tensors(recipe, dtype=torch.float64, compute_dtype="float64")
    return torch.cat([tensor.reshape(-1) for _, tensor in tensors]).numpy()


def nets(experts: int = 2) -> list[mo.Checkpoint]:
    base = Net(0)
    made = {"base": base, **{f"e{i}": Net(1 + i, base) for i in range(experts)}}
    return [mo.Checkpoint.from_module(net, name=name) for name, net in made.items()]


TARGET = flat(Net(1)) * 0.4 + flat(Net(2)) * 0.3


def value(x: np.ndarray) -> float:
    """Rough, and with many ties once the swarm has gathered."""
    distance = np.sqrt(np.mean((x - TARGET) ** 2))
    return round(-float(distance + 0.2 * np.sin(7 * x[:9]).mean()), 6)


def fine(number: int) -> int:
    return FINE


def faults(number: int) -> int:
    """Also of initial particles, of one that was the best, and in the end."""
    return {2: PRUNED, 5: FAILED}.get(number % 9, FINE)


def direct(
    initial: list[np.ndarray], seed: int, fault: Callable[[int], int]
) -> list[textbook.Swarm]:
    """Random numbers as the sampler draws them: keyed by step and particle."""
    number = -1

    def evaluate(x: np.ndarray) -> float:
        nonlocal number
        number += 1
        # the pruned rank below all that are complete, the failed below those
        return {FINE: value(x), PRUNED: -1e300, FAILED: -np.inf}[fault(number)]

    def r(step: int, particle: int) -> tuple[float, float]:
        r1, r2 = keyed_rng(seed, CANDIDATE, step, particle).random(2)
        return r1, r2

    return list(textbook.pso_merging(initial, evaluate, r, steps=STEPS))


@pytest.mark.parametrize(
    ("seed", "fault"),
    [(0, fine), (1, fine), (2, faults), (3, faults)],
    ids=["0", "1", "faults 2", "faults 3"],
)
def test_the_swarm_of_whole_weight_vectors(seed: int, fault: Callable[[int], int]) -> None:
    base, *experts = nets()
    space = mo.spaces.AffineSwarm(base, experts, seed=seed)
    size = len(space.names)
    number = -1

    def evaluate(model: nn.Module) -> float:
        nonlocal number
        number += 1
        if fault(number) == FAILED:
            raise OSError
        return np.nan if fault(number) == PRUNED else value(flat(model))

    objective = mo.MergeObjective(space, evaluate)
    study = optuna.create_study(
        directions=objective.directions, sampler=space.sampler(seed=seed, max_attempts=1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of failures
        study.optimize(objective, n_trials=STEPS * size)
    assert len({t.state for t in study.trials}) == (1 if fault is fine else 3)

    sparse = [
        mo.recipes.dare_linear(base, [expert], density=1 - 0.8, seed=seed) for expert in experts
    ]
    swarms = direct([weights(model) for model in (base, *experts, *sparse)], seed, fault)
    expected = np.concatenate([swarm.x for swarm in swarms])
    for trial, x in zip(study.trials, expected, strict=True):
        found = weights(space.rebuild(study, trial))
        assert np.abs(found - x).max() <= 1e-9 * np.abs(x).max(), trial.number
    best = weights(mo.recipe_of(study, sources={c.name: c for c in space.leaves()}))
    assert np.abs(best - swarms[-1].best).max() <= 1e-9 * np.abs(best).max()
    assert study.best_value == swarms[-1].best_value
    moved = np.abs(expected[-size:] - expected[:size]).max(axis=1)
    assert moved.min() > 0.01, "or nothing is compared"


def test_the_order_of_evaluation_changes_nothing() -> None:
    """Within a step: five workers that finish in any order are still the textbook."""
    base, *experts = nets()
    space = mo.spaces.AffineSwarm(base, experts)

    def search(*, shuffled: bool) -> list[dict[str, float]]:
        rng = np.random.default_rng(0)
        study = optuna.create_study(direction="maximize", sampler=space.sampler(seed=3))
        for _ in range(8):
            trials = [study.ask(space.distributions()) for _ in space.names]
            for i in rng.permutation(5) if shuffled else range(5):
                study.tell(trials[i], value(weights(space.recipe.bind(trials[i].params))))
        return [t.params for t in study.trials]

    assert search(shuffled=True) == search(shuffled=False)


# -- Where the swarm begins -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "dtype"),
    [(toys.llama, torch.bfloat16), (toys.gpt2, torch.float32)],
    ids=["bfloat16", "tied head"],
)
def test_the_first_trials_are_the_models_bit_for_bit(
    make: Callable[[], nn.Module], dtype: torch.dtype, tmp_path: Path
) -> None:
    base, *experts = toys.family(tmp_path, make, experts=2, dtype=dtype)
    space = mo.spaces.AffineSwarm(base, experts, seed=5, drop_rate=0.7)
    assert space.names == ("base", "ja", "math", "sparse-ja", "sparse-math")
    sparse = [
        mo.recipes.dare_linear(base, [expert], density=1 - 0.7, seed=5) for expert in experts
    ]
    live: list[dict[str, Tensor]] = []

    def keep(model: nn.Module) -> float:
        live.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return 0.0

    study = mo.MergeStudy("s", mo.MergeObjective(space, keep), n_trials=5, baselines=False).run(
        progress=False
    )
    assert study.sampler.search_space == space.distributions()
    for found, model in zip(live, (base, *experts, *sparse), strict=True):
        expected = mo.Engine().load(model).state_dict()
        for name, tensor in expected.items():
            assert bits(found[name]) == bits(tensor), name
    share = np.mean(
        [(live[3][n] != live[0][n]).float().mean().item() for n in live[0] if "mlp" in n]
    )
    assert share == pytest.approx(0.3, abs=0.02)


def bits(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_without_sparsified_experts() -> None:
    base, *experts = nets(3)
    space = mo.spaces.AffineSwarm(base, experts, sparsified=False)
    assert space.names == ("base", "e0", "e1", "e2")
    assert space.sampler(seed=0).population_size() == 4
    preset = mo.presets.pso_merging(base, experts, lambda model: 0.0, sparsified=False)
    assert preset.n_trials == 20
    assert mo.presets.pso_merging(base, experts, lambda model: 0.0, steps=3).n_trials == 21


def test_heads_that_do_not_fit_come_from_the_base(tmp_path: Path) -> None:
    base = mo.Checkpoint(toys.save(toys.bert(0), tmp_path / "base"), name="base")
    other = toys.bert(1, labels=["x", "y", "z"])
    expert = mo.Checkpoint(toys.save(other, tmp_path / "expert"), name="expert")
    space = mo.spaces.AffineSwarm(base, [expert], exclude=["*embeddings*"])
    recipe = space.recipe.bind(dict.fromkeys(space.distributions(), 0.4))
    merged = dict(mo.engine.tensors(recipe))
    same = {name for name in merged if bits(merged[name]) == bits(base.tensor(name))}
    assert {"classifier.weight", "bert.embeddings.word_embeddings.weight"} <= same
    assert "bert.encoder.layer.0.output.dense.weight" not in same


# -- Restarts and rebuilding ------------------------------------------------------------------


def test_killed_and_started_again(tmp_path: Path) -> None:
    """After the claim, and in the middle of the parameters."""
    names = {"whole": "sqlite", "claimed": "sqlite", "suggesting": "journal"}
    for name in names:
        toys.family(tmp_path / name, toys.bert, experts=2)

    def start(name: str, kill: int | None = None) -> processes.Running:
        return processes.call(driver.run, str(tmp_path / name), names[name], kill, cwd=tmp_path)

    first = [start("whole"), start("claimed", 2), start("suggesting", 5)]
    assert [running.wait().code for running in first] == [0, -9, -9]
    for again in [start("claimed"), start("suggesting")]:
        result = again.wait()
        assert result.code == 0, result.err

    studies = {
        name: optuna.load_study(
            study_name="pso-merging", storage=make_storage(kind, tmp_path / name)
        )
        for name, kind in names.items()
    }
    complete = {
        name: [(t.params, t.value) for t in study.trials if t.state == TrialState.COMPLETE]
        for name, study in studies.items()
    }
    assert complete["claimed"] == complete["suggesting"] == complete["whole"]
    assert [len(study.trials) for study in studies.values()] == [
        driver.TRIALS,
        driver.TRIALS + 1,
        driver.TRIALS + 1,
    ]

    study, engine = studies["whole"], mo.Engine()
    mo.export(study, tmp_path / "merged")
    merged = mo.Checkpoint(tmp_path / "merged")
    space = driver.swarm(str(tmp_path / "whole")).objective.space
    live = engine.load(space.recipe.bind(study.best_params)).state_dict()
    for name, tensor in mo.engine.tensors(mo.recipe_of(study)):
        assert bits(tensor) == bits(live[name]) == bits(merged.tensor(name)), name
    assert driver.embedding_norm(engine.load(merged)) == study.best_value


# -- The leash --------------------------------------------------------------------------------


def test_a_particle_that_runs_away_is_stopped() -> None:
    """It stays at ±1000 with velocity 0, and the rest of it moves on."""
    base, expert = nets(1)
    space = mo.spaces.AffineSwarm(base, [expert], sparsified=False)
    wild = space.sampler(seed=0, coefficients=mo.samplers.Inertia(1.0, 60.0, 60.0))
    study = optuna.create_study(direction="maximize", sampler=wild)

    def farther(trial: optuna.Trial) -> float:
        space(trial)
        return max(map(abs, trial.params.values()))

    stopped = 0
    for _ in range(20):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            study.optimize(farther, n_trials=1)
        messages = [str(w.message) for w in caught if "run away beyond ±1000" in str(w.message)]
        claim = own_claim(study.trials[-1])
        assert claim is not None
        x, velocity = claim.candidate.x, claim.candidate.hidden["velocity"]
        outside = np.abs(x) == 1000
        assert list(study.trials[-1].params.values()) == x.tolist()
        assert np.abs(x).max() <= 1000
        if messages:
            assert len(messages) == 1
            assert outside.any()
            assert not velocity[outside].any()
            stopped += 1
    assert stopped > 1


# -- What is refused --------------------------------------------------------------------------


def test_errors(tmp_path: Path) -> None:
    base, a, b = nets()
    with pytest.raises(RecipeError, match=r"at least one expert: AffineSwarm\(base, \[a, b\]\)"):
        mo.spaces.AffineSwarm(base, [])
    with pytest.raises(RecipeError, match=r"drop_rate must be in \[0, 1\), not 1"):
        mo.spaces.AffineSwarm(base, [a], drop_rate=1)
    wide = mo.Checkpoint.from_module(toys.llama(hidden_size=64), name="wide")
    llama = mo.Checkpoint.from_module(toys.llama(), name="llama")
    with pytest.raises(CheckpointMismatch, match="'wide'"):
        mo.spaces.AffineSwarm(llama, [wide])

    space = mo.spaces.AffineSwarm(base, [a, b])
    objective = mo.MergeObjective(space, lambda model: value(flat(model)))

    def search(sampler: optuna.samplers.BaseSampler, n: int = 3) -> optuna.Study:
        study = optuna.create_study(directions=objective.directions, sampler=sampler)
        study.optimize(objective, n_trials=n)
        return study

    with pytest.raises(StudyError, match="PSOSampler was made for another space"):
        search(mo.spaces.AffineSwarm(base, [a], sparsified=False).sampler(seed=0))
    with pytest.raises(StudyError, match="needs a search_space of floats with one range"):
        mo.samplers.PSOSampler({"x": optuna.distributions.FloatDistribution(0, 1)}, raw=True)
    # It is a plain box: whatever searches boxes may search it.
    for sampler in (
        optuna.samplers.TPESampler(seed=0),
        mo.samplers.CmaEsSampler(space.distributions(), seed=0),
    ):
        assert len(search(sampler).trials) == 3


def test_check(tmp_path: Path) -> None:
    toys.family(tmp_path, toys.bert, experts=2)
    file = tmp_path / "search.py"
    file.write_text(f"from tests.spaces.driver import swarm\nstudy = swarm({str(tmp_path)!r})\n")
    result = processes.command("check", file, "--json", cwd=Path.cwd()).wait()
    assert result.code == 0, result.err
    assert '"sources"' in result.out
