"""The inputs of examples as a model takes them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import bytes_of, hex_digest, texts_digest
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments
from merge_optuna.evaluators._protocol import Ids
from merge_optuna.evaluators._serving import Model, Serving

# A folder without a tokenizer gives an empty one in transformers 5, not an error: special tokens
# and at most two others. (An alphabet of DNA bases has four.)
_MOST_TOKENS_OF_AN_EMPTY_TOKENIZER = 2


class Encoded(NamedTuple):
    """The inputs of all examples, ready for one kind of model."""

    lengths: Ids  # per example, what padding is saved on
    batch: Callable[[Ids], Arguments]  # the arguments for some examples, on the CPU


class Inputs(Protocol):
    """The inputs of all examples."""

    def __len__(self) -> int:
        """Number of examples."""

    def key(self, model: nn.Module) -> Hashable:
        """Models with equal keys get equal arguments."""

    def encode(self, model: nn.Module) -> Encoded:
        """Prepares the inputs for ``model`` and those with the same key."""

    def digest(self) -> str:
        """32 hexadecimal digits over the content, whatever a model makes of it."""

    def settings(self) -> dict[str, str | int | None]:
        """What besides the content and the model decides what the model is given."""


class TokenizerOf:
    """The tokenizer that is given, or else the one of the model's own checkpoint.

    Args:
        given: A tokenizer, the folder or hub id of one, or None.
    """

    def __init__(self, given: Any = None) -> None:
        self._given = given

    def key(self, model: Model) -> Hashable:
        """Models with equal keys get the same tokenizer."""
        return origin(model) if self._given is None else None

    def of(self, model: Model) -> Any:
        """The tokenizer for a model; it is loaded anew for each call, so keep what it gives.

        Raises:
            EvaluationError: If there is none.
        """
        given = origin(model) if self._given is None else self._given
        return _load_tokenizer(str(given)) if isinstance(given, (str, os.PathLike)) else given

    def digest(self) -> str | None:
        """32 hexadecimal digits over the content of a given tokenizer."""
        given = self._given
        if isinstance(given, (str, os.PathLike)):
            given = _load_tokenizer(str(given))
        return None if given is None else _tokenizer_digest(given)


class Texts:
    """Texts or pairs of texts, tokenised with the tokenizer of the model's checkpoint."""

    def __init__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        tokenizer: Any = None,
        max_length: int | None = None,
    ) -> None:
        self.texts = texts
        self.pairs = pairs
        self.tokenizer = TokenizerOf(tokenizer)
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.texts)

    def key(self, model: nn.Module) -> Hashable:
        return self.tokenizer.key(model), _positions(model) if self.max_length is None else None

    def encode(self, model: nn.Module) -> Encoded:
        tokenizer = self.tokenizer.of(model)
        if getattr(tokenizer, "pad_token", None) is None:
            raise EvaluationError(
                f"{type(tokenizer).__name__} has no padding token. Set tokenizer.pad_token (and "
                "pad_token_id in the model's config) and pass it as tokenizer=."
            )
        limit = longest(model, tokenizer, self.max_length)
        columns = tokenizer(self.texts, self.pairs, truncation=limit is not None, max_length=limit)

        def batch(ids: Ids) -> Arguments:
            some = {name: [rows[i] for i in ids] for name, rows in columns.items()}
            return Arguments((), dict(tokenizer.pad(some, return_tensors="pt")))

        return Encoded(np.array([len(row) for row in columns["input_ids"]]), batch)

    def digest(self) -> str:
        return content_digest([json.dumps([self.texts, self.pairs]).encode()])

    def settings(self) -> dict[str, str | int | None]:
        return {"max_length": self.max_length, "tokenizer": self.tokenizer.digest()}


