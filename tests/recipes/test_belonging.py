"""Which models belong together, and what a recipe says of those that do not.

Every pairing of configs is checked against transformers itself: one model's weights, loaded under
both configs, give the same outputs exactly where the pairing is accepted.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import optuna
import peft
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

import merge_optuna as mo
from merge_optuna.checkpoints import rows_of_other_tokens
from merge_optuna.errors import CheckpointError, CheckpointMismatch, RecipeError
from tests import adapters, toys, vocabularies

Config = dict[str, Any]
REMOVED = object()


@dataclass(frozen=True)
class Pairing:
    """Two configs of the same weights.

    Attributes:
        why: Why it is accepted or refused.
        accepted: Whether weights mean the same in both.
        changes: What the second config says otherwise.
        make: The model.
        names: What an error names.
        first: What the first config says otherwise.
    """

    why: str
    accepted: bool
    changes: Config
    make: Callable[[], nn.Module] = toys.llama
    names: tuple[str, ...] = ()
    first: Config = field(default_factory=dict)


refused = partial(Pairing, accepted=False)
accepted = partial(Pairing, accepted=True)
_FALCON = {"multi_query": False, "parallel_attn": True, "bias": False, "alibi": True}

PAIRINGS = {
    # -- refused: equal weights are another model
    "base of rotary positions": refused(
        "queries and keys are turned by other angles",
        changes={"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        names=("rope_parameters.rope_theta is 1000000.0 and 10000.0",),
    ),
    "base of rotary positions, old form": refused(
        "the same in what versions before 5 wrote",
        changes={"rope_parameters": REMOVED, "rope_theta": 5e5},
        names=("rope_parameters.rope_theta is 500000.0 and 10000.0",),
    ),
    "linear rotary scaling": refused(
        "positions are counted in another unit",
        changes={"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        names=("rope_parameters.factor is 4.0 and None", "rope_type is 'linear' and 'default'"),
    ),
    "yarn, old form": refused(
        "frequencies are changed one by one",
        changes={
            "rope_parameters": REMOVED,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "yarn", "factor": 4.0},
        },
        names=("rope_type is 'yarn' and 'default'",),
    ),
    "dynamic rotary scaling of another length": refused(
        "its frequencies follow from max_position_embeddings",
        first={"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
        | {"max_position_embeddings": 4},
        changes={"max_position_embeddings": 6},
        names=("max_position_embeddings is 6 and 4",),
    ),
    "epsilon of RMS norms": refused(
        "norms divide by something else",
        changes={"rms_norm_eps": 1e-3},
        names=("rms_norm_eps is 0.001 and 1e-06",),
    ),
    "epsilon of layer norms": refused(
        "norms divide by something else",
        changes={"layer_norm_eps": 1e-3},
        make=toys.bert,
        names=("layer_norm_eps is 0.001 and 1e-12",),
    ),
    "activation": refused(
        "another function between two projections",
        changes={"hidden_act": "gelu"},
        names=("hidden_act is 'gelu' and 'silu'",),
    ),
    "number of heads": refused(
        "the same projections are cut into other heads",
        changes={"n_head": 4},
        make=toys.gpt2,
        names=("n_head is 4 and 2",),
    ),
    "key-value heads of another width": refused(
        "the same projections are cut into other heads",
        changes={"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4},
        names=("num_key_value_heads is 4 and 2", "head_dim is 4 and 8"),
    ),
    "sliding window": refused(
        "attention does not reach as far",
        changes={"sliding_window": 3},
        make=partial(toys.decoder, "Mistral", sliding_window=None),
        names=("sliding_window is 3 and None",),
    ),
    "soft cap of logits": refused(
        "what comes out is bent",
        changes={"final_logit_softcapping": 5.0},
        make=partial(toys.decoder, "Gemma2"),
        names=("final_logit_softcapping is 5.0 and 30.0",),
    ),
    "multiplier of branches": refused(
        "branches count otherwise",
        changes={"residual_multiplier": 0.5},
        make=partial(toys.decoder, "Granite"),
        names=("residual_multiplier is 0.5 and 1.0",),
    ),
    "kind of positions": refused(
        "biases on the attention or rotations",
        changes={"alibi": False},
        make=partial(toys.decoder, "Falcon", **_FALCON),
        names=("alibi is False and True",),
    ),
    "positions that begin after the padding": refused(
        "RoBERTa counts from the id of its padding token on",
        changes={"pad_token_id": 2},
        make=partial(toys.encoder, "Roberta", head="MaskedLM"),
        names=("pad_token_id is 2 and 1",),
    ),
    "another architecture": refused(
        "Gemma scales its embedding and adds 1 to the weights of its norms",
        changes={"model_type": "gemma", "architectures": ["GemmaForCausalLM"]},
        names=("model_type is 'gemma' and 'llama'",),
    ),
    # -- accepted: nothing changes
    "Mistral without a window": accepted(
        "computes what a Llama does",
        changes={"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        | {"sliding_window": None, "attention_bias": REMOVED, "mlp_bias": REMOVED},
    ),
    "old form of the same": accepted(
        "rope_theta and rope_scaling became rope_parameters",
        first={"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
        changes={
            "rope_parameters": REMOVED,
            "rope_theta": 5e5,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
    ),
    "defaults left out": accepted(
        "transformers fills them in",
        changes=dict.fromkeys(
            ("hidden_act", "rms_norm_eps", "attention_bias", "head_dim"), REMOVED
        ),
    ),
    "longest input": accepted(
        "rotary positions have no end; the number is a limit",
        changes={"max_position_embeddings": 32},
    ),
    "dropout": accepted("training only", changes={"attention_dropout": 0.3}),
    "initialisation": accepted("before training", changes={"initializer_range": 0.5}),
    "data type": accepted("merges are computed in float32", changes={"dtype": "float64"}),
    "version and place": accepted(
        "who wrote it",
        changes={"transformers_version": "4.30.0", "_name_or_path": "org/model"},
    ),
    "special tokens": accepted(
        "which rows end a text, not what rows are",
        changes={"bos_token_id": 5, "eos_token_id": [2, 7], "pad_token_id": 0},
    ),
    "settings of generation": accepted(
        "how tokens are drawn", changes={"temperature": 0.3, "max_length": 99}
    ),
    "caches and outputs": accepted(
        "how it is run", changes={"use_cache": False, "output_attentions": True}
    ),
}


@cache
def _saved(make: Callable[[], nn.Module], root: Path) -> Path:
    return toys.save(make(), root / f"model{len(list(root.iterdir()))}")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """A folder with a model, made once."""
    root = tmp_path_factory.mktemp("models")
    yield lambda make: _saved(make, root)
    _saved.cache_clear()


def with_config(folder: Path, to: Path, changes: Config) -> Path:
    """A copy of a model with another config."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text()) | changes
    kept = {k: v for k, v in config.items() if v is not REMOVED}
    (to / "config.json").write_text(json.dumps(kept))
    return to


