"""Searches by likelihoods: pruned by single examples, exported with the very same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from transformers import AutoModelForCausalLM

import merge_optuna as mo
from merge_optuna.evaluators import value_of
from tests.evaluators.conftest import collect, write_lines
from tests.evaluators.test_multiple_choice import WORDS, questions
from tests.vocabularies import model_with, word_level

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    root, words = tmp_path_factory.mktemp("family"), word_level(WORDS)
    return [model_with(words, root / name, seed=i) for i, name in enumerate(("base", "a", "b"))]


def evaluators(folder: Path, base: mo.Checkpoint) -> dict[str, Any]:
    asked = questions(40, least=5)
    lines = write_lines(folder / "dev.jsonl", [{**row, "text": row["question"]} for row in asked])
    at_once = {"batch_size": 4}
    return {
        "perplexity": mo.evaluators.Perplexity(lines, **at_once),
        "multiple choice": mo.evaluators.MultipleChoice(lines, **at_once),
        "KL": mo.evaluators.KLDivergence(lines, base, **at_once),
    }


@pytest.mark.parametrize("name", ["perplexity", "multiple choice", "KL"])
def test_a_search(family: list[mo.Checkpoint], tmp_path: Path, name: str) -> None:
    base, *experts = family
    evaluator = evaluators(tmp_path, base)[name]
    recipe = mo.recipes.linear(experts, weight=mo.free(0, 1))
    objective = mo.MergeObjective(recipe, evaluator)
    study = optuna.create_study(
        directions=objective.directions,
        sampler=recipe.sampler(seed=0),
        pruner=optuna.pruners.WilcoxonPruner(),
    )
    study.optimize(objective, n_trials=6)
    done = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert len(done) + len(pruned) == 6
    assert all(trial.user_attrs["examples"] < 40 for trial in pruned)
    assert pruned or name == "multiple choice"
    mo.export(study, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    scores = collect(evaluator, merged)[1].reshape(40, -1)[:, 0]
    kept = mo.scores(study, study.best_trial)  # in single precision
    np.testing.assert_array_equal(scores.astype(np.float32), kept.astype(np.float32))
    assert value_of(evaluator, merged) == study.best_value
