"""KL(reference ‖ model) against a loop over single examples in double precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import KLDivergence, kl_divergence, value_of
from tests import toys
from tests.evaluators.conftest import Net, bert, collect, make_rows
from tests.evaluators.test_likelihood import data, texts
from tests.vocabularies import word_level

WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="module")
def words() -> Any:
    return word_level(WORDS)


def saved(model: nn.Module, folder: Path, **how: Any) -> mo.Checkpoint:
    return mo.Checkpoint(toys.save(model, folder, **how), name="reference")


@torch.no_grad()
def divergence(reference: Tensor, logits: Tensor) -> float:
    """Of rows of logits, all together."""
    p, q = reference.double().log_softmax(-1), logits.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum())


@torch.no_grad()
def of_tokens(reference: nn.Module, model: nn.Module, ids: list[int], first: int = 1) -> float:
    """Of the tokens from ``first`` on, each predicted from those before."""
    one = torch.tensor([ids])
    theirs, mine = reference(input_ids=one).logits[0], model(input_ids=one).logits[0]
    return divergence(theirs[first - 1 : -1], mine[first - 1 : -1])


def test_documents(words: Any, tmp_path: Path) -> None:
    reference, model, documents = toys.llama(1), toys.llama(), texts(9)
    evaluator = KLDivergence(
        data(text=documents), saved(reference, tmp_path / "r"), tokenizer=words, batch_size=4
    )
    evaluator.check(model)
    expected = [of_tokens(reference, model, words(text)["input_ids"]) for text in documents]
    counts = [len(words(text)["input_ids"]) - 1 for text in documents]
    for _ in range(2):  # computed, then kept
        _, scores = collect(evaluator, model)
        np.testing.assert_allclose(scores[:, 1], expected, rtol=1e-5)
        np.testing.assert_array_equal(scores[:, 2], counts)
    assert value_of(evaluator, model) == pytest.approx(sum(expected) / sum(counts), rel=1e-5)
    assert value_of(evaluator, reference) == pytest.approx(0, abs=1e-6)
    assert evaluator.metric_names == ("KL divergence per token",)


def test_answers_of_decoders(words: Any, tmp_path: Path) -> None:
    reference, model = toys.gpt2(1, n_positions=64), toys.gpt2(n_positions=64)
    asked, replies = texts(6, seed=1), texts(6, least=1, most=5, seed=2)
    evaluator = KLDivergence(
        data(q=asked, answer=replies),
        saved(reference, tmp_path / "r"),
        question="q",
        tokenizer=words,
        batch_size=4,
    )
    _, scores = collect(evaluator, model)
    for row, (question, answer) in enumerate(zip(asked, replies, strict=True)):
        before, after = words(question)["input_ids"], words(answer)["input_ids"]
        expected = of_tokens(reference, model, before + after, len(before))
        assert scores[row, 1] == pytest.approx(expected, rel=1e-5)


def test_answers_after_an_encoder(words: Any, tmp_path: Path) -> None:
    reference, model = toys.t5(1, pad_token_id=0), toys.t5(pad_token_id=0)
    asked, replies = texts(6, seed=1), texts(6, least=1, most=5, seed=2)
    evaluator = KLDivergence(
        data(q=asked, answer=replies),
        saved(reference, tmp_path / "r"),
        question="q",
        tokenizer=words,
        batch_size=4,
    )
    _, scores = collect(evaluator, model)
    for row, (question, answer) in enumerate(zip(asked, replies, strict=True)):
        given = {"input_ids": torch.tensor([words(question)["input_ids"]])}
        given["labels"] = torch.tensor([words(answer)["input_ids"]])
        with torch.no_grad():
            expected = divergence(reference(**given).logits[0], model(**given).logits[0])
        assert scores[row, 1] == pytest.approx(expected, rel=1e-5)


def test_labels_of_texts(tokenizer: Any, tmp_path: Path) -> None:
    reference, model, rows = bert(2), bert(1), make_rows(10)
    rows = [{**row, "domain": "ab"[n > 3]} for n, row in enumerate(rows)]
    evaluator = KLDivergence(
        datasets.Dataset.from_list(rows),
        saved(reference, tmp_path / "r"),
        group="domain",
        tokenizer=tokenizer,
        batch_size=4,
    )
    evaluator.check(model)
    expected = []
    for row in rows:
        one = tokenizer(row["text"], return_tensors="pt")
        with torch.no_grad():
            expected.append(divergence(reference(**one).logits, model(**one).logits))
    _, scores = collect(evaluator, model)
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-5, atol=1e-7)
    mean = (np.mean(expected[:4]) + np.mean(expected[4:])) / 2
    assert value_of(evaluator, model) == pytest.approx(mean, rel=1e-5)
    assert evaluator.metric_names == ("KL divergence per example per domain",)


class Counting(Net):
    """Of whatever copy, how often it was run."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.runs += 1
        return super().forward(x)


