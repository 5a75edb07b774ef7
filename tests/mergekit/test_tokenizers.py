"""Models with different vocabularies, merged by mergekit 0.1.5 on the same configuration.

Its union numbers new tokens in no fixed order (that of a hash map), so rows are compared token by
token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

import merge_optuna as mo

from .. import toys, vocabularies
from .conftest import Mergekit
from .test_mergekit import config

CLOSE = 1e-6

MAKERS: dict[str, Callable[..., list[mo.Checkpoint]]] = {
    "words": vocabularies.word_family,
    "words, tied": lambda root, **s: vocabularies.word_family(root, tied=True, **s),
    "words, GPT-2": lambda root, **s: vocabularies.word_family(root, make=toys.gpt2, **s),
    "bytes": vocabularies.bpe_family,
}
Families = Callable[[str, torch.dtype], list[mo.Checkpoint]]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Families:
    root, made = tmp_path_factory.mktemp("vocabularies"), {}

    def family(kind: str, dtype: torch.dtype) -> list[mo.Checkpoint]:
        if (kind, dtype) not in made:
            folder = root / f"{kind}-{dtype}".replace(" ", "").replace(",", "")
            made[kind, dtype] = MAKERS[kind](folder, dtype=dtype)
        return made[kind, dtype]

    return family


def assert_agree(
    recipe: mo.Recipe, theirs: dict[str, Tensor], folders: tuple[Path, Path], out: torch.dtype
) -> None:
    """Equal within one step of ``out``, rows of tokens by token."""
    ours = dict(mo.engine.tensors(recipe, dtype=out))
    mo.write(recipe, folders[0], dtype=out)
    my_ids, their_ids = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in folders)
    assert my_ids.keys() == their_ids.keys()
    tokens = sorted(my_ids)
    mine = torch.tensor([my_ids[token] for token in tokens])
    theirs_ = torch.tensor([their_ids[token] for token in tokens])
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
        if any(part in name for part in ("embed_tokens", "lm_head", "wte")):
            tensor = torch.cat([tensor[mine], tensor[len(tokens) :]])
            other = torch.cat([other[theirs_], other[len(tokens) :]])
        error = (tensor.double() - other.double()).abs()
        _, exponent = torch.frexp(torch.maximum(tensor.abs(), other.abs()).double())
        step = torch.finfo(out).eps * 2.0 ** (exponent - 1) if out != torch.float32 else 0.0
        assert (error <= step + CLOSE).all(), (name, float(error.max()))


@pytest.mark.parametrize("source", ["base", "union", "last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", MAKERS)
def test_rows_by_token(
    mergekit: Mergekit,
    families: Families,
    tmp_path: Path,
    kind: str,
    dtype: torch.dtype,
    source: str,
) -> None:
    base, *experts = family = families(kind, dtype)
    last = family[-1].name if source == "last" else source
    weight = [0.3, 0.5, 0.4][: len(family)]
    linear = config("linear", family, out=dtype, per_model={"weight": weight})
    delta = config("task_arithmetic", experts, base, out=dtype, per_model={"weight": weight[1:]})
    # without a base_model "base" is any of the models: they are kept in a set
    named = {"base": base.ref, "last": family[-1].ref}
    linear["tokenizer"] = {"source": named.get(source, source)}
    delta["tokenizer"] = {"source": family[-1].ref if source == "last" else source}
    recipes = [
        (linear, mo.recipes.linear(family, weight=weight, tokenizer=last)),
        (delta, mo.recipes.task_arithmetic(base, experts, weight=weight[1:], tokenizer=last)),
    ]
    for i, (made, recipe) in enumerate(recipes):
        theirs = mergekit.merge(made, tmp_path / f"theirs{i}")
        assert_agree(recipe, theirs, (tmp_path / f"ours{i}", tmp_path / f"theirs{i}"), dtype)


def test_rows_of_single_tokens_and_padding(
    mergekit: Mergekit, families: Families, tmp_path: Path
) -> None:
    family = base, ja, math = families("words", torch.float32)
    tokens: dict[str, Any] = {
        "neko": {"source": math.ref},
        "fox": {"source": {"kind": "zero"}},
        "cat": {"source": ja.ref, "force": True},
        "<new>": {"source": {"kind": "model_token", "model": base.ref, "token": "owl"}},
        "sum": {
            "source": {"kind": "model_token", "model": ja.ref, "token_id": 7},
            "force": True,
        },
    }
    ours = {
        "neko": "math",
        "fox": "zero",
        "cat": {"source": "ja", "force": True},
        "<new>": mo.TokenRow("base", token="owl"),
        "sum": mo.TokenRow("ja", token=7, force=True),
    }
    made = config("linear", family, per_model={"weight": [1.0, 2.0, 3.0]})
    made["tokenizer"] = {"source": "union", "tokens": tokens, "pad_to_multiple_of": 8}

    theirs = mergekit.merge(made, tmp_path / "theirs")

    vocabulary = mo.Vocabulary("union", tokens=ours, pad_to_multiple_of=8)
    recipe = mo.recipes.linear(family, weight=[1, 2, 3], tokenizer=vocabulary)
    folders = tmp_path / "ours", tmp_path / "theirs"
    assert_agree(recipe, theirs, folders, torch.float32)
    assert len(theirs["lm_head.weight"]) == 16


def test_tokens_without_a_row_are_dropped(mergekit: Mergekit, tmp_path: Path) -> None:
    """Fine-tuned models often come with a [PAD] beyond their embedding."""
    base, code = vocabularies.bpe_family(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(base.folder)
    base = mo.Checkpoint(base.ref, name=base.name)
    made = config("task_arithmetic", [code], base, per_model={"weight": [0.6]})

    theirs = mergekit.merge({**made, "tokenizer_source": "base"}, tmp_path / "theirs")

    recipe = mo.recipes.task_arithmetic(base, [code], weight=0.6, tokenizer="base")
    written = AutoTokenizer.from_pretrained(mo.write(recipe, tmp_path / "ours"))
    ours = dict(mo.engine.tensors(recipe))
    assert all(torch.allclose(ours[name], t, atol=CLOSE) for name, t in theirs.items())
    assert len(written) == len(ours["lm_head.weight"])
    assert written.pad_token is None
