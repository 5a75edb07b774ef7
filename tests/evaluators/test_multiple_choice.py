"""Multiple choice against one choice at a time: no batches, no padding, nothing read only once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import MultipleChoice, NegativeLogLikelihood, value_of
from tests import toys
from tests.evaluators.conftest import collect
from tests.vocabularies import word_level

WORDS = [f"w{i}" for i in range(40)]
LONG = {"max_position_embeddings": 256}
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: toys.llama(**LONG),
    "gpt2": lambda: toys.gpt2(n_positions=256),
    "qwen3": lambda: toys.decoder("Qwen3", **LONG),
    "mixtral": lambda: toys.decoder("Mixtral", **LONG),
    "gemma2": lambda: toys.decoder("Gemma2", **LONG, sliding_window=8),  # cannot go on
    "mamba2": lambda: toys.decoder("Mamba2", **LONG, chunk_size=16),  # has no positions
}


@pytest.fixture(scope="module")
def words() -> Any:
    return word_level(WORDS)


def questions(n: int, *, least: int = 1, most: int = 20, seed: int = 0) -> list[dict[str, Any]]:
    """Two to four choices of one to six words each."""
    rng = np.random.default_rng(seed)

    def words(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(low, high + 1)))

    rows = []
    for _ in range(n):
        choices = [words(1, 6) for _ in range(rng.integers(2, 5))]
        answer = int(rng.integers(len(choices)))
        rows.append({"question": words(least, most), "choices": choices, "answer": answer})
    return rows


def data(rows: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows)


def likelihood(model: nn.Module, before: list[int], after: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before + after])).logits[0]
    log_p = logits.double().log_softmax(-1)
    at = range(len(before) - 1, len(before) + len(after) - 1)
    return float(sum(log_p[i, token] for i, token in zip(at, after, strict=True)))


def likelihoods(evaluator: MultipleChoice, model: nn.Module) -> list[np.ndarray]:
    found = {
        i: each
        for ids, some in evaluator.log_likelihoods(model)
        for i, each in zip(ids, some, strict=True)
    }
    return [found[i] for i in range(len(evaluator))]


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing alike": {},
    "few-shot examples": {"examples": questions(4, least=15, seed=9)},
    "long prompts": {"prompt": lambda row: " ".join([row["question"]] * 5)},
    "both": {"examples": questions(2, least=15, seed=9), "prompt": "{question} {question} w1"},
    "a system message": {"system": " ".join(WORDS[::2])},
}


ALL = [(family, setting) for family in FAMILIES for setting in SETTINGS if family != "mamba2"]


@pytest.mark.parametrize(("family", "setting"), [*ALL, ("mamba2", "a system message")])
def test_one_choice_at_a_time(words: Any, family: str, setting: str) -> None:
    model, rows, given = FAMILIES[family](), questions(6), SETTINGS[setting]
    evaluator = MultipleChoice(data(rows), tokenizer=words, batch_size=3, **given)
    evaluator.check(model)
    found = likelihoods(evaluator, model)

    def prompt(row: dict[str, Any]) -> str:
        template = given.get("prompt", "{question}")
        return template.format_map(row) if isinstance(template, str) else template(row)

    shots = [f"{prompt(row)} {row['choices'][row['answer']]}" for row in given.get("examples", [])]
    right = []
    for row, each in zip(rows, found, strict=True):
        blocks = [given["system"]] if "system" in given else []
        before = words("\n\n".join([*blocks, *shots, prompt(row)]))["input_ids"]
        expected = [likelihood(model, before, words(c)["input_ids"]) for c in row["choices"]]
        np.testing.assert_allclose(each, expected, rtol=1e-5)
        right.append(int(np.argmax(expected)) == row["answer"])
    np.testing.assert_array_equal(collect(evaluator, model)[1], right)
    assert value_of(evaluator, model) == np.mean(right)


def tokens_read(model: nn.Module, evaluator: Any) -> int:
    """Tokens that are looked up, padding among them."""
    seen: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: seen.append(args[0].numel())
    )
    list(evaluator(model))
    hook.remove()
    return sum(seen)


def test_what_is_alike_is_read_once(words: Any) -> None:
    model, shots = FAMILIES["llama"](), questions(8, least=15, most=15, seed=9)
    question = " ".join(WORDS)
    rows = [{"question": question, "choices": ["w1", "w2", "w3", "w4"], "answer": 0}] * 4
    evaluator = MultipleChoice(data(rows), tokenizer=words, examples=shots)
    beginning = sum(len(row["choices"][row["answer"]].split()) + 15 for row in shots)
    # All prompts are the same, but for the last word, which tells the first word of a choice.
    assert tokens_read(model, evaluator) == beginning + 39 + 16
    rows = [{**row, "question": f"w{n} {question}"} for n, row in enumerate(rows)]
    evaluator = MultipleChoice(data(rows), tokenizer=words, examples=shots)
    assert tokens_read(model, evaluator) == beginning + 4 * 40 + 16


def test_answers_after_the_same_examples_read_them_once(words: Any) -> None:
    model, shots = FAMILIES["llama"](), questions(8, least=15, most=15, seed=9)
    rows = [{"question": f"w{n}", "answer": f"w{n} w{n + 1}"} for n in range(6)]
    shots = [{"question": row["question"], "answer": row["choices"][0]} for row in shots]
    alike = NegativeLogLikelihood(data(rows), question="question", examples=shots, tokenizer=words)
    before = sum(len((row["question"] + " " + row["answer"]).split()) for row in shots)
    assert tokens_read(model, alike) == before + 6 * 2
    _, scores = collect(alike, model)
    context = "\n\n".join(f"{row['question']} {row['answer']}" for row in shots)
    for row, score in zip(rows, scores, strict=True):
        ids = [
            words(text)["input_ids"] for text in (f"{context}\n\n{row['question']}", row["answer"])
        ]
        np.testing.assert_allclose(-score[1], likelihood(model, *ids), rtol=1e-5)


def test_an_encoder_reads_the_prompt(words: Any) -> None:
    model, rows = toys.t5(pad_token_id=0), questions(6)
    evaluator = MultipleChoice(data(rows), tokenizer=words, batch_size=4)
    for row, each in zip(rows, likelihoods(evaluator, model), strict=True):
        for choice, found in zip(row["choices"], each, strict=True):
            labels = torch.tensor([words(choice)["input_ids"]])
            source = torch.tensor([words(row["question"])["input_ids"]])
            with torch.no_grad():
                loss = float(model(input_ids=source, labels=labels).loss)
            assert found == pytest.approx(-loss * labels.numel(), rel=1e-5)


@pytest.mark.parametrize("normalize", ["tokens", "bytes"])
def test_normalised(words: Any, normalize: str) -> None:
    model, rows = FAMILIES["llama"](), questions(8)
    plain = likelihoods(MultipleChoice(data(rows), tokenizer=words), model)
    evaluator = MultipleChoice(data(rows), tokenizer=words, normalize=normalize)
    length = (lambda c: len(c.split())) if normalize == "tokens" else (lambda c: len(c.encode()))
    expected = [
        found / [length(choice) for choice in row["choices"]]
        for row, found in zip(rows, plain, strict=True)
    ]
    for found, each in zip(likelihoods(evaluator, model), expected, strict=True):
        np.testing.assert_allclose(found, each, rtol=1e-5)
    right = [row["answer"] == each.argmax() for row, each in zip(rows, expected, strict=True)]
    assert value_of(evaluator, model) == np.mean(right)


def test_the_turns_of_a_chat() -> None:
    words = word_level([*WORDS, "<user>", "<bot>"])
    words.chat_template = (
        "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }} {{ m.content }} "
        "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    row = {"question": "w1 w2", "choices": ["w3", "w4 w5"], "answer": "B"}
    shot = {"question": "w6", "choices": ["w7", "w8"], "answer": 1}
    evaluator = MultipleChoice(data([row]), chat=True, examples=[shot], tokenizer=words)
    before = words("<user> w6 <bot> w8 <user> w1 w2 <bot>")["input_ids"]
    model = FAMILIES["llama"]()
    expected = [likelihood(model, before, words(c)["input_ids"]) for c in row["choices"]]
    np.testing.assert_allclose(likelihoods(evaluator, model)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("choices", "answer", "index"),
    [
        (["x", "y", "z"], 2, 2),
        (["x", "y", "z"], True, 1),
        (["x", "y", "z"], "y", 1),
        (["x", "y", "z"], "C", 2),
        (["x", "y", "z"], "2", 2),
        (["B", "A", "C"], "A", 1),  # the text before the letter
        ({"text": ["x", "y"], "label": ["1", "2"]}, "2", 1),  # the label before the number
        ({"text": ["x", "y"], "label": ["C", "D"]}, "D", 1),
    ],
)
def test_answers_in_all_forms(choices: Any, answer: Any, index: int) -> None:
    rows = [{"question": "w1", "choices": choices, "answer": answer}]
    plain = choices["text"] if isinstance(choices, dict) else choices
    same = [{"question": "w1", "choices": plain, "answer": index}]
    assert MultipleChoice(data(rows)).digest == MultipleChoice(data(same)).digest


def test_a_column_for_each_choice(words: Any) -> None:
    rows = [{"goal": "w1", "sol1": "w2", "sol2": "w3 w4", "label": 1}]
    same = [{"goal": "w1", "choices": ["w2", "w3 w4"], "label": 1}]
    apart = MultipleChoice(data(rows), question="goal", choices=["sol1", "sol2"], answer="label")
    assert apart.digest == MultipleChoice(data(same), question="goal", answer="label").digest


def test_of_equal_choices_the_first_counts(words: Any) -> None:
    rows = [
        {"question": "w1", "choices": ["w2", "w2", "w2"], "answer": answer} for answer in range(3)
    ]
    evaluator = MultipleChoice(data(rows), tokenizer=words)
    assert collect(evaluator, FAMILIES["llama"]())[1].tolist() == [1, 0, 0]


def test_groups_and_nan(words: Any) -> None:
    model = FAMILIES["llama"]()
    rows = [{**row, "domain": "ab"[n > 1]} for n, row in enumerate(questions(6))]
    right = collect(MultipleChoice(data(rows), tokenizer=words), model)[1]
    evaluator = MultipleChoice(data(rows), tokenizer=words, group="domain")
    assert value_of(evaluator, model) == pytest.approx((right[:2].mean() + right[2:].mean()) / 2)
    assert evaluator.metric_names == ("accuracy per domain",)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    assert np.isnan(collect(evaluator, model)[1][:, 0]).all()
    assert np.isnan(value_of(evaluator, model))


def test_what_a_search_is_not_continued_without(words: Any) -> None:
    rows = [{**row, "d": "a"} for row in questions(3)]
    variants: list[dict[str, Any]] = [
        {},
        {"normalize": "tokens"},
        {"prompt": "w1 {question}"},
        {"separator": ""},
        {"examples": rows[:1]},
        {"max_length": 50},
        {"tokenizer": words},
        {"group": "d"},
    ]
    made = [json.dumps(MultipleChoice(data(rows), **one).digest) for one in variants]
    other = [{**rows[0], "answer": 1 - min(rows[0]["answer"], 1)}, *rows[1:]]
    made.append(json.dumps(MultipleChoice(data(other)).digest))
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        ({}, {"normalize": "words"}, 'normalize must be "tokens", "bytes" or None, not \'words\''),
        ({"answer": 3}, {}, r"row 0: the answer 3 is none of the 2 choices \['w1', 'w2'\]"),
        ({"answer": "w7"}, {}, r"row 0: the answer 'w7' is none of the 2 choices"),
        ({"choices": ["w1"]}, {}, "row 0: 1 choices leave nothing to choose"),
        ({"choices": "w1"}, {}, r"row 0: 'w1' are no choices. A list of texts is needed"),
        ({}, {"choices": "options"}, "row 0: no column 'options', only question, choices, answer"),
        ({}, {"examples": [{"question": "w1"}]}, "An example: no column 'choices'"),
    ],
)
def test_what_is_not_valid(row: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    rows = [{"question": "w1", "choices": ["w1", "w2"], "answer": 0, **row}]
    with pytest.raises(EvaluationError, match=message):
        MultipleChoice(data(rows), **arguments)


def test_a_prompt_that_is_too_long(words: Any) -> None:
    rows = [*questions(2), {"question": "w1 " * 64, "choices": ["w1", "w2"], "answer": 0}]
    with pytest.raises(EvaluationError, match="row 2: a prompt with its answer of 65 tokens"):
        MultipleChoice(data(rows), tokenizer=words).check(toys.llama())
