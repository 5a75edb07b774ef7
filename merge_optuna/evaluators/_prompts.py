"""What a language model reads before it answers: rows of a table as prompts, as token ids."""

from __future__ import annotations

import json
import string
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._data import Table
from merge_optuna.evaluators._inputs import content_digest

Row: TypeAlias = Mapping[str, Any]
Template: TypeAlias = str | Callable[[Row], str]

NAME_ASKED = "Name the columns with question=, answer= or prompt=."
"""What to do where a column of questions or answers is missing."""


@dataclass(frozen=True)
class Prompt:
    r"""How a row becomes what a model reads before it answers, the same for every evaluator.

    :meth:`texts` fills the template from the rows of a table; no tokenizer is needed for that.
    :meth:`ids` and :meth:`pair` make token ids of such a text, with the system message and the
    few-shot examples before it. With ``chat`` these are turns of a conversation in the chat
    template of the tokenizer, up to where the assistant begins to speak. Without, they are blocks
    with a blank line between, and an example is its text, the separator and its answer.

    Attributes:
        template: A text with columns in braces, ``"Question: {question}\nAnswer:"``, or a
            function of the row.
        separator: What stands between a text and its answer where there is no chat.
        chat: Whether to use the tokenizer's chat template.
        system: The system message; without chat, the first block.
        shots: The few-shot examples, each with its text and its answer; see :meth:`with_shots`.
    """

    template: Template = "{question}"
    separator: str = " "
    chat: bool = False
    system: str | None = None
    shots: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.template, str):
            _columns(self.template)
        elif not callable(self.template):
            raise EvaluationError(
                f"prompt must be a text or a function of the row, not {shown(self.template)}."
            )

    def with_shots(self, examples: Sequence[Row], answer: Callable[[Row], str]) -> Prompt:
        """The same with few-shot examples.

        Args:
            examples: Rows like those of the data.
            answer: The answer to one.

        Raises:
            EvaluationError: If they are no rows, or one lacks a column.
        """
        shots = []
        if not _are_mappings(examples):
            raise EvaluationError(
                "examples must be rows like those of the data, [{column: value, ...}, ...], not "
                f"{shown(examples)}."
            )
        for number, row in enumerate(examples):
            where = f"Example {number}"
            with_answer = _called(answer, row, where, "answer")
            shots.append((self._text(row, where), with_answer))
        return replace(self, shots=tuple(shots))

    def warn_of_spaces(self) -> None:
        """Says once that answers would follow after two spaces, which models have seldom seen."""
        template = self.template if isinstance(self.template, str) and not self.chat else ""
        if template[-1:].isspace() and self.separator[:1].isspace():
            warnings.warn(
                f"The prompt ends with {template[-1:]!r} and the separator begins with "
                f"{self.separator[:1]!r}: both stand before each answer. Leave out one: "
                f'prompt={template.rstrip()!r} or separator="".',
                stacklevel=2,
            )

    def texts(self, table: Table) -> list[str]:
        """The template filled with each row.

        Raises:
            EvaluationError: If a row lacks a column that the template names.
        """
        return [self._text(row, table.where(n)) for n, row in enumerate(table.rows())]

    def messages(self, text: str) -> list[dict[str, Any]]:
        """The conversation before the model's answer to a text, as chat templates take it."""
        turns = [("system", self.system)] if self.system is not None else []
        for asked, answer in self.shots:
            turns += [("user", asked), ("assistant", answer)]
        turns.append(("user", text))
        return [{"role": role, "content": content} for role, content in turns]

    def context(self, tokenizer: Any, text: str) -> str:
        """Everything that the model reads before its answer to a text, as one text.

        Raises:
            EvaluationError: If the tokenizer has no chat template, or it refuses the turns.
        """
        if self.chat:
            return conversation(tokenizer, self.messages(text))
        system = [] if self.system is None else [self.system]
        shots = [asked + self.separator + answer for asked, answer in self.shots]
        return "\n\n".join([*system, *shots, text])

    def ids(self, tokenizer: Any, text: str) -> list[int]:
        """The token ids of everything that the model reads before its answer to a text.

        With the special tokens that the tokenizer puts before a text; what a chat template writes
        has its own.

        Raises:
            EvaluationError: If the tokenizer has no chat template, or it refuses the turns.
        """
        return encode(tokenizer, self.context(tokenizer, text), special=not self.chat)

    def source(self, tokenizer: Any, text: str) -> list[int]:
        """The same for the encoder of a model, with the special tokens after a text as well.

        Raises:
            EvaluationError: If the tokenizer has no chat template, or it refuses the turns.
        """
        context = self.context(tokenizer, text)
        special = not self.chat
        ids: list[int] = tokenizer(context, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def pair(self, tokenizer: Any, text: str, answer: str) -> tuple[list[int], list[int]]:
        """The token ids of what a decoder reads, and of an answer after it.

        In a chat the answer begins with a token of its own, as a reply does. Otherwise context
        and answer are one text, split as lm-evaluation-harness does it: white space at the end of
        the context is read as the beginning of the answer, so that words keep their spaces; and
        where there is no context at all, the token for the beginning or the end of a text is one.

        Raises:
            EvaluationError: If the tokenizer has no chat template, or it refuses the turns.
        """
        if self.chat:
            return self.ids(tokenizer, text), encode(tokenizer, answer, special=False)
        context = self.context(tokenizer, text)
        stripped = context.rstrip()
        before = encode(tokenizer, stripped)
        after = encode(tokenizer, context + self.separator + answer)[len(before) :]
        edges = [tokenizer.bos_token_id, tokenizer.eos_token_id] if not before else []
        return before or [edge for edge in edges if edge is not None][:1], after

    def digest(self) -> str:
        """32 hexadecimal digits over everything but the template, which :meth:`texts` shows."""
        facts = [self.separator, self.chat, self.system, self.shots]
        return content_digest([json.dumps(facts).encode()])

    def _text(self, row: Row, where: str) -> str:
        if not isinstance(self.template, str):
            return _called(self.template, row, where, "prompt")
        missing = sorted(_columns(self.template) - set(row))
        if missing:
            raise EvaluationError(
                f"{where}: the prompt names {few(missing)}, but there is only {few(list(row))}. "
                'Name columns that every row has, e.g. prompt="{question}"; a brace that is meant '
                "is written twice."
            )
        return self.template.format_map(row)


def template_of(
    prompt: Template | None, question: str | None, *, default: str | None = "question"
) -> Template | None:
    """The template that ``prompt=`` says, or for which ``question=`` is short.

    Args:
        prompt: The template, if there is one.
        question: A column, the whole prompt.
        default: What ``question`` is where it is not given.

    Raises:
        EvaluationError: If both are given.
    """
    if prompt is None:
        return f"{{{question}}}" if question else None
    if question != default:
        raise EvaluationError(
            f'question={question!r} is short for prompt="{{{question}}}", but there is a prompt, '
            f"{shown(prompt)}, too. Pass one of them."
        )
    return prompt


def check_columns(template: Template) -> None:
    """Checks that a template that is a text asks something else of each row.

    Raises:
        EvaluationError: If it names no column.
    """
    if not isinstance(template, str) or _columns(template):
        return
    meant = f"question={template!r} or " if template.isidentifier() else ""
    example = f"{{{template}}}" if template.isidentifier() else "{question}"
    raise EvaluationError(
        f"prompt {shown(template)} names no column, so that every row would get the same prompt. "
        f"Did you mean {meant}prompt={example!r}? (A function of the row may do as it likes.)"
    )


def as_answer(value: Any) -> Any:
    """An answer of the data as it is written: numbers as texts, all else as it is."""
    return str(value) if isinstance(value, int | float) else value


def _are_mappings(rows: Any) -> bool:
    rows_of = rows if isinstance(rows, Iterable) and not isinstance(rows, str) else [None]
    return all(isinstance(row, Mapping) for row in rows_of)


def encode(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    """Token ids of a text that something may follow.

    Args:
        tokenizer: Of the model.
        text: The text.
        special: Whether to begin with the special tokens that the tokenizer puts before a text.
            Those after it, an end of the text, never come.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return [*opening(tokenizer), *ids] if special else ids


def opening(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer puts before a text, e.g. one for its beginning."""
    # Of a text of one letter, since of an empty one the end cannot be told from the beginning.
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    starts = range(len(whole) - len(bare) + 1)
    return whole[: next((i for i in starts if whole[i : i + len(bare)] == bare), 0)]


def conversation(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    """Turns in the chat template of a tokenizer or processor, up to where the assistant begins.

    Raises:
        EvaluationError: If it has no chat template, or that refuses the turns.
    """
    from jinja2 import TemplateError

    if getattr(tokenizer, "chat_template", None) is None:
        place = getattr(tokenizer, "name_or_path", "")
        raise EvaluationError(
            f"{type(tokenizer).__name__}{f' of {place}' if place else ''} has no chat template. "
            "Pass chat=False, or set tokenizer.chat_template and pass it as tokenizer=."
        )
    try:
        text: str = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    except (TemplateError, ValueError) as error:
        roles = few([message["role"] for message in messages])
        raise EvaluationError(
            f"The chat template of {type(tokenizer).__name__} refuses the turns {roles}: {error} "
            "Leave out what it does not take, e.g. system=, or pass chat=False."
        ) from error
    return text


def _columns(template: str) -> set[str]:
    """The columns that a template names."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise EvaluationError(
            f"prompt {shown(template)}: {error}. A brace that is meant is written twice."
        ) from error
    wrong = sorted(name for name in names if not name or set(name) & set(".[") or name.isdigit())
    if wrong:
        raise EvaluationError(
            f"prompt {shown(template)}: {{{wrong[0]}}} is no column. Write the name of one into "
            "the braces, or pass a function of the row."
        )
    return names


def _called(fn: Callable[[Row], str], row: Row, where: str, what: str) -> str:
    """What a function makes of a row, a text."""
    try:
        text = fn(row)
    except KeyError as error:
        raise EvaluationError(
            f"{where}: the {what} needs a column {error}, but there is only {few(list(row))}."
        ) from error
    if not isinstance(text, str):
        raise EvaluationError(f"{where}: the {what} is {shown(text)}, not a text.")
    return text
