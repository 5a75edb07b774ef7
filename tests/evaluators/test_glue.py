"""Six tasks of GLUE: experts with heads of their own, merged, beside scikit-learn and scipy.

``MERGE_OPTUNA_DATA`` is a folder with ``glue_*/{train,dev}.jsonl.gz``, ``MERGE_OPTUNA_ENCODER`` a
folder with a small encoder of the BERT family, such as all-MiniLM-L6-v2.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import merge_optuna as mo
from merge_optuna.evaluators import Classification, Regression, Similarity, value_of

from .conftest import write_lines

DATA = Path(os.environ.get("MERGE_OPTUNA_DATA", "none"))
ENCODER = Path(os.environ.get("MERGE_OPTUNA_ENCODER", "none"))
TASKS = ["cola", "mrpc", "qnli", "rte", "sst2", "stsb"]
CLASSES = {
    "accuracy": lambda true, logits: accuracy_score(true, logits.argmax(1)),
    "f1": lambda true, logits: f1_score(true, logits.argmax(1)),
    "macro_f1": lambda true, logits: f1_score(true, logits.argmax(1), average="macro"),
    "mcc": lambda true, logits: matthews_corrcoef(true, logits.argmax(1)),
}
NUMBERS = {
    "pearson": lambda true, numbers: pearsonr(true, numbers[:, 0]).statistic,
    "spearman": lambda true, numbers: spearmanr(true, numbers[:, 0]).statistic,
}
SCALE = 0.3
LONGEST = 64  # tokens

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "glue_cola").is_dir() or not ENCODER.is_dir(),
        reason="set MERGE_OPTUNA_DATA to a folder with glue_*, MERGE_OPTUNA_ENCODER to an encoder",
    ),
]


def rows_of(task: str, split: str, n: int) -> list[dict[str, Any]]:
    with gzip.open(DATA / f"glue_{task}" / f"{split}.jsonl.gz", "rt") as file:
        return [json.loads(line) for line, _ in zip(file, range(n), strict=False)]


def encoded(tokenizer: Any, rows: list[dict[str, Any]]) -> Any:
    pairs = [row["text2"] for row in rows] if "text2" in rows[0] else None
    given = {"padding": True, "truncation": True, "max_length": LONGEST, "return_tensors": "pt"}
    return tokenizer([row["text"] for row in rows], pairs, **given)


def labels_of(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([row["label"] for row in rows])


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fine-tuned for a few steps, enough to be better than chance on some."""
    root, tokenizer = tmp_path_factory.mktemp("experts"), AutoTokenizer.from_pretrained(ENCODER)
    for task in TASKS:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_pretrained(
                ENCODER, num_labels=1 if task == "stsb" else 2
            )
            optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
            rows = rows_of(task, "train", 96)
            for start in range(0, len(rows), 8):
                batch = rows[start : start + 8]
                kind = torch.float32 if task == "stsb" else torch.int64
                labels = torch.tensor(labels_of(batch), dtype=kind)
                model(**encoded(tokenizer, batch), labels=labels).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        model.save_pretrained(root / task)
        tokenizer.save_pretrained(root / task)
    return {task: root / task for task in TASKS}


@pytest.fixture(scope="module")
def merged(experts: dict[str, Path]) -> Any:
    """The live encoder: the base and a part of what each expert has learned."""
    base = mo.Checkpoint(ENCODER, name="base")
    sources = [mo.Checkpoint(folder, name=task) for task, folder in experts.items()]
    return mo.Engine().load(mo.recipes.task_arithmetic(base, sources, weight=SCALE))


@pytest.fixture(scope="module")
def by_hand(experts: dict[str, Path]) -> dict[str, torch.Tensor]:
    """The same encoder, tensor by tensor in float64."""
    base = AutoModel.from_pretrained(ENCODER).double().state_dict()
    moved = {name: tensor.clone() for name, tensor in base.items()}
    for folder in experts.values():
        expert = AutoModel.from_pretrained(folder).double().state_dict()
        for name in moved:
            moved[name] += SCALE * (expert[name] - base[name])
    return moved


def outputs(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    """A plain loop of transformers."""
    with torch.no_grad():
        found = [
            model.eval()(**encoded(tokenizer, rows[start : start + 16])).logits
            for start in range(0, len(rows), 16)
        ]
    return torch.cat(found).numpy()


@pytest.mark.parametrize("task", TASKS)
def test_six_metrics(
    task: str, experts: dict[str, Path], merged: Any, by_hand: Any, tmp_path: Path
) -> None:
    """Of the merged encoder under each expert's head, and of each expert alone."""
    rows = rows_of(task, "dev", 48)
    data, labels = write_lines(tmp_path / "dev.jsonl", rows), labels_of(rows)
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)
    expert = AutoModelForSequenceClassification.from_pretrained(experts[task]).eval()
    spliced = AutoModelForSequenceClassification.from_pretrained(experts[task])
    spliced.base_model.load_state_dict({k: v.float() for k, v in by_hand.items()}, strict=False)
    head = mo.Checkpoint(experts[task], name=task)

    logits = {
        "merged": outputs(spliced, tokenizer, rows),
        "alone": outputs(expert, tokenizer, rows),
    }
    kind, metrics = (Regression, NUMBERS) if task == "stsb" else (Classification, CLASSES)
    for metric, reference in metrics.items():
        own = kind(data, metric=metric, max_length=LONGEST, head=head)
        own.check(merged)
        alone = kind(data, metric=metric, max_length=LONGEST)
        for name, found in (
            ("merged", value_of(own, merged)),
            ("alone", value_of(alone, expert)),
        ):
            expected = reference(labels, logits[name])
            print(f"{task} {metric}, {name}: {found:.4f}, expected {expected:.4f}")
            assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("metric", NUMBERS)
def test_similarity_of_the_encoder(metric: str, tmp_path: Path) -> None:
    """As sentence encoders are scored: the mean of the tokens, and the cosine."""
    rows = rows_of("stsb", "dev", 48)
    model = AutoModel.from_pretrained(ENCODER).eval()
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)

    def embedding(text: str) -> torch.Tensor:
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    with torch.no_grad():
        cosines = [
            float(torch.cosine_similarity(embedding(r["text"]), embedding(r["text2"]), 0))
            for r in rows
        ]
    evaluator = Similarity(write_lines(tmp_path / "dev.jsonl", rows), metric=metric)
    found = value_of(evaluator, model)
    print(f"similarity {metric}: {found:.4f}")
    assert found == pytest.approx(
        NUMBERS[metric](labels_of(rows), np.array(cosines)[:, None]), abs=1e-5
    )
    assert found > 0.7  # the encoder is a good one
