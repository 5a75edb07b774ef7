"""What a model is asked, row by row: a text, or a text and an image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._beginnings import Window
from merge_optuna.evaluators._data import Table
from merge_optuna.evaluators._inputs import TokenizerOf, origin
from merge_optuna.evaluators._language import Reader
from merge_optuna.evaluators._prompts import Prompt, conversation
from merge_optuna.evaluators._serving import Model

_TOKENS = ("input_ids", "attention_mask")


class Asked(Protocol):
    """The prompts of all examples.

    Attributes:
        texts: The template filled with each row.
        reader: How the last model reads that prompts were made for.
    """

    texts: list[str]
    reader: Reader

    def windows(self, reader: Reader) -> list[list[Window]]:
        """The token ids of each prompt.

        Raises:
            EvaluationError: If one leaves no room for a reply.
        """

    def features(self, reader: Reader, row: int) -> Mapping[str, Tensor]:
        """What a model is given besides token ids, of one example."""

    def tokenizer(self, reader: Reader) -> Any:
        """What decodes replies."""

    def digest(self) -> dict[str, str | int | None]:
        """What besides the texts a search is not continued without."""


class TextPrompts:
    """Prompts that are texts.

    Args:
        prompt: How a row becomes one.
        table: The rows.
    """

    reader: Reader

    def __init__(self, prompt: Prompt, table: Table) -> None:
        self._prompt, self._where = prompt, table.where
        self.texts = prompt.texts(table)

    def windows(self, reader: Reader) -> list[list[Window]]:
        """See :class:`Asked`."""
        self.reader = reader
        return [[Window(self._checked(reader, row), 0)] for row in range(len(self.texts))]

    def features(self, reader: Reader, row: int) -> Mapping[str, Tensor]:
        """None."""
        return {}

    def tokenizer(self, reader: Reader) -> Any:
        """That of the model."""
        return reader.tokenizer

    def digest(self) -> dict[str, str | int | None]:
        """Nothing."""
        return {}

    def _checked(self, reader: Reader, row: int) -> list[int]:
        ids = self._ids(reader, row)
        if not ids:
            raise EvaluationError(f"{self._where(row)}: the prompt is empty.")
        if room(reader, len(ids), 1) < 1:
            raise EvaluationError(
                f"{self._where(row)}: the prompt has {len(ids)} tokens, and the context of the "
                f"model {reader.limit}: there is no room for a reply. Shorten it, e.g. with fewer "
                "examples=, or leave such rows out."
            )
        return ids

    def _ids(self, reader: Reader, row: int) -> list[int]:
        encode = self._prompt.source if reader.encodes else self._prompt.ids
        return encode(reader.tokenizer, self.texts[row])


class ImagePrompts(TextPrompts):
    """Prompts with an image each, for vision-language models.

    In a chat the image stands before the text of the user. Otherwise the prompt says where it
    stands, with the token that the processor has for it. Images are prepared for each batch anew:
    all at once would take too much memory.

    Args:
        prompt: How a row becomes the text.
        table: The rows.
        column: Of the images.
    """

    def __init__(self, prompt: Prompt, table: Table, column: str) -> None:
        super().__init__(prompt, table)
        self._images = table.images(column)

    def features(self, reader: Reader, row: int) -> Mapping[str, Tensor]:
        """What the processor makes of the image."""
        prepared = self._prepared(reader.tokenizer, row)
        return {
            name: value
            for name, value in prepared.items()
            if isinstance(value, Tensor) and name not in _TOKENS
        }

    def tokenizer(self, reader: Reader) -> Any:
        """That of the processor."""
        return reader.tokenizer.tokenizer

    def digest(self) -> dict[str, str | int | None]:
        """The images."""
        return {"images": self._images.digest()}

    def _ids(self, reader: Reader, row: int) -> list[int]:
        ids: list[int] = self._prepared(reader.tokenizer, row)["input_ids"][0].tolist()
        return ids

    def _prepared(self, processor: Any, row: int) -> Mapping[str, Any]:
        text = self._text(processor, row)
        token = getattr(processor, "image_token", None)
        if token is not None and token not in text:
            raise EvaluationError(
                f"{self._where(row)}: the prompt has no place for the image. Write {token!r} "
                "where it stands, e.g. into prompt=, or pass chat=True."
            )
        image = self._images.data[row][self._images.column]
        # What a chat template has written begins with its own special tokens.
        options = {"add_special_tokens": False} if self._prompt.chat else {}
        try:
            found: Mapping[str, Any] = processor(
                text=[text], images=[image.convert("RGB")], return_tensors="pt", **options
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"{self._where(row)}: {type(processor).__name__} cannot prepare the image and its "
                f"prompt: {error}"
            ) from error
        return found

    def _text(self, processor: Any, row: int) -> str:
        if not self._prompt.chat:
            return self._prompt.context(processor, self.texts[row])
        turns: list[dict[str, Any]] = [
            {**turn, "content": [{"type": "text", "text": turn["content"]}]}
            for turn in self._prompt.messages(self.texts[row])
        ]
        turns[-1]["content"].insert(0, {"type": "image"})
        return conversation(processor, turns)


class ProcessorOf(TokenizerOf):
    """The processor of texts and images that is given, or else that of the model's checkpoint."""

    def of(self, model: Model) -> Any:
        """The processor for a model.

        Raises:
            EvaluationError: If there is none.
        """
        given = origin(model) if self._given is None else self._given
        return _load(str(given)) if isinstance(given, (str, os.PathLike)) else given


def _load(source: str) -> Any:
    from transformers import AutoProcessor

    reason = ""
    try:
        processor = AutoProcessor.from_pretrained(source)
        if hasattr(processor, "image_processor"):  # without one, it may be a tokenizer
            return processor
    except (OSError, ValueError, ImportError) as error:
        reason = f" ({error})"
    raise EvaluationError(
        f"There is no processor of texts and images in {source or 'a model without a folder'!r}"
        f"{reason}. Save one there with processor.save_pretrained(), or pass it as tokenizer=."
    )


def room(reader: Reader, prompt: int, most: int) -> int:
    """How many of ``most`` tokens of a reply the context has room for after a prompt."""
    if reader.limit is None:
        return most
    if reader.encodes:  # the decoder has a context of its own, which begins with one token
        return min(most, reader.limit - 1) if prompt <= reader.limit else 0
    return min(most, reader.limit - prompt)
