"""Likelihoods against transformers' own loss, one window at a time, without padding."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import NegativeLogLikelihood, Perplexity, batches_of, value_of
from tests import toys
from tests.evaluators.conftest import Net, collect, write_lines
from tests.vocabularies import word_level

WORDS = [f"w{i}" for i in range(40)]
DATA = os.environ.get("MERGE_OPTUNA_DATA")


@pytest.fixture(scope="module")
def words() -> Any:
    return word_level(WORDS)


def texts(n: int, *, least: int = 2, most: int = 20, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(least, most + 1))) for _ in range(n)]


def data(**columns: list[str]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def loss(model: nn.Module, ids: list[int], labels: list[int], **more: Any) -> tuple[float, int]:
    """Nats of the labels that are not −100, and how many they are."""
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]), **more)
    first = 0 if model.config.is_encoder_decoder else 1
    scored = sum(label != -100 for label in labels[first:])
    return float(out.loss) * scored, scored


def guide(model: nn.Module, ids: list[int], length: int, stride: int) -> tuple[float, int]:
    """The loop of huggingface.co/docs/transformers/perplexity, with exact counts."""
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        labels = list(ids[begin:end])
        labels[: len(labels) - (end - previous)] = [-100] * (len(labels) - (end - previous))
        if any(label != -100 for label in labels[1:]):
            nats, scored = loss(model, ids[begin:end], labels)
            total, count = total + nats, count + scored
        previous = end
        if end == len(ids):
            break
    return total, count


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": toys.llama,
    "gpt2": lambda: toys.gpt2(n_positions=64),
    "gemma2": lambda: toys.decoder("Gemma2", final_logit_softcapping=3.0),
    "mixtral": lambda: toys.decoder("Mixtral"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("length", "stride"), [(None, None), (8, 3), (8, 8), (7, 1), (2, 2)])
def test_documents_in_windows(
    words: Any, family: str, length: int | None, stride: int | None
) -> None:
    model, documents = FAMILIES[family](), texts(7)
    evaluator = NegativeLogLikelihood(
        data(text=documents), max_length=length, stride=stride, tokenizer=words, batch_size=3
    )
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    expected = np.array(
        [
            guide(model, words(text)["input_ids"], length or 64, stride or (length or 64) // 2)
            for text in documents
        ]
    )
    np.testing.assert_allclose(scores[:, 1:], expected, rtol=1e-5)
    np.testing.assert_allclose(scores[:, 0], expected[:, 0] / expected[:, 1], rtol=1e-5)
    mean = expected[:, 0].sum() / expected[:, 1].sum()
    assert value_of(evaluator, model) == pytest.approx(mean, rel=1e-5)
    perplexity = Perplexity(
        data(text=documents), max_length=length, stride=stride, tokenizer=words, batch_size=7
    )
    assert value_of(perplexity, model) == pytest.approx(np.exp(mean), rel=1e-5)
    assert (evaluator.metric_names, perplexity.metric_names) == (
        ("nats per token",),
        ("perplexity per token",),
    )


def test_a_document_longer_than_the_model_is_read_in_halves_of_its_positions(words: Any) -> None:
    model, (document,) = toys.llama(max_position_embeddings=16), texts(1, least=50, most=50)
    evaluator = NegativeLogLikelihood(data(text=[document]), tokenizer=words)
    nats, count = guide(model, words(document)["input_ids"], 16, 8)
    assert count == 49
    assert value_of(evaluator, model) == pytest.approx(nats / count, rel=1e-5)


def test_answers_alone_are_scored(words: Any) -> None:
    model, asked, replies = toys.llama(), texts(9, seed=1), texts(9, least=1, most=5, seed=2)
    shot = {"asked": "w1 w2", "reply": "w3"}
    evaluator = NegativeLogLikelihood(
        data(asked=asked, reply=replies),
        prompt="w0 {asked}",
        answer="reply",
        examples=[shot],
        tokenizer=words,
        batch_size=4,
    )
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    for row, (question, answer) in enumerate(zip(asked, replies, strict=True)):
        before = words(f"w0 w1 w2 w3\n\nw0 {question}")["input_ids"]
        after = words(answer)["input_ids"]
        nats, count = loss(model, before + after, [-100] * len(before) + after)
        np.testing.assert_allclose(scores[row], [nats / count, nats, count], rtol=1e-5)


def test_a_question_is_short_for_a_prompt(words: Any) -> None:
    rows = data(q=texts(3, seed=1), answer=texts(3, seed=2))
    model = toys.gpt2(n_positions=64)
    short = NegativeLogLikelihood(rows, question="q", tokenizer=words)
    long = NegativeLogLikelihood(rows, prompt="{q}", answer="answer", tokenizer=words)
    assert short.digest == long.digest
    assert value_of(short, model) == value_of(long, model)


def test_the_reply_of_a_chat(words: Any) -> None:
    words = word_level([*WORDS, "<user>", "<bot>"])
    words.chat_template = (
        "{% for m in messages %}<user> {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}<bot>{% endif %}"
    )
    evaluator = NegativeLogLikelihood(
        data(q=["w1 w2"], a=["w3 w4"]), question="q", answer="a", chat=True, tokenizer=words
    )
    ids = words("<user> w1 w2 <bot> w3 w4")["input_ids"]
    nats, count = loss(toys.llama(), ids, [-100] * 4 + ids[4:])
    assert value_of(evaluator, toys.llama()) == pytest.approx(nats / count, rel=1e-5)


def test_the_encoder_reads_the_prompt(tokenizer: Any) -> None:
    """The tokenizer puts an end after source and answer, as T5's does."""
    model = toys.t5(pad_token_id=0)
    asked, replies = texts(9, seed=1), texts(9, least=1, most=5, seed=2)
    evaluator = NegativeLogLikelihood(
        data(q=asked, answer=replies), question="q", tokenizer=tokenizer, batch_size=4
    )
    evaluator.check(model)
    _, scores = collect(evaluator, model)
    for row, (question, answer) in enumerate(zip(asked, replies, strict=True)):
        labels = tokenizer(answer)["input_ids"]
        nats, count = loss(model, tokenizer(question)["input_ids"], labels)
        np.testing.assert_allclose(scores[row, 1:], [nats, count], rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_padding_never_changes_a_score(words: Any, family: str) -> None:
    model = toys.llama() if family == "llama" else toys.t5(pad_token_id=0)
    rows = data(q=texts(12, seed=1), answer=texts(12, least=1, most=5, seed=2))
    made = [
        NegativeLogLikelihood(rows, question="q", tokenizer=words, batch_size=size)
        for size in (1, 5, 12)
    ]
    alone, *padded = [collect(evaluator, model)[1] for evaluator in made]
    for scores in padded:
        np.testing.assert_allclose(scores, alone, rtol=1e-5)


def test_units_and_groups(words: Any) -> None:
    model, documents, domains = toys.llama(), texts(6), list("aabbbb")
    nats, tokens = np.array(
        [guide(model, words(text)["input_ids"], 64, 32) for text in documents]
    ).T
    size = np.array([len(text.encode()) for text in documents])
    for per, units in {"token": tokens, "byte": size, "document": np.ones(6)}.items():
        evaluator = NegativeLogLikelihood(
            data(text=documents, domain=domains), per=per, group="domain", tokenizer=words
        )
        a, b = nats[:2].sum() / units[:2].sum(), nats[2:].sum() / units[2:].sum()
        assert value_of(evaluator, model) == pytest.approx((a + b) / 2, rel=1e-5)
        assert evaluator.metric_names == (f"nats per {per} per domain",)
    evaluator = Perplexity(data(text=documents, d=domains), group="d", tokenizer=words)
    a, b = nats[:2].sum() / tokens[:2].sum(), nats[2:].sum() / tokens[2:].sum()
    assert value_of(evaluator, model) == pytest.approx((np.exp(a) + np.exp(b)) / 2, rel=1e-5)


def test_the_head_is_given_what_is_scored_and_nothing_else(words: Any) -> None:
    model, rows = toys.llama(), data(q=texts(8, least=15, seed=1), answer=["w1 w2"] * 8)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _, args, __: seen.append(args[0].numel() // 32))
    list(NegativeLogLikelihood(rows, question="q", tokenizer=words, batch_size=4)(model))
    assert seen == [8, 8]


def test_a_model_that_cannot_leave_logits_out(words: Any) -> None:
    """Somebody's own, in a module of its own."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = toys.llama()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits

    evaluator = NegativeLogLikelihood(data(text=texts(5)), tokenizer=words, batch_size=2)
    own, given = collect(evaluator, Own()), collect(evaluator, toys.llama())
    np.testing.assert_allclose(own[1], given[1], rtol=1e-5)


def test_nan_logits_score_nan(words: Any) -> None:
    model = toys.llama()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    evaluator = Perplexity(data(text=texts(3)), tokenizer=words)
    assert np.isnan(value_of(evaluator, model))
    assert np.isnan(collect(evaluator, model)[1][:, 0]).all()


def test_a_model_in_half_precision(words: Any) -> None:
    evaluator = NegativeLogLikelihood(data(text=texts(5)), tokenizer=words, batch_size=2)
    half = value_of(evaluator, toys.llama().bfloat16())
    assert half == pytest.approx(value_of(evaluator, toys.llama()), rel=0.02)


def test_no_padding_token_is_needed_and_nothing_global_changes(words: Any) -> None:
    assert words.pad_token is None
    model, state = toys.llama().train(), torch.get_rng_state()
    evaluator = NegativeLogLikelihood(data(text=texts(5)), tokenizer=words, batch_size=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluator.check(model)
    first, second = value_of(evaluator, model), value_of(evaluator, model)
    assert first == second
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.is_grad_enabled()


def test_batches_are_the_same_for_another_tokenizer(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "dev.jsonl", [{"text": text} for text in texts(20)])
    evaluator = NegativeLogLikelihood(lines, batch_size=4)
    orders = []
    for name, vocabulary in (("a", WORDS), ("b", WORDS[::2])):
        folder = tmp_path / name
        toys.llama(vocab_size=64).save_pretrained(folder)
        word_level(vocabulary).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        orders.append([ids.tolist() for ids, _ in batches_of(evaluator, model)])
    assert orders[0] == orders[1]


def test_what_a_search_is_not_continued_without(words: Any) -> None:
    rows = {"q": texts(3, seed=1), "answer": texts(3, seed=2), "d": list("aab")}
    variants: list[dict[str, Any]] = [
        {},
        {"per": "byte"},
        {"max_length": 32},
        {"tokenizer": word_level(WORDS[::-1])},
        {"system": "w1"},
        {"separator": "  "},
        {"examples": [{"q": "w1", "answer": "w2"}]},
        {"question": None, "prompt": "w1 {q}"},
        {"answer": "q"},
        {"group": "d"},
    ]
    made = [
        json.dumps(
            NegativeLogLikelihood(
                data(**rows), **{"question": "q", "tokenizer": words, **one}
            ).digest
        )
        for one in variants
    ]
    assert len(set(made)) == len(variants)
    # How large a batch is changes no score, and is said apart.
    again = NegativeLogLikelihood(data(**rows), question="q", tokenizer=words, batch_size=1)
    assert json.dumps({**again.digest, "batch_size": 8}) == made[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per": "word"}, "per must be one of token, byte, document, not 'word'"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"text": "body"}, "no column 'body'"),
        ({"answer": "text"}, r"answer= belongs to a prompt\. Say what it is: question="),
        ({"chat": True}, "chat= belongs to a prompt"),
        ({"question": "text"}, "no column 'answer'"),
    ],
)
def test_arguments_that_are_not_valid(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        NegativeLogLikelihood(data(text=texts(2)), **arguments)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"text": ["w1 w2", ""]}, {}, r"row 1: a document of 0 tokens has none to be scored"),
        ({"text": ["w1 w2"]}, {"max_length": 1}, r"Pass max_length= of at least 2"),
        ({"text": ["w1 w2"]}, {"max_length": 4, "stride": 5}, r"stride= of at most 4"),
        ({"q": ["w1"], "answer": [""]}, {"question": "q"}, r"row 0: an answer is empty"),
        (
            {"q": ["w1", "w1 " * 70], "answer": ["w1", "w2"]},
            {"question": "q"},
            r"row 1: a prompt with its answer of 71 tokens, but at most 64 are read",
        ),
    ],
)
def test_data_that_cannot_be_scored(
    words: Any, columns: dict[str, list[str]], arguments: dict[str, Any], message: str
) -> None:
    evaluator = NegativeLogLikelihood(data(**columns), tokenizer=words, **arguments)
    with pytest.raises(EvaluationError, match=message):
        evaluator.check(toys.llama())


def test_models_that_cannot_be_scored(words: Any, tokenizer: Any) -> None:
    evaluator = NegativeLogLikelihood(data(text=texts(2)), tokenizer=words)
    with pytest.raises(EvaluationError, match="An encoder-decoder model answers a prompt"):
        evaluator.check(toys.t5())
    with pytest.raises(EvaluationError, match=r"returns \(2, 2\), not logits of shape \(batch, "):
        evaluator.check(toys.bert())
    with pytest.raises(EvaluationError, match="Net cannot be run on input_ids"):
        evaluator.check(Net(3, 4))
    with pytest.raises(EvaluationError, match=r"makes token \d+, but .* a vocabulary of 10"):
        evaluator.check(toys.llama(vocab_size=10))
    with pytest.raises(EvaluationError, match="There is no tokenizer in 'a model without"):
        NegativeLogLikelihood(data(text=texts(2))).check(toys.llama())
    with pytest.raises(EvaluationError, match="The data set is empty"):
        NegativeLogLikelihood(data(text=[]))


@pytest.mark.skipif(
    DATA is None, reason="MERGE_OPTUNA_DATA is no folder with checkpoints/stories260K"
)
@pytest.mark.parametrize("name", ["stories260K", "stories260K-shakespeare"])
def test_a_trained_model(name: str, tmp_path: Path) -> None:
    folder = Path(str(DATA), "checkpoints", name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    documents = ["Once upon a time there was a little dog. " * n for n in (1, 5, 30)]
    lines = write_lines(tmp_path / "dev.jsonl", [{"text": text} for text in documents])
    evaluator = Perplexity(lines, max_length=128, stride=48, batch_size=4)
    sums = [guide(model, tokenizer(text)["input_ids"], 128, 48) for text in documents]
    nats, tokens = np.array(sums).sum(0)
    assert value_of(evaluator, model) == pytest.approx(np.exp(nats / tokens), rel=1e-5)
