"""Two GLUE tasks for one encoder: experts with heads of their own over a base without one."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from _fronts_experiment import OPTUNAS, OURS, TPE, Experiment, Inputs, Way, two_weights
from datasets import Dataset
from torch import nn

import merge_optuna as mo

ENCODER, LAYERS = "sentence-transformers/all-MiniLM-L6-v2", 3  # the lower ones of it
TRAIN, EPOCHS, BATCH = 2000, 4, 32
RATE, HEAD_RATE = 2e-4, 2e-3
WORDS, LONGEST = 14, 40  # of an example: longer ones are left out; and its tokens
DEV, TEST = 80, 150  # examples of each task

Rows = list[dict[str, Any]]  # text, label, and text2 where there are pairs


@dataclass(frozen=True)
class Task:
    """A task of GLUE.

    Attributes:
        evaluator: Its kind.
        metric: Its metric.
        outputs: Of the head.
    """

    evaluator: type[mo.evaluators.Classification] | type[mo.evaluators.Regression]
    metric: str
    outputs: int


TASKS = {
    "sst2": Task(mo.evaluators.Classification, "accuracy", 2),
    "stsb": Task(mo.evaluators.Regression, "pearson", 1),
}


def texts(row: dict[str, Any]) -> tuple[str, ...]:
    """The text, or the two."""
    return tuple(row[name] for name in ("text", "text2") if name in row)


def read(data: Path, task: str, split: str) -> Rows:
    """The short examples of a split, without those that are in an earlier one."""
    seen: set[tuple[str, ...]] = set()
    for name in ("train", "dev", "test"):
        with gzip.open(data / f"glue_{task}" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        short = [row for row in rows if len(" ".join(texts(row)).split()) <= WORDS]
        if name == split:
            return [row for row in short if texts(row) not in seen]
        seen |= {texts(row) for row in short}
    raise ValueError(f"There is no split {split!r}.")


def draw(rows: Rows, n: int) -> Rows:
    """Some examples, always the same, or all if there are no more."""
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:n]]


def train(start: Path, rows: Rows, outputs: int, folder: Path) -> None:
    """Fine-tunes all parameters, and a new head at a higher rate: AdamW, falling linearly."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        start, num_labels=outputs
    ).train()
    inner, head = model.base_model.parameters(), model.classifier.parameters()
    rates = [{"params": inner, "lr": RATE}, {"params": head, "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(rates, fused=True)
    steps = [some for _ in range(EPOCHS) for some in torch.randperm(len(rows)).split(BATCH)]
    falls = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.05, len(steps))
    for some in steps:
        columns = map(list, zip(*(texts(rows[i]) for i in some), strict=True))
        labels = torch.tensor([rows[i]["label"] for i in some])
        tokens = tokenizer(
            *columns, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        model(**tokens, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        falls.step()
    for part in (model, tokenizer):
        part.save_pretrained(folder)


def save_encoder(encoder: str, folder: Path) -> None:
    """The lower layers of the encoder alone."""
    layers = min(LAYERS, transformers.AutoConfig.from_pretrained(encoder).num_hidden_layers)
    for part in (
        transformers.AutoModel.from_pretrained(encoder, num_hidden_layers=layers),
        transformers.AutoTokenizer.from_pretrained(encoder),
    ):
        part.save_pretrained(folder)


def make_models(folder: Path, data: Path, encoder: str) -> dict[str, mo.Checkpoint]:
    """The base and the experts, which are trained unless they are in the folder."""
    made = {}
    for name in ("base", *TASKS):
        place = folder / name
        if not place.exists():
            print(f"Making {name} ...", file=sys.stderr, flush=True)
            unfinished = place.with_suffix(".unfinished")
            if name == "base":
                save_encoder(encoder, unfinished)
            else:
                rows = draw(read(data, name, "train"), TRAIN)
                train(folder / "base", rows, TASKS[name].outputs, unfinished)
            unfinished.rename(place)  # so a killed run leaves no half-written model
        made[name] = mo.Checkpoint(place, name=name)
    return made


def scorer(
    data: Path, split: str, n: int, models: dict[str, mo.Checkpoint | None]
) -> mo.evaluators.Tasks:
    """Each task under the head of its expert."""
    return mo.evaluators.Tasks(
        {
            name: task.evaluator(
                Dataset.from_list(draw(read(data, name, split), n)),
                metric=task.metric,
                max_length=LONGEST,
                batch_size=20,
                head=models[name],
            )
            for name, task in TASKS.items()
        },
        aggregate="each",
    )


def make(folder: Path, inputs: Inputs) -> Experiment:
    """SST-2 and STS-B, in their metrics in GLUE."""
    if (data := inputs.data) is None:
        raise ValueError("GLUE needs a folder with its texts: --data DIR.")
    models = make_models(folder, data, inputs.encoder)
    dev = scorer(data, "dev", DEV, models)

    def plain(folder: Path) -> tuple[float, ...]:
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        own = scorer(data, "dev", DEV, dict.fromkeys(TASKS)).tasks
        return tuple(value_of(own[task], load(folder / task).eval()) for task in TASKS)

    return Experiment(
        "glue",
        "Two tasks of GLUE",
        models,
        dev,
        scorer(data, "test", TEST, models),
        way=Way(mo.depth(2), two_weights(16)),
        reference=(0.5, 0.0),  # what guessing is worth
        ideal=(1.0, 1.0),
        plain=plain,
        searches=(OURS, OPTUNAS, TPE),
        trials=64,
        population=16,
    )


def value_of(evaluator: mo.evaluators.Evaluator, model: nn.Module) -> float:
    """The value over all examples."""
    value = evaluator.value(np.concatenate([scores for _, scores in evaluator(model)]))
    assert isinstance(value, float)
    return value
