"""Small real tokenizers whose vocabularies overlap partly, and models that have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import merge_optuna as mo
from tests import toys

SPECIAL = ("<unk>", "<s>", "</s>")


def word_level(words: Sequence[str], *, special: Sequence[str] = SPECIAL) -> Any:
    """A tokenizer with one token per word, in this order after the special ones."""
    ids = {token: i for i, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(tokenizer, special)


def bpe(merges: Sequence[tuple[str, str]], *, special: Sequence[str] = SPECIAL) -> Any:
    """A byte-level BPE tokenizer over the lower-case letters with these merges."""
    tokens = [*special, *"abcdefghijklmnopqrstuvwxyz", "Ġ", *(a + b for a, b in merges)]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, list(merges), unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrapped(tokenizer, special)


def _wrapped(tokenizer: Tokenizer, special: Sequence[str]) -> Any:
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
    )


def model_with(
    tokenizer: Any,
    folder: Path,
    *,
    seed: int,
    padding: int = 0,
    make: Callable[..., Any] = toys.llama,
    dtype: torch.dtype = torch.float32,
    **config: object,
) -> mo.Checkpoint:
    """A saved model with one row per token, and ``padding`` rows besides."""
    size = max(tokenizer.get_vocab().values()) + 1 + padding
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos")}
    model = make(seed, vocab_size=size, **ids, **config)
    toys.save(model, folder, dtype=dtype)
    tokenizer.save_pretrained(folder)
    return mo.Checkpoint(folder, name=folder.name)


def word_family(root: Path, **settings: Any) -> list[mo.Checkpoint]:
    """A base and two experts that know other words; ids of common words differ."""
    vocabularies = {
        "base": ["cat", "dog", "owl", "fox", "hen"],
        "ja": ["neko", "dog", "cat", "inu", "hen", "tako"],
        "math": ["sum", "owl", "neko", "cat", "root", "hen", "sine"],
    }
    paddings = {"base": 2, "ja": 0, "math": 1}
    return [
        model_with(word_level(words), root / name, seed=i, padding=paddings[name], **settings)
        for i, (name, words) in enumerate(vocabularies.items())
    ]


def bpe_family(root: Path, **settings: Any) -> list[mo.Checkpoint]:
    """A base and an expert whose merges differ, and another special token."""
    merges = {
        "base": [("t", "h"), ("th", "e"), ("i", "n")],
        "code": [("i", "n"), ("in", "t"), ("d", "e"), ("de", "f")],
    }
    special = {"base": SPECIAL, "code": ("<unk>", "<s>", "<|end|>")}
    return [
        model_with(bpe(m, special=special[name]), root / name, seed=i, **settings)
        for i, (name, m) in enumerate(merges.items())
    ]
