"""Generation of vision-language models, through their processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration, LlavaProcessor

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Generation
from merge_optuna.evaluators._generator import Request, _padded
from tests import toys
from tests.vocabularies import word_level

TURNS = ["<user>", "<assistant>"]
WORDS = [f"w{i}" for i in range(58)]
# Writes the turns of a processor, whose contents are lists.
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTIONS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10", "w1 w2 w3"]
MOST = 6


@pytest.fixture(scope="module")
def processor() -> Any:
    words = word_level([*WORDS, *TURNS])
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert words.convert_tokens_to_ids("<image>") == 63
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    return LlavaProcessor(
        images, words, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(processor: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("vlm")
    made = [toys.save(toys.llava(seed=s), root / str(s)) for s in (1, 2)]
    for folder in made:
        processor.save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(8, 8), (12, 9), (16, 10), (8, 20)]
    return [Image.fromarray(rng.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes]


@pytest.fixture(scope="module")
def data(pictures: list[Image.Image]) -> datasets.Dataset:
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("question", "answer")}
        | {"image": datasets.Image()}
    )
    columns = {"question": QUESTIONS, "answer": ["w1"] * 4, "image": pictures}
    return datasets.Dataset.from_dict(columns, features)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"prompt": "<image> {question}"}, "<image> {}"),
        ({"chat": True}, "<user> <image> {} <assistant>"),
        (
            {"chat": True, "examples": [{"question": "w9", "answer": "w8"}]},
            "<user> w9 <assistant> w8 <user> <image> {} <assistant>",
        ),
    ],
)
def test_replies_are_those_of_transformers(
    folders: list[Path], processor: Any, data: Any, pictures: Any, options: Any, shape: str
) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folders[0])
    wanted = []
    for question, picture in zip(QUESTIONS, pictures, strict=True):
        inputs = processor(text=[shape.format(question)], images=[picture], return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=MOST, do_sample=False)
        start = inputs["input_ids"].shape[1]
        wanted.append(processor.decode(written[0, start:], skip_special_tokens=True))
    assert len(set(wanted)) == 4  # the first and last question differ in their images
    for size in (1, 4):
        evaluator = Generation(
            data, image="image", max_new_tokens=MOST, batch_size=size, **options
        )
        evaluator.check(model)
        assert [row["reply"] for row in evaluator.replies(model)] == wanted


def test_a_merge_writes_what_its_checkpoint_does(
    folders: list[Path], data: Any, tmp_path: Path
) -> None:
    one, two = (mo.Checkpoint(folder, name=f"m{i}") for i, folder in enumerate(folders))
    recipe = mo.recipes.linear([one, two], weight=[0.7, 0.3])
    evaluator = Generation(data, image="image", chat=True, max_new_tokens=MOST)
    live = evaluator.replies(mo.Engine().load(recipe))
    written = mo.write(recipe, tmp_path / "merged")
    fresh = LlavaForConditionalGeneration.from_pretrained(written)
    assert evaluator.replies(fresh) == live


def test_features_of_tokens_are_padded_and_others_joined() -> None:
    """As of Qwen2-VL, whose patches of all images are rows of one tensor."""
    requests = [
        Request(
            row, [5] * n, 1, {"kinds": torch.ones(1, n), "patches": torch.full((row + 2, 6), n)}
        )
        for row, n in enumerate((3, 5))
    ]
    found = _padded(toys.llava(), requests).kwargs
    assert found["input_ids"].tolist() == [[0, 0, 5, 5, 5], [5] * 5]
    assert (
        found["attention_mask"].tolist() == found["kinds"].tolist() == [[0, 0, 1, 1, 1], [1] * 5]
    )
    assert found["patches"][:, 0].tolist() == [3, 3, 5, 5, 5]
    other = requests[1]._replace(features={"kinds": torch.ones(1, 5), "patches": torch.ones(2, 7)})
    with pytest.raises(EvaluationError, match=r"patches of different shapes.* batch_size=1"):
        _padded(toys.llava(), [requests[0], other])


def test_what_is_wrong_is_said(folders: list[Path], data: Any) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folders[0])
    with pytest.raises(EvaluationError, match=r"row 0: the prompt has no place .* '<image>'"):
        Generation(data, image="image").check(model)
    with pytest.raises(EvaluationError, match="no processor of texts and images"):
        Generation(data, image="image", chat=True).check(toys.llava())
    with pytest.raises(EvaluationError, match="no column 'picture'"):
        Generation(data, image="picture")


def test_images_are_in_the_digest(data: Any) -> None:
    digest = Generation(data, image="image").digest
    other = data.select([1, 1, 2, 3]).remove_columns("question").add_column("question", QUESTIONS)
    assert digest["images"] != Generation(other, image="image").digest["images"]
