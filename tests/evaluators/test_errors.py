"""What is wrong is said before a search, with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertModel

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Classification

from .conftest import Net, bert, make_rows, write_lines

PAIR = (np.zeros((4, 2)), [0, 1, 0, 1])


def test_empty_data(tmp_path: Path) -> None:
    empty: list[Any] = [
        write_lines(tmp_path / "dev.jsonl", []),
        datasets.Dataset.from_dict({"text": [], "label": []}),
        (np.zeros((0, 3)), []),
    ]
    for data in empty:
        with pytest.raises(EvaluationError, match="data set is empty"):
            Classification(data)


@pytest.mark.parametrize("label", [3, -1])
def test_labels_outside_the_range_of_the_model(label: int, tmp_path: Path) -> None:
    evaluator = Classification((np.zeros((4, 2)), [0, 1, label, 9]))
    message = rf"Label {label} \(row 2\) is class {label}, but the model has 3 labels, .* 0 to 2"
    with pytest.raises(EvaluationError, match=message):
        evaluator.check(Net(2, 3))
    with pytest.raises(EvaluationError, match=message):  # also without a check
        next(iter(evaluator(Net(2, 3))))


def test_class_numbers_of_a_file_outside_the_range(model: nn.Module, tmp_path: Path) -> None:
    rows = [{"text": "w1 w2", "label": i} for i in (0, 3, 4, 7)]
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", rows))
    with pytest.raises(EvaluationError, match=r"Label 4 \(.*dev.jsonl, line 3\).* has 4 labels"):
        evaluator.check(model)


def test_hidden_labels_of_a_class_label_column(model: nn.Module) -> None:
    names = ["anger", "fear", "joy", "sadness"]
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
    )
    rows = {"text": ["w1", "w2"], "label": [1, -1]}
    with pytest.raises(EvaluationError, match=r"Label -1 \(row 1\)"):
        Classification(datasets.Dataset.from_dict(rows, features=features)).check(model)


def test_unknown_label_names(model: nn.Module, tmp_path: Path) -> None:
    rows = [*make_rows(3), {"text": "w1", "label": "contempt"}]
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", rows))
    message = r"'contempt' \(.*line 4\) .* has 4 labels: anger, fear, joy, sadness"
    with pytest.raises(EvaluationError, match=message):
        evaluator.check(model)
    with pytest.raises(EvaluationError, match=r"Label 'a' \(row 0\) .* has 0 labels"):
        Classification((np.zeros((2, 2)), ["a", "b"])).check(Net(2, 2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, "joy", 1, 0], r"Label 'joy' \(row 1\) is not an integer"),
        (["joy", None, "joy", "joy"], r"Label None \(row 1\) is not a name"),
        ([0.5, 1.0, 2.0, 5.0], r"Label 0.5 \(row 0\) is not an integer"),
        (np.eye(4), r"Label \[1.0, 0.0, 0.0, 0.0\] \(row 0\) is not an integer"),
    ],
)
def test_labels_that_are_no_classes(labels: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Classification((PAIR[0], labels))


def test_pairs_of_different_length() -> None:
    with pytest.raises(EvaluationError, match=r"shape \(4, 2\), but there are 3 labels"):
        Classification((np.zeros((4, 2)), [0, 1, 0]))


def test_inputs_that_are_no_numbers() -> None:
    with pytest.raises(EvaluationError, match=r"must be numbers .* as a datasets\.Dataset"):
        Classification((["one text", "another"], [0, 1]))


def test_missing_columns(tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"sentence": ["w1"], "label": [0], "idx": [0]})
    with pytest.raises(EvaluationError, match="no column 'text', only sentence, label, idx"):
        Classification(data)
    with pytest.raises(EvaluationError, match="no column 'b', only"):
        Classification(data, text="sentence", text_pair="b")
    with pytest.raises(EvaluationError, match="no column 'img', only"):
        Classification(data, image="img")
    with pytest.raises(EvaluationError, match="no column 'domain', only"):
        Classification(data, text="sentence", group="domain")
    with pytest.raises(EvaluationError, match=r"A pair .* has no column 'domain'"):
        Classification(PAIR, group="domain")
    rows = [{"text": "w1", "label": 0}, {"text": "w2", "lable": 0}]
    path = write_lines(tmp_path / "dev.jsonl", rows)
    with pytest.raises(EvaluationError, match="line 2: no field 'label', only text, lable"):
        Classification(path)
    with pytest.raises(EvaluationError, match=r"images are read from a datasets\.Dataset only"):
        Classification(path, image="image")


def test_texts_that_are_none(tmp_path: Path) -> None:
    rows = [{"text": "w1", "label": 0}, {"text": None, "label": 0}]
    with pytest.raises(EvaluationError, match="line 2: None is not a text"):
        Classification(write_lines(tmp_path / "dev.jsonl", rows))


def test_data_of_another_kind() -> None:
    data = datasets.Dataset.from_dict({"text": ["w1"], "label": [0]})
    with pytest.raises(EvaluationError, match="DatasetDict holds train, validation: pass one"):
        Classification(datasets.DatasetDict(train=data, validation=data))
    with pytest.raises(EvaluationError, match="not IterableDataset"):
        Classification(data.to_iterable_dataset())


def test_arguments() -> None:
    with pytest.raises(
        EvaluationError, match=r"Unknown metric 'f2'\. Metrics: accuracy, macro_f1, f1, mcc"
    ):
        Classification(PAIR, metric="f2")
    with pytest.raises(EvaluationError, match="batch_size must be at least 1, not 0"):
        Classification(PAIR, batch_size=0)
    with pytest.raises(EvaluationError, match="max_length must be at least 1, not 0"):
        Classification(PAIR, max_length=0)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"No file '.*nowhere.jsonl'"):
        Classification(tmp_path / "nowhere.jsonl")
    with pytest.raises(EvaluationError, match=r"No file 'imdb'.*datasets.load_dataset"):
        Classification("imdb")


def test_damaged_files(tmp_path: Path) -> None:
    good = json.dumps({"text": "w1", "label": 0})
    path = tmp_path / "dev.jsonl"
    path.write_text(f'{good}\n\n{{"text": "w1", "label"\n{good}\n')
    with pytest.raises(EvaluationError, match=r"dev.jsonl, line 3 is not valid JSON: "):
        Classification(path)
    path.write_text(f"{good}\n[1, 2]\n")
    with pytest.raises(EvaluationError, match=r"dev.jsonl, line 2: not an object .* but list"):
        Classification(path)
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(EvaluationError, match=r"dev.jsonl cannot be read: .*utf-8"):
        Classification(path)
    packed = tmp_path / "dev.jsonl.gz"
    for content in (good.encode(), gzip.compress(good.encode() * 99)[:-12]):
        packed.write_bytes(content)
        with pytest.raises(EvaluationError, match=r"dev.jsonl.gz cannot be read"):
            Classification(packed)


def test_no_tokenizer_in_the_folder(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "dev.jsonl", make_rows(4))
    bert(0).save_pretrained(tmp_path / "bare")
    model = type(bert(0)).from_pretrained(tmp_path / "bare")
    with pytest.raises(EvaluationError, match=r"no tokenizer in '.*bare'.*pass tokenizer="):
        Classification(data).check(model)
    with pytest.raises(EvaluationError, match="no tokenizer in 'a model without a folder'"):
        Classification(data).check(bert(0))
    with pytest.raises(EvaluationError, match=r"no tokenizer in '.*bare'"):
        Classification(data, tokenizer=tmp_path / "bare").check(bert(0))


def test_tokenizer_without_padding(tokenizer: Any, tmp_path: Path) -> None:
    plain = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, unk_token="[UNK]")
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", make_rows(4)), tokenizer=plain)
    with pytest.raises(EvaluationError, match="has no padding token"):
        evaluator.check(bert(0))


def test_no_image_processor_in_the_folder(vit_folder: Path) -> None:
    from transformers import ViTForImageClassification

    data = datasets.Dataset.from_dict({"image": [[[0]]], "label": [0]})
    with pytest.raises(EvaluationError, match=r"No image processor for the model of '.*vit'"):
        Classification(data, image="image").check(
            ViTForImageClassification.from_pretrained(vit_folder)
        )


def test_inputs_that_the_model_cannot_take() -> None:
    with pytest.raises(
        EvaluationError, match=r"Net cannot be run on input 0 \(2, 2\) torch.float"
    ):
        Classification(PAIR).check(Net(5, 2))


def test_check_meets_the_longest_text(tokenizer: Any, tmp_path: Path) -> None:
    rows = [*make_rows(60), {"text": "w1 " * 30, "label": "joy"}]
    data = write_lines(tmp_path / "dev.jsonl", rows)
    evaluator = Classification(data, tokenizer=tokenizer, batch_size=2, max_length=99)
    with pytest.raises(EvaluationError, match=r"cannot be run on input_ids \(\d, 32\)"):
        evaluator.check(bert(0))  # which has 24 positions


def test_models_that_do_not_classify(bert_folder: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "dev.jsonl", [{"text": "w1", "label": 0}])
    with pytest.raises(EvaluationError, match=r"BertModel returns .* not logits of shape"):
        Classification(data).check(BertModel.from_pretrained(bert_folder))

    class PerToken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, None, :]

    with pytest.raises(EvaluationError, match=r"PerToken returns \(2, 1, 2\), not logits"):
        Classification(PAIR).check(PerToken())


def test_rows_in_a_list_an_array_in_a_file_and_an_empty_file(tmp_path: Path) -> None:
    rows = make_rows(2)
    for data in (rows, tuple(rows), rows * 3):
        with pytest.raises(EvaluationError, match=r"datasets\.Dataset\.from_list\(rows\)"):
            Classification(data)
    path = tmp_path / "dev.jsonl"
    for text in (json.dumps(rows), json.dumps(rows, indent=1)):
        path.write_text(text)
        with pytest.raises(
            EvaluationError, match=r"dev.jsonl, line 1: .* but list, a JSON array\. One object"
        ):
            Classification(path)
    path.write_text("\n")
    with pytest.raises(EvaluationError, match=r"dev.jsonl: the data set is empty"):
        Classification(path)


def test_evaluators_take_live_models_only(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(
        [
            {"text": "w1 w2", "text2": "w3", "label": n, "question": "w1", "answer": "w2"}
            for n in range(2)
        ]
    )
    given = mo.Checkpoint.from_module(Net(2, 2), name="net")
    made: list[Any] = [
        Classification(data),
        mo.evaluators.Regression(data),
        mo.evaluators.Similarity(data),
        mo.evaluators.NegativeLogLikelihood(data),
        mo.evaluators.Generation(data),
        mo.evaluators.Tasks({"a": Classification(data)}),
    ]
    for evaluator in made:
        for call in (evaluator.check, lambda one: list(evaluator(one))):  # noqa: B023
            with pytest.raises(EvaluationError, match=r"not a Checkpoint: .*Engine\(\)\.load"):
                call(given)
    with pytest.raises(EvaluationError, match="live model, not a Checkpoint"):
        made[4].replies(given)
