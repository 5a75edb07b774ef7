"""Questions with choices: the likeliest one is the answer."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._arguments import live
from merge_optuna.evaluators._batches import Pieces
from merge_optuna.evaluators._beginnings import Window
from merge_optuna.evaluators._data import groups_of, table_of
from merge_optuna.evaluators._inputs import TokenizerOf, content_digest
from merge_optuna.evaluators._language import LanguageBatches, Reader, answered, nats
from merge_optuna.evaluators._prompts import Prompt, Row, Template, check_columns, template_of
from merge_optuna.evaluators._protocol import BATCH_SIZE, Batch, Scores, check_counts


class MultipleChoice:
    """Accuracy on questions, to each of which a language model finds one choice the likeliest.

    The choices follow the prompt one by one, and only their own tokens are scored. Of equally
    likely ones the first counts. Numbers are those of lm-evaluation-harness: ``acc`` without
    ``normalize``, ``acc_bytes`` with ``"bytes"``.

    What questions of a batch have in common (a system message, few-shot examples), and the prompt
    that the choices of a question have in common, a decoder reads once.

    Scores per example are 1 (right) or 0 (wrong); with groups a row with the number of the group,
    in sorted order. Logits with a NaN score NaN.

    Attributes:
        directions: ``("maximize",)``.
        metric_names: ``("accuracy",)``, with groups e.g. ``("accuracy per domain",)``.
        prompt: How a row becomes a prompt.
    """

    directions = ("maximize",)
    deterministic = True

    def __init__(
        self,
        data: Any,
        *,
        question: str = "question",
        choices: str | Sequence[str] = "choices",
        answer: str = "answer",
        prompt: Template | None = None,
        separator: str = " ",
        normalize: str | None = None,
        chat: bool = False,
        system: str | None = None,
        examples: Sequence[Row] = (),
        max_length: int | None = None,
        group: str | None = None,
        tokenizer: Any = None,
        batch_size: int = 8,
    ) -> None:
        """Reads the questions.

        Args:
            data: A ``datasets.Dataset``, or the path of a JSON lines file (``.gz`` or not).
            question: Column of questions, where there is no ``prompt``.
            choices: Column of lists of texts, or of ``{"text": [...], "label": [...]}``; or the
                names of the columns that hold one choice each.
            answer: Column of answers: the number of the choice, from 0; its label; its text; or
                its letter, from A.
            prompt: What stands before a choice: a text with columns in braces, or a function of
                the row; by default the question.
            separator: What stands between prompt and choice, where there is no chat.
            normalize: What the log-likelihood of a choice is divided by: its ``"tokens"``, its
                ``"bytes"`` (of UTF-8), or None.
            chat: Use the tokenizer's chat template: the prompt is a message of the user, the
                choice what the assistant says.
            system: System message of the chat; without ``chat``, the beginning of every prompt.
            examples: Rows like those of the data, put before every prompt with their answers.
            max_length: Most tokens of prompt and choice; by default what tokenizer and model can
                take.
            group: Column of groups: the value is the mean over the groups, whatever their sizes.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint. No padding token is needed.
            batch_size: Most questions of a batch.

        Raises:
            EvaluationError: If the data cannot be read, is empty, or an argument is not valid.
        """
        if normalize not in _LENGTHS:
            raise EvaluationError(
                f'normalize must be "tokens", "bytes" or None, not {shown(normalize)}.'
            )
        check_counts(batch_size=batch_size, max_length=max_length)
        table = table_of(data)
        template = template_of(prompt, question) or ""
        check_columns(template)
        asked = Prompt(template, separator, chat, system)
        asked.warn_of_spaces()
        self.prompt = asked.with_shots(
            examples, lambda row: _item(row, choices, answer, "An example").right
        )
        texts, rows = self.prompt.texts(table), table.rows()
        self._items = [
            _item(row, choices, answer, table.where(n), text)
            for n, (row, text) in enumerate(zip(rows, texts, strict=True))
        ]
        if not self._items:
            raise EvaluationError("The data set is empty: there is nothing to score a model on.")
        self.metric_names = (f"accuracy per {group}" if group else "accuracy",)
        self._normalize, self._max_length = normalize, max_length
        self._groups = groups_of(table, group)
        self._tokenizer = TokenizerOf(tokenizer)
        self._pieces = Pieces(batch_size)
        self._batches = LanguageBatches(self._windows, self._tokenizer, max_length, batch_size)

    def __len__(self) -> int:
        return len(self._items)

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Scores the questions batch by batch.

        Args:
            model: Put into eval mode if it is not.

        Yields:
            Example ids, shape (b,), and scores, shape (b,), with groups (b, 2).

        Raises:
            EvaluationError: If the model cannot be scored; :meth:`check` tells before.
        """
        for ids, found in self.log_likelihoods(model):
            items = [self._items[i] for i in ids]
            right = [_is_right(item, each) for item, each in zip(items, found, strict=True)]
            scores = np.array(right)
            yield ids, scores if self._groups is None else self._groups.beside(scores, ids)

    def log_likelihoods(
        self, model: nn.Module
    ) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float64]]]]:
        """The log-likelihoods that choices are compared by, normalised if so asked.

        Yields:
            Example ids, shape (b,), and for each an array over its choices.
        """
        live(model)
        for ids, windows in self._batches.of(model):
            lengths = [
                _LENGTHS[self._normalize](some, self._items[i].choices)
                for i, some in zip(ids, windows, strict=True)
            ]
            found = self._nats(model, windows)
            yield ids, [-each / length for each, length in zip(found, lengths, strict=True)]

    def value(self, scores: Scores) -> float:
        """The mean; NaN if a score is NaN."""
        scores = np.asarray(scores)
        if self._groups is None:
            return float(scores.mean())
        return self._groups.mean(lambda some: float(some.mean()), scores)

    def check(self, model: nn.Module) -> None:
        """Makes the tokens of all questions and runs the longest.

        Raises:
            EvaluationError: If this model cannot be scored on these questions.
        """
        live(model)
        windows = [some for _, batch in self._batches.of(model) for some in batch]
        self._nats(model, [max(windows, key=lambda some: sum(len(one.tokens) for one in some))])

    @property
    def parts(self) -> Sequence[str] | None:
        """The group of each example; None without groups."""
        return None if self._groups is None else self._groups.names

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of prompts, choices, answers, and groups if there are any, and the settings."""
        asked = json.dumps([[item.asked, item.choices] for item in self._items])
        answers = json.dumps([item.answer for item in self._items])
        parts: dict[str, str | int | None] = {
            "inputs": content_digest([asked.encode()]),
            "labels": content_digest([answers.encode()]),
            "prompt": self.prompt.digest(),
            "normalize": self._normalize,
            "max_length": self._max_length,
            "tokenizer": self._tokenizer.digest(),
            BATCH_SIZE: self._batches.size,
        }
        return parts if self._groups is None else {**parts, "groups": self._groups.digest()}

    def _nats(
        self, model: nn.Module, windows: Sequence[Sequence[Window]]
    ) -> list[NDArray[np.float64]]:
        each = self._pieces.run(len(windows), lambda piece: nats(model, windows[piece]))
        ends = np.cumsum([len(some) for some in windows])[:-1]
        return np.split(np.concatenate(each), ends)

    def _windows(self, reader: Reader) -> list[list[Window]]:
        return [
            [
                answered(reader, self.prompt, item.asked, choice, item.where, ends=False)
                for choice in item.choices
            ]
            for item in self._items
        ]


class _Item(NamedTuple):
    """A question as it is read."""

    asked: str
    choices: list[str]
    answer: int
    where: str

    @property
    def right(self) -> str:
        return self.choices[self.answer]


def _item(
    row: Row, columns: str | Sequence[str], answer: str, where: str, asked: str = ""
) -> _Item:
    found, labels = _choices(row, columns, where)
    return _Item(asked, found, _index(_column(row, answer, where), found, labels, where), where)


def _choices(row: Row, columns: str | Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """The choices of a row, and their labels if it has any."""
    labels: list[str] = []
    found: Any
    if not isinstance(columns, str):
        found = [_column(row, column, where) for column in columns]
    else:
        found = _column(row, columns, where)
        if isinstance(found, Mapping):
            labels = list(map(str, found.get("label", ())))
            found = found.get("text")
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise EvaluationError(
            f"{where}: {shown(found)} are no choices. A list of texts is needed, or "
            '{"text": [...], "label": [...]}, or choices= with a column for each.'
        )
    if len(found) < 2:
        raise EvaluationError(
            f"{where}: {len(found)} choices leave nothing to choose. Leave such rows out."
        )
    return list(found), labels


def _column(row: Row, name: str, where: str) -> Any:
    if name not in row:
        raise EvaluationError(
            f"{where}: no column {name!r}, only {few(list(row))}. Name the columns with "
            "question=, choices= and answer=."
        )
    return row[name]


def _index(answer: Any, choices: list[str], labels: list[str], where: str) -> int:
    """Which of the choices an answer names."""
    if isinstance(answer, Integral):
        named = [int(answer)]
    else:
        letters = list(string.ascii_uppercase[: len(choices)])
        numbers = [str(number) for number in range(len(choices))]
        ways = (labels, choices, letters, numbers)
        named = [names.index(answer) for names in ways if answer in names]
    if not named or not 0 <= named[0] < len(choices):
        raise EvaluationError(
            f"{where}: the answer {shown(answer)} is none of the {len(choices)} choices "
            f"{shown(choices)}. It must be the number of one, from 0, its label, its text, or "
            "its letter, from A."
        )
    return named[0]


def _is_right(item: _Item, likelihoods: NDArray[np.float64]) -> float:
    if np.isnan(likelihoods).any():
        return float("nan")
    return float(likelihoods.argmax() == item.answer)


_LENGTHS: dict[str | None, Callable[[Sequence[Window], Sequence[str]], NDArray[np.int64]]] = {
    None: lambda windows, choices: np.ones(len(choices), np.int64),
    "tokens": lambda windows, choices: np.array([one.scored for one in windows]),
    "bytes": lambda windows, choices: np.array([len(one.encode()) for one in choices]),
}
