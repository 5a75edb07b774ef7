"""Tiny models with random weights, and texts for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

torch.set_num_threads(1)

EMOTIONS = ["anger", "fear", "joy", "sadness"]
WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bert(seed: int, labels: list[str] = EMOTIONS, **config: Any) -> BertForSequenceClassification:
    """Weights large enough that predictions differ from text to text."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=44,
                intermediate_size=64,
                max_position_embeddings=24,
                initializer_range=0.5,
                id2label=dict(enumerate(labels)),
                label2id={name: i for i, name in enumerate(labels)},
                **{**size, **config},
            )
        ).eval()


def load(folder: Path, **kwargs: Any) -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(folder, **kwargs).eval()


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bert"
    bert(1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def model(bert_folder: Path) -> BertForSequenceClassification:
    return load(bert_folder)


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "vit"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=8,
            patch_size=4,
            initializer_range=0.5,
            num_labels=4,
        )
        ViTForImageClassification(config).save_pretrained(folder)
    return folder


def make_rows(n: int, *, seed: int = 0, pairs: bool = False) -> list[dict[str, Any]]:
    """Texts of 1 to 20 words with random labels, sorted by class as data sets often are."""
    rng = np.random.default_rng(seed)

    def words(most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, most + 1)))

    rows = [{"text": words(9 if pairs else 20), "label": EMOTIONS[4 * i // n]} for i in range(n)]
    if pairs:
        for row in rows:
            row["text2"] = words(9)
    return rows


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one_by_one(model: nn.Module, tokenizer: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    """The reference: classes predicted row after row, without batches, padding or a cache."""
    predicted = []
    for row in rows:
        encoded = tokenizer(row["text"], row.get("text2"), return_tensors="pt")
        with torch.no_grad():
            predicted.append(int(model(**encoded).logits[0].argmax()))
    return np.array(predicted)


def collect(evaluator: Any, model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """All ids in the order of evaluation, and the scores in the order of the data."""
    batches = list(evaluator(model))
    ids = np.concatenate([ids for ids, _ in batches])
    scores = np.concatenate([scores for _, scores in batches])
    return ids, scores[np.argsort(ids)]


class Net(nn.Module):
    """A plain module: flattens, one linear layer, returns a tensor of logits."""

    def __init__(self, width: int, classes: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, width, generator=generator))
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x)
        return x.flatten(1) @ self.weight.T
