"""A trained text classifier and two experts of it, small enough to be trained in seconds.

A text has eight words; its class is the topic most of them belong to. The base has seen little,
expert ``a`` knows the first two topics, expert ``b`` the other two: a merge can know all four.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import merge_optuna as mo

TOPICS = ("art", "food", "law", "war")
WORDS_PER_TOPIC = 8
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

Row = dict[str, str]


@dataclass(frozen=True)
class Task:
    """Where the checkpoints and the data lie: folders base, a, b; files dev.jsonl, test.jsonl."""

    root: Path

    @property
    def dev(self) -> Path:
        return self.root / "dev.jsonl"

    @property
    def test(self) -> Path:
        return self.root / "test.jsonl"

    @property
    def folders(self) -> list[str]:
        return [str(self.root / name) for name in ("base", "a", "b")]

    def checkpoints(self) -> list[mo.Checkpoint]:
        return [mo.Checkpoint(self.root / name, name=name) for name in ("base", "a", "b")]

    def recipe(self) -> mo.Recipe:
        """Six free weights."""
        base, *experts = self.checkpoints()
        return mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1, per="layer"))

    def file(self, path: Path, *, lines: str = "", **arguments: object) -> Path:
        """Writes a Python file as ``merge-optuna run`` takes it.

        Args:
            path: Where to.
            lines: Code between the objective and the study.
            arguments: Further ones of mo.MergeStudy, as code.
        """
        given = {
            "name": "'toy'",
            "test": f'mo.evaluators.Classification("{self.test}")',
            "baselines": False,
            **arguments,
        }
        path.write_text(f"""
import optuna
import torch
import merge_optuna as mo

torch.set_num_threads(1)
base, a, b = (mo.Checkpoint(f"{self.root}/{{name}}", name=name) for name in ("base", "a", "b"))
recipe = mo.recipes.task_arithmetic(base, [a, b], weight=mo.free(0, 1, per="layer"))
objective = mo.MergeObjective(recipe, mo.evaluators.Classification("{self.dev}", batch_size=20))
{lines}
study = mo.MergeStudy(objective=objective, {", ".join(f"{k}={v}" for k, v in given.items())})
""")
        return path


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Trained once per process; tests must not write into it."""
    root = tmp_path_factory.getbasetemp() / "trained"
    return Task(root) if root.exists() else make(root)


def make(root: Path) -> Task:
    """Trains the three models, saves them with their tokenizer, and writes the data."""
    tokenizer = _tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = BertForSequenceClassification(_config())
    _train(base, tokenizer, rows(384, seed=0), steps=30, lr=3e-3)
    for name, topics in (("base", ()), ("a", TOPICS[:2]), ("b", TOPICS[2:])):
        model = _config_and_state(base)
        if topics:
            _train(model, tokenizer, rows(384, seed=1, topics=topics), steps=20, lr=5e-4)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    task = Task(root)
    write_rows(task.dev, rows(160, seed=2))
    write_rows(task.test, rows(160, seed=3))
    return task


def rows(n: int, *, seed: int, topics: tuple[str, ...] = TOPICS) -> list[Row]:
    """Texts with four words of their topic and four of any."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        topic = topics[i % len(topics)]
        words = [f"{topic}{j}" for j in rng.integers(WORDS_PER_TOPIC, size=4)]
        words += [f"{rng.choice(TOPICS)}{rng.integers(WORDS_PER_TOPIC)}" for _ in range(4)]
        made.append({"text": " ".join(rng.permutation(words)), "label": topic})
    return made


def write_rows(path: Path, data: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def right(model: nn.Module, data: list[Row]) -> np.ndarray:
    """Per text whether its class is predicted, one by one: the reference for evaluators."""
    tokenizer = _tokenizer()
    found = []
    for row in data:
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits[0]
        found.append(TOPICS[int(logits.argmax())] == row["label"])
    return np.array(found)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = [f"{topic}{i}" for topic in TOPICS for i in range(WORDS_PER_TOPIC)]
    vocabulary = {word: i for i, word in enumerate([*_SPECIAL, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def _config() -> BertConfig:
    return BertConfig(
        vocab_size=len(_SPECIAL) + len(TOPICS) * WORDS_PER_TOPIC,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(TOPICS)),
        label2id={topic: i for i, topic in enumerate(TOPICS)},
    )


def _config_and_state(model: BertForSequenceClassification) -> BertForSequenceClassification:
    made = BertForSequenceClassification(_config())
    made.load_state_dict(model.state_dict())
    return made


def _train(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    data: list[Row],
    *,
    steps: int,
    lr: float,
) -> None:
    inputs = tokenizer([row["text"] for row in data], return_tensors="pt")
    labels = torch.tensor([TOPICS.index(row["label"]) for row in data])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
