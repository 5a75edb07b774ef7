"""Models with different vocabularies: rows by token, tokenizer, config, chat template."""

from __future__ import annotations

import functools
import inspect
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import merge_optuna as mo
from merge_optuna.checkpoints._token_rows import token_axes
from merge_optuna.errors import CheckpointError, CheckpointMismatch, RecipeError
from tests import toys
from tests.adapters import save_adapter
from tests.vocabularies import SPECIAL, bpe_family, model_with, word_family, word_level

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[mo.Checkpoint]:
    return word_family(tmp_path_factory.mktemp("words"))


@functools.cache
def ids_in(checkpoint: mo.Checkpoint) -> dict[str, int]:
    return ids(checkpoint.folder)


def ids(folder: Path | None) -> dict[str, int]:
    vocabulary: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return vocabulary


def expected_row(
    token: str, name: str, source: mo.Checkpoint, all_: list[mo.Checkpoint], has_base: bool
) -> Tensor:
    """A token's row in a source, from the definition: own, else the base's, else the mean."""
    rows = {c.name: c.tensor(name)[ids_in(c)[token]].double()
            for c in all_ if token in ids_in(c)}  # fmt: skip
    if source.name in rows:
        return rows[source.name]
    if has_base and all_[0].name in rows:
        return rows[all_[0].name]
    return sum(rows.values(), torch.zeros(32, dtype=torch.float64)) / max(1, len(rows))


@pytest.mark.parametrize("tokenizer", ["base", "union", "math"])
@pytest.mark.parametrize("has_base", [True, False])
def test_rows_are_taken_by_token(
    family: list[mo.Checkpoint], tmp_path: Path, tokenizer: str, has_base: bool
) -> None:
    base, *experts = family
    if has_base:
        recipe = mo.recipes.task_arithmetic(base, experts, weight=[0.3, 0.6], tokenizer=tokenizer)
        weights = {"base": 0.1, "ja": 0.3, "math": 0.6}
    else:
        recipe = mo.recipes.linear(family, weight=[2, 5, 3], tokenizer=tokenizer)
        weights = {"base": 0.2, "ja": 0.5, "math": 0.3}

    merged = dict(mo.engine.tensors(recipe))

    written = ids(mo.write(recipe, tmp_path / "out"))
    all_tokens = set().union(*(ids(c.folder) for c in family))
    named = {"base": ids(base.folder), "math": ids(family[2].folder)}
    assert written == named[tokenizer] if tokenizer in named else written.keys() == all_tokens
    for name in (EMBEDDING, HEAD):
        assert merged[name].shape == (len(written), 32)
        for token, i in written.items():
            rows = {c.name: expected_row(token, name, c, family, has_base) for c in family}
            row = sum(weights[n] * row for n, row in rows.items())
            assert (merged[name][i].double() - row).abs().max() < 1e-6


def test_a_model_with_the_tokens_of_all_speaks_as_its_source(
    family: list[mo.Checkpoint], tmp_path: Path
) -> None:
    """With all weight on one model, its text gives its logits: rows moved, nothing else did."""
    for expert in family:
        weight = [float(c is expert) for c in family]
        recipe = mo.recipes.linear(family, weight=weight, tokenizer="union")
        folder = mo.write(recipe, tmp_path / expert.name)

        mine, theirs = (AutoTokenizer.from_pretrained(f) for f in (folder, expert.folder))
        model, other = (AutoModelForCausalLM.from_pretrained(f) for f in (folder, expert.folder))

        words = [w for w in theirs.get_vocab() if w not in SPECIAL]
        text = " ".join(words)
        with torch.no_grad():
            logits = model(**mine(text, return_tensors="pt")).logits[0]
            expected = other(**theirs(text, return_tensors="pt")).logits[0]
        at, at_theirs = ([t.get_vocab()[word] for word in words] for t in (mine, theirs))
        torch.testing.assert_close(logits[:, at], expected[:, at_theirs], rtol=1e-5, atol=1e-5)
        assert model.config.vocab_size == len(mine)


