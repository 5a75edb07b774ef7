"""Merging a module of a model: a language model in a vision-language model, an encoder."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoProcessor, CLIPImageProcessor, LlavaProcessor
from transformers import PreTrainedTokenizerFast as Fast

import merge_optuna as mo
from merge_optuna.checkpoints._parts import own_names
from merge_optuna.errors import CheckpointError, CheckpointMismatch
from tests import toys

LLM = "language_model"


def of(folder: Path, model: nn.Module, part: str | None = None) -> mo.Checkpoint:
    """Saves a model and opens it."""
    return mo.Checkpoint(toys.save(model, folder), name=folder.name, part=part)


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_live_is_written(recipe: mo.Recipe, folder: Path) -> nn.Module:
    live = mo.Engine().load(recipe)
    mo.write(recipe, folder)
    loaded = type(live).from_pretrained(folder)
    state = loaded.state_dict()
    assert live.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in live.state_dict().items())
    return loaded


@pytest.fixture
def answering(tmp_path: Path) -> Path:
    """The folder of a LLaVA with a processor: a word for every token, images of 8 × 8."""
    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "what", "is", "this"])}
    words |= {f"w{i}": i for i in range(len(words), 63)} | {"<image>": 63}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Fast(
        tokenizer_object=plain,
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": 8, "width": 8}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size, do_resize=True),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{{ messages }}",
    )
    folder = toys.save(toys.llava(), tmp_path / "base")
    processor.save_pretrained(folder)
    return folder


def answer(folder: Path) -> str:
    """What a user does: the model's own class, its own processor, an image and a question."""
    config = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    image = Image.frombytes("RGB", (10, 9), bytes(i % 251 for i in range(270)))
    inputs = processor(images=image, text="what is <image> this", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return str(processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])[0])


def test_a_vision_language_model_with_a_merged_language_model(
    tmp_path: Path, answering: Path
) -> None:
    base = mo.Checkpoint(answering, name="base", part=LLM)
    same = of(tmp_path / "same", toys.noised(toys.llava(), 1, 0.5), LLM)
    weight = mo.per_group([0.2, 1, 0.6, 1])  # one per layer of the language model alone
    recipe = mo.recipes.dare_ties(base, [same], density=0.5, weight=weight)

    loaded = assert_live_is_written(recipe, tmp_path / "out")

    assert type(loaded).__name__ == "LlavaForConditionalGeneration"
    before, after = stored(answering), stored(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not name.startswith("language_model."))
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {path.name for path in answering.iterdir()}
    assert "processor_config.json" in written
    assert answer(tmp_path / "out")
    assert answer(tmp_path / "out") != answer(answering)
    alone = mo.write(base, tmp_path / "alone")
    assert answer(alone) == answer(answering)


@pytest.mark.parametrize("plain", [False, True])
def test_a_language_model_that_is_routed_anew(
    tmp_path: Path, answering: Path, plain: bool
) -> None:
    """A path through two language models inside of the first's vision-language model."""
    base = mo.Checkpoint(answering, name="base", part=LLM)
    expert = toys.noised(toys.llama(3, layers=3) if plain else toys.llava(layers=3), 1, 0.5)
    other = of(tmp_path / "other", expert, None if plain else LLM)
    for name, way in (("same", "A0-A1"), ("out", "A0-B2*0.7-A1-B0*1.3-A1"), ("head", "A1-B1")):
        recipe = mo.recipes.path(way, [base, other], head_from=int(name == "head"))
        model = mo.Engine().load(recipe)
        folder = mo.write(recipe, tmp_path / name)
        loaded = type(model).from_pretrained(folder).eval()
        assert type(loaded).__name__ == "LlavaForConditionalGeneration"
        assert loaded.config.text_config.num_hidden_layers == len(recipe.path.hops)
        asked = toys.inputs(loaded)
        with torch.no_grad():
            wanted, found = loaded(**asked).logits, model(**asked).logits
        reach = float(wanted.max() - wanted.min())
        assert float((wanted - found).abs().max()) <= 1e-4 * reach
        before, after = stored(answering), stored(folder)
        around = {n for n in before if not n.startswith("language_model.")}
        assert {n for n in after if not n.startswith("language_model.")} == around
        assert all(torch.equal(before[n], after[n]) for n in around)
        assert {n for n in around if "vision_tower" in n or "projector" in n}
        assert (answer(folder) == answer(answering)) == (name == "same")


def test_a_plain_language_model_as_expert(tmp_path: Path) -> None:
    base = of(tmp_path / "base", toys.llava(), LLM)
    plain = of(tmp_path / "plain", toys.llama(3))
    assert base.names() == plain.names()
    recipe = mo.recipes.task_arithmetic(base, [plain], weight=0.25, exclude=["lm_head"])
    assert recipe.alignment.layout.order == ("embed", "00", "01", "head")

    assert_live_is_written(recipe, tmp_path / "out")

    before, after, expert = stored(base.root), stored(tmp_path / "out"), stored(plain.root)
    for name, theta in before.items():
        own = name.removeprefix("language_model.")
        expected = theta.double()
        if own in expert and own != "lm_head.weight":
            expected = 0.75 * expected + 0.25 * expert[own].double()
        assert torch.allclose(after[name].double(), expected, rtol=0, atol=1e-6)
    # and the other way round: the language model of the one becomes part of a plain one
    reverse = mo.recipes.linear([plain, base])
    live = assert_live_is_written(reverse, tmp_path / "reverse")
    assert type(live).__name__ == "LlamaForCausalLM"
    mean = (before["language_model.lm_head.weight"] + expert["lm_head.weight"]) / 2
    assert torch.allclose(live.lm_head.weight, mean, atol=1e-6)


