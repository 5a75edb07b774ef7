"""Likelihoods per example, which are minimised: what races and niches make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from scipy import stats

import merge_optuna as mo
from tests.evaluators.conftest import write_lines
from tests.evaluators.test_multiple_choice import WORDS, questions
from tests.samplers.test_niches import people
from tests.vocabularies import model_with, word_level

optuna.logging.set_verbosity(optuna.logging.ERROR)

EXAMPLES, SIZE = 40, 4


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_level(WORDS)


@pytest.fixture(scope="module")
def models(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    root = tmp_path_factory.mktemp("losses")
    return [model_with(tokenizer, root / name, seed=i) for i, name in enumerate("abc")]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": row["question"]} for row in questions(EXAMPLES, least=5)]
    return write_lines(tmp_path_factory.mktemp("dev") / "dev.jsonl", rows)


def nats(model: torch.nn.Module, tokenizer: Any, text: str) -> float:
    """Mean of a text, one token after the other."""
    ids = torch.tensor(tokenizer(text)["input_ids"])
    with torch.inference_mode():
        predicted = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
    return -float(predicted.gather(1, ids[1:, None]).mean())


def test_a_race_is_between_the_losses_of_batches(
    models: list[mo.Checkpoint], tokenizer: Any, lines: Path
) -> None:
    recipe = mo.recipes.task_arithmetic(models[0], models[1:], weight=mo.free(-3, 3, start=0))
    evaluator = mo.evaluators.NegativeLogLikelihood(lines, batch_size=SIZE)
    objective = mo.MergeObjective(recipe, evaluator)
    pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=2)
    study = optuna.create_study(
        directions=objective.directions, sampler=recipe.sampler(seed=0), pruner=pruner
    )
    study.optimize(objective, n_trials=10)

    texts = [row["question"] for row in questions(EXAMPLES, least=5)]
    engine, best = mo.Engine(), None
    for trial in study.trials:
        model = engine.load(mo.recipe_of(study, trial))
        losses = [
            float(np.mean([nats(model, tokenizer, texts[i]) for i in ids]))
            for ids, _ in evaluator(model)
        ]
        found = [*trial.intermediate_values.values()]
        assert found == pytest.approx(losses[: len(found)], abs=1e-5)
        if trial.state == TrialState.PRUNED:
            worse = np.array(found) - np.array(best)[: len(found)]
            assert len(found) < len(losses)
            assert stats.wilcoxon(worse, alternative="greater").pvalue < 0.1
        else:
            assert len(found) == len(losses)
            best = min([*filter(None, [best]), losses], key=np.mean)
    assert any(trial.state == TrialState.PRUNED for trial in study.trials)


def test_an_archive_of_losses_is_that_of_the_textbook(
    models: list[mo.Checkpoint], lines: Path
) -> None:
    evaluator = mo.evaluators.NegativeLogLikelihood(lines, batch_size=10)
    search = mo.presets.m2n2(
        None, models, evaluator, archive_size=5, n_trials=25, baselines=False, seed=3
    )
    study = search.run(f"sqlite:///{lines.parent}/m2n2.db")

    archive: list[int] = []
    for trial in study.trials:
        archive.append(trial.number)
        if len(archive) > 5:
            losses = np.stack([mo.scores(study, n).astype(float) for n in archive])
            scores = losses.max(axis=0) - losses  # how much better than the worst
            z = scores.sum(axis=0)
            shares = scores.max(axis=0) * scores / np.where(z == 0, 1, z)
            archive[int(shares.sum(axis=1).argmin())] = trial.number
            archive.pop()
    assert [trial.number for trial in study.sampler.archive(study)] == archive
    assert [trial.params["origin"] for trial in study.trials[:3]] == ["a", "b", "c"]
    assert study.best_value <= min(trial.value for trial in study.trials[:3])


def test_niches_know_neither_units_nor_what_nobody_can_predict() -> None:
    """Bits instead of nats, and the entropy of a text, change nobody's chances."""
    draw = np.random.default_rng(0)
    losses, entropy = draw.exponential(size=(6, 8)), draw.exponential(size=8)
    niches = mo.samplers.Niches()

    def chances(losses: np.ndarray) -> np.ndarray:
        archive = people(*(-losses))
        found = [niches.fitness(archive), *(niches.attractions(archive, a) for a in range(6))]
        return np.array([weights / weights.sum() for weights in found])

    expected = chances(losses)
    np.testing.assert_allclose(chances(losses / np.log(2)), expected, rtol=1e-5)
    np.testing.assert_allclose(chances(losses + entropy), expected, rtol=1e-5)
