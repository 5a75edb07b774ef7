"""Experts with different heads on one shared encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ViTForImageClassification,
)

from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Classification

from .conftest import EMOTIONS, Net, bert, collect, load, make_rows, one_by_one, write_lines

TOPICS = ["sport", "war", "money"]


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    """A model with other weights and another label set."""
    bert(11, TOPICS).save_pretrained(tmp_path / "expert")
    return tmp_path / "expert"


@pytest.fixture
def topics(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    rows = make_rows(40, seed=3)
    for i, row in enumerate(rows):
        row["label"] = TOPICS[i % 3]
    return write_lines(tmp_path / "topics.jsonl", rows), rows


def spliced(encoder: nn.Module, expert: Path) -> nn.Module:
    """The reference: the expert, whose encoder weights are overwritten with the other ones."""
    model = load(expert)
    model.bert.load_state_dict(encoder.state_dict())
    return model


@pytest.mark.parametrize("source", ["folder", "module"])
def test_the_head_of_an_expert_runs_on_the_live_encoder(
    source: str, expert: Path, topics: Any, model: nn.Module, tokenizer: Any
) -> None:
    path, rows = topics
    head = Checkpoint(expert) if source == "folder" else None
    head = head or Checkpoint.from_module(bert(11, TOPICS), name="topics")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluator = Classification(path, head=head)
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    predicted = one_by_one(spliced(model.bert, expert), tokenizer, rows)
    assert len(set(predicted)) > 1
    expected = predicted == [TOPICS.index(row["label"]) for row in rows]
    np.testing.assert_array_equal(scores, expected)
    assert model.num_labels == len(EMOTIONS)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_live_model_without_a_head(
    expert: Path, topics: Any, model: nn.Module, tokenizer: Any, bert_folder: Path
) -> None:
    path, rows = topics
    encoder = BertModel.from_pretrained(bert_folder).eval()
    _, scores = collect(Classification(path, head=Checkpoint(expert)), encoder)
    predicted = one_by_one(spliced(model.bert, expert), tokenizer, rows)
    np.testing.assert_array_equal(scores, predicted == [TOPICS.index(r["label"]) for r in rows])


def test_two_tasks_in_turns(
    expert: Path, topics: Any, model: nn.Module, tokenizer: Any, tmp_path: Path
) -> None:
    emotions = make_rows(40, seed=4)
    own = Classification(write_lines(tmp_path / "emotions.jsonl", emotions), batch_size=8)
    path, _ = topics
    other = Classification(path, head=Checkpoint(expert), batch_size=8)
    alone = [collect(evaluator, model)[1] for evaluator in (own, other)]
    pairs = list(zip(own(model), other(model), strict=True))
    for i, scores in enumerate(alone):
        for pair in pairs:
            ids, part = pair[i]
            np.testing.assert_array_equal(part, scores[ids])


def test_two_models_in_turns(expert: Path, topics: Any, model: nn.Module, tokenizer: Any) -> None:
    """Each iterator keeps the encoder it was started with."""
    evaluator = Classification(
        topics[0], head=Checkpoint(expert), batch_size=8, tokenizer=tokenizer
    )
    second = bert(21)
    alone = [collect(evaluator, m)[1] for m in (model, second)]
    assert (alone[0] != alone[1]).any()
    for pair in zip(evaluator(model), evaluator(second), strict=True):
        for (ids, part), scores in zip(pair, alone, strict=True):
            np.testing.assert_array_equal(part, scores[ids])


def test_the_head_is_not_rounded_for_good(expert: Path, topics: Any, model: nn.Module) -> None:
    """After a bfloat16 model, a float32 model meets the head in full precision."""
    evaluator = Classification(topics[0], head=Checkpoint(expert))
    low = evaluator.head.on(load(expert, dtype=torch.bfloat16))  # type: ignore[union-attr]
    assert low.classifier.weight.dtype == torch.bfloat16
    high = evaluator.head.on(model)  # type: ignore[union-attr]
    assert torch.equal(high.classifier.weight, load(expert).classifier.weight)


def test_building_a_head_leaves_the_global_generator_alone(expert: Path, topics: Any) -> None:
    state = torch.get_rng_state()
    Classification(topics[0], head=Checkpoint(expert))
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_are_those_of_the_head(expert: Path, model: nn.Module, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "dev.jsonl", make_rows(5))
    evaluator = Classification(data, head=Checkpoint(expert))
    with pytest.raises(EvaluationError, match=r"'anger' \(.*line 1\).* 3 labels: sport, war"):
        evaluator.check(model)


def test_checkpoints_that_have_no_head(
    bert_folder: Path, expert: Path, topics: Any, tmp_path: Path
) -> None:
    BertModel.from_pretrained(bert_folder).save_pretrained(tmp_path / "encoder")
    with pytest.raises(EvaluationError, match=r"'enc' \(BertModel\) has no task head"):
        Classification(topics[0], head=Checkpoint(tmp_path / "encoder", name="enc"))
    config = (expert / "config.json").read_text()
    (tmp_path / "encoder" / "config.json").write_text(config)
    with pytest.raises(
        EvaluationError, match=r"lacks 2 of the 2 .*classifier\.bias, classifier\."
    ):
        Classification(topics[0], head=Checkpoint(tmp_path / "encoder"))
    (tmp_path / "encoder" / "config.json").write_text(config.replace("BertForSeq", "MyBertForSeq"))
    with pytest.raises(EvaluationError, match="no architecture that transformers"):
        Classification(topics[0], head=Checkpoint(tmp_path / "encoder"))
    with pytest.raises(EvaluationError, match="head must be a Checkpoint"):
        Classification(topics[0], head=str(expert))  # type: ignore[arg-type]


def test_models_that_a_head_does_not_fit(
    expert: Path, topics: Any, tokenizer: Any, vit_folder: Path
) -> None:
    evaluator = Classification(topics[0], head=Checkpoint(expert), tokenizer=tokenizer)
    with pytest.raises(EvaluationError, match=r"needs a transformers model .* is a Net"):
        evaluator.check(Net(3, 3))
    with pytest.raises(EvaluationError, match="hidden_size=32, but the merged model has 16"):
        evaluator.check(bert(0, hidden_size=16))
    with pytest.raises(EvaluationError, match="model_type='bert', but the merged model has 'vit'"):
        evaluator.check(ViTForImageClassification.from_pretrained(vit_folder))


def test_heads_of_other_architectures(topics: Any, model: nn.Module) -> None:
    """They would run where only the names of widths agree, and mean nothing."""
    path, _ = topics
    wide = Checkpoint.from_module(bert(11, TOPICS, hidden_size=48), name="wide")
    with pytest.raises(EvaluationError, match=r"'wide' .*hidden_size=48, .* has 32"):
        Classification(path, head=wide).check(model)
    other = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=44, dim=32, hidden_dim=64, n_layers=1, n_heads=2, num_labels=3)
    )
    other = Checkpoint.from_module(other, name="other")
    with pytest.raises(EvaluationError, match=r"'other' .*model_type='distilbert', .* has 'bert'"):
        Classification(path, head=other).check(model)


def test_a_head_that_was_forgotten(topics: Any, bert_folder: Path) -> None:
    """The labels of a config without a head are those of nobody."""
    path, _ = topics
    with pytest.raises(EvaluationError, match=r"BertModel returns .* or pass head="):
        Classification(path).check(BertModel.from_pretrained(bert_folder))
