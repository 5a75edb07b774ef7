"""The inputs and labels of examples as a model takes them, and the order they are scored in."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from merge_optuna.checkpoints import texts_digest
from merge_optuna.errors import EvaluationError, few

Ids: TypeAlias = NDArray[np.int64]
Where: TypeAlias = Callable[[int], str]

# A folder without a tokenizer gives an empty one in transformers 5, not an error: special tokens
# and at most two others. (An alphabet of DNA bases has four.)
_MOST_TOKENS_OF_AN_EMPTY_TOKENIZER = 2


class Arguments(NamedTuple):
    """What a model is called with."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    def map(self, fn: Callable[[Tensor], Tensor]) -> Arguments:
        """Applies ``fn`` to every tensor."""
        return Arguments(tuple(map(fn, self.args)), {k: fn(t) for k, t in self.kwargs.items()})

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len((*self.args, *self.kwargs.values())[0])

    @property
    def width(self) -> int:
        """Elements per example."""
        return sum(t[0].numel() for t in (*self.args, *self.kwargs.values()))

    def describe(self) -> str:
        """Names, shapes and dtypes."""
        named = {**{f"input {i}": t for i, t in enumerate(self.args)}, **self.kwargs}
        return ", ".join(f"{k} {tuple(t.shape)} {t.dtype}" for k, t in named.items())


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


@dataclass(frozen=True)
class Labels:
    """Class numbers or names, one per example."""

    values: Sequence[int | str]
    where: Where
    names: Sequence[str] | None = None  # of a datasets.ClassLabel

    def key(self, model: nn.Module) -> Hashable:
        """Models with equal keys number the classes alike."""
        return tuple(_label2id(model).items())

    def ids(self, model: nn.Module) -> Ids:
        """Class numbers in the model's order.

        Names go through the model's ``config.label2id``. Numbers are taken as they are, unless
        the data set names its classes and the model knows all these names.

        Raises:
            EvaluationError: If the model does not know a name.
        """
        label2id = _label2id(model)
        names = self.names if self.names is not None and set(self.names) <= set(label2id) else ()
        ids = np.empty(len(self.values), np.int64)
        for row, value in enumerate(self.values):
            if not isinstance(value, str):
                # Without a name, e.g. the -1 of a hidden label, it is left to the range check.
                ids[row] = label2id[names[value]] if 0 <= value < len(names) else value
            elif value in label2id:
                ids[row] = label2id[value]
            else:
                raise EvaluationError(
                    self._unknown(row, sorted(label2id, key=label2id.__getitem__))
                )
        return ids

    def digest(self) -> str:
        """32 hexadecimal digits over the labels as they are given and the names of the classes."""
        return content_digest([json.dumps([list(self.values), self.names]).encode()])

    def _unknown(self, row: int, known: list[str]) -> str:
        return (
            f"Label {self.values[row]!r} ({self.where(row)}) is unknown to the model, which has "
            f"{len(known)} labels{': ' if known else ''}{few(known)}. Rename the labels of the "
            "data, set config.label2id of the model, pass class numbers, or pass head= with a "
            "checkpoint that was trained on them."
        )


def _label2id(model: nn.Module) -> dict[str, int]:
    return getattr(getattr(model, "config", None), "label2id", None) or {}


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
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.texts)

    def key(self, model: nn.Module) -> Hashable:
        source = _origin(model) if self.tokenizer is None else None
        return source, _positions(model) if self.max_length is None else None

    def encode(self, model: nn.Module) -> Encoded:
        tokenizer = self._tokenizer(model)
        limits = (self.max_length or _positions(model), tokenizer.model_max_length)
        # transformers writes "no limit" as 1e30
        limit = min((n for n in limits if n is not None and n < 1e9), default=None)
        columns = tokenizer(self.texts, self.pairs, truncation=limit is not None, max_length=limit)

        def batch(ids: Ids) -> Arguments:
            some = {name: [rows[i] for i in ids] for name, rows in columns.items()}
            return Arguments((), dict(tokenizer.pad(some, return_tensors="pt")))

        return Encoded(np.array([len(row) for row in columns["input_ids"]]), batch)

    def digest(self) -> str:
        return content_digest([json.dumps([self.texts, self.pairs]).encode()])

    def settings(self) -> dict[str, str | int | None]:
        given = self.tokenizer
        if isinstance(given, (str, os.PathLike)):
            given = _load_tokenizer(str(given))
        content = None if given is None else _tokenizer_digest(given)
        return {"max_length": self.max_length, "tokenizer": content}

    def _tokenizer(self, model: nn.Module) -> Any:
        tokenizer = self.tokenizer
        if tokenizer is None or isinstance(tokenizer, (str, os.PathLike)):
            tokenizer = _load_tokenizer(str(tokenizer or _origin(model)))
        if getattr(tokenizer, "pad_token", None) is None:
            raise EvaluationError(
                f"{type(tokenizer).__name__} has no padding token. Set tokenizer.pad_token (and "
                "pad_token_id in the model's config) and pass it as tokenizer=."
            )
        return tokenizer


class Images:
    """Images of a data set, prepared by the image processor of the model's checkpoint."""

    def __init__(self, data: Any, column: str) -> None:
        self.data = data
        self.column = column

    def __len__(self) -> int:
        return len(self.data)

    def key(self, model: nn.Module) -> Hashable:
        return _origin(model)

    def encode(self, model: nn.Module) -> Encoded:
        from transformers import AutoImageProcessor

        folder = _origin(model)
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
        raw = self.inputs.cpu().contiguous().reshape(-1).view(torch.uint8)
        return content_digest([head.encode(), raw.numpy().data])

    def settings(self) -> dict[str, str | int | None]:
        return {}


def mixed(n: int) -> Ids:
    """Examples 0 to n − 1 in an order that favours none; data sets are often sorted by class."""
    # Raw bits of a counter-based generator: its permutations may change between numpy versions.
    return np.argsort(np.random.Philox(key=0).random_raw(n), kind="stable")


def in_batches(lengths: Ids, batch_size: int) -> list[Ids]:
    """Splits examples into batches of similar length, in an order that favours no length.

    The order depends on nothing but the lengths and the batch size: neither on the model nor on
    the machine. Batches differ by at most one in size, so that each weighs alike in a race.

    Args:
        lengths: Length per example, shape (n,), n > 0.
        batch_size: Largest batch.

    Returns:
        Example ids, each once.
    """
    n = len(lengths)
    count = -(-n // batch_size)
    order = mixed(n)
    by_length = order[np.argsort(lengths[order], kind="stable")]
    batches = np.array_split(by_length, count)
    draws = np.random.Philox(key=0).random_raw(n + count)[n:]
    return [batches[i] for i in np.argsort(draws, kind="stable")]


def content_digest(parts: Iterable[bytes | memoryview]) -> str:
    """32 hexadecimal digits over a sequence of contents."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


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


def _origin(model: nn.Module) -> str:
    """Folder or hub id that the model was loaded from; empty if it was not."""
    config = getattr(model, "config", None)
    return str(getattr(config, "_name_or_path", "") or getattr(model, "name_or_path", ""))


def _positions(model: nn.Module) -> int | None:
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)
