from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTForImageClassification,
)

from merge_optuna.evaluators import Classification

from .conftest import EMOTIONS, WORDS, Net, bert, collect, load, make_rows, one_by_one, write_lines


def truth(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([EMOTIONS.index(row["label"]) for row in rows])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("source", ["jsonl", "gz", "dataset"])
def test_texts_equal_a_plain_loop(
    source: str, pairs: bool, model: nn.Module, tokenizer: Any, tmp_path: Path
) -> None:
    rows = make_rows(70, pairs=pairs)
    data: Any = write_lines(tmp_path / "dev.jsonl", rows)
    if source == "gz":
        data = str(tmp_path / "dev.jsonl.gz")
        Path(data).write_bytes(gzip.compress((tmp_path / "dev.jsonl").read_bytes()))
    if source == "dataset":
        data = datasets.Dataset.from_list(rows)
    evaluator = Classification(data, batch_size=8)
    evaluator.check(model)
    ids, scores = collect(evaluator, model)
    expected = one_by_one(model, tokenizer, rows)
    assert len(set(expected)) == 4  # the model does tell texts apart
    assert sorted(ids) == list(range(70))
    np.testing.assert_array_equal(scores, expected == truth(rows))
    assert evaluator.value(scores) == pytest.approx((expected == truth(rows)).mean())
    assert len(evaluator) == 70
    assert evaluator.metric_names == ("accuracy",)


def test_named_columns(model: nn.Module, tokenizer: Any) -> None:
    rows = make_rows(20, pairs=True)
    renamed = [{"a": r["text"], "b": r["text2"], "y": r["label"]} for r in rows]
    data = datasets.Dataset.from_list(renamed)
    evaluator = Classification(data, text="a", text_pair="b", label="y")
    _, scores = collect(evaluator, model)
    np.testing.assert_array_equal(scores, one_by_one(model, tokenizer, rows) == truth(rows))


def test_macro_f1_equals_scikit_learn(model: nn.Module, tokenizer: Any, tmp_path: Path) -> None:
    rows = [row for row in make_rows(80) if row["label"] != "joy"]  # never true, yet predicted
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", rows), metric="macro_f1")
    _, scores = collect(evaluator, model)
    predicted, true = one_by_one(model, tokenizer, rows), truth(rows)
    assert EMOTIONS.index("joy") in predicted
    np.testing.assert_array_equal(scores, np.stack([predicted == true, predicted, true], axis=1))
    expected = f1_score(true, predicted, labels=[0, 1, 3], average="macro")
    assert evaluator.value(scores) == pytest.approx(expected)
    assert evaluator.value(scores[::-1]) == pytest.approx(expected)
    part = scores[:25]  # only anger and fear have come up
    assert set(part[:, 2]) == {0, 1}
    expected = f1_score(true[:25], predicted[:25], labels=[0, 1], average="macro")
    assert evaluator.value(part) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_groups_count_alike_whatever_their_sizes(
    metric: str, model: nn.Module, tokenizer: Any, tmp_path: Path
) -> None:
    rows = make_rows(80)
    for i, row in enumerate(rows):
        row["domain"] = "tweets" if i % 8 else "books"
    evaluators = {
        source: Classification(data, metric=metric, group="domain", batch_size=16)
        for source, data in {
            "jsonl": write_lines(tmp_path / "dev.jsonl", rows),
            "dataset": datasets.Dataset.from_list(rows),
        }.items()
    }
    predicted, true = one_by_one(model, tokenizer, rows), truth(rows)
    books = np.array([row["domain"] == "books" for row in rows])

    def value(part: np.ndarray) -> float:
        if metric == "accuracy":
            return float((predicted == true)[part].mean())
        labels = np.unique(true[part])
        return float(f1_score(true[part], predicted[part], labels=labels, average="macro"))

    assert value(books) != value(~books)
    for evaluator in evaluators.values():
        _, scores = collect(evaluator, model)
        np.testing.assert_array_equal(scores[:, 0], predicted == true)
        np.testing.assert_array_equal(scores[:, -1], ~books)
        expected = (value(books) + value(~books)) / 2
        assert evaluator.value(scores) == pytest.approx(expected)
        assert evaluator.value(scores[::-1]) == pytest.approx(expected)
        assert evaluator.value(scores[books]) == pytest.approx(value(books))
        assert evaluator.metric_names == (f"{metric} per domain",)


def test_batches_come_in_the_same_order_for_every_model(
    model: nn.Module, bert_folder: Path, tmp_path: Path
) -> None:
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", make_rows(50)), batch_size=8)
    first = [ids.tolist() for ids, _ in evaluator(model)]
    other = bert(1, EMOTIONS[::-1], num_hidden_layers=1)
    other.config._name_or_path = str(bert_folder)
    assert [ids.tolist() for ids, _ in evaluator(other)] == first
    core = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "w": 2, "1": 3}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # letter by letter
    letters = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]")
    letters.save_pretrained(tmp_path / "letters")
    other.config._name_or_path = str(tmp_path / "letters")
    assert [ids.tolist() for ids, _ in evaluator(other)] == first
    again = Classification(tmp_path / "dev.jsonl", batch_size=8)
    assert [ids.tolist() for ids, _ in again(model.bfloat16())] == first


