"""Real mergekit files outside of this project, and small models for those that they name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import peft
import pytest
import torch

from tests import adapters, toys, vocabularies

VARIABLE = "MERGE_OPTUNA_DATA"
_ROW = re.compile(r"^\| *(\S+\.yml) *\| *(.*?) *\|$", re.MULTILINE)
_LAYERS = 4
_WORDS = ("cat", "dog", "owl", "fox", "hen")
_MODEL = re.compile(r"\bM/(\w+)")
_ADAPTER = re.compile(r"\bL/(\w+)")


def folder() -> Path:
    """Where the files are."""
    return Path(os.environ.get(VARIABLE, "")) / "mergekit_yaml"


def _verdicts() -> dict[str, str]:
    """What mergekit says, by name of the file; nothing where there are none."""
    table = folder() / "README.md"
    return dict(_ROW.findall(table.read_text())) if table.is_file() else {}


VERDICTS = _verdicts()
needed = pytest.mark.skipif(
    not VERDICTS, reason=f"set {VARIABLE} to a folder with mergekit_yaml/*.yml"
)


def stand_ins(text: str, root: Path, *, dtype: torch.dtype = torch.bfloat16) -> str:
    """Makes a Llama for every model ``M/...`` of the text and a LoRA for every ``L/...``.

    They are experts of one base, as deep as the text's layer ranges need. Each has a tokenizer;
    if the text says something of tokenizers, each knows a word that the others do not.

    Returns:
        The text with the folders in place of the names.
    """
    ends = [int(end) for end in re.findall(r"layer_range: \[\d+, (\d+)\]", text)]
    layers = max(ends, default=_LAYERS)
    differ = re.search(r"^tokenizer", text, re.MULTILINE) is not None
    for i, name in enumerate(sorted(set(_MODEL.findall(text)))):
        known = vocabularies.word_level([*_WORDS, f"word{i}" if differ else "word"])
        model = toys.llama(layers=layers, vocab_size=len(known), eos_token_id=2)
        toys.save(toys.noised(model, 100 + i), root / "M" / name, dtype=dtype)
        known.save_pretrained(root / "M" / name)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    for i, name in enumerate(sorted(set(_ADAPTER.findall(text)))):
        adapters.save_adapter(toys.llama(layers=layers), lora, root / "L" / name, seed=i)
    return _ADAPTER.sub(rf"{root}/L/\1", _MODEL.sub(rf"{root}/M/\1", text))
