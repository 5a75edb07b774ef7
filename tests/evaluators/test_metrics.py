"""F1 and the Matthews correlation, beside scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Classification

from .conftest import EMOTIONS, Net, bert, collect, make_rows, one_by_one, write_lines

YES = ["no", "yes"]


def two_classes(n: int = 70) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{**row, "label": YES[int(rng.random() < 0.3)]} for row in make_rows(n)]


@pytest.mark.parametrize("positive", ["yes", 1, "no", 0])
def test_f1_equals_scikit_learn(positive: int | str, tokenizer: Any, tmp_path: Path) -> None:
    rows, model = two_classes(), bert(5, YES)
    data = write_lines(tmp_path / "dev.jsonl", rows)
    evaluator = Classification(
        data, metric="f1", positive=positive, tokenizer=tokenizer, batch_size=8
    )
    evaluator.check(model)
    ids, scores = collect(evaluator, model)
    predicted = one_by_one(model, tokenizer, rows)
    true = np.array([YES.index(row["label"]) for row in rows])
    assert len(set(predicted)) == 2
    number = YES.index(positive) if isinstance(positive, str) else positive
    np.testing.assert_array_equal(scores[:, 0], predicted == true)
    assert evaluator.metric_names == ("f1",)
    for part in (ids, ids[:8], ids[:20], ids[30:]):
        expected = f1_score(true[part], predicted[part], pos_label=number, zero_division=0)
        assert evaluator.value(scores[part]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("labels", [YES, EMOTIONS])
def test_mcc_equals_scikit_learn(labels: list[str], tokenizer: Any, tmp_path: Path) -> None:
    rows = two_classes() if labels is YES else make_rows(70)
    model = bert(5, labels)
    data = write_lines(tmp_path / "dev.jsonl", rows)
    evaluator = Classification(data, metric="mcc", tokenizer=tokenizer, batch_size=8)
    evaluator.check(model)
    ids, scores = collect(evaluator, model)
    predicted = one_by_one(model, tokenizer, rows)
    true = np.array([labels.index(row["label"]) for row in rows])
    np.testing.assert_array_equal(scores, np.stack([predicted == true, predicted, true], 1))
    for part in (ids, ids[:8], ids[:20], ids[30:]):
        expected = matthews_corrcoef(true[part], predicted[part])
        assert expected != 0
        assert evaluator.value(scores[part]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")  # that they are degenerate
def test_degenerate_parts_are_scikit_learn_s_zeros() -> None:
    """One class predicted or true, one example, everything right."""
    pairs = [([0, 0, 0], [0, 1, 1]), ([0, 1, 1], [0, 0, 0]), ([0, 0], [0, 0]), ([1], [1])]
    for predicted, true in [*pairs, ([0, 1, 1], [0, 1, 1]), ([0, 1], [1, 0])]:
        inputs = np.eye(2)[predicted]
        for metric, reference in (("f1", f1_score), ("mcc", matthews_corrcoef)):
            evaluator = Classification((inputs, true), metric=metric)
            model = Net(2, 2)
            model.weight.data = model.weight.data.new_tensor([[1.0, 0.0], [0.0, 1.0]])
            _, scores = collect(evaluator, model.double())
            assert evaluator.value(scores) == pytest.approx(reference(true, predicted))


def test_groups(tokenizer: Any, tmp_path: Path) -> None:
    rows, model = two_classes(), bert(5, YES)
    for i, row in enumerate(rows):
        row["domain"] = "tweets" if i % 4 else "books"
    books = np.array([row["domain"] == "books" for row in rows])
    data = write_lines(tmp_path / "dev.jsonl", rows)
    predicted = one_by_one(model, tokenizer, rows)
    true = np.array([YES.index(row["label"]) for row in rows])
    for metric, reference in (("f1", f1_score), ("mcc", matthews_corrcoef)):
        evaluator = Classification(data, metric=metric, group="domain", tokenizer=tokenizer)
        _, scores = collect(evaluator, model)
        each = [reference(true[part], predicted[part]) for part in (books, ~books)]
        assert each[0] != each[1]
        assert evaluator.value(scores) == pytest.approx(np.mean(each))


def test_the_positive_class_goes_by_name_where_labels_do(tokenizer: Any) -> None:
    """The data number their classes otherwise than the model."""
    rows = two_classes()
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=YES[::-1])
    )
    labels = {"label": [YES[::-1].index(row["label"]) for row in rows]}
    data = datasets.Dataset.from_dict(
        {"text": [row["text"] for row in rows], **labels}, features=features
    )
    model = bert(5, YES)
    predicted = one_by_one(model, tokenizer, rows)
    true = np.array([YES.index(row["label"]) for row in rows])
    evaluator = Classification(data, metric="f1", positive=0, tokenizer=tokenizer)  # yes
    value = evaluator.value(collect(evaluator, model)[1])
    assert value == pytest.approx(f1_score(true, predicted, pos_label=1))


@pytest.mark.parametrize("metric", ["f1", "mcc"])
def test_nan_logits_are_no_class(metric: str) -> None:
    inputs = np.eye(3)
    inputs[1] = np.nan
    evaluator = Classification((inputs, [0, 1, 1]), metric=metric)
    _, scores = collect(evaluator, Net(3, 2).double())
    assert np.isnan(scores[:, 0]).tolist() == [False, True, False]
    assert np.isnan(evaluator.value(scores))


def test_errors(tokenizer: Any, tmp_path: Path) -> None:
    pair = (np.eye(3), [0, 1, 1])
    with pytest.raises(EvaluationError, match=r"'auc'. Metrics: accuracy, macro_f1, f1, mcc"):
        Classification(pair, metric="auc")
    with pytest.raises(EvaluationError, match=r"positive='yes' .* metric='f1' .* 'mcc' looks"):
        Classification(pair, metric="mcc", positive="yes")
    with pytest.raises(EvaluationError, match=r"Class 'yes' is unknown to the model"):
        Classification(pair, metric="f1", positive="yes").check(Net(3, 2))
    with pytest.raises(EvaluationError, match=r"No example is of the class 2"):
        Classification(pair, metric="f1", positive=2).check(Net(3, 3))
    other = Classification(write_lines(tmp_path / "dev.jsonl", two_classes()), tokenizer=tokenizer)
    with pytest.raises(EvaluationError, match=r"Label 'no' .* 4 labels: anger, fear, joy, sad"):
        other.check(bert(1))


def test_the_positive_class_is_part_of_the_digest() -> None:
    pair = (np.eye(3), [0, 1, 1])
    digests = [Classification(pair, metric="f1", positive=p).digest for p in (0, 1)]
    assert digests[0] != digests[1]
    assert "positive" not in Classification(pair).digest


def test_the_f1_of_one_of_many_classes() -> None:
    data = (np.eye(3), [0, 1, 2])
    with pytest.raises(EvaluationError, match=r"the model has 3: say which with positive="):
        Classification(data, metric="f1").check(nn.Identity())
    Classification(data, metric="f1", positive=2).check(nn.Identity())
