"""The texts that language models are scored on: documents, or answers after prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._beginnings import Window
from merge_optuna.evaluators._data import Table, texts
from merge_optuna.evaluators._inputs import content_digest
from merge_optuna.evaluators._language import Reader, answered
from merge_optuna.evaluators._prompts import (
    NAME_ASKED,
    Prompt,
    Row,
    Template,
    as_answer,
    check_columns,
    encode,
    template_of,
)

_NAME_TEXT = (
    "Pass question='question' (and answer='answer'), or prompt=, to score answers to questions; "
    "or name the column of documents with text=."
)


def scored_texts(
    table: Table,
    *,
    text: str,
    question: str | None,
    answer: str | None,
    prompt: Template | None,
    separator: str,
    chat: bool,
    system: str | None,
    examples: Sequence[Row],
    stride: int | None,
) -> ScoredTexts:
    """The documents of a table or, where there is a question or a prompt, its answers.

    Raises:
        EvaluationError: If a column is missing, there is no row, or a prompt is meant but none
            is named.
    """
    template = template_of(prompt, question, default=None)
    found: ScoredTexts
    if template is None:
        _check_no_prompt(answer=answer, chat=chat, system=system, examples=examples)
        found = _Documents(texts(table, text, _NAME_TEXT), table, stride)
    else:
        name = answer or "answer"
        asked = Prompt(template, separator, chat, system)
        check_columns(template)
        asked.warn_of_spaces()
        asked = asked.with_shots(examples, lambda row: as_answer(row[name]))
        found = _Answers(asked, _answers(table, name), table)
    if not found.scored:
        raise EvaluationError("The data set is empty: there is nothing to score a model on.")
    return found


def _answers(table: Table, name: str) -> list[str]:
    found = [as_answer(value) for value in table.column(name, NAME_ASKED)]
    for row, value in enumerate(found):
        if not isinstance(value, str):
            raise EvaluationError(
                f"{table.where(row)}: the answer {shown(value)} is no text or number."
            )
    return found


def _check_no_prompt(**given: Any) -> None:
    """Whoever names what belongs to a prompt means to have one."""
    for name, value in given.items():
        if value:
            raise EvaluationError(
                f"{name}= belongs to a prompt. Say what it is: question= (a column) or prompt= "
                '(a template such as "{question}"); without either, whole texts are scored.'
            )


class ScoredTexts(Protocol):
    """The texts of all examples.

    Attributes:
        scored: The documents or answers themselves.
    """

    scored: list[str]

    @property
    def prompt(self) -> Prompt | None:
        """What stands before them, if anything."""

    def windows(self, reader: Reader) -> list[list[Window]]:
        """What a model is given of each example."""

    def digest(self) -> dict[str, str | int | None]:
        """What a search is not continued without."""


class _Documents:
    """Whole texts, in windows where they are long."""

    prompt = None

    def __init__(self, scored: list[str], table: Table, stride: int | None) -> None:
        self.scored, self._table, self._stride = scored, table, stride

    def windows(self, reader: Reader) -> list[list[Window]]:
        if reader.encodes:
            raise EvaluationError(
                "An encoder-decoder model answers a prompt: name its columns with question= and "
                "answer=, or prompt= and answer=. Documents are scored by decoders."
            )
        return [list(self._split(reader, row)) for row in range(len(self.scored))]

    def digest(self) -> dict[str, str | int | None]:
        content = content_digest([json.dumps(self.scored).encode()])
        return {"inputs": content, "stride": self._stride}

    def _split(self, reader: Reader, row: int) -> Iterator[Window]:
        ids = encode(reader.tokenizer, self.scored[row])
        if len(ids) < 2:
            raise EvaluationError(
                f"{self._table.where(row)}: a document of {len(ids)} tokens has none to be "
                "scored. Leave such rows out."
            )
        length = reader.limit or len(ids)
        if length < 2 or (self._stride or 0) > length:
            raise EvaluationError(
                f"Windows of {length:,} tokens, each {self._stride} after the one before, do not "
                f"cover a document. Pass max_length= of at least 2 and stride= of at most "
                f"{length:,}."
            )
        return _windows(ids, length, self._stride)


class _Answers:
    """Answers to prompts."""

    def __init__(self, prompt: Prompt, scored: list[str], table: Table) -> None:
        self.scored, self.prompt, self._table = scored, prompt, table
        self._asked = prompt.texts(table)

    def windows(self, reader: Reader) -> list[list[Window]]:
        return [
            [answered(reader, self.prompt, asked, answer, self._table.where(row), ends=True)]
            for row, (asked, answer) in enumerate(zip(self._asked, self.scored, strict=True))
        ]

    def digest(self) -> dict[str, str | int | None]:
        content = content_digest([json.dumps([self._asked, self.scored]).encode()])
        return {"inputs": content, "prompt": self.prompt.digest()}


def _windows(ids: list[int], length: int, stride: int | None) -> Iterator[Window]:
    """Each token but the first once, with at most ``length`` tokens at a time."""
    step, done = stride or max(1, length // 2), 1
    for begin in range(0, len(ids), step):
        end = min(begin + length, len(ids))
        # The first token of a window follows nothing that the model sees.
        scored = end - max(done, begin + 1)
        if scored:
            yield Window(ids[begin:end], scored)
        done = end
        if end == len(ids):
            return
