"""Merge five experts for emotions in texts: do evolved merges beat the simple ones?

    python studies/emotions.py --data DIR      # trains, searches, writes the tables

A small pre-trained encoder with one six-way head learns a little about emotions from three sets
of texts. Five experts are fine-tuned from it, each on another domain: tweets, reports, dialogues,
comments. Every method merges them into one model for all five domains and is scored by the mean
over the domains of macro-F1, in its search on dev texts, in the tables on all test texts. Beside
each result stands the merge that its method begins with, and what it gained over it.

DIR holds one folder per set, ``emo_tec`` and so on, with ``train``, ``dev`` and ``test.jsonl.gz``,
a "text" and a "label" per line. A seed is one repetition of everything: the texts and the order
of training, the dev texts, the searches. Stop it and start it again: models on disk are used
again, finished trials are kept. Everything but the tables is in ``runs/emotions``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

import merge_optuna as mo

DOMAINS = ("tec", "isear", "crowdflower", "dailydialog", "goemotions")
WARM = ("dair", "meld", "emoevent")  # for the base, never merged
LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
OUT = Path("runs/emotions")
WARM_TEXTS, TRAIN_TEXTS, DEV_TEXTS = 600, 2000, 200  # per set
MAX_LENGTH = 48  # tokens

Rows = list[dict[str, Any]]  # text, label, domain


def read(data: Path, domain: str, split: str) -> Rows:
    """All examples of a split."""
    with gzip.open(data / f"emo_{domain}" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) | {"domain": domain} for line in file]


def draw(rows: Rows, n: int, seed: int) -> Rows:
    """Some examples, or all if there are no more."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n]
    return [rows[i] for i in chosen]


def train(folder: Path, rows: Rows, seed: int) -> tuple[nn.Module, Any]:
    """Fine-tunes all parameters of the model in a folder: AdamW, 2 epochs in batches of 32."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    for batch in [*torch.randperm(len(rows)).split(32), *torch.randperm(len(rows)).split(32)]:
        texts = [rows[i]["text"] for i in batch]
        labels = torch.tensor([LABELS.index(rows[i]["label"]) for i in batch])
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(**tokens).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def make_models(folder: Path, data: Path, encoder: str, seed: int) -> dict[str, mo.Checkpoint]:
    """Trains and saves the base and the experts, or takes those that are in the folder."""

    def checkpoint(name: str, start: str | Path, texts: Callable[[], Rows]) -> mo.Checkpoint:
        place = folder / name
        if not place.exists():
            print(f"Training {name} of seed {seed} ...", file=sys.stderr)
            unfinished = place.with_suffix(".unfinished")
            for part in train(start, texts(), seed):
                part.save_pretrained(unfinished)
            unfinished.rename(place)  # so a killed run leaves no half-written model
        return mo.Checkpoint(place, name=name)

    def some(sets: Iterable[str], n: int) -> Rows:
        return [row for name in sets for row in draw(read(data, name, "train"), n, seed)]

    made = {"base": checkpoint("base", encoder, lambda: some(WARM, WARM_TEXTS))}
    for domain in DOMAINS:
        made[domain] = checkpoint(
            domain, folder / "base", lambda domain=domain: some([domain], TRAIN_TEXTS)
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("MERGE_OPTUNA_DATA"),
        help="folder with the texts (default: $MERGE_OPTUNA_DATA)",
    )
    parser.add_argument("--encoder", default=ENCODER, help="hub id or folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="work folder (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5), help="0 to 4")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for seed in arguments.seeds:
        make_models(arguments.out / f"seed-{seed}", arguments.data, arguments.encoder, seed)


if __name__ == "__main__":
    main()