def outputs(folder: Path) -> Tensor:
    config = json.loads((folder / "config.json").read_text())
    auto = AutoModelForCausalLM if "Causal" in config["architectures"][0] else AutoModel
    if "LMHead" in config["architectures"][0]:
        auto = AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found: Tensor = model(**toys.inputs(model))[0]
    return found


@pytest.fixture(params=PAIRINGS)
def pairing(request: pytest.FixtureRequest) -> Pairing:
    return PAIRINGS[request.param]


def pair(pairing: Pairing, saved: Callable[..., Path], root: Path) -> list[mo.Checkpoint]:
    folder = saved(pairing.make)
    folders = {
        "one": with_config(folder, root / "one", pairing.first),
        "two": with_config(folder, root / "two", {**pairing.first, **pairing.changes}),
    }
    return [mo.Checkpoint(place, name=name) for name, place in folders.items()]


def test_pairings(pairing: Pairing, saved: Callable[..., Path], tmp_path: Path) -> None:
    models = pair(pairing, saved, tmp_path)
    one, two = (outputs(Path(model.ref)) for model in models)
    assert torch.allclose(one, two, atol=1e-6) == pairing.accepted, pairing.why

    for recipe in (mo.recipes.linear(models), mo.recipes.task_arithmetic(models[0], models[1:])):
        if pairing.accepted:
            assert recipe.alignment.copied == {}
            continue
        with pytest.raises(CheckpointMismatch) as caught:
            _ = recipe.alignment
        for text in (*pairing.names, "'two' and 'one'", 'config="base" or the name of a source'):
            assert text in str(caught.value)


