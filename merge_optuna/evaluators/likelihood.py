"""How likely texts and answers are for a language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import live
from merge_optuna.evaluators._batches import Pieces
from merge_optuna.evaluators._beginnings import Window
from merge_optuna.evaluators._data import groups_of, table_of
from merge_optuna.evaluators._inputs import TokenizerOf
from merge_optuna.evaluators._language import LanguageBatches, nats
from merge_optuna.evaluators._prompts import Row, Template
from merge_optuna.evaluators._protocol import BATCH_SIZE, Batch, Ids, Scores, check_counts
from merge_optuna.evaluators._scored_texts import scored_texts


class NegativeLogLikelihood:
    """Nats per token, byte or document that a language model needs for texts or for answers.

    Without a prompt, each text is a document: all of its tokens are scored but the first, from
    which the model begins. One longer than ``max_length`` is read in windows of that length, each
    ``stride`` tokens after the one before; a token is scored once, with as much before it as the
    windows give (https://huggingface.co/docs/transformers/perplexity). With a prompt, only the
    tokens of the answer are scored; an encoder reads the prompt where the model has one.

    Scores per example are rows: nats per unit, nats, units; with groups the number of its group,
    in sorted order, comes last. The value is all nats by all units. Logits with a NaN score NaN.

    Attributes:
        directions: ``("minimize",)``.
        metric_names: E.g. ``("nats per token",)``, with groups ``("nats per token per domain",)``.
        prompt: How a row becomes a prompt; None for documents.
    """

    directions = ("minimize",)
    deterministic = True
    _name = "nats"

    def __init__(
        self,
        data: Any,
        *,
        text: str = "text",
        question: str | None = None,
        answer: str | None = None,
        prompt: Template | None = None,
        separator: str = " ",
        chat: bool = False,
        system: str | None = None,
        examples: Sequence[Row] = (),
        per: str = "token",
        max_length: int | None = None,
        stride: int | None = None,
        group: str | None = None,
        tokenizer: Any = None,
        batch_size: int = 8,
    ) -> None:
        """Reads the examples.

        Args:
            data: A ``datasets.Dataset``, or the path of a JSON lines file (``.gz`` or not).
            text: Column of documents, where there is no prompt.
            question: Column of questions: short for ``prompt="{question}"``.
            answer: Column of answers; ``"answer"`` where there is a prompt.
            prompt: What stands before an answer: a text with columns in braces, or a function of
                the row.
            separator: What stands between prompt and answer, where there is no chat.
            chat: Use the tokenizer's chat template: the prompt is a message of the user, the
                answer what the assistant says.
            system: System message of the chat; without ``chat``, the beginning of every prompt.
            examples: Rows like those of the data, put before every prompt with their answers.
            per: ``"token"``, ``"byte"`` (of UTF-8: comparable between tokenizers) or
                ``"document"``.
            max_length: Most tokens that the model sees at once; by default what tokenizer and
                model can take.
            stride: Tokens from one window of a document to the next, at most ``max_length``; by
                default half of that.
            group: Column of groups, e.g. domains or languages: the value is the mean over the
                groups, whatever their sizes.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint. No padding token is needed.
            batch_size: Most examples of a batch, and most windows that are run at once.

        Raises:
            EvaluationError: If the data cannot be read, is empty, or an argument is not valid.
        """
        if per not in _UNITS:
            raise EvaluationError(f"per must be one of {', '.join(_UNITS)}, not {per!r}.")
        check_counts(batch_size=batch_size, max_length=max_length, stride=stride)
        table = table_of(data)
        self._texts = scored_texts(
            table,
            text=text,
            question=question,
            answer=answer,
            prompt=prompt,
            separator=separator,
            chat=chat,
            system=system,
            examples=examples,
            stride=stride,
        )
        self.prompt = self._texts.prompt
        self.metric_names = (f"{self._name} per {per}{f' per {group}' if group else ''}",)
        self._per, self._max_length = per, max_length
        self._groups = groups_of(table, group)
        self._tokenizer = TokenizerOf(tokenizer)
        self._pieces = Pieces(batch_size)
        self._batches = LanguageBatches(
            self._texts.windows, self._tokenizer, max_length, batch_size
        )

    def __len__(self) -> int:
        return len(self._texts.scored)

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Scores the examples batch by batch.

        Args:
            model: Put into eval mode if it is not.

        Yields:
            Example ids, shape (b,), and scores, shape (b, 3), with groups (b, 4).

        Raises:
            EvaluationError: If the model cannot be scored; :meth:`check` tells before.
        """
        live(model)
        for ids, windows in self._batches.of(model):
            total = self._nats(model, windows)
            tokens = np.array([sum(one.scored for one in some) for some in windows])
            units = _UNITS[self._per](tokens, [self._texts.scored[i] for i in ids])
            scores = np.column_stack([total / units, total, units])
            yield ids, scores if self._groups is None else self._groups.beside(scores, ids)

    def value(self, scores: Scores) -> float:
        """All nats by all units; NaN if a score is NaN."""
        scores = np.asarray(scores)
        if self._groups is None:
            return self._total(scores)
        return self._groups.mean(self._total, scores)

    def check(self, model: nn.Module) -> None:
        """Makes the tokens of all examples and runs the longest.

        Raises:
            EvaluationError: If this model cannot be scored on these examples.
        """
        live(model)
        windows = [one for _, some in self._batches.of(model) for each in some for one in each]
        self._nats(
            model, [sorted(windows, key=lambda one: len(one.tokens) + len(one.source))[-2:]]
        )

    @property
    def parts(self) -> Sequence[str] | None:
        """The group of each example; None without groups."""
        return None if self._groups is None else self._groups.names

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of the texts, of prompts and groups if there are any, and the settings."""
        parts = {
            **self._texts.digest(),
            "per": self._per,
            "max_length": self._max_length,
            "tokenizer": self._tokenizer.digest(),
            BATCH_SIZE: self._batches.size,
        }
        return parts if self._groups is None else {**parts, "groups": self._groups.digest()}

    def _nats(self, model: nn.Module, windows: Sequence[Sequence[Window]]) -> Scores:
        """The nats of the windows of each example, shape (len(windows),)."""
        flat = [[window] for some in windows for window in some]
        each = self._pieces.run(len(flat), lambda piece: nats(model, flat[piece]))
        ends = np.cumsum([len(some) for some in windows])[:-1]
        return np.array([part.sum() for part in np.split(np.concatenate(each), ends)])

    def _total(self, scores: Scores) -> float:
        return float(scores[:, 1].sum() / scores[:, 2].sum())


class Perplexity(NegativeLogLikelihood):
    """Perplexity of a language model: e to the power of its nats per token, byte or document.

    All else is as in :class:`NegativeLogLikelihood`: the scores are those, and column 0 is nats
    per unit, since only nats add up. With groups it is the mean of their perplexities.
    """

    _name = "perplexity"

    def _total(self, scores: Scores) -> float:
        with np.errstate(over="ignore"):  # infinity: the trial is pruned
            return float(np.exp(super()._total(scores)))


_UNITS: dict[str, Callable[[Ids, Sequence[str]], Ids]] = {
    "token": lambda tokens, texts: tokens,
    "byte": lambda tokens, texts: np.array([len(text.encode()) for text in texts]),
    "document": lambda tokens, texts: np.ones(len(texts), np.int64),
}
