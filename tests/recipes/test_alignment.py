"""What is merged and what comes from the base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import merge_optuna as mo
from merge_optuna.errors import CheckpointMismatch
from tests import toys

Make = Callable[[], nn.Module]


def checkpoint(folder: Path, model: nn.Module) -> mo.Checkpoint:
    return mo.Checkpoint(toys.save(model, folder), name=folder.name)


def mismatch(recipe: mo.Recipe) -> str:
    with pytest.raises(CheckpointMismatch) as caught:
        recipe.alignment  # noqa: B018
    return str(caught.value)


@pytest.mark.parametrize(
    "make",
    [toys.llama, lambda: toys.llama(tied=True), toys.gpt2, toys.bert, toys.vit],
    ids=["llama", "llama-tied", "gpt2", "bert", "vit"],
)
def test_everything_is_merged_when_all_fits(tmp_path: Path, make: Make) -> None:
    """Also when one source is a folder and the other a module."""
    folder = checkpoint(tmp_path / "folder", make())
    module = mo.Checkpoint.from_module(toys.noised(make(), 1), name="module")
    for models in ([folder, module], [module, folder]):
        alignment = mo.recipes.linear(models).alignment
        assert alignment.copied == {}
        assert alignment.layout.names == models[0].names()


def test_heads_of_other_shapes_are_left_out(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", toys.bert())
    same = checkpoint(tmp_path / "same", toys.bert(1))
    three = checkpoint(tmp_path / "three", toys.bert(2, labels=("a", "b", "c")))
    alignment = mo.recipes.ties(base, [same, three]).alignment
    assert set(alignment.copied) == {"classifier.bias", "classifier.weight"}
    assert set(alignment.copied.values()) == {"task head"}
    assert set(alignment.layout.names) | set(alignment.copied) == set(base.names())


def test_heads_of_other_labels_are_left_out(tmp_path: Path) -> None:
    """Equal shapes do not make "negative" a "ham"."""
    base = checkpoint(tmp_path / "base", toys.vit())
    other = checkpoint(tmp_path / "other", toys.vit(1, labels=("ham", "spam", "eggs")))
    alignment = mo.recipes.linear([base, other]).alignment
    assert set(alignment.copied) == {"classifier.bias", "classifier.weight"}


def test_the_same_labels_in_another_order_are_an_error(tmp_path: Path) -> None:
    """Row 0 of one head is row 1 of the other; their mean would be of no use to anybody."""
    base = checkpoint(tmp_path / "base", toys.bert(labels=("joy", "fear", "anger")))
    same = checkpoint(tmp_path / "same", toys.bert(1, labels=("joy", "fear", "anger")))
    other = checkpoint(tmp_path / "other", toys.bert(2, labels=("anger", "joy", "fear")))
    unnamed = checkpoint(tmp_path / "unnamed", toys.bert(3, labels=("LABEL_0", "x", "y")))

    with pytest.raises(CheckpointMismatch) as caught:
        _ = mo.recipes.ties(base, [same, other]).alignment

    message = str(caught.value)
    assert f"{other.name!r} and {base.name!r} have the same labels in another order" in message
    assert "['anger', 'joy', 'fear'] and ['joy', 'fear', 'anger']" in message
    assert "exclude=['classifier']" in message
    left_out = mo.recipes.ties(base, [same, other], exclude=["classifier"]).alignment.copied
    assert set(left_out) == {"classifier.bias", "classifier.weight"}
    assert mo.recipes.ties(base, [same]).alignment.copied == {}
    assert set(mo.recipes.ties(base, [unnamed]).alignment.copied) == set(left_out)


def test_the_order_of_labels_is_that_of_their_numbers(tmp_path: Path) -> None:
    """As strings, "10" comes before "2"."""
    labels = [f"class {i}" for i in range(12)]
    base = checkpoint(tmp_path / "base", toys.bert(labels=labels))
    other = checkpoint(tmp_path / "other", toys.bert(1, labels=labels))
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["id2label"] = dict(sorted(config["id2label"].items(), reverse=True))
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    recipe = mo.recipes.linear([base, mo.Checkpoint(other.ref, name="other")])
    assert recipe.alignment.copied == {}


def test_labels_that_nobody_named_do_not_differ(tmp_path: Path) -> None:
    """``LABEL_0`` may or may not be written in config.json."""
    base = checkpoint(tmp_path / "base", toys.llama())
    other = checkpoint(tmp_path / "other", toys.llama(1))
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert mo.recipes.linear([base, mo.Checkpoint(other.ref)]).alignment.copied == {}


def test_an_encoder_with_another_head(tmp_path: Path) -> None:
    """Classifiers as experts of a masked language model, which has no pooler."""
    base = checkpoint(tmp_path / "base", toys.encoder("Bert", head="MaskedLM"))
    expert = checkpoint(tmp_path / "expert", toys.bert(1))
    for frame, other in ((base, expert), (expert, base)):
        alignment = mo.recipes.task_arithmetic(frame, [other]).alignment
        body = {n for n in base.names() if n.startswith("bert.")}
        assert set(alignment.layout.names) == body
        assert set(alignment.copied) == set(frame.names()) - body
        assert not any("pooler" in name for name in alignment.layout.names)


@pytest.mark.parametrize("first", ["tied", "untied"])
@pytest.mark.parametrize("make", [toys.llama, toys.gpt2])
def test_a_head_that_one_model_ties_to_its_embedding(
    tmp_path: Path, make: Callable[..., nn.Module], first: str
) -> None:
    """It is no task head: left out in silence, the merge would have the head of one model."""
    key = "tied" if make is toys.llama else "tie_word_embeddings"
    tied = checkpoint(tmp_path / "tied", make(**{key: True}))
    untied = checkpoint(tmp_path / "untied", make(1, **{key: False}))
    models = [tied, untied] if first == "tied" else [untied, tied]
    text = mismatch(mo.recipes.linear(models))
    there = "is only there" if first == "tied" else "is missing"
    assert f"lm_head.weight {there} (the other model ties it to its input embedding)" in text
    assert "exclude=" in text
    alignment = mo.recipes.linear(models, exclude=["lm_head"]).alignment
    assert set(alignment.copied) == ({"lm_head.weight"} if first == "untied" else set())


def test_exclude(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    recipe = mo.recipes.task_arithmetic(
        base, [ja], exclude=["norm", "*.0.mlp.*", "lm_head.weight"]
    )
    assert recipe.alignment.copied == dict.fromkeys(
        [
            "lm_head.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.mlp.down_proj.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.1.input_layernorm.weight",
            "model.layers.1.post_attention_layernorm.weight",
            "model.norm.weight",
        ],
        "excluded",
    )
    assert mo.recipes.linear([base, ja], exclude="norm") == mo.recipes.linear(
        [base, ja], exclude=["norm"]
    )


def test_what_differs_may_be_excluded(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", toys.llama())
    larger = checkpoint(tmp_path / "larger", toys.llama(vocab_size=80))
    recipe = mo.recipes.linear([base, larger], exclude=["embed_tokens", "lm_head"])
    assert set(recipe.alignment.copied) == {"lm_head.weight", "model.embed_tokens.weight"}


def test_integers_come_from_the_base() -> None:
    a, b = (
        mo.Checkpoint.from_module(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), name=name)
        for name in "ab"
    )
    copied = mo.recipes.linear([a, b]).alignment.copied
    assert copied == {"1.num_batches_tracked": "not a float tensor"}


# -- mismatches -----------------------------------------------------------------------------


def test_other_shapes(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", toys.llama())
    larger = checkpoint(tmp_path / "larger", toys.llama(vocab_size=80))
    message = mismatch(mo.recipes.ties(base, [larger]))
    # the output head is outside the base model and left out; the embedding is not
    assert message.startswith(
        "1 of 21 tensors differ between 'larger' and 'base' (vocab_size 80 != 64): "
        "model.embed_tokens.weight (80, 32) != (64, 32)."
    )
    assert "exclude=[...]" in message


def test_other_layer_counts_all_mismatches_counted_ten_shown(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", toys.llama())
    deeper = checkpoint(tmp_path / "deeper", toys.llama(layers=4))
    message = mismatch(mo.recipes.ties(base, [deeper]))
    assert message.startswith("18 of 21 tensors differ between 'deeper' and 'base'")
    assert "num_hidden_layers 4 != 2" in message
    assert message.count("is only there") == 10
    assert "and 8 more" in message
    message = mismatch(mo.recipes.ties(deeper, [base]))
    assert message.startswith("18 of 39 tensors differ between 'base' and 'deeper'")
    assert message.count("is missing") == 10


def test_other_architectures(tmp_path: Path) -> None:
    bert = checkpoint(tmp_path / "bert", toys.bert())
    llama = checkpoint(tmp_path / "llama", toys.llama())
    message = mismatch(mo.recipes.linear([bert, llama]))
    # all 41 - 2 tensors of BERT's encoder and 21 of the Llama that are not called bert.*
    assert "tensors differ between 'llama' and 'bert'" in message
    assert "model_type llama != bert" in message
    assert "Merge models of one architecture" in message


def test_every_model_that_does_not_fit_is_named(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", toys.llama())
    deeper = checkpoint(tmp_path / "deeper", toys.llama(layers=3))
    fits = checkpoint(tmp_path / "fits", toys.llama(1))
    wider = checkpoint(tmp_path / "wider", toys.llama(intermediate_size=64))
    message = mismatch(mo.recipes.ties(base, [deeper, fits, wider]))
    assert "9 of 21 tensors differ between 'deeper' and 'base'" in message
    assert "6 of 21 tensors differ between 'wider' and 'base'" in message
    assert "fits" not in message
    assert message.count("exclude=[...]") == 1


def test_nothing_left_to_merge(tmp_path: Path) -> None:
    base, ja = toys.family(tmp_path, experts=1)
    message = mismatch(mo.recipes.linear([base, ja], exclude=["*"]))
    assert message.startswith("Nothing is left to merge: all 21 tensors of 'base' are excluded")


def test_quantised_sources(tmp_path: Path) -> None:
    """Also when the same weights were seen with another config before."""
    base, ja = toys.family(tmp_path, experts=1)
    assert mo.recipes.linear([base, ja]).alignment.copied == {}
    config = json.loads((tmp_path / "ja" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "ja" / "config.json").write_text(json.dumps(config))
    message = mismatch(mo.recipes.linear([base, mo.Checkpoint(ja.ref, name="ja")]))
    assert message.startswith("'ja'")
    assert "is quantised" in message


def test_plain_modules_have_no_head() -> None:
    a = mo.Checkpoint.from_module(nn.Linear(2, 3), name="a")
    b = mo.Checkpoint.from_module(nn.Linear(2, 4), name="b")
    assert "weight (4, 2) != (3, 2)" in mismatch(mo.recipes.linear([a, b]))


def test_data_types_may_differ(tmp_path: Path) -> None:
    base = mo.Checkpoint(toys.save(toys.llama(), tmp_path / "a", dtype=torch.bfloat16), name="a")
    other = checkpoint(tmp_path / "b", toys.llama(1))
    assert mo.recipes.linear([base, other]).alignment.copied == {}