def other(value: Any) -> Any:
    """Another value of a setting; itself where there is none to think of."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.5 + 0.125 if isinstance(value, float) else value


_SLOW = {
    "gemma2": partial(toys.decoder, "Gemma2"),
    "t5": toys.t5,
    "granite": partial(toys.decoder, "Granite"),
    "roberta": partial(toys.encoder, "Roberta"),
}
_WHOLE_CONFIGS = {
    "llama": toys.llama,
    "gpt2": toys.gpt2,
    "bert": toys.bert,
    "vit": toys.vit,
    "qwen3_moe": partial(toys.decoder, "Qwen3Moe"),
}


@pytest.mark.parametrize(
    "make",
    [
        *(pytest.param(make, id=name) for name, make in _WHOLE_CONFIGS.items()),
        *(pytest.param(m, id=name, marks=pytest.mark.slow) for name, m in _SLOW.items()),
    ],
)
def test_whatever_is_accepted_changes_nothing(make: Callable[[], Any]) -> None:
    """Every number and switch of a config: where the outputs change, it is refused."""
    model = make()
    inputs = toys.inputs(model)
    source = mo.Checkpoint.from_module(model, name="one")
    changes = {key: other(value) for key, value in model.config.to_dict().items()}
    accepted = []
    with torch.no_grad():
        wanted = model(**inputs).logits
        for key in [key for key in changes if changes[key] != getattr(model.config, key)]:
            config = copy.deepcopy(model.config)
            try:
                setattr(config, key, changes[key])
                again = type(model)(config).eval()
                again.load_state_dict(model.state_dict())
                found = again(**inputs, return_dict=True).logits
            except Exception:
                continue  # such a model there is not
            recipe = mo.recipes.linear([source, mo.Checkpoint.from_module(again, name="two")])
            try:
                _ = recipe.alignment
            except CheckpointMismatch:
                continue
            accepted.append(key)
            assert torch.allclose(found, wanted, atol=1e-6), key
    assert len(accepted) > 5


def mismatch(recipe: mo.Recipe) -> str:
    with pytest.raises(CheckpointMismatch) as caught:
        _ = recipe.alignment
    return str(caught.value)


def changed(folder: Path, to: Path, changes: Config, **settings: Any) -> mo.Checkpoint:
    return mo.Checkpoint(with_config(folder, to, changes), name=to.name, **settings)


# What the shapes of the tensors or rules that were there before say.


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"attention_bias": True}, "q_proj.bias is only there"),
        ({}, {"tied": True}, "lm_head.weight is missing (the other model ties it"),
        ({}, {"vocab_size": 65}, "embed_tokens.weight (65, 32) != (64, 32)"),
        ({}, {"layers": 3}, "num_hidden_layers 3 != 2"),
    ],
    ids=["bias of the attention", "tied head", "one added token", "layers"],
)
def test_shapes(tmp_path: Path, first: Config, second: Config, names: str) -> None:
    models = [
        mo.Checkpoint(toys.save(toys.llama(**settings), tmp_path / name), name=name)
        for name, settings in (("one", first), ("two", second))
    ]
    assert names in mismatch(mo.recipes.linear(models))


def test_learned_positions_of_another_number(tmp_path: Path) -> None:
    models = [
        mo.Checkpoint(toys.save(toys.gpt2(n_positions=n), tmp_path / str(n))) for n in (32, 16)
    ]
    assert "wpe.weight (16, 32) != (32, 32)" in mismatch(mo.recipes.linear(models))


def test_other_labels_leave_the_head_out(tmp_path: Path) -> None:
    models = [
        mo.Checkpoint(toys.save(toys.bert(labels=labels), tmp_path / labels[0]), name=labels[0])
        for labels in (("good", "bad"), ("ham", "spam"))
    ]
    copied = mo.recipes.linear(models).alignment.copied
    assert set(copied) == {"classifier.weight", "classifier.bias"}


def test_another_data_type_and_chat_template(tmp_path: Path) -> None:
    one = toys.save(toys.llama(), tmp_path / "one")
    two = toys.save(toys.llama(1), tmp_path / "two", dtype=torch.bfloat16)
    vocabularies.word_level([f"w{i}" for i in range(61)]).save_pretrained(one)
    shutil.copy(one / "tokenizer.json", two)
    settings = json.loads((one / "tokenizer_config.json").read_text())
    (two / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": "{{ messages }}"})
    )
    models = [mo.Checkpoint(folder, name=folder.name) for folder in (one, two)]
    assert mo.recipes.linear(models).alignment.copied == {}


# -- tokens ---------------------------------------------------------------------------------

WORDS = [f"w{i}" for i in range(10)]


def test_permuted_tokens(tmp_path: Path) -> None:
    words = [WORDS[1], WORDS[0], *WORDS[2:]]
    models = [
        vocabularies.model_with(vocabularies.word_level(known), tmp_path / name, seed=seed)
        for seed, (name, known) in enumerate({"one": WORDS, "two": words}.items())
    ]
    text = mismatch(mo.recipes.linear(models))
    assert "The tokenizers of 'two' and 'one' call 2 of 13 rows otherwise" in text
    assert "3 is 'w1' and 'w0', 4 is 'w0' and 'w1'" in text
    assert 'tokenizer="base", "union" or the name of a source' in text

    merged = dict(mo.engine.tensors(mo.recipes.linear(models, tokenizer="base")))
    one, two = (model.tensor("lm_head.weight") for model in models)
    order = [0, 1, 2, 4, 3, *range(5, 13)]
    torch.testing.assert_close(merged["lm_head.weight"], (one + two[order]) / 2)
    by_id = dict(mo.engine.tensors(mo.recipes.linear(models, tokenizer="ids")))
    torch.testing.assert_close(by_id["lm_head.weight"], (one + two) / 2)

    without = mo.recipes.linear(models, exclude=["embed_tokens", "lm_head"])
    assert set(without.alignment.copied) == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        (WORDS, True),
        ([*WORDS, "new"], True),  # in a row that was padding
        ([*WORDS[:9], "new"], False),  # in the row of another
        ([*WORDS[:9], "new", WORDS[9]], False),  # one has moved
    ],
    ids=["the same", "one added", "one renamed", "one moved"],
)
def test_tokens(tmp_path: Path, words: list[str], fits: bool) -> None:
    one = vocabularies.model_with(
        vocabularies.word_level(WORDS), tmp_path / "one", seed=0, padding=3
    )
    two = vocabularies.model_with(
        vocabularies.word_level(words), tmp_path / "two", seed=1, padding=13 - len(words)
    )
    recipe = mo.recipes.linear([one, two])
    if fits:
        assert recipe.alignment.copied == {}
    else:
        assert "is 'new' and 'w9'" in mismatch(recipe)


def test_tokens_that_only_the_settings_add(tmp_path: Path) -> None:
    """The same tokenizer.json; what a slow tokenizer had added stands beside it."""
    one = vocabularies.model_with(
        vocabularies.word_level(WORDS), tmp_path / "one", seed=0, padding=3
    )
    folders = []
    for token in ("<x>", "<y>"):
        folder = shutil.copytree(one.folder, tmp_path / token)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["added_tokens_decoder"] = {"13": {"content": token}}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        folders.append(folder)
    models = [mo.Checkpoint(folder, name=f"m{i}") for i, folder in enumerate(folders)]
    assert "13 is '<y>' and '<x>'" in mismatch(mo.recipes.linear(models))
    assert mo.recipes.linear([one, models[0]]).alignment.copied == {}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {"vocab": 3}}'),
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}'),
    ],
)
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, file: str, content: str) -> None:
    """It does not matter to the weights, so the merge goes on, but not in silence."""
    one = vocabularies.model_with(vocabularies.word_level(WORDS), tmp_path / "one", seed=0)
    two = mo.Checkpoint(shutil.copytree(one.folder, tmp_path / "two"), name="two")
    (two.folder / file).write_text(content)
    with pytest.warns(UserWarning, match=rf"'two' and 'one' have the same tokens .*{file}"):
        assert mo.recipes.linear([one, two]).alignment.copied == {}


def _save_large(folder: Path, tokens: list[str], merges: int) -> mo.Checkpoint:
    """A tokenizer.json with each merge as a pair, as ``tokenizers`` writes it today."""
    pairs = [[token, token] for token in tokens[:merges]]
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": pairs}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": []}))
    return mo.Checkpoint(folder, name=folder.name)


def test_permuted_tokens_of_a_large_vocabulary(tmp_path: Path) -> None:
    """That of Qwen 2.5: 151,643 tokens and 151,387 merges."""
    tokens = [f"t{i}" for i in range(151_643)]
    models = []
    for name, known in (("one", tokens), ("two", [*tokens[1::-1], *tokens[2:]])):
        toys.save(toys.llama(), tmp_path / name)
        models.append(_save_large(tmp_path / name, known, 151_387))
    text = mismatch(mo.recipes.linear(models))
    assert "call 2 of 64 rows otherwise: 0 is 't1' and 't0', 1 is 't0' and 't1'" in text


def test_a_tokenizer_that_is_more_than_is_read(tmp_path: Path) -> None:
    """It may be a good one, and permuted: our own bound is no reason to merge it."""
    one, two = (
        vocabularies.model_with(vocabularies.word_level(WORDS), tmp_path / name, seed=0)
        for name in ("one", "two")
    )
    (two.folder / "tokenizer.json").write_text(
        '{"model": {"merges": [' + "0," * 5_000_000 + "0]}}"
    )
    two = mo.Checkpoint(two.folder, name="two")
    with pytest.raises(CheckpointError) as caught:
        _ = mo.recipes.linear([one, two]).alignment
    text = str(caught.value)
    assert text.startswith("Whether 'two' and 'one' have the same tokens is not known: ")
    assert "tokenizer.json holds more than 5,000,000 values." in text
    assert 'Pass tokenizer="ids"' in text
    assert mo.recipes.linear([one, two], tokenizer="ids").alignment.copied == {}


def test_a_tokenizer_that_is_replaced_by_one_of_the_same_size_and_time(tmp_path: Path) -> None:
    one, two = (
        vocabularies.model_with(vocabularies.word_level(WORDS), tmp_path / name, seed=0)
        for name in ("one", "two")
    )
    assert mo.recipes.linear([one, two]).alignment.copied == {}
    file = two.folder / "tokenizer.json"
    before = file.stat()
    file.write_text(file.read_text().replace("w0", "w?"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = mo.Checkpoint(two.folder, name="two")
    assert rows_of_other_tokens(one, again).tokens == {3: ("w0", "w?")}


def test_a_path_compares_the_tokens_of_its_ends(tmp_path: Path) -> None:
    models = [
        vocabularies.model_with(vocabularies.word_level(known), tmp_path / name, seed=0)
        for name, known in (("one", WORDS), ("two", WORDS[::-1]))
    ]
    assert mo.recipes.path("A0-B1-A1", models).alignment.copied == {}
    with pytest.raises(CheckpointMismatch, match="call 10 of 13 rows otherwise"):
        mo.recipes.path("A0-B1", models, head_from=1)


# -- where models come from ---------------------------------------------------------------


@pytest.fixture
def two(saved: Callable[..., Path], tmp_path: Path) -> list[mo.Checkpoint]:
    """Llamas with another base of their rotary positions and another ε; weights differ too."""
    toys.save(toys.llama(7), tmp_path / "other")
    changes = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 77.0},
        "rms_norm_eps": 0.05,
    }
    one = with_config(saved(toys.llama), tmp_path / "one", {})
    return [
        mo.Checkpoint(one, name="one"),
        changed(tmp_path / "other", tmp_path / "two", changes),
    ]


def test_modules_in_memory(two: list[mo.Checkpoint]) -> None:
    modules = [
        mo.Checkpoint.from_module(AutoModelForCausalLM.from_pretrained(c.ref), name=f"m{c.name}")
        for c in two
    ]
    assert "'mtwo' and 'mone'" in mismatch(mo.recipes.linear(modules))
    assert "'mtwo' and 'one'" in mismatch(mo.recipes.linear([two[0], modules[1]]))
    assert mo.recipes.linear([two[0], modules[0]]).alignment.copied == {}
    plain = [mo.Checkpoint.from_module(nn.Linear(2, 2), name=n) for n in ("a", "b")]
    assert mo.recipes.linear(plain).alignment.copied == {}  # no config to compare


def test_adapters_compare_by_their_base(two: list[mo.Checkpoint], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(two[1].ref)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    folder = adapters.save_adapter(model, config, tmp_path / "adapter")
    adapter = mo.Checkpoint(folder, base=two[1], name="adapter")
    assert "'adapter' and 'one'" in mismatch(mo.recipes.linear([two[0], adapter]))
    assert mo.recipes.linear([two[1], adapter]).alignment.copied == {}


def test_recipes_and_layers_as_sources(two: list[mo.Checkpoint]) -> None:
    one, other = two
    inner = mo.recipes.linear([other, other.layers(0, 2, name="again")], name="inner")
    assert "'two' and 'one'" in mismatch(mo.recipes.linear([one, inner]))
    assert "'two[0:1]' and 'one[0:1]'" in mismatch(
        mo.recipes.linear([one.layers(0, 1), other.layers(0, 1)])
    )
    assert "'two[1:2]' and 'one[0:1]'" in mismatch(
        mo.recipes.passthrough([one.layers(0, 1), other.layers(1, 2)])
    )
    with pytest.raises(CheckpointMismatch, match=r"rms_norm_eps is 0\.05 and 1e-06, rope"):
        mo.recipes.path("A0-B1", two)


def test_parts_compare_their_own_settings(two: list[mo.Checkpoint], tmp_path: Path) -> None:
    """The vision tower of one does not matter to the language model of the other."""
    whole = toys.save(toys.llava(), tmp_path / "llava")
    config = json.loads((whole / "config.json").read_text())
    vision = {"vision_config": config["vision_config"] | {"layer_norm_eps": 0.01}}
    text = {"text_config": config["text_config"] | {"rms_norm_eps": 0.05}}
    seen = changed(whole, tmp_path / "seen", vision, part="language_model")
    read = changed(whole, tmp_path / "read", text, part="language_model")
    part = mo.Checkpoint(whole, name="part", part="language_model")
    assert mo.recipes.linear([part, two[0], seen]).alignment.copied == {}
    assert "rms_norm_eps is 0.05 and 1e-06" in mismatch(mo.recipes.linear([two[0], read]))

    wholes = [mo.Checkpoint(tmp_path / name, name=name) for name in ("llava", "seen", "read")]
    assert "vision_config.layer_norm_eps is 0.01 and" in mismatch(
        mo.recipes.linear([wholes[0], wholes[1]])
    )
    assert "text_config.rms_norm_eps is 0.05 and" in mismatch(
        mo.recipes.linear([wholes[0], wholes[2]])
    )

    recipe = mo.recipes.linear([part, read], config="read")
    model = mo.Engine().load(recipe)
    assert model.config.text_config.rms_norm_eps == 0.05
    written = json.loads((mo.write(recipe, tmp_path / "out") / "config.json").read_text())
    assert written["text_config"]["rms_norm_eps"] == 0.05
    assert written["vision_config"] == config["vision_config"]
    assert written["model_type"] == "llava"


def test_parts_of_pipelines(tmp_path: Path) -> None:
    """diffusers' configs are compared as they are written: keys that both have."""
    for name, settings in {"a": {}, "b": {"act_fn": "gelu"}, "c": {"new": 1}}.items():
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text('{"unet": ["diffusers", "UNet"]}')
        config = {"_class_name": "UNet", "_diffusers_version": name, "act_fn": "silu", **settings}
        (tmp_path / name / "unet" / "config.json").write_text(json.dumps(config))
        save_file(
            {"conv.weight": torch.ones(2, 2)},
            tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors",
        )
    a, b, c = (mo.Checkpoint(tmp_path / n, part="unet", name=n) for n in "abc")
    assert "act_fn is 'gelu' and 'silu'" in mismatch(mo.recipes.linear([a, b]))
    assert mo.recipes.linear([a, c]).alignment.copied == {}