@pytest.mark.parametrize(("bytes_kept", "runs"), [(1 << 30, 3), (4 * 3 * 4, 5), (0, 6)])
def test_what_the_reference_predicts_is_kept_as_far_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, bytes_kept: int, runs: int
) -> None:
    """Three batches of four examples with three labels, scored twice."""
    monkeypatch.setattr(kl_divergence, "_KEPT", bytes_kept)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, 4)).astype(np.float32)
    reference, model = Counting(4, 3, seed=1), Net(4, 3)
    evaluator = KLDivergence(
        (inputs, np.zeros(12, np.int64)),
        mo.Checkpoint.from_module(reference, name="reference"),
        batch_size=4,
    )
    Counting.runs = 0
    first, second = collect(evaluator, model)[1], collect(evaluator, model)[1]
    np.testing.assert_array_equal(first, second)
    x = torch.from_numpy(inputs)
    expected = [divergence(reference(x[i : i + 1]), model(x[i : i + 1])) for i in range(12)]
    np.testing.assert_allclose(first[:, 0], expected, rtol=1e-4, atol=1e-6)
    assert Counting.runs == runs + 12


def test_the_reference_stays_in_its_data_type(words: Any, tmp_path: Path) -> None:
    model, documents = toys.llama(), texts(4)
    checkpoint = saved(toys.llama(1), tmp_path / "r", dtype=torch.bfloat16)
    reference = LlamaForCausalLM.from_pretrained(tmp_path / "r", dtype=torch.bfloat16)
    evaluator = KLDivergence(data(text=documents), checkpoint, tokenizer=words, batch_size=1)
    expected = [of_tokens(reference, model, words(text)["input_ids"]) for text in documents]
    np.testing.assert_allclose(collect(evaluator, model)[1][:, 1], expected, rtol=1e-4)


def test_nan_logits_score_nan_and_what_is_ruled_out_nothing(words: Any, tmp_path: Path) -> None:
    reference, model = toys.llama(1), toys.llama()
    checkpoint = saved(reference, tmp_path / "r")
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    evaluator = KLDivergence(data(text=texts(3)), checkpoint, tokenizer=words)
    assert np.isnan(value_of(evaluator, model))
    theirs, mine = torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.0, 0.0]])
    assert kl_divergence._divergence(theirs, mine) == pytest.approx(np.log(2))


def test_what_a_search_is_not_continued_without(words: Any, tmp_path: Path) -> None:
    one, other = saved(toys.llama(1), tmp_path / "a"), saved(toys.llama(2), tmp_path / "b")
    rows = data(text=texts(3), d=list("aab"))
    variants: list[tuple[mo.Checkpoint, dict[str, Any]]] = [
        (one, {}),
        (other, {}),
        (one, {"max_length": 8}),
        (one, {"stride": 4}),
        (one, {"group": "d"}),
        (one, {"tokenizer": words}),
    ]
    made = [json.dumps(KLDivergence(rows, to, **given).digest) for to, given in variants]
    assert len(set(made)) == len(variants)


def test_models_that_cannot_be_compared(words: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="reference must be a Checkpoint"):
        KLDivergence(data(text=texts(2)), "models/base")
    checkpoint = saved(toys.llama(1, vocab_size=50), tmp_path / "a")
    with pytest.raises(EvaluationError, match="the data first and then the reference"):
        KLDivergence(checkpoint, data(text=texts(2)))
    evaluator = KLDivergence(data(text=texts(2)), checkpoint, tokenizer=words)
    message = "The reference predicts 50 classes or tokens, the model 64"
    with pytest.raises(EvaluationError, match=message):
        evaluator.check(toys.llama())
    checkpoint = saved(bert(1, ["b", "a", "c", "d"]), tmp_path / "b")
    evaluator = KLDivergence(data(text=texts(2)), checkpoint, tokenizer=tokenizer)
    with pytest.raises(EvaluationError, match="has the labels b, a, c, d, the model a, b, c, d"):
        evaluator.check(bert(1, ["a", "b", "c", "d"]))
