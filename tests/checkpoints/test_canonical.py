"""Old files on the hub: what from_pretrained mends, against from_pretrained and newer files."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertForPreTraining, GPT2Model

import merge_optuna as mo
from merge_optuna.errors import CheckpointError
from tests import toys

Tensors = dict[str, Tensor]


def mixtral(seed: int = 0) -> nn.Module:
    return toys.decoder("Mixtral", seed)


def gpt2_base(seed: int = 0) -> nn.Module:
    return GPT2Model(toys.gpt2(seed).config).eval()


def without(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.removeprefix(prefix): t for name, t in tensors.items()}


def under(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: t for name, t in tensors.items()}


def hub_gpt2(tensors: Tensors) -> Tensors:
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 32, 32).tril() for i in range(2)}
    return {**without("transformer.")(tensors), **masks}


def gamma_and_beta(tensors: Tensors) -> Tensors:
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): t
        for name, t in tensors.items()
    }


def with_copies(*names: str, of: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name: tensors[of].clone() for name in names}}


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): t for name, t in tensors.items()}


def with_buffers(**buffers: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{n.replace("__", "."): t for n, t in buffers.items()}}


OLD: dict[str, tuple[Callable[[int], nn.Module], Callable[[Tensors], Tensors]]] = {
    "gpt2 of the hub": (toys.gpt2, hub_gpt2),
    "gpt2 with its masks": (toys.gpt2, with_buffers(transformer__h__0__attn__bias=torch.ones(1))),
    "gpt2 with a head twice": (
        toys.gpt2,
        with_copies("lm_head.weight", of="transformer.wte.weight"),
    ),
    "gpt2 without head, with prefix": (gpt2_base, under("transformer.")),
    "bert with gamma and beta": (toys.bert, gamma_and_beta),
    "bert without prefix": (toys.bert, without("bert.")),
    "bert with position_ids": (
        toys.bert,
        with_buffers(bert__embeddings__position_ids=torch.arange(32)[None]),
    ),
    "llama with inv_freq": (
        toys.llama,
        with_buffers(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4)),
    ),
    "llama without prefix": (toys.llama, without("model.")),
    "tied llama with a head": (
        lambda seed: toys.llama(seed, tied=True),
        with_copies("lm_head.weight", of="model.embed_tokens.weight"),
    ),
    "tied llama with only the head": (
        lambda seed: toys.llama(seed, tied=True),
        renamed("model.embed_tokens.weight", "lm_head.weight"),
    ),
    "t5 with every name": (
        toys.t5,
        with_copies(
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "lm_head.weight",
            of="shared.weight",
        ),
    ),
    "vit without prefix": (toys.vit, without("vit.")),
    "mixtral without prefix": (mixtral, without("model.")),
}


def aged(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(("make", "change"), OLD.values(), ids=OLD)
def test_an_old_file_is_as_a_new_one(
    tmp_path: Path, make: Callable[[int], nn.Module], change: Callable[[Tensors], Tensors]
) -> None:
    models = [make(0), make(1)]
    new = [
        mo.Checkpoint(toys.save(m, tmp_path / f"new{i}"), name=f"m{i}")
        for i, m in enumerate(models)
    ]
    aged(toys.save(models[0], tmp_path / "old"), change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        old = mo.Checkpoint(tmp_path / "old", name="m0")

    assert old.names() == new[0].names()
    assert old == new[0]
    assert all(torch.equal(old.tensor(n), new[0].tensor(n)) for n in old.names())
    # live, alone: what transformers makes of the old file
    loaded = type(models[0]).from_pretrained(tmp_path / "old").state_dict()
    live = mo.Engine().load(old).state_dict()
    assert live.keys() == loaded.keys()
    assert all(torch.equal(live[n], t) for n, t in loaded.items())
    # merged with a newer one, as base and as expert, live and written
    expected = mo.Engine().load(mo.recipes.linear(new)).state_dict()
    for sources in ([old, new[1]], [new[1], old]):
        merged = mo.Engine().load(mo.recipes.linear(sources)).state_dict()
        assert all(torch.equal(merged[n], t) for n, t in expected.items())
    folder = mo.write(mo.recipes.linear([old, new[1]]), tmp_path / "out")
    again = type(models[0]).from_pretrained(folder).state_dict()
    assert all(torch.equal(again[n], t) for n, t in expected.items())
    assert set(load_file(folder / "model.safetensors")) == set(new[0].names())


TODAY: dict[str, Callable[[], nn.Module]] = {
    "llama": toys.llama,
    "tied llama": lambda: toys.llama(tied=True),
    "gpt2": toys.gpt2,
    "bert": toys.bert,
    "vit": toys.vit,
    "t5": toys.t5,
    "llava": toys.llava,
    "roberta": lambda: toys.encoder("Roberta"),
    **{
        name.lower(): partial(toys.decoder, name)
        for name in ("Mixtral", "Qwen2Moe", "Qwen3Moe", "Qwen3", "Phi3", "Gemma2", "Gemma3")
    },
}


@pytest.mark.parametrize("make", TODAY.values(), ids=TODAY)
def test_names_of_today_stay(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    folder = toys.save(make(), tmp_path / "m")
    checkpoint = mo.Checkpoint(folder)
    assert set(checkpoint.names()) == set(load_file(folder / "model.safetensors"))
    # without the short cut for ordinary decoders, whose layers are as many as the config says
    shortened = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 99}
    (folder / "config.json").write_text(json.dumps(shortened))
    assert mo.Checkpoint(folder).names() == checkpoint.names()


def test_a_head_that_is_called_tied_but_differs_stays(tmp_path: Path) -> None:
    """transformers does not tie them either."""
    folder = aged(
        toys.save(toys.llama(tied=True), tmp_path / "m"),
        lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] + 1},
    )
    checkpoint = mo.Checkpoint(folder)
    live = mo.Engine().load(checkpoint).state_dict()
    loaded = type(toys.llama()).from_pretrained(folder).state_dict()
    assert "lm_head.weight" in checkpoint.names()
    assert all(torch.equal(live[n], t) for n, t in loaded.items())
    assert not torch.equal(live["lm_head.weight"], live["model.embed_tokens.weight"])


def test_another_head_stays(tmp_path: Path) -> None:
    """bert-base-uncased holds two heads, of which its config names one, and gamma and beta."""
    pretrained = BertForPreTraining(toys.bert().config)
    aged(toys.save(pretrained, tmp_path / "m"), gamma_and_beta)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))

    checkpoint = mo.Checkpoint(tmp_path / "m")

    today = toys.save(pretrained, tmp_path / "today")
    assert set(checkpoint.names()) == set(load_file(today / "model.safetensors"))
    with pytest.warns(UserWarning, match=r"BertForMaskedLM has no place for 4 tensors"):
        live = mo.Engine().load(checkpoint)
    loaded = type(live).from_pretrained(tmp_path / "m").state_dict()
    assert all(torch.equal(live.state_dict()[n], t) for n, t in loaded.items())


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """from_pretrained would make it up."""

    def lacking(tensors: Tensors) -> Tensors:
        return {n: t for n, t in hub_gpt2(tensors).items() if n != "h.1.mlp.c_fc.bias"}

    folder = aged(toys.save(toys.gpt2(), tmp_path / "m"), lacking)
    with pytest.raises(CheckpointError, match=r"^1 tensors .*: transformer.h.1.mlp.c_fc.bias\."):
        mo.Engine().load(mo.Checkpoint(folder))


@pytest.mark.parametrize(
    "config", [{"architectures": ["NoSuchModel"]}, {"num_attention_heads": 0}]
)
def test_unknown_architectures_are_read_as_they_are(
    tmp_path: Path, config: dict[str, object]
) -> None:
    save_file({"LayerNorm.gamma": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"], **config}))
    assert mo.Checkpoint(tmp_path).names() == ("LayerNorm.gamma",)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(tmp_path: Path, copied: Callable[[mo.Checkpoint], mo.Checkpoint]) -> None:
    checkpoint = mo.Checkpoint(aged(toys.save(toys.gpt2(), tmp_path / "m"), hub_gpt2))
    again = copied(checkpoint)
    assert again.names() == checkpoint.names()
    assert all(torch.equal(again.tensor(n), checkpoint.tensor(n)) for n in again.names())


def test_ordinary_decoders_are_opened_without_transformers(tmp_path: Path) -> None:
    """Importing it takes longer than most merges."""
    toys.save(toys.llama(), tmp_path / "m")
    code = (
        "import sys, merge_optuna as mo\n"
        f"mo.Checkpoint({str(tmp_path / 'm')!r})\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