def test_a_type_that_nobody_knows(saved: Callable[..., Path], tmp_path: Path) -> None:
    unknown = {"model_type": "mine", "cut": 1, "hidden_act": "relu"}
    one = changed(saved(toys.llama), tmp_path / "one", unknown)
    other = changed(saved(toys.llama), tmp_path / "two", {**unknown, "cut": 2, "more": 3})
    text = mismatch(mo.recipes.linear([one, other]))
    assert "cut is 2 and 1." in text


# -- whose config counts --------------------------------------------------------------------


def reference(recipe: mo.Recipe, folder: Path, config: Path) -> nn.Module:
    """The merged weights, written by safetensors alone, in a model of a config."""
    tensors = {name: t.contiguous() for name, t in mo.engine.tensors(recipe)}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(config / "config.json", folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("owner", ["one", "two", "base"])
def test_config(two: list[mo.Checkpoint], tmp_path: Path, owner: str) -> None:
    """The live and the written model compute with the config of the one that is named."""
    recipe = mo.recipes.linear(two, config=owner)
    of = tmp_path / ("two" if owner == "two" else "one")
    wanted = reference(recipe, tmp_path / "reference", of)
    inputs = toys.inputs(wanted)
    live = mo.Engine().load(recipe)
    written = AutoModelForCausalLM.from_pretrained(mo.write(recipe, tmp_path / "out")).eval()
    with torch.no_grad():
        logits = wanted(**inputs).logits
        assert torch.equal(live(**inputs).logits, logits)
        assert torch.equal(written(**inputs).logits, logits)
    assert written.config.eos_token_id == wanted.config.eos_token_id


@pytest.mark.parametrize("kind", ["modules", "adapters", "recipes", "slices"])
def test_config_of_all_kinds_of_sources(
    two: list[mo.Checkpoint], tmp_path: Path, kind: str
) -> None:
    """A module in memory has its own config; an adapter that of its base."""
    one, other = two
    module = AutoModelForCausalLM.from_pretrained(other.ref)
    if kind == "modules":
        own = mo.Checkpoint.from_module(AutoModelForCausalLM.from_pretrained(one.ref), name="m1")
        recipe = mo.recipes.linear(
            [own, mo.Checkpoint.from_module(module, name="m2")], config="m2"
        )
    elif kind == "adapters":
        config = peft.LoraConfig(r=2, target_modules=["q_proj"])
        folder = adapters.save_adapter(module, config, tmp_path / "adapter")
        below = mo.Checkpoint.from_module(AutoModelForCausalLM.from_pretrained(one.ref), name="b")
        recipe = mo.recipes.linear(
            [mo.Checkpoint(folder, base=below, name="adapter"), other], config="two"
        )
    elif kind == "recipes":
        inner = mo.recipes.slerp(one, other, name="inner")
        recipe = mo.recipes.task_arithmetic(one, [inner], config="two")
    else:
        slices = [mo.recipes.slerp(one.layers(i, i + 1), other.layers(i, i + 1)) for i in (0, 1)]
        recipe = mo.recipes.passthrough(slices, config="two")
    live = mo.Engine().load(recipe)
    written = AutoModelForCausalLM.from_pretrained(mo.write(recipe, tmp_path / "out")).eval()
    inputs = toys.inputs(written)
    with torch.no_grad():
        assert torch.equal(live(**inputs).logits, written(**inputs).logits)
    assert live.config.rms_norm_eps == written.config.rms_norm_eps == 0.05
    assert live.config.rope_parameters["rope_theta"] == 77.0


@pytest.mark.parametrize("owner", ["one", "two"])
def test_config_of_a_path(two: list[mo.Checkpoint], tmp_path: Path, owner: str) -> None:
    recipe = mo.recipes.path("A0-B1×0.9-B0", two, config=owner)
    live = mo.Engine().load(recipe)
    written = AutoModelForCausalLM.from_pretrained(mo.write(recipe, tmp_path / "out")).eval()
    inputs = toys.inputs(written)
    with torch.no_grad():
        torch.testing.assert_close(live(**inputs).logits, written(**inputs).logits)
    eps = {"one": 1e-6, "two": 0.05}[owner]
    assert live.config.rms_norm_eps == written.config.rms_norm_eps == eps


def test_config_of_another_form(two: list[mo.Checkpoint], tmp_path: Path) -> None:
    """The frame's old keys do not speak against the new ones of the owner."""
    old = {"rope_parameters": REMOVED, "rope_theta": 10000.0}
    one = changed(Path(two[0].ref), tmp_path / "old", old)
    model = mo.Engine().load(mo.recipes.linear([one, two[1]], config="two"))
    assert model.config.rope_parameters["rope_theta"] == 77.0


def test_config_and_tokenizer(tmp_path: Path) -> None:
    models = [
        vocabularies.model_with(
            vocabularies.word_level(words), tmp_path / name, seed=seed, rms_norm_eps=eps
        )
        for seed, (name, words, eps) in enumerate(
            [("one", WORDS, 1e-6), ("two", [*WORDS[::-1], "new"], 0.05)]
        )
    ]
    recipe = mo.recipes.linear(models, tokenizer="union", config="two")
    model = mo.Engine().load(recipe)
    assert model.config.rms_norm_eps == 0.05
    assert model.config.vocab_size == 14
    with pytest.raises(CheckpointMismatch, match=r"rms_norm_eps is 0\.05 and 1e-06"):
        _ = mo.recipes.linear(models, tokenizer="union").alignment


def test_config_is_a_field(two: list[mo.Checkpoint]) -> None:
    """Recipes without it are what they were; those with it travel."""
    plain = mo.recipes.linear(two)
    assert "config" not in plain.to_data()
    recipe = mo.recipes.linear(two, weight=mo.free(0, 1), config="two")
    assert recipe.to_data()["config"] == "two"
    assert recipe.digest != plain.digest
    for other in (
        mo.Recipe.from_yaml(recipe.to_yaml()),
        copy.deepcopy(recipe),
        pickle.loads(pickle.dumps(recipe)),
    ):
        assert (other, other.digest) == (recipe, recipe.digest)
    bound = recipe.bind(recipe.start())
    assert bound.frame is recipe.frame  # so that a live model is refilled at once
    moved = recipe.with_sources({"two": two[1].ref})
    assert moved.frame.config["rms_norm_eps"] == 0.05


def test_what_config_cannot_be(two: list[mo.Checkpoint]) -> None:
    with pytest.raises(RecipeError, match=r"'base' or a source \(one, two\), not 'three'"):
        mo.recipes.linear(two, config="three")
    inner = mo.recipes.linear(two, config="one", name="inner")
    with pytest.raises(RecipeError, match="config belong to the outermost recipe, not to 'inner'"):
        mo.recipes.linear([inner])
    with pytest.raises(RecipeError, match=r"mergekit takes the config of the base, not .* 'two'"):
        mo.recipes.linear(two, config="two").to_mergekit()


# -- mergekit -------------------------------------------------------------------------------


def test_mergekit_takes_that_of_the_base(two: list[mo.Checkpoint]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whoever says config= has decided
        text = mo.recipes.linear(two, config="base").to_mergekit()
    with pytest.warns(UserWarning, match="rms_norm_eps is 0.05") as warned:
        recipe = mo.Recipe.from_mergekit(text)
    assert "This recipe does as mergekit: config='base'." in str(warned[0].message)
    assert recipe.config == "base"
    assert recipe.tokenizer is None
    assert recipe.alignment.copied == {}
    assert mo.Engine().load(recipe).config.rms_norm_eps == 1e-6


def test_mergekit_merges_rows_as_they_are_numbered(tmp_path: Path) -> None:
    models = [
        vocabularies.model_with(vocabularies.word_level(known), tmp_path / name, seed=seed)
        for seed, (name, known) in enumerate({"one": WORDS, "two": WORDS[::-1]}.items())
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = mo.recipes.linear(models, tokenizer="ids").to_mergekit()
    assert "tokenizer" not in text.partition("merge_optuna")[0]
    with pytest.warns(UserWarning, match=r"call 10 of 13 rows otherwise"):
        recipe = mo.Recipe.from_mergekit(text)
    assert recipe.tokenizer == mo.Vocabulary("ids")
    assert recipe.config is None
    assert mo.write(recipe, tmp_path / "out", tokenizer="two").is_dir()


# -- spaces ---------------------------------------------------------------------------------


SPACES: dict[str, Callable[..., Any]] = {
    "paths": mo.spaces.LayerPath,
    "coefficients": lambda models, **options: mo.spaces.AffineSwarm(
        models[0], models[1:], **options
    ),
    "a swarm": lambda models, **options: mo.spaces.ParticleSwarm(models[0], models[1:], **options),
    "crossover": mo.spaces.DifferentialCrossover,
    "splits": mo.spaces.SplitSlerp,
}


@pytest.mark.parametrize("kind", SPACES)
def test_spaces(two: list[mo.Checkpoint], kind: str) -> None:
    """A search is refused before its first trial, or it has the config that is named."""
    make = SPACES[kind]
    with pytest.raises(CheckpointMismatch, match=r"rms_norm_eps is 0\.05 and 1e-06"):
        make(two)
    space = make(two, config="two")
    study = optuna.create_study(sampler=space.sampler(seed=0))
    recipe = space(study.ask())
    assert mo.Engine().load(recipe).config.rms_norm_eps == 0.05
    again = type(space).declared(space.declaration().recipes, space.declaration().options)
    assert again.declaration().digest == space.declaration().digest