def test_byte_pairs_of_a_named_source_and_its_special_tokens(tmp_path: Path) -> None:
    base, code = bpe_family(tmp_path)
    config = json.loads((code.folder / "config.json").read_text())
    assert config["eos_token_id"] == 2
    (base.folder / "generation_config.json").write_text('{"eos_token_id": 2, "top_k": 7}')
    (code.folder / "generation_config.json").write_text('{"eos_token_id": [2, 33]}')
    base, code = (mo.Checkpoint(one.ref, name=one.name) for one in (base, code))
    recipe = mo.recipes.ties(base, [code], tokenizer="code")

    folder = mo.write(recipe, tmp_path / "out")

    for text in ("the int def", "other"):
        written = AutoTokenizer.from_pretrained(folder)
        theirs = AutoTokenizer.from_pretrained(code.folder)
        assert written(text)["input_ids"] == theirs(text)["input_ids"]
    assert written.eos_token == "<|end|>"
    assert (folder / "tokenizer.json").read_bytes() == (
        code.folder / "tokenizer.json"
    ).read_bytes()
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [2, 33], "top_k": 7}
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 34


def test_a_union_of_byte_pairs_keeps_the_base_s_ids(tmp_path: Path) -> None:
    base, code = bpe_family(tmp_path)
    recipe = mo.recipes.ties(base, [code], tokenizer="union")

    written = AutoTokenizer.from_pretrained(mo.write(recipe, tmp_path / "out"))

    theirs = AutoTokenizer.from_pretrained(base.folder)
    assert theirs.get_vocab().items() <= written.get_vocab().items()
    assert written("the other")["input_ids"] == theirs("the other")["input_ids"]
    assert written.tokenize("def<|end|>") == ["def", "<|end|>"]
    special = {t.content for t in written.added_tokens_decoder.values() if t.special}
    assert special == {*SPECIAL, "<|end|>"}
    again = mo.write(recipe, tmp_path / "again")
    assert ids(again) == written.get_vocab()


