"""Samplers of spaces for several objectives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from numpy.typing import NDArray

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.samplers import NichesSampler, NSGA2Sampler
from merge_optuna.spaces import Genealogy
from merge_optuna.study import rehearse
from tests import toys
from tests.spaces import routes
from tests.spaces.models import Waves, flat, nets

optuna.logging.set_verbosity(optuna.logging.ERROR)


class SolvedAndSmall(Waves):
    """And how large the weights are."""

    directions = ("maximize", "minimize")
    metric_names = ("solved", "size")

    def __call__(self, model: torch.nn.Module) -> Any:
        self.size = float(np.abs(flat(model)).mean())
        return super().__call__(model)

    def value(self, scores: NDArray[np.float64]) -> Any:
        return float(scores.mean()), self.size


def search(space: Any, evaluator: Any, n_trials: int, **options: Any) -> optuna.Study:
    objective = mo.MergeObjective(space, evaluator)
    sampler = space.sampler(seed=0, objectives=2, **options)
    assert isinstance(sampler, NSGA2Sampler)
    study = optuna.create_study(directions=objective.directions, sampler=sampler)
    study.optimize(objective, n_trials=n_trials)
    return study


def test_a_recipe() -> None:
    """From its start; what a trial of the front has been made of can be made again."""
    base, *experts = nets()
    space = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-1, 2, start=0.3))
    study = search(space, SolvedAndSmall(), 40, population_size=8)
    start = {name: pytest.approx(value) for name, value in space.start().items()}
    assert study.trials[0].params == start
    assert len({tuple(t.params.values()) for t in study.trials}) > 25
    best = study.best_trials
    assert len(best) > 1
    sources = {one.name: one for one in (base, *experts)}
    rebuilt = mo.recipe_of(study, best[0].number, sources=sources)
    assert rebuilt == space.bind(best[0].params)


def test_an_affine_swarm() -> None:
    """From the models and averages of them; its coefficients stay where models are."""
    base, *experts = nets()
    space = mo.spaces.AffineSwarm(base, experts)
    study = search(space, SolvedAndSmall(), 36, population_size=12)
    rows = np.array([[t.params[f"weight/{n}"] for n in space.names] for t in study.trials])
    assert rows[:5] == pytest.approx(np.eye(5), abs=1e-9)
    assert rows[5:12].sum(axis=1) == pytest.approx(np.ones(7), abs=1e-9)
    assert np.abs(rows).max() < 2
    assert not np.allclose(rows[12:].sum(axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("layout", ["depth", "paper"])
def test_layer_paths(layout: str, tmp_path: Path) -> None:
    class FarAndLong(routes.Logits):
        directions = ("minimize", "minimize")
        metric_names = ("distance", "hops")

        def __call__(self, model: Any) -> Any:
            self.hops = model.config.num_hidden_layers
            return super().__call__(model)

        def value(self, scores: NDArray[np.float64]) -> Any:
            return float(scores.mean()), float(self.hops)

    for seed, name in enumerate(("ja", "math")):
        toys.save(toys.noised(toys.llama(seed, layers=2), seed), tmp_path / name)
    space = mo.spaces.LayerPath(routes.models(tmp_path), 2, layout=layout)  # type: ignore[arg-type]
    study = search(space, FarAndLong(), 24, population_size=8)
    assert study.trials[0].user_attrs["path"] == "A0-A1"
    assert len({t.user_attrs.get("path") for t in study.trials}) > 10


@pytest.mark.parametrize(
    "kind", [mo.spaces.SplitSlerp, mo.spaces.DifferentialCrossover, mo.spaces.ParticleSwarm]
)
def test_genealogies_refuse(kind: Callable[..., Genealogy]) -> None:
    models = nets()
    space = kind(models[0], models[1:]) if kind is mo.spaces.ParticleSwarm else kind(models)
    assert space.sampler(seed=0, objectives=1)
    with pytest.raises(StudyError, match=r"has one objective, not 2.*Search a recipe"):
        space.sampler(seed=0, objectives=2)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=space.sampler(seed=0))
    with pytest.raises(StudyError, match="one objective"):
        mo.MergeObjective(space, SolvedAndSmall()).check_study(study)


def test_a_space_of_ones_own_that_knows_of_one_objective() -> None:
    """As it was written before there were several."""

    class Former(mo.spaces.SplitSlerp):
        def sampler(self, *, seed: int | None = None, **options: Any) -> NichesSampler:
            return NichesSampler(self.distributions(), seed=seed, **options)

    search = mo.MergeStudy("s", mo.MergeObjective(Former(nets()), Waves()), n_trials=3)
    assert isinstance(search.sampler, NichesSampler)
    assert rehearse(search.objective).seconds_evaluate > 0
