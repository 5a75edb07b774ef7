"""A function that returns a score for each example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Function, check_evaluator, value_of
from tests import toys

POINTS = torch.linspace(-1, 1, 12)


def models() -> list[mo.Checkpoint]:
    made = (toys.vit(seed, layers=2) for seed in (0, 1, 2))
    return [mo.Checkpoint.from_module(m, name=n) for m, n in zip(made, "abc", strict=True)]


def distances(model: nn.Module) -> torch.Tensor:
    """Twelve losses that differ from model to model."""
    first = next(model.parameters()).flatten()[:12]
    return (first - POINTS) ** 2


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, list, tuple])
def test_a_score_for_each_example(kind: Any) -> None:
    given = [0.5, 0.25, 1.0]
    evaluator = Function(lambda model: kind(given), per_example=True, name="match")
    model = nn.Linear(2, 2)
    evaluator.check(model)
    assert len(evaluator) == 3
    [(ids, scores)] = evaluator(model)
    assert ids.tolist() == [0, 1, 2]
    assert scores.tolist() == given
    assert evaluator.value(scores) == pytest.approx(np.mean(given))
    assert evaluator.metric_names == ("match",)


def test_the_number_of_examples_is_learned_or_said() -> None:
    calls = []

    def scores(model: nn.Module) -> list[float]:
        calls.append(model)
        return [0.0, 1.0]

    learning = Function(scores, per_example=True)
    with pytest.raises(EvaluationError, match=r"scores .* not known .* examples=\.\.\."):
        len(learning)
    assert value_of(learning, nn.Identity()) == 0.5  # without a check, too
    assert len(learning) == 2
    told = Function(scores, per_example=True, examples=2)
    check_evaluator(told)
    told.check(nn.Identity())
    assert len(calls) == 1
    with pytest.raises(EvaluationError, match="scores has returned 2 scores, but there are 3 exa"):
        list(Function(scores, per_example=True, examples=3)(nn.Identity()))


def test_another_number_of_scores_is_an_error() -> None:
    lengths = iter([3, 3, 2])
    evaluator = Function(lambda model: np.ones(next(lengths)), per_example=True)
    evaluator.check(nn.Identity())
    list(evaluator(nn.Identity()))
    with pytest.raises(EvaluationError, match=r"returned 2 scores, but there are 3 examples"):
        list(evaluator(nn.Identity()))


@pytest.mark.parametrize("result", [0.5, [], [[1.0], [2.0]], ["a"], [None], torch.eye(2)])
def test_anything_else_is_an_error(result: Any) -> None:
    def score(model: nn.Module) -> Any:
        return result

    with pytest.raises(EvaluationError, match="score"):
        Function(score, per_example=True).check(nn.Identity())


@pytest.mark.parametrize("result", [(0.5, 12.0), [0.5, 12.0]])
def test_several_numbers_are_told_what_takes_them(result: Any) -> None:
    def score(model: nn.Module) -> Any:
        return result

    with pytest.raises(
        EvaluationError, match=r"score must return a number, not .*per_example=True.*'each'"
    ):
        list(Function(score)(nn.Identity()))


def test_arguments() -> None:
    with pytest.raises(EvaluationError, match=r"examples=3 .* add per_example=True"):
        Function(distances, examples=3)
    with pytest.raises(EvaluationError, match="examples must be at least 1, not 0"):
        Function(distances, per_example=True, examples=0)


def test_niches_compete_for_the_examples(tmp_path: Path) -> None:
    """Which refuse one number for all; the scores are kept, and a study goes on."""
    space = mo.spaces.SplitSlerp(models())
    evaluator = Function(distances, per_example=True, direction="minimize", name="distance")
    objective = mo.MergeObjective(space, evaluator)
    url = f"sqlite:///{tmp_path / 'merge.db'}"
    mo.MergeStudy("niches", objective, n_trials=5).run(url, progress=False)
    again = mo.MergeObjective(
        space, Function(distances, per_example=True, direction="minimize", name="distance")
    )
    study = mo.MergeStudy("niches", again, n_trials=7).run(url, progress=False)
    assert len(study.trials) == 7
    for trial in study.trials:
        expected = distances(mo.Engine().load(mo.recipe_of(study, trial, sources=space_of(space))))
        np.testing.assert_allclose(mo.scores(study, trial), expected.detach(), rtol=1e-6)
        assert trial.value == pytest.approx(float(expected.mean()))
        assert trial.user_attrs["examples"] == 12


def space_of(space: Any) -> dict[str, mo.Checkpoint]:
    return {checkpoint.name: checkpoint for checkpoint in space.leaves()}


@pytest.mark.parametrize(
    "pruner", [optuna.pruners.WilcoxonPruner(), optuna.pruners.MedianPruner()]
)
def test_a_pruner_has_nothing_to_prune(pruner: optuna.pruners.BasePruner) -> None:
    recipe = mo.recipes.linear(models(), weight=mo.free(0, 1))
    evaluator = Function(distances, per_example=True, direction="minimize")
    objective = mo.MergeObjective(recipe, evaluator)
    study = mo.MergeStudy("race", objective, n_trials=4, pruner=pruner).run(progress=False)
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}


def test_a_space_that_is_a_function_needs_the_number() -> None:
    """Nothing is merged before its first trial, but the study is told what it is scored on."""
    sources = models()

    def space(trial: optuna.Trial) -> mo.Recipe:
        return mo.recipes.linear(sources, weight=[trial.suggest_float("w", 0, 1), 0.5, 0.5])

    with pytest.raises(EvaluationError, match="not known before it has been run"):
        mo.MergeObjective(space, Function(distances, per_example=True))
    objective = mo.MergeObjective(space, Function(distances, per_example=True, examples=12))
    study = optuna.create_study()
    with pytest.raises(mo.errors.StudyError, match="direction"):
        mo.optimize(study, objective, n_trials=1)
    study = optuna.create_study(direction="maximize")
    mo.optimize(study, objective, n_trials=2, progress=False)
    assert len(mo.scores(study, study.trials[0])) == 12
