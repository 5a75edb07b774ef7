"""Texts of four domains, small decoders, and their nats per token."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer

import merge_optuna as mo

Array = NDArray[np.float64]
DATA = "MERGE_OPTUNA_DATA"  # environment variable: a folder with the following files
TEXTS = {
    "shakespeare": "lm_tinyshakespeare/input.txt",
    "wizardofoz": "lm_wizard_of_oz/input.txt",
    "gsm8k": "math_gsm8k",
    "tinystories": "lm_tinystories/tinystories_sample.txt",
}
LENGTH = 128  # tokens of a passage
PASSAGES = {"dev": 12, "test": 60}  # of each domain
BASE = "base"


def text_of(data: Path, domain: str, split: str) -> str:
    """The first 80 % of a text for training, then 10 % each for dev and test."""
    place = data / TEXTS[domain]
    if place.is_dir():
        with gzip.open(place / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return "\n".join(f"{row['question']}\n{row['answer']}" for row in rows)
    text = place.read_text(encoding="utf-8")
    shares = {"train": (0, 0.8), "dev": (0.8, 0.9), "test": (0.9, 1)}[split]
    first, last = (int(len(text) * share) for share in shares)
    return text[first:last]


def passages(data: Path, domain: str, split: str, tokenizer: Any) -> torch.Tensor:
    """(n, 128) tokens, evenly spread over a text; the first is that of the beginning."""
    text = text_of(data, domain, split)
    count = PASSAGES[split]
    ids = []
    for i in range(count):
        part = text[i * len(text) // count :][: 8 * LENGTH]
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        ids.append([*start, *tokenizer(part, add_special_tokens=False).input_ids][:LENGTH])
    return torch.tensor(ids)


def sha256(content: bytes) -> str:
    """Its hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()


class Nats(mo.evaluators.Evaluator):
    """Nats per token, the mean over the domains: an evaluator, a passage is an example.

    Attributes:
        domains: (n, 128) tokens by domain, as many of each.
    """

    directions = ("minimize",)
    metric_names = ("nats",)
    deterministic = True  # so that a path found again is not scored again

    def __init__(self, domains: dict[str, torch.Tensor]) -> None:
        self.domains = domains
        self.digest = {name: sha256(ids.numpy().tobytes()) for name, ids in domains.items()}

    def __len__(self) -> int:
        return sum(map(len, self.domains.values()))

    def __call__(self, model: nn.Module) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Domain by domain."""
        first = 0
        for ids in self.domains.values():
            with torch.inference_mode():
                logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
                loss = nn.functional.cross_entropy(
                    logits.transpose(1, 2), ids[:, 1:], reduction="none"
                )
            yield np.arange(first, first + len(ids)), loss.mean(1).double().numpy()
            first += len(ids)

    def value(self, scores: Array) -> float:
        """The mean over all passages, which is that over the domains."""
        return float(np.mean(scores))

    def scores(self, model: nn.Module) -> Array:
        """Nats per token of every passage, (domains, n)."""
        return np.stack([scores for _, scores in self(model)])


@dataclass(frozen=True)
class Pool:
    """The models to merge, and the texts.

    Attributes:
        name: Of the study.
        data: Folder of the texts.
        folder: Folder of the checkpoints.
        models: Folder by name, the base first.
        domains: Names of the texts that models are scored on.
    """

    name: str
    data: Path
    folder: Path
    models: tuple[tuple[str, str], ...]
    domains: tuple[str, ...] = tuple(TEXTS)

    @cached_property
    def checkpoints(self) -> dict[str, mo.Checkpoint]:
        """By name, the base first."""
        return {n: mo.Checkpoint(self.folder / place, name=n) for n, place in self.models}

    @cached_property
    def experts(self) -> list[mo.Checkpoint]:
        """All but the base, the best on dev first."""
        found = [model for name, model in self.checkpoints.items() if name != BASE]
        return sorted(found, key=lambda model: self.score(model, "dev").mean())

    def evaluator(self, split: str) -> Nats:
        """Of the dev or test passages."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder / self.models[0][1])
        return Nats({d: passages(self.data, d, split, tokenizer) for d in self.domains})

    def score(self, model: mo.Checkpoint | mo.Recipe, split: str) -> Array:
        """Nats per token of every passage, (domains, n)."""
        return self.evaluator(split).scores(mo.Engine().load(model))
