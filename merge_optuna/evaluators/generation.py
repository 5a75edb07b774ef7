"""What a language model writes: replies, the answers in them, and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._answers import Extract, extraction
from merge_optuna.evaluators._arguments import live_or_served
from merge_optuna.evaluators._asked import Asked, ImagePrompts, ProcessorOf, TextPrompts, room
from merge_optuna.evaluators._beginnings import Window
from merge_optuna.evaluators._data import Table, groups_of, table_of
from merge_optuna.evaluators._generator import Reply, Request
from merge_optuna.evaluators._generators import Writers
from merge_optuna.evaluators._inputs import TokenizerOf, content_digest
from merge_optuna.evaluators._language import LanguageBatches, Reader
from merge_optuna.evaluators._prompts import (
    NAME_ASKED,
    Prompt,
    Row,
    Template,
    as_answer,
    check_columns,
    template_of,
)
from merge_optuna.evaluators._protocol import BATCH_SIZE, Batch, Scores, check_counts
from merge_optuna.evaluators._reply_language import ReplyLanguage
from merge_optuna.evaluators._reply_objectives import Judged, ReplyObjectives
from merge_optuna.evaluators._sampling import Sampling
from merge_optuna.evaluators._scorers import Scorer, scoring
from merge_optuna.evaluators._serving import Model

_PROBED = 2  # tokens that a check lets a model write


class Generation:
    """Scores of the answers in what a language model writes.

    Replies are greedy unless ``sampling`` is given, and the same whatever the batch (in float32,
    and in other data types but for rounding). Of the folder of a model only its special tokens
    count, no other setting of generation. White space around a reply is left out.

    Scores per example are rows: the score, and the number of tokens of the reply, without an end
    token, in the order of the objectives; with groups the number of its group, in sorted order,
    comes last. What has no answer, or is in another language than the one asked for, scores 0 (a
    function given as ``scorer`` is called with an empty text where there is no answer, and says
    what it is worth). Logits that are not finite score NaN. The value is the mean score, or what
    ``objectives`` says.

    Attributes:
        directions: ``("maximize",)``; one per objective.
        metric_names: The name of the scorer, e.g. ``("numeric",)``, with a language
            ``("numeric in ja",)``, with groups e.g. ``("numeric per domain",)``; one per
            objective, e.g. ``("numeric", "tokens")``.
        prompt: How a row becomes a prompt.
    """

    def __init__(
        self,
        data: Any,
        *,
        question: str = "question",
        answer: str = "answer",
        prompt: Template | None = None,
        separator: str = " ",
        chat: bool = False,
        system: str | None = None,
        examples: Sequence[Row] = (),
        max_new_tokens: int = 256,
        stop: str | Sequence[str] = (),
        sampling: Sampling | None = None,
        generator: str = "batch",
        extract: Extract = None,
        scorer: Scorer = "exact_match",
        language: str | None = None,
        image: str | None = None,
        group: str | None = None,
        objectives: str | Sequence[str] = ("accuracy",),
        tokenizer: Any = None,
        batch_size: int = 8,
    ) -> None:
        r"""Reads the examples.

        Args:
            data: A ``datasets.Dataset``, or the path of a JSON lines file (``.gz`` or not).
            question: Column of questions: short for ``prompt="{question}"``.
            answer: Column of answers: texts, numbers, or lists of them of which the best counts.
                A scorer of your own may do without.
            prompt: What the model is asked: a text with columns in braces, e.g. ``"Question:
                {question}\nAnswer:"``, or a function of the row.
            separator: What stands between prompt and answer of the ``examples``, without ``chat``.
            chat: Use the tokenizer's chat template: the prompt is a message of the user.
            system: System message of the chat; without ``chat``, the beginning of every prompt.
            examples: Rows like those of the data, put before every prompt with their answers.
            max_new_tokens: Most tokens of a reply; fewer where the context of the model ends.
            stop: Texts at which a reply is cut off.
            sampling: How to draw replies; None for the likeliest tokens.
            generator: What generates with a live model: ``"batch"``, static batches, or
                ``"continuous"``, transformers' continuous batching, for accelerators. A model that
                an engine serves, e.g. what ``mo.engine.VLLM`` loads, generates by itself.
            extract: What of a reply is its answer: None for all, ``"last_number"``, a regular
                expression (its last match; group 1 if it has groups), or a function of the reply
                that returns a text, or None where there is no answer. It also goes over the
                answers of the data, so that ``"... #### 18"`` counts as 18; one in which it finds
                nothing counts as it is.
            scorer: ``"exact_match"``, ``"numeric"``, ``"math_verify"``, ``"rouge_l"``,
                ``"token_f1"``, or a function ``(answer, row)``, of the answer in the reply and
                the row of the data, that returns a number or whether it is right.
            language: Code of the language that replies must be in, e.g. ``"ja"``, as lingua tells
                it; a reply that is too short to tell passes.
            image: Column of images, for vision-language models. In a chat an image stands before
                the prompt of its row, else where the prompt has the processor's token for it.
            group: Column of groups, e.g. domains or languages: the value is the mean over the
                groups, whatever their sizes.
            objectives: What is searched for, in this order: ``"accuracy"``, the mean score, to be
                maximized, and ``"tokens"``, the mean number of tokens of a reply, to be minimized.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint. No padding token is needed. With images, a processor.
            batch_size: Most examples of a batch.

        Raises:
            EvaluationError: If the data cannot be read, is empty, or an argument is not valid.
        """
        check_counts(batch_size=batch_size, max_new_tokens=max_new_tokens)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(text, str) and text for text in stops):
            raise EvaluationError(f"stop must be texts that are not empty, not {shown(stop)}.")
        if not isinstance(sampling, Sampling | None):
            raise EvaluationError(
                "sampling must be a Sampling, e.g. mo.evaluators.Sampling(temperature=0.7, "
                f"seed=0), or None, not {shown(sampling)}."
            )
        table = table_of(data)
        template = template_of(prompt, question) or ""
        if image is None:  # else it is the image that tells rows apart
            check_columns(template)
        asked = Prompt(template, separator, chat, system)
        self.prompt = asked.with_shots(
            examples, lambda row: as_answer([*_several(row[answer]), None][0])
        )
        if self.prompt.shots:
            asked.warn_of_spaces()
        self._extract, self._scoring = extraction(extract), scoring(scorer)
        self.deterministic = isinstance(scorer, str)  # a function may ask somebody
        self._language = None if language is None else ReplyLanguage(language)
        in_language = "" if language is None else f" in {language}"
        self._objectives = ReplyObjectives(objectives, self._scoring.name + in_language, group)
        self.directions = self._objectives.directions
        self.metric_names = self._objectives.metric_names
        self._rows, self._where = table.rows(), table.where
        if not self._rows:
            raise EvaluationError("The data set is empty: there is nothing to score a model on.")
        self._groups = groups_of(table, group)
        self._references = self._read_references(table, answer)
        self._asked: Asked
        if image is None:
            self._asked, self._tokenizer = TextPrompts(self.prompt, table), TokenizerOf(tokenizer)
        else:
            self._asked = ImagePrompts(self.prompt, table, image)
            self._tokenizer = ProcessorOf(tokenizer)
        self._most, self._stop, self._sampling = max_new_tokens, stops, sampling
        self._last: list[Judged] = []
        self._writers = Writers(generator, stops, sampling, batch_size)
        self._batches = LanguageBatches(self._asked.windows, self._tokenizer, None, batch_size)

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, model: Model) -> Iterator[Batch]:
        """Scores the examples batch by batch.

        Args:
            model: Put into eval mode if it is not.

        Yields:
            Example ids, shape (b,), and scores, shape (b, 2): the score and the tokens of a
            reply, the first objective first; with groups (b, 3).

        Raises:
            EvaluationError: If the model cannot be scored; :meth:`check` tells before.
        """
        self._last = []
        for judged in self._judged(model):
            self._last += judged
            ids = np.array([one.example for one in judged])
            scores = self._objectives.scores(judged)
            yield ids, scores if self._groups is None else self._groups.beside(scores, ids)

    def value(self, scores: Scores) -> float | tuple[float, ...]:
        """The mean score, with groups the mean of theirs; NaN if one is NaN.

        Of several objectives a tuple of such means, in their order.
        """
        return self._objectives.value(np.asarray(scores), self._groups)

    def breakdown(self, scores: Scores) -> dict[str, float]:
        """The mean number of tokens of a reply, unless that is an objective itself."""
        return self._objectives.breakdown(np.asarray(scores))

    def replies(self, model: Model) -> list[dict[str, Any]]:
        """What a model writes and how it is scored, to look at: a dict per row of the data.

        With the keys ``question`` (the prompt without examples and chat template), ``reply``,
        ``answer`` (in the reply), ``references``, ``score`` and ``tokens``.

        Raises:
            EvaluationError: If the model cannot be scored.
        """
        return self._shown([one for some in self._judged(model) for one in some])

    def last_replies(self) -> list[dict[str, Any]]:
        """As :meth:`replies`, of the model that was scored last, as far as it was scored."""
        return self._shown(self._last)

    def _shown(self, judged: Sequence[Judged]) -> list[dict[str, Any]]:
        return [
            {
                "question": self._asked.texts[one.example],
                "reply": one.reply,
                "answer": one.answer,
                "references": self._references[one.example],
                "score": one.score,
                "tokens": one.tokens,
            }
            for one in sorted(judged)
        ]

    def check(self, model: Model) -> None:
        """Makes all prompts, lets the model begin two replies, and scores an empty one.

        Raises:
            EvaluationError: If this model cannot be scored on these examples.
        """
        batches = self._batches.of(live_or_served(model))
        rows = [(row, one) for ids, some in batches for row, (one,) in zip(ids, some, strict=True)]
        longest = sorted(rows, key=lambda row: len(row[1].tokens))[-2:]
        self._ask(model, self._asked.reader, longest, most=_PROBED)
        self._judge(0, "", Reply([], True))

    @property
    def parts(self) -> Sequence[str] | None:
        """The group of each example; None without groups."""
        return None if self._groups is None else self._groups.names

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of prompts and answers, and every setting that changes a score."""
        asked = json.dumps([self._asked.texts, self._references])
        parts: dict[str, str | int | None] = {
            "inputs": content_digest([asked.encode()]),
            "prompt": self.prompt.digest(),
            "max_new_tokens": self._most,
            "stop": json.dumps(self._stop),
            "sampling": repr(self._sampling),
            "extract": self._extract.digest,
            "scorer": self._scoring.digest,
            "language": None if self._language is None else self._language.code,
            "tokenizer": self._tokenizer.digest(),
            BATCH_SIZE: self._batches.size,
            **self._asked.digest(),
        }
        if not self._scoring.compares:  # it may look at all that is in a row
            rows = json.dumps(self._rows, default=lambda value: type(value).__name__)
            parts["rows"] = content_digest([rows.encode()])
        if self._groups is not None:
            parts["groups"] = self._groups.digest()
        return parts

    def _read_references(self, table: Table, answer: str) -> list[list[str]]:
        if not self._scoring.compares:
            return [[] for _ in self._rows]
        answers = table.column(answer, NAME_ASKED)
        return [self._reference(v, self._where(n)) for n, v in enumerate(answers)]

    def _reference(self, value: Any, where: str) -> list[str]:
        values = _several(value)
        if not values or not all(isinstance(one, (str, int, float)) for one in values):
            raise EvaluationError(
                f"{where}: the answer {shown(value)} is no text, number, or list of them."
            )
        if not any(str(one).strip() for one in values):
            raise EvaluationError(
                f"{where}: the answer is empty, and no reply would be right. Leave such rows out."
            )
        return [self._extract(text, where) or text for text in map(str, values)]

    def _judged(self, model: Model) -> Iterator[list[Judged]]:
        """The examples, batch by batch."""
        batches = self._batches.of(live_or_served(model))
        reader = self._asked.reader  # of this model, even if another is scored in turns
        tokenizer = self._asked.tokenizer(reader)
        for some in self._writers.together(model, batches):
            rows = [
                (n, one) for ids, windows in some for n, (one,) in zip(ids, windows, strict=True)
            ]
            replies = iter(self._ask(model, reader, rows, self._most))
            for ids, _ in some:
                found = [(int(row), next(replies)) for row in ids]
                yield [self._judge(row, self._text(tokenizer, one), one) for row, one in found]

    def _ask(
        self, model: Model, reader: Reader, rows: Sequence[tuple[int, Window]], most: int
    ) -> list[Reply]:
        requests = [
            Request(
                int(row),
                window.tokens,
                room(reader, len(window.tokens), most),
                self._asked.features(reader, int(row)),
            )
            for row, window in rows
        ]
        return self._writers(model, self._asked.tokenizer(reader), requests)

    def _text(self, tokenizer: Any, reply: Reply) -> str:
        text = tokenizer.decode(reply.ids, skip_special_tokens=True)
        end = min((text.find(stop) for stop in self._stop if stop in text), default=None)
        return str(text[:end]).strip()

    def _judge(self, row: int, text: str, reply: Reply) -> Judged:
        where = self._where(row)
        answer = self._extract(text, where) if text else ""
        score = np.nan
        if reply.finite:
            score = self._scoring(answer, self._references[row], self._rows[row], where)
            if self._language is not None and not self._language.allows(text):
                score = 0.0
        return Judged(row, score, len(reply.ids), text, answer)


def _several(value: Any) -> list[Any]:
    """The answers of a row, of which the first stands in an example."""
    return value if isinstance(value, list) else [value]