def test_an_early_stop_gives_a_part_of_the_same_scores(model: nn.Module, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "dev.jsonl", make_rows(64))
    evaluator = Classification(data, batch_size=8, metric="macro_f1")
    _, scores = collect(evaluator, model)
    batches = evaluator(model)
    some = [next(batches) for _ in range(3)]
    batches.close()  # type: ignore[attr-defined]
    ids = np.concatenate([ids for ids, _ in some])
    part = np.concatenate([part for _, part in some])
    np.testing.assert_array_equal(part, scores[ids])
    true, predicted = part[:, 2], part[:, 1]
    expected = f1_score(true, predicted, labels=np.unique(true), average="macro")
    assert evaluator.value(part) == pytest.approx(expected)


def test_a_refilled_model_is_scored_anew(model: nn.Module, tokenizer: Any, tmp_path: Path) -> None:
    rows = make_rows(40)
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", rows))
    _, before = collect(evaluator, model)
    model.load_state_dict(bert(7).state_dict())
    _, after = collect(evaluator, model)
    assert (before != after).any()
    np.testing.assert_array_equal(after, one_by_one(model, tokenizer, rows) == truth(rows))


def test_label_names_follow_the_model(tokenizer: Any, tmp_path: Path) -> None:
    """Two models with the same weights that number their classes differently."""
    data = write_lines(tmp_path / "dev.jsonl", make_rows(30))
    evaluator = Classification(data, tokenizer=tokenizer, metric="macro_f1")
    values = []
    for labels in (EMOTIONS, EMOTIONS[::-1]):
        model = bert(3, labels)
        if labels is not EMOTIONS:
            for tensor in (model.classifier.weight, model.classifier.bias):
                tensor.data = tensor.data.flip(0)
        values.append(evaluator.value(collect(evaluator, model)[1]))
    assert values[0] == values[1]


def test_class_label_columns_go_by_name_if_the_model_knows_the_names(
    model: nn.Module, tokenizer: Any
) -> None:
    rows = make_rows(30)
    expected = one_by_one(model, tokenizer, rows) == truth(rows)
    texts = [row["text"] for row in rows]
    for names in (EMOTIONS[::-1], ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]):
        known = names[0] in EMOTIONS
        labels = [names.index(r["label"]) if known else EMOTIONS.index(r["label"]) for r in rows]
        features = datasets.Features(
            text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
        )
        data = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
        np.testing.assert_array_equal(collect(Classification(data), model)[1], expected)


def test_dataset_with_a_format(model: nn.Module) -> None:
    rows = [{"text": r["text"], "label": EMOTIONS.index(r["label"])} for r in make_rows(20)]
    data = datasets.Dataset.from_list(rows)
    _, plain = collect(Classification(data), model)
    _, formatted = collect(Classification(data.with_format("torch")), model)
    np.testing.assert_array_equal(plain, formatted)


def test_each_model_gets_its_own_tokenizer(
    model: nn.Module, tokenizer: Any, tmp_path: Path
) -> None:
    rows = make_rows(40)
    vocabulary = tokenizer.get_vocab()
    for i, word in enumerate(WORDS):
        vocabulary[word] = 43 - i
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.model = models.WordLevel(vocabulary, unk_token="[UNK]")
    reverse = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]")
    reverse.save_pretrained(tmp_path / "reverse")
    other = bert(1)
    other.config._name_or_path = str(tmp_path / "reverse")
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", rows))
    expected = [one_by_one(model, t, rows) == truth(rows) for t in (tokenizer, reverse)]
    assert (expected[0] != expected[1]).any()
    np.testing.assert_array_equal(collect(evaluator, model)[1], expected[0])
    np.testing.assert_array_equal(collect(evaluator, other)[1], expected[1])


@pytest.mark.parametrize("given", ["object", "folder", "path"])
def test_tokenizer_can_be_given(
    given: str, tokenizer: Any, bert_folder: Path, tmp_path: Path
) -> None:
    rows = make_rows(20)
    source = {"object": tokenizer, "folder": str(bert_folder), "path": bert_folder}[given]
    evaluator = Classification(write_lines(tmp_path / "d.jsonl", rows), tokenizer=source)
    model = bert(2)  # from no folder
    _, scores = collect(evaluator, model)
    np.testing.assert_array_equal(scores, one_by_one(model, tokenizer, rows) == truth(rows))