class Images:
    """Images of a data set, prepared by the image processor of the model's checkpoint."""

    def __init__(self, data: Any, column: str) -> None:
        self.data = data
        self.column = column

    def __len__(self) -> int:
        return len(self.data)

    def key(self, model: nn.Module) -> Hashable:
        return origin(model)

    def encode(self, model: nn.Module) -> Encoded:
        from transformers import AutoImageProcessor

        folder = origin(model)
        try:
            processor = AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError, ImportError) as error:
            raise EvaluationError(
                f"No image processor for the model of {folder or 'unknown origin'!r}: {error} "
                "Save one into that folder, or pass (pixel_values, labels) as data."
            ) from error
        colour = getattr(getattr(model, "config", None), "num_channels", 3) == 3

        def batch(ids: Ids) -> Arguments:
            return Arguments((), dict(processor(self._images(ids, colour), return_tensors="pt")))

        return Encoded(np.zeros(len(self), np.int64), batch)

    def digest(self) -> str:
        import datasets

        data = self.data
        if isinstance(data.features[self.column], datasets.Image):
            data = data.cast_column(self.column, datasets.Image(decode=False))
        return content_digest(_content(row) for row in data[self.column])

    def settings(self) -> dict[str, str | int | None]:
        return {}

    def _images(self, ids: Ids, colour: bool) -> list[Any]:
        images = [self.data[int(i)][self.column] for i in ids]
        if not colour:
            return images
        return [im.convert("RGB") if hasattr(im, "convert") else im for im in images]


class Tensors:
    """Inputs that a model takes as they are."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def key(self, model: nn.Module) -> Hashable:
        return getattr(model, "main_input_name", None)

    def encode(self, model: nn.Module) -> Encoded:
        # transformers models say what their first input is called, others take it by position
        name = getattr(model, "main_input_name", None)

        def batch(ids: Ids) -> Arguments:
            part = self.inputs[torch.from_numpy(ids)]
            return Arguments((), {name: part}) if name else Arguments((part,), {})

        return Encoded(np.zeros(len(self), np.int64), batch)

    def digest(self) -> str:
        head = f"{tuple(self.inputs.shape)} {self.inputs.dtype}"
        return content_digest([head.encode(), bytes_of(self.inputs)])

    def settings(self) -> dict[str, str | int | None]:
        return {}


def content_digest(parts: Iterable[bytes | memoryview]) -> str:
    """32 hexadecimal digits over a sequence of contents, each with its length."""
    return hex_digest(one for part in parts for one in (len(part).to_bytes(8, "little"), part))


def _content(image: Any) -> bytes:
    """The file of an image as a data set holds it, or its pixels."""
    if isinstance(image, Mapping) and "bytes" in image:
        return image["bytes"] or Path(image["path"]).read_bytes()
    return np.asarray(image).tobytes()


def _tokenizer_digest(tokenizer: Any) -> str:
    """Of what would be saved, without the state that a call leaves behind."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save_pretrained(name)
        file = Path(name, "tokenizer.json")
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            kept = {k: v for k, v in content.items() if k not in ("truncation", "padding")}
            file.write_text(json.dumps(kept), encoding="utf-8")
        return texts_digest(Path(name))


def _load_tokenizer(source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        raise _no_tokenizer(source, f" ({error})") from error
    ordinary = len(tokenizer) - len(tokenizer.all_special_tokens)
    if ordinary <= _MOST_TOKENS_OF_AN_EMPTY_TOKENIZER:
        raise _no_tokenizer(source, "")
    return tokenizer


def _no_tokenizer(source: str, reason: str) -> EvaluationError:
    return EvaluationError(
        f"There is no tokenizer in {source or 'a model without a folder'!r}{reason}. Save one "
        "there with tokenizer.save_pretrained(), or pass tokenizer= (a tokenizer or a folder)."
    )


def origin(model: Model) -> str:
    """Folder or hub id that the model was loaded from; empty if it was not."""
    config = getattr(model, "config", None)
    return str(getattr(config, "_name_or_path", "") or getattr(model, "name_or_path", ""))


def longest(model: Model, tokenizer: Any, max_length: int | None) -> int | None:
    """The most tokens of a text: what is asked for, or else what model and tokenizer can take."""
    limits = (max_length or _positions(model), getattr(tokenizer, "model_max_length", None))
    # transformers writes "no limit" as 1e30
    return min((n for n in limits if n is not None and n < 1e9), default=None)


def _positions(model: Model) -> int | None:
    if isinstance(model, Serving):
        return model.most_tokens
    config = getattr(model, "config", None)
    own = getattr(config, "max_position_embeddings", None)  # of a vision-language model, its text
    return own or getattr(getattr(config, "text_config", None), "max_position_embeddings", None)
