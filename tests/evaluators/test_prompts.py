"""Prompts: what stands before an answer, as the tokenizer itself makes it."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest

import merge_optuna as mo
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._data import table_of
from merge_optuna.evaluators._prompts import Prompt, encode
from tests.evaluators.conftest import write_lines
from tests.vocabularies import word_level

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
ROWS = [{"question": "what is a", "answer": "b"}, {"question": "what is b", "answer": "c"}]
SHOTS = [{"question": "what is c", "answer": "a"}]
TURNS = ["<system>", "<user>", "<assistant>"]


@pytest.fixture
def words() -> Any:
    return word_level([*"abc", "what", "is", "be", "kind", "Q:", "A:", *TURNS])


@pytest.fixture
def chatty(words: Any) -> Any:
    words.chat_template = TEMPLATE
    return words


def answer(row: Any) -> str:
    return row["answer"]


def test_a_template_and_a_function_give_the_same(tmp_path: Path) -> None:
    table = table_of(write_lines(tmp_path / "dev.jsonl", ROWS))
    texts = ["Q: what is a", "Q: what is b"]
    assert Prompt("Q: {question}").texts(table) == texts
    assert Prompt(lambda row: f"Q: {row['question']}").texts(table) == texts
    assert Prompt("Q: {question}").texts(table_of(datasets.Dataset.from_list(ROWS))) == texts


def test_shots_come_before_with_blank_lines_between(words: Any) -> None:
    prompt = Prompt("{question}", " A: ", system="be kind").with_shots(SHOTS, answer)
    text = "be kind\n\nwhat is c A: a\n\nwhat is a"
    assert prompt.context(words, "what is a") == text
    assert prompt.ids(words, "what is a") == words(text)["input_ids"]
    before, after = prompt.pair(words, "what is a", "b")
    assert before + after == words(text + " A: b")["input_ids"]
    assert words.decode(after) == "A: b"


def test_a_chat_is_what_the_template_writes(chatty: Any) -> None:
    prompt = Prompt(chat=True, system="be kind").with_shots(SHOTS, answer)
    turns = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "what is c"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "what is a"},
    ]
    ids = chatty.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert prompt.ids(chatty, "what is a") == ids
    assert prompt.pair(chatty, "what is a", "b") == (ids, chatty("b")["input_ids"])


def test_special_tokens_stand_before_a_text_and_never_after(tokenizer: Any) -> None:
    assert tokenizer("w1 w2")["input_ids"] == [2, 5, 6, 3]
    assert encode(tokenizer, "w1 w2") == [2, 5, 6]
    assert Prompt().pair(tokenizer, "w1", "w2") == ([2, 5], [6])


def test_white_space_before_an_answer_belongs_to_it(bytes_bpe: Any) -> None:
    apart = Prompt(separator="").pair(bytes_bpe, "a ", "b")
    assert apart == Prompt().pair(bytes_bpe, "a", "b")
    assert bytes_bpe.decode(apart[1]) == " b"


@pytest.fixture
def bytes_bpe() -> Any:
    from tests.vocabularies import bpe

    return bpe([("Ġ", "b")])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{question", "expected '}'"),
        ("{}", "is no column"),
        ("{0}", "is no column"),
        ("{question.upper}", "is no column"),
        (7, "a text or a function of the row, not 7"),
    ],
)
def test_a_template_that_is_none(template: Any, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Prompt(template)


def test_a_column_that_the_data_lack(tmp_path: Path) -> None:
    table = table_of(write_lines(tmp_path / "dev.jsonl", [*ROWS, {"answer": "c"}]))
    with pytest.raises(EvaluationError, match=r"line 3: the prompt names question.* only answer"):
        Prompt("{question}").texts(table)
    with pytest.raises(EvaluationError, match=r"line 3: the prompt needs a column 'question'"):
        Prompt(lambda row: row["question"]).texts(table)
    with pytest.raises(EvaluationError, match=r"line 1: the prompt is 3, not a text"):
        Prompt(lambda row: 3).texts(table)
    with pytest.raises(EvaluationError, match="Example 0: the answer needs a column 'answer'"):
        Prompt("{question}").with_shots([{"question": "x"}], answer)


def test_a_chat_template_that_is_missing_or_refuses(words: Any) -> None:
    with pytest.raises(EvaluationError, match=r"no chat template\. Pass chat=False"):
        Prompt(chat=True).ids(words, "a")
    words.name_or_path = "models/base"
    with pytest.raises(EvaluationError, match="of models/base has no chat template"):
        Prompt(chat=True).ids(words, "a")
    words.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(EvaluationError, match=r"refuses the turns system, user: no system here"):
        Prompt(chat=True, system="be kind").ids(words, "a")


ASKING = {
    "Generation": mo.evaluators.Generation,
    "NegativeLogLikelihood": mo.evaluators.NegativeLogLikelihood,
    "MultipleChoice": partial(mo.evaluators.MultipleChoice, choices=["question", "answer"]),
}


@pytest.mark.parametrize("name", ASKING)
def test_mistakes_with_prompts_are_named(name: str, tmp_path: Path) -> None:
    make, data = ASKING[name], datasets.Dataset.from_list(ROWS)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prompt": "question"}, r"question='question' or prompt='\{question\}'\?"),
        ({"prompt": "Answer: "}, r"names no column.* mean prompt='\{question\}'\?"),
        ({"prompt": "{question}", "question": "q"}, r"question='q' is short for prompt=\"\{q\}\""),
        *(
            ({"prompt": "{question}", "examples": examples}, "examples must be rows like those")
            for examples in ("shots.jsonl", 3, [("a", "b")])
        ),
    ]
    for options, message in wrong:
        with pytest.raises(EvaluationError, match=message):
            make(data, **options)
    make(data, prompt=lambda row: "the same")


def test_two_spaces_before_the_answer_are_said_once() -> None:
    data = datasets.Dataset.from_list(ROWS)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mo.evaluators.NegativeLogLikelihood(data, prompt="{question} ")
        mo.evaluators.Generation(data, prompt="{question}\n", examples=SHOTS)
        mo.evaluators.Generation(data, prompt="{question} ")  # nothing comes after it
        mo.evaluators.NegativeLogLikelihood(data, prompt="{question} ", separator="")
        mo.evaluators.NegativeLogLikelihood(data, prompt="{question} ", chat=True)
    assert len(said) == 2
    assert "prompt='{question}' or separator=\"\"" in str(said[0].message)


def test_a_missing_column_names_the_arguments_at_hand() -> None:
    data = datasets.Dataset.from_list([{"question": "a", "solution": "b"}])
    likelihood, generation = mo.evaluators.Perplexity, mo.evaluators.Generation
    with pytest.raises(EvaluationError, match=r"no column 'text'.*Pass question='question'"):
        likelihood(data)
    for make in (likelihood, generation):
        with pytest.raises(
            EvaluationError, match=r"no column 'answer'.*question=, answer= or pro"
        ):
            make(data, prompt="{question}")
    with pytest.raises(EvaluationError, match=r"no column 'domain'.*Name another with group="):
        generation(data, answer="solution", group="domain")


def test_the_first_of_several_answers_stands_in_an_example() -> None:
    rows = [{"question": "a", "answer": ["b", "c"]}]
    evaluator = mo.evaluators.Generation(datasets.Dataset.from_list(rows), examples=rows)
    assert evaluator.prompt.shots == (("a", "b"),)
    with pytest.raises(EvaluationError, match="Example 0: the answer is None, not a text"):
        mo.evaluators.Generation(
            datasets.Dataset.from_list(rows), examples=[{"question": "a", "answer": []}]
        )


def test_numbers_are_answers() -> None:
    made = [
        mo.evaluators.NegativeLogLikelihood(
            datasets.Dataset.from_dict({"question": ["a", "b"], "answer": answers}),
            question="question",
            examples=[{"question": "c", "answer": answers[0]}],
        )
        for answers in ([3, 4], ["3", "4"])
    ]
    assert made[0].digest == made[1].digest
    with pytest.raises(EvaluationError, match=r"row 0: the answer \[3\] is no text or number"):
        mo.evaluators.NegativeLogLikelihood(
            datasets.Dataset.from_dict({"question": ["a"], "answer": [[3]]}), question="question"
        )