def test_texts_are_cut_to_what_the_model_can_take(
    model: nn.Module, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": " ".join(["w1", "w2", "w3"] * 40), "label": "joy"}, *make_rows(9)]
    data = write_lines(tmp_path / "dev.jsonl", rows)
    for limit, most in ((None, 24), (5, 5)):
        seen = []
        hook = model.register_forward_pre_hook(
            lambda _, __, kwargs, seen=seen: seen.append(kwargs["input_ids"]), with_kwargs=True
        )
        collect(Classification(data, max_length=limit, batch_size=4), model)
        hook.remove()
        assert max(ids.shape[1] for ids in seen) == most


def test_bfloat16_model(bert_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Rounding depends on padding, so only texts with a clear winner are compared."""
    model = load(bert_folder, dtype=torch.bfloat16)
    rows = make_rows(60)
    _, scores = collect(Classification(write_lines(tmp_path / "dev.jsonl", rows)), model)
    clear = []
    for row in rows:
        with torch.no_grad():
            logits = load_logits(model, tokenizer, row["text"])
        best = logits.sort(descending=True).values
        clear.append(bool(best[0] - best[1] > 0.2 * (best[0] - best[-1])))
    assert sum(clear) > 30
    expected = one_by_one(model, tokenizer, rows) == truth(rows)
    np.testing.assert_array_equal(scores[clear], expected[clear])


def load_logits(model: nn.Module, tokenizer: Any, text: str) -> torch.Tensor:
    return model(**tokenizer(text, return_tensors="pt")).logits[0].float()  # type: ignore[no-any-return]


def test_decoder_with_left_to_right_padding(tokenizer: Any, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=44,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
            pad_token_id=0,
            id2label=dict(enumerate(EMOTIONS)),
            label2id={name: i for i, name in enumerate(EMOTIONS)},
        )
        model = LlamaForSequenceClassification(config).eval()
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )
    rows = make_rows(40)
    evaluator = Classification(write_lines(tmp_path / "d.jsonl", rows), tokenizer=tokenizer)
    _, scores = collect(evaluator, model)
    expected = one_by_one(model, tokenizer, rows)
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(scores, expected == truth(rows))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_pixel_values(kind: str, dtype: torch.dtype, vit_folder: Path) -> None:
    model = ViTForImageClassification.from_pretrained(vit_folder, dtype=dtype).eval()
    images = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 4
    data: Any = (images, labels)
    if kind == "array":
        data = (images.double().numpy(), labels.tolist())
    evaluator = Classification(data, batch_size=16)
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    with torch.no_grad():
        expected = torch.cat([model(i[None].to(dtype)).logits.argmax(-1) for i in images])
    assert len(set(expected.tolist())) > 1
    np.testing.assert_array_equal(scores, (expected == labels).numpy())


def test_plain_module_gets_its_tensor_by_position() -> None:
    inputs = torch.randn(30, 2, 3, generator=torch.Generator().manual_seed(0))
    model = Net(6, 3)
    labels = (inputs.flatten(1) @ model.weight.T).argmax(-1)
    wrong = labels.clone()
    wrong[:10] = (labels[:10] + 1) % 3
    _, scores = collect(Classification((inputs, wrong)), model)
    np.testing.assert_array_equal(scores, np.arange(30) >= 10)


def test_images_of_a_dataset(vit_folder: Path, tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    from transformers import ViTImageProcessor

    model = ViTForImageClassification.from_pretrained(vit_folder).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    processor.save_pretrained(tmp_path)
    model = ViTForImageClassification.from_pretrained(tmp_path).eval()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 10, 12), dtype=np.uint8)
    images = [image_module.fromarray(p) for p in pixels]  # grey ones for a model with colours
    labels = [i % 4 for i in range(20)]
    features = datasets.Features(picture=datasets.Image(), label=datasets.Value("int64"))
    data = datasets.Dataset.from_dict({"picture": images, "label": labels}, features=features)
    evaluator = Classification(data, image="picture", batch_size=8)
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    with torch.no_grad():
        expected = [
            int(model(**processor(i.convert("RGB"), return_tensors="pt")).logits.argmax())
            for i in images
        ]
    np.testing.assert_array_equal(scores, np.array(expected) == np.array(labels))


def test_inputs_are_prepared_once(model: nn.Module, tokenizer: Any, tmp_path: Path) -> None:
    calls = []

    class Counting(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return super().__call__(*args, **kwargs)

    counting = Counting(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    data = write_lines(tmp_path / "dev.jsonl", make_rows(40))
    evaluator = Classification(data, tokenizer=counting, batch_size=8)
    evaluator.check(model)
    collect(evaluator, model)
    collect(evaluator, bert(5))  # another model of the same kind, as a layer path makes them
    assert len(calls) == 1
    net = Net(4, 2)
    evaluator = Classification((torch.ones(4, 4), [0, 1, 0, 1]))
    collect(evaluator, net)
    collect(evaluator, net)
    assert net.batches[0] is net.batches[1]


def test_inference_mode_does_not_leak_to_the_caller(model: nn.Module, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "dev.jsonl", make_rows(40))
    evaluator = Classification(data, batch_size=8)
    inside = []
    model.register_forward_hook(lambda *_: inside.append(torch.is_inference_mode_enabled()))
    for _ in evaluator(model):
        assert not torch.is_inference_mode_enabled()
    assert inside == [True] * 5


def test_a_model_in_training_mode_is_scored_in_eval_mode(model: nn.Module, tmp_path: Path) -> None:
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", make_rows(40)))
    _, scores = collect(evaluator, model)
    _, again = collect(evaluator, model.train())
    np.testing.assert_array_equal(scores, again)


def test_nan_logits_score_nan() -> None:
    model = Net(2, 3)
    inputs = torch.ones(4, 2)
    inputs[1] = torch.nan
    for metric in ("accuracy", "macro_f1"):
        evaluator = Classification((inputs, [0, 1, 2, 0]), metric=metric)
        _, scores = collect(evaluator, model)
        first = scores if metric == "accuracy" else scores[:, 0]
        np.testing.assert_array_equal(np.isnan(first), [False, True, False, False])
        assert np.isnan(evaluator.value(scores))


def test_scores_leave_the_global_generators_alone(model: nn.Module, tmp_path: Path) -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    evaluator = Classification(write_lines(tmp_path / "dev.jsonl", make_rows(9)))
    collect(evaluator, model)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


def test_blank_lines_are_skipped(model: nn.Module, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in make_rows(6)]
    (tmp_path / "dev.jsonl").write_text("\n\n".join(lines) + "\n\n")
    assert len(Classification(tmp_path / "dev.jsonl")) == 6


# -- digest -----------------------------------------------------------------------------------


def digests(make: Callable[[], Any], changed: Callable[[], Any], **options: Any) -> list[str]:
    """The parts that change; the same data made twice must not."""
    one, two, other = (Classification(m(), **options).digest for m in (make, make, changed))
    assert one == two
    return [part for part in one if one[part] != other[part]]


def test_digest_of_texts(tmp_path: Path) -> None:
    def data(pair: str = "b c", label: str = "joy", domain: str = "x") -> Any:
        rows = {"text": ["a", "a b"], "text2": ["c", pair], "label": ["fear", label]}
        return datasets.Dataset.from_dict({**rows, "domain": ["x", domain]})

    assert digests(data, lambda: data(pair="b d")) == ["inputs"]
    one, other = (Classification(data(domain=d), group="domain").digest for d in "xy")
    assert [part for part in one if one[part] != other[part]] == ["groups"]
    assert digests(data, lambda: data(label="fear")) == ["labels"]
    rows = [{"text": "a", "text2": "c", "label": "fear"}]
    rows.append({"text": "a b", "text2": "b c", "label": "joy"})
    lines = write_lines(tmp_path / "dev.jsonl", rows)
    assert Classification(lines).digest == Classification(data()).digest, "wherever they lie"


def test_digest_of_tensors() -> None:
    def data(value: float = 1.0, dtype: torch.dtype = torch.bfloat16, shape: Any = (2, 3)) -> Any:
        inputs = torch.ones(shape, dtype=dtype)
        inputs[1, 1] = value
        return inputs, [0, 1]

    assert digests(data, lambda: data(value=1.0078125)) == ["inputs"]
    assert digests(data, lambda: data(dtype=torch.float32)) == ["inputs"]
    assert digests(data, lambda: data(shape=(2, 3, 1))) == ["inputs"]
    assert digests(data, lambda: (data()[0], [0, 0])) == ["labels"]


def test_digest_of_images_and_class_names(tmp_path: Path) -> None:
    from PIL import Image

    def data(level: int = 0, names: Sequence[str] = ("cat", "dog"), file: bool = False) -> Any:
        images = [Image.new("L", (8, 8), color) for color in (level, 1)]
        if file:
            folder = tmp_path / str(level)
            folder.mkdir(exist_ok=True)
            for i, image in enumerate(images):
                image.save(folder / f"{i}.png")
            images = [str(folder / f"{i}.png") for i in range(2)]
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))}
        return datasets.Dataset.from_dict(
            {"image": images, "label": [0, 1]}, features=datasets.Features(features)
        )

    for file in (False, True):
        assert digests(
            lambda f=file: data(file=f), lambda f=file: data(level=2, file=f), image="image"
        ) == ["inputs"]
    assert digests(data, lambda: data(names=("dog", "cat")), image="image") == ["labels"]