def test_other_towers_do_not_matter(tmp_path: Path) -> None:
    """Only the language models must fit together."""
    base = of(tmp_path / "base", toys.llava(), LLM)
    model = toys.llava(1)
    tensors = {f"language_model.{n}": p for n, p in toys.llama(2).state_dict().items()}
    other = of(tmp_path / "other", model, LLM)
    file = tmp_path / "other" / "model.safetensors"
    kept = {n: t for n, t in stored(other.root).items() if "vision_tower" not in n}
    save_file(kept | tensors, file, metadata={"format": "pt"})
    other = mo.Checkpoint(tmp_path / "other", name="other", part=LLM)
    assert mo.recipes.linear([base, other]).alignment.copied == {}
    deeper = of(tmp_path / "deeper", toys.llama(layers=3))
    with pytest.raises(CheckpointMismatch, match=r"num_hidden_layers 3 != 2"):
        mo.Engine().load(mo.recipes.linear([base, deeper]))


@pytest.mark.parametrize("first", ["part", "whole"])
def test_a_forgotten_part_is_named(tmp_path: Path, first: str) -> None:
    models = [of(tmp_path / "inner", toys.llama()), of(tmp_path / "outer", toys.llava())]
    recipe = mo.recipes.linear(models if first == "part" else models[::-1])
    hint = rf"as a part of 'outer': mo\.Checkpoint\(.*outer', part='{LLM}'\)"
    with pytest.raises(CheckpointMismatch, match=hint):
        mo.Engine().load(recipe)


@pytest.mark.parametrize("first", ["model", "classifier"])
def test_the_encoder_of_a_classifier(tmp_path: Path, first: str) -> None:
    """A bare BERT, whose names lack a prefix, as base of classifiers or one of them as its own."""
    bare = of(tmp_path / "bare", toys.bert().bert)
    classifier = of(tmp_path / "classifier", toys.bert(1), "bert")
    assert bare.names() == classifier.names()
    base, expert = (bare, classifier) if first == "model" else (classifier, bare)
    recipe = mo.recipes.task_arithmetic(base, [expert], weight=0.5)
    loaded = assert_live_is_written(recipe, tmp_path / "out")
    after, before = stored(tmp_path / "out"), stored(base.root)
    assert after.keys() == before.keys()
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    if first == "model":
        assert type(loaded).__name__ == "BertModel"
        assert same == set()
    else:
        assert type(loaded).__name__ == "BertForSequenceClassification"
        assert same == {"classifier.weight", "classifier.bias"}


PLAIN = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight")


@pytest.mark.parametrize(
    ("form", "head", "others"),
    [
        ("language_model.model", "language_model.lm_head", "vision_tower"),  # LLaVA
        ("model.language_model", "lm_head", "model.visual"),  # Qwen3-VL
        ("model", "lm_head", "visual"),  # Qwen2-VL
    ],
)
def test_forms_of_a_language_model_in_another(form: str, head: str, others: str) -> None:
    whole = {name: name.replace("model", form, 1) for name in PLAIN}
    whole["lm_head.weight"] = f"{head}.weight"
    names = [*whole.values(), f"{others}.blocks.0.mlp.up_proj.weight", f"{others}.norm.weight"]
    assert own_names(names, LLM) == whole


def test_a_gemma_in_a_vision_language_model(tmp_path: Path) -> None:
    """Its head is tied and so is that of the plain one."""
    plain = of(tmp_path / "plain", toys.decoder("Gemma3", 1))
    text = toys.decoder("Gemma3").config
    base = of(tmp_path / "base", toys.gemma3(text), LLM)
    assert base.names() == plain.names()
    assert_live_is_written(mo.recipes.linear([base, plain]), tmp_path / "out")


def test_what_is_recorded(tmp_path: Path) -> None:
    base = of(tmp_path / "base", toys.llava(), LLM)
    expert = of(tmp_path / "expert", toys.llava(1), LLM)
    recipe = mo.recipes.linear([base, expert], weight=[0.25, 0.75])
    again = mo.Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert [leaf.part for leaf in again.leaves()] == [LLM, LLM]
    mo.write(again, tmp_path / "out")
    mo.write(recipe, tmp_path / "same")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "same" / "model.safetensors"
    ).read_bytes()
    assert base != mo.Checkpoint(base.ref, name="base")
    assert base.whole == mo.Checkpoint(base.ref, name="base")


def test_the_rest_of_the_model_may_not_change_either(tmp_path: Path) -> None:
    """It is written with the merge, so a recipe says which it is."""
    base = of(tmp_path / "base", toys.llava(), LLM)
    text = mo.recipes.linear([base]).to_yaml()
    tensors = {name: tensor.clone() for name, tensor in stored(base.root).items()}
    tensors["vision_tower.post_layernorm.bias"][0] += 1
    (tmp_path / "base" / "model.safetensors").unlink()
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has changed"):
        mo.Engine().load(mo.Recipe.from_yaml(text))


@pytest.mark.parametrize(
    ("make", "part", "words"),
    [
        (toys.llava, "text_model", "language_model, multi_modal_projector, vision_tower"),
        (toys.llama, LLM, None),
        (partial(toys.encoder, "Roberta"), "bert", "classifier, roberta"),
    ],
    ids=["llava", "llama", "roberta"],
)
def test_parts_that_there_are(tmp_path: Path, make: object, part: str, words: str | None) -> None:
    """A language model is its own language model."""
    folder = toys.save(make(), tmp_path / "m")  # type: ignore[operator]
    if words is None:
        assert mo.Checkpoint(folder, part=part).names() == mo.Checkpoint(folder).names()
        return
    with pytest.raises(CheckpointError, match=f"no part '{part}'.*its modules are {words}"):
        mo.Checkpoint(folder, part=part)
