"""Regression and similarity, beside a plain loop and scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import nn
from transformers import BertModel

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Regression, Similarity

from .conftest import Net, bert, collect, load, make_rows, write_lines

SCIPY = {"pearson": pearsonr, "spearman": spearmanr}


def rated(n: int = 60, *, pairs: bool = True) -> list[dict[str, Any]]:
    """Labels from 0 to 5 with many ties, as those of STS-B."""
    rng = np.random.default_rng(2)
    rows = make_rows(n, pairs=pairs)
    return [{**row, "label": float(rng.integers(0, 11)) / 2} for row in rows]


def labels_of(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([row["label"] for row in rows])


@pytest.fixture
def regressor(tokenizer: Any, tmp_path: Path) -> nn.Module:
    bert(3, ["score"]).save_pretrained(tmp_path / "regressor")
    tokenizer.save_pretrained(tmp_path / "regressor")
    return load(tmp_path / "regressor")


def logits_one_by_one(model: nn.Module, tokenizer: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    with torch.no_grad():
        outputs = [
            model(**tokenizer(row["text"], row.get("text2"), return_tensors="pt")).logits[0]
            for row in rows
        ]
    return torch.stack(outputs).double().numpy()


@pytest.mark.parametrize("metric", SCIPY)
@pytest.mark.parametrize("pairs", [True, False])
def test_regression_equals_scipy(
    metric: str, pairs: bool, regressor: nn.Module, tokenizer: Any, tmp_path: Path
) -> None:
    rows = rated(pairs=pairs)
    data = write_lines(tmp_path / "dev.jsonl", rows)
    evaluator = Regression(data, metric=metric, batch_size=8)
    evaluator.check(regressor)
    ids, scores = collect(evaluator, regressor)
    predicted, labels = logits_one_by_one(regressor, tokenizer, rows)[:, 0], labels_of(rows)
    np.testing.assert_allclose(scores[:, 0], -((predicted - labels) ** 2), rtol=1e-4)
    np.testing.assert_allclose(scores[:, 1], predicted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scores[:, 2], labels)
    assert evaluator.metric_names == (metric,)
    assert evaluator.directions == ("maximize",)
    for part in (ids, ids[:8], ids[:25], ids[50:]):
        expected = SCIPY[metric](predicted[part], labels[part]).statistic
        assert evaluator.value(scores[part]) == pytest.approx(expected, abs=1e-5)
        exact = SCIPY[metric](scores[part, 1], labels[part]).statistic
        assert evaluator.value(scores[part]) == pytest.approx(exact, abs=1e-12)


def test_ties_in_predictions() -> None:
    inputs = np.random.default_rng(0).integers(0, 4, (50, 1)).astype(float)
    labels = np.random.default_rng(1).integers(0, 5, 50) + inputs[:, 0]
    model = Net(1, 1)
    model.weight.data.fill_(1.0)
    for metric, reference in SCIPY.items():
        evaluator = Regression((inputs, labels), metric=metric)
        value = evaluator.value(collect(evaluator, model.double())[1])
        assert value == pytest.approx(reference(inputs[:, 0], labels).statistic, abs=1e-12)


def test_one_of_several_logits(model: nn.Module, tokenizer: Any) -> None:
    rows = rated()
    evaluator = Regression(datasets.Dataset.from_list(rows), logit=2)
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    predicted = logits_one_by_one(model, tokenizer, rows)[:, 2]
    np.testing.assert_allclose(scores[:, 1], predicted, rtol=1e-4, atol=1e-5)


def test_the_head_of_an_expert(
    model: nn.Module, tokenizer: Any, regressor: nn.Module, tmp_path: Path
) -> None:
    rows = rated()
    evaluator = Regression(
        datasets.Dataset.from_list(rows), head=mo.Checkpoint(tmp_path / "regressor")
    )
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    regressor.bert.load_state_dict(model.bert.state_dict())
    predicted = logits_one_by_one(regressor, tokenizer, rows)[:, 0]
    np.testing.assert_allclose(scores[:, 1], predicted, rtol=1e-4, atol=1e-5)
    assert {"head", "head_content", "labels", "logit"} <= evaluator.digest.keys()


@pytest.mark.parametrize("metric", SCIPY)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("headless", [True, False])
def test_similarity_equals_a_plain_loop(
    metric: str, pooling: str, headless: bool, bert_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    rows = rated()
    model = BertModel.from_pretrained(bert_folder).eval() if headless else load(bert_folder)
    data = write_lines(tmp_path / "dev.jsonl", rows)
    evaluator = Similarity(data, metric=metric, pooling=pooling, batch_size=8)
    evaluator.check(model)
    ids, scores = collect(evaluator, model)

    def embedding(text: str) -> torch.Tensor:
        encoded = tokenizer(text, return_tensors="pt")
        states = (model if headless else model.bert)(**encoded).last_hidden_state[0]
        return states.mean(0) if pooling == "mean" else states[0]

    with torch.no_grad():
        cosines = np.array(
            [torch.cosine_similarity(embedding(r["text"]), embedding(r["text2"]), 0) for r in rows]
        )
    np.testing.assert_allclose(scores[:, 1], cosines, atol=1e-5)
    np.testing.assert_allclose(scores[:, 2], labels_of(rows) / 5)
    np.testing.assert_allclose(scores[:, 0], -((cosines - labels_of(rows) / 5) ** 2), atol=1e-4)
    assert len(evaluator) == len(rows)
    for part in (ids, ids[:8], ids[:25]):
        expected = SCIPY[metric](scores[part, 1], labels_of(rows)[part]).statistic
        assert evaluator.value(scores[part]) == pytest.approx(expected, abs=1e-12)


def test_a_text_that_is_padded_on_the_left(bert_folder: Path, tokenizer: Any) -> None:
    model = BertModel.from_pretrained(bert_folder).eval()
    data = datasets.Dataset.from_list(rated(20))
    _, right = collect(Similarity(data, pooling="cls", batch_size=1), model)
    tokenizer = type(tokenizer).from_pretrained(bert_folder, padding_side="left")
    # one pair per batch: only the shorter of the two is padded
    alone = Similarity(data, pooling="cls", batch_size=1, tokenizer=tokenizer)
    _, left = collect(alone, model)
    same = [len(r["text"].split()) == len(r["text2"].split()) for r in rated(20)]
    assert any(same)
    np.testing.assert_allclose(left[same], right[same])
    assert np.isfinite(left).all()


def test_what_is_not_defined_is_zero() -> None:
    evaluator = Regression((np.eye(3), [0.0, 1.0, 2.0]))
    constant = np.array([[0, 0.1, 0.0], [0, 0.1, 1.0], [0, 0.1, 2.0]])
    assert evaluator.value(constant) == 0
    assert evaluator.value(constant[:1]) == 0
    assert evaluator.value(constant[:, [0, 2, 1]]) == 0


def test_nan_logits_are_nan() -> None:
    inputs = np.eye(3)
    inputs[1] = np.nan
    for metric in SCIPY:
        evaluator = Regression((inputs, [0.0, 1.0, 2.0]), metric=metric)
        _, scores = collect(evaluator, Net(3, 1).double())
        assert np.isnan(scores[:, 0]).tolist() == [False, True, False]
        assert np.isnan(evaluator.value(scores))


def test_the_surrogate_is_what_niches_see(tokenizer: Any, tmp_path: Path) -> None:
    rows = rated(40)
    data = write_lines(tmp_path / "dev.jsonl", rows)
    experts = []
    for seed in (1, 2, 3):
        bert(seed, ["score"]).save_pretrained(tmp_path / str(seed))
        tokenizer.save_pretrained(tmp_path / str(seed))
        experts.append(mo.Checkpoint(tmp_path / str(seed), name=f"m{seed}"))
    space = mo.spaces.SplitSlerp(experts)
    objective = mo.MergeObjective(space, Regression(data, metric="spearman", batch_size=8))
    study = mo.MergeStudy("niches", objective, n_trials=6).run(progress=False)
    predicted = logits_one_by_one(load(tmp_path / "1"), tokenizer, rows)[:, 0]
    [first] = [trial for trial in study.trials if trial.params["origin"] == "m1"]
    scores = mo.scores(study, first)
    np.testing.assert_allclose(scores, -((predicted - labels_of(rows)) ** 2), rtol=1e-3)
    assert first.value == pytest.approx(spearmanr(predicted, labels_of(rows)).statistic, abs=1e-3)


def test_errors(model: nn.Module, regressor: nn.Module, tmp_path: Path) -> None:
    pair = (np.eye(3), [0.0, 1.0, 2.0])
    with pytest.raises(EvaluationError, match=r"'kendall'. Metrics: pearson, spearman"):
        Regression(pair, metric="kendall")
    with pytest.raises(EvaluationError, match="logit counts from 0"):
        Regression(pair, logit=-1)
    with pytest.raises(EvaluationError, match=r"All 3 labels are 1.0: nothing correlates"):
        Regression((np.eye(3), [1.0, 1.0, 1.0]))
    for label in (None, "high", float("nan"), True, 10**400):
        with pytest.raises(EvaluationError, match=r"\(row 1\) is not a finite number"):
            Regression((np.eye(3), [1.0, label, 2.0]))
    with pytest.raises(EvaluationError, match="data set is empty"):
        Regression((np.zeros((0, 3)), []))
    with pytest.raises(EvaluationError, match=r"has 4 logits, and a prediction is one: .* logit="):
        Regression(datasets.Dataset.from_list(rated(9))).check(model)
    with pytest.raises(EvaluationError, match=r"logit=4, but the model has 4, numbered from 0"):
        Regression(datasets.Dataset.from_list(rated(9)), logit=4).check(model)
    with pytest.raises(EvaluationError, match=r"returns .*, not logits .* regression head"):
        Regression(datasets.Dataset.from_list(rated(9))).check(model.bert)
    with pytest.raises(EvaluationError, match="Similarity compares texts"):
        Similarity(pair)
    with pytest.raises(EvaluationError, match="Unknown pooling 'max': mean or cls"):
        Similarity(datasets.Dataset.from_list(rated(9)), pooling="max")
    with pytest.raises(EvaluationError, match=r"no field 'text2', only text, label"):
        Similarity(write_lines(tmp_path / "dev.jsonl", rated(9, pairs=False)))
    with pytest.raises(EvaluationError, match=r"no hidden states of shape"):
        Similarity(datasets.Dataset.from_list(rated(9)), tokenizer=tmp_path / "regressor").check(
            _Logits(regressor)
        )


class _Logits(nn.Module):
    """No transformers model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **kwargs: Any) -> torch.Tensor:
        logits: torch.Tensor = self.model(**kwargs).logits
        return logits


def test_digests(tmp_path: Path) -> None:
    rows = rated(9)
    data = datasets.Dataset.from_list(rows)
    other = datasets.Dataset.from_list([{**row, "label": row["label"] + 1} for row in rows])
    assert Regression(data).digest != Regression(other).digest
    assert Regression(data).digest != Regression(data, logit=0).digest
    assert Similarity(data).digest != Similarity(data, pooling="cls").digest
    assert Similarity(data).digest == Similarity(datasets.Dataset.from_list(rows)).digest