@pytest.mark.parametrize("make", [toys.llama, toys.gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_live_is_what_from_pretrained_makes_of_the_written(
    tmp_path: Path, make: Callable[..., nn.Module], dtype: torch.dtype
) -> None:
    base, *experts = word_family(tmp_path, make=make, dtype=dtype)
    engine = mo.Engine()
    for density in (0.5, 0.2):
        recipe = mo.recipes.ties(base, experts, density=density, tokenizer="union")
        live = engine.load(recipe)
        folder = mo.write(recipe, tmp_path / "out", force=True)
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        expected = loaded.state_dict()
        assert live.config.vocab_size == loaded.config.vocab_size
        assert all(torch.equal(t, expected[n]) for n, t in live.state_dict().items())
        # what an evaluator tokenises texts with
        assert ids(live.config._name_or_path) == ids(folder)


def test_adapters_and_recipes_inside(tmp_path: Path) -> None:
    base, ja, math = word_family(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(ja.folder)
    config = peft.LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"])
    adapter = mo.Checkpoint(save_adapter(model, config, tmp_path / "lora"), base=ja, name="lora")
    inner = mo.recipes.linear([base, adapter], name="inner")
    recipe = mo.recipes.linear([inner, math], tokenizer="union")

    merged = dict(mo.engine.tensors(recipe))

    written = ids(mo.write(recipe, tmp_path / "out"))
    family = [base, adapter, math]
    for token, i in written.items():
        rows = [expected_row(token, EMBEDDING, c, family, has_base=False) for c in family]
        row = (rows[0] + rows[1]) / 4 + rows[2] / 2
        assert (merged[EMBEDDING][i].double() - row).abs().max() < 1e-6


# -- as a value -----------------------------------------------------------------------------


def test_a_recipe_records_its_tokenizer_and_the_sources_as_they_are(
    family: list[mo.Checkpoint],
) -> None:
    base, *experts = family
    vocabulary = mo.Vocabulary("ja", tokens={"<x>": "zero"}, pad_to_multiple_of=4)
    for tokenizer, data in [
        ("union", "union"),
        (
            vocabulary,
            {"source": "ja", "tokens": {"<x>": {"source": "zero"}}, "pad_to_multiple_of": 4},
        ),
    ]:
        recipe = mo.recipes.ties(
            base, experts, density=mo.free(0, 1), tokenizer=tokenizer, chat_template="auto"
        )
        assert recipe.to_data()["tokenizer"] == data
        assert recipe.to_data()["base"] == base.model_dump(exclude_defaults=True)
        again = mo.Recipe.from_yaml(recipe.to_yaml())
        assert again == recipe
        assert again.digest == recipe.digest
        assert again.with_sources({"ja": family[1]}) == recipe
        bound = again.bind({"density/ja": 0.3, "density/math": 0.6})
        assert bound.tokenizer == recipe.tokenizer
        assert bound.frame == recipe.frame
        expected = dict(mo.engine.tensors(bound))
        other = pickle.loads(pickle.dumps(bound))
        assert all(torch.equal(t, expected[name]) for name, t in mo.engine.tensors(other))
    assert recipe.digest != mo.recipes.ties(base, experts, tokenizer="union").digest


@pytest.mark.parametrize("method", sorted(set(mo.methods.METHODS) - {"fisher", "regmean"}))
def test_every_method_without_statistics_takes_them(method: str) -> None:
    parameters = inspect.signature(getattr(mo.recipes, method)).parameters
    left_out = set() if method == "passthrough" else {"exclude"}
    assert {"name", "tokenizer", "chat_template", *left_out} <= parameters.keys()


def test_a_view_is_not_the_checkpoint(family: list[mo.Checkpoint]) -> None:
    """So that nothing computed for one is taken for the other."""
    union, again, base = (
        mo.recipes.linear(family, tokenizer=tokenizer).models[0]
        for tokenizer in ("union", "union", "base")
    )
    assert union == again
    assert hash(union) == hash(again)
    assert union != base
    assert union != family[0]
    assert family[0] != union


def test_a_source_that_needs_no_change_is_mapped(family: list[mo.Checkpoint]) -> None:
    base, ja, _ = family
    view = mo.recipes.linear([ja, base], tokenizer="base").models[0]
    assert view.tensor(EMBEDDING).data_ptr() == ja.tensor(EMBEDDING).data_ptr()
    other = mo.recipes.linear([ja, base], tokenizer="base").models[1]
    assert (
        other.tensor("model.norm.weight").data_ptr() == base.tensor("model.norm.weight").data_ptr()
    )


MODELS = {
    "T5": transformers.T5Config(vocab_size=37, d_model=16, d_kv=4, d_ff=20, num_heads=2,
                                num_layers=1),
    "BertForMaskedLM": transformers.BertConfig(
        vocab_size=37, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=20,
    ),
    "RobertaForMaskedLM": transformers.RobertaConfig(
        vocab_size=37, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=20,
    ),
    "DistilBertForMaskedLM": transformers.DistilBertConfig(
        vocab_size=37, dim=16, n_layers=1, n_heads=2, hidden_dim=20
    ),
    "ElectraForMaskedLM": transformers.ElectraConfig(
        vocab_size=37, embedding_size=16, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=20,
    ),
    "BartForConditionalGeneration": transformers.BartConfig(
        vocab_size=37, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=20,
        decoder_ffn_dim=20, encoder_attention_heads=2, decoder_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=2,
    ),
    "GPTNeoXForCausalLM": transformers.GPTNeoXConfig(
        vocab_size=37, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=20,
    ),
    "BloomForCausalLM": transformers.BloomConfig(
        vocab_size=37, hidden_size=16, n_layer=1, n_head=2
    ),
    "MambaForCausalLM": transformers.MambaConfig(
        vocab_size=37, hidden_size=16, num_hidden_layers=1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_tensors_with_a_row_per_token_are_those_that_transformers_resizes(name: str) -> None:
    architecture = getattr(
        transformers, name if "For" in name else f"{name}ForConditionalGeneration"
    )
    model = architecture(MODELS[name])
    checkpoint = mo.Checkpoint.from_module(model, name="m")
    model.resize_token_embeddings(41)
    larger = mo.Checkpoint.from_module(model, name="larger")
    changed = {
        n: larger.shape(n).index(41)
        for n in checkpoint.names()
        if larger.shape(n) != checkpoint.shape(n)
    }

    assert token_axes(checkpoint) == changed


# -- chat templates -------------------------------------------------------------------------


def test_chat_templates(tmp_path: Path) -> None:
    base, ja, math = word_family(tmp_path)
    often, once = "{{ messages }} often", "{{ messages }} once"
    for checkpoint, template in [(base, once), (ja, often), (math, often)]:
        file = checkpoint.folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    (math.folder / "chat_template.jinja").write_text(f"{often}\n")
    base, ja, math = (mo.Checkpoint(one.ref, name=one.name) for one in (base, ja, math))

    def written(**settings: Any) -> str | None:
        recipe = mo.recipes.linear([base, ja, math], tokenizer="base", **settings)
        folder = mo.write(recipe, tmp_path / "out", force=True)
        template: str | None = AutoTokenizer.from_pretrained(folder).chat_template
        return template

    assert written() == once
    assert written(chat_template="auto") == often
    assert written(chat_template="ja") == often
    assert written(chat_template="{{ own }}") == "{{ own }}"
    with pytest.raises(RecipeError, match=r"'auto', a source \(base, ja, math\) or .* 'chatml'"):
        written(chat_template="chatml")
    (math.folder / "chat_template.jinja").unlink()
    (math.folder / "tokenizer_config.json").unlink()
    math = mo.Checkpoint(math.ref, name="math")
    with pytest.raises(RecipeError, match="'math' has no chat template"):
        written(chat_template="math")


# -- errors ---------------------------------------------------------------------------------


def test_without_a_tokenizer_the_error_names_both_sizes(family: list[mo.Checkpoint]) -> None:
    base, ja, _ = family
    with pytest.raises(CheckpointMismatch) as caught:
        _ = mo.recipes.ties(base, [ja]).alignment
    message = str(caught.value)
    assert "model.embed_tokens.weight (9, 32) != (10, 32)" in message
    assert "The vocabulary of 'ja' has 9 tokens, that of 'base' 10" in message
    assert 'tokenizer="union"' in message


def test_what_a_vocabulary_cannot_be(family: list[mo.Checkpoint]) -> None:
    base, ja, math = family
    with pytest.raises(RecipeError, match=r"'base', 'union' or a source \(base, ja\), not 'math'"):
        mo.recipes.linear([base, ja], tokenizer="math")
    with pytest.raises(RecipeError, match="row of the token 'x' must come from 'zero' or a sou"):
        mo.recipes.linear([base, ja], tokenizer=mo.Vocabulary("base", tokens={"x": "math"}))
    with pytest.raises(RecipeError, match="pad_to_multiple_of: Input should be greater"):
        mo.Vocabulary("base", pad_to_multiple_of=0)
    with pytest.raises(RecipeError, match="Not a TokenRow: forced: Extra inputs"):
        mo.Vocabulary("base", tokens={"x": {"source": "zero", "forced": True}})
    inner = mo.recipes.linear([base, ja], tokenizer="union", name="inner")
    with pytest.raises(RecipeError, match="belong to the outermost recipe, not to 'inner'"):
        mo.recipes.linear([inner, math])
    unknown = mo.Vocabulary("base", tokens={"cat": mo.TokenRow("ja", token="sum")})
    with pytest.raises(CheckpointError, match="'sum' in 'ja', which has no such token among its"):
        dict(mo.engine.tensors(mo.recipes.linear([base, ja], tokenizer=unknown)))


def test_write_takes_no_other_tokenizer(family: list[mo.Checkpoint], tmp_path: Path) -> None:
    recipe = mo.recipes.linear(family, tokenizer="union")
    with pytest.raises(RecipeError, match=re.escape("Leave out tokenizer='ja'")):
        mo.write(recipe, tmp_path / "out", tokenizer="ja")


def test_models_without_a_tokenizer(family: list[mo.Checkpoint], tmp_path: Path) -> None:
    bare = shutil.copytree(family[0].folder, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    module = AutoModelForCausalLM.from_pretrained(family[0].folder)
    sources = [mo.Checkpoint(bare, name="bare"), mo.Checkpoint.from_module(module, name="net")]
    for source in sources:
        recipe = mo.recipes.linear([family[1], source], tokenizer="union")
        with pytest.raises(CheckpointError, match=f"'{source.name}' .*has no tokenizer"):
            _ = recipe.alignment


def test_a_tensor_that_may_have_a_row_per_token(tmp_path: Path) -> None:
    """37 is the size of the vocabulary and of nothing else, but the name says nothing."""
    tokenizer = word_level([f"w{i}" for i in range(34)])
    a = model_with(tokenizer, tmp_path / "a", seed=0)
    state = {n: a.tensor(n) for n in a.names()} | {"model.mystery": torch.zeros(37)}
    save_file(state, a.folder / "model.safetensors")
    recipe = mo.recipes.linear([mo.Checkpoint(a.folder, name="a")], tokenizer="base")
    with pytest.raises(CheckpointError, match=r"may or may not have one row .*: model.myst"):
        _ = recipe.alignment

    config = json.loads((a.folder / "config.json").read_text())
    del config["vocab_size"]
    (a.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has no vocab_size"):
        _ = mo.recipes.linear([mo.Checkpoint(a.folder, name="b")], tokenizer="base").alignment


def test_statistics_belong_to_the_models_own_vocabulary(family: list[mo.Checkpoint]) -> None:
    base, ja, _ = family
    averaged = mo.recipes.linear([base, ja]).to_data()
    statistics = [base.model_dump(exclude_defaults=True) | {"name": "s"}] * 2
    fisher = averaged | {"method": "fisher", "parameters": {}, "statistics": statistics}
    with pytest.raises(RecipeError, match="tokenizer does not go with statistics"):
        mo.Recipe.from_data(fisher | {"tokenizer": "union"})
