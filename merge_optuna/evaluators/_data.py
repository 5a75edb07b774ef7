"""Labels and groups of examples, read from a data set, a JSON lines file or a pair of arrays."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from merge_optuna._documents import Bounds, load_json
from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._inputs import Images, Inputs, Tensors, Texts, content_digest
from merge_optuna.evaluators._protocol import Ids, Scores

_LINE = Bounds(10_000_000)
_MOST_PATH = 4000
_ARRAY = re.compile(r"\s*\[\s*(\{|$)")  # of objects, maybe over several lines
_NAME = "Name the columns with text=, text_pair=, image=, label= and group=."

Where: TypeAlias = Callable[[int], str]


class Labels:
    """Class numbers or names, one per example.

    Args:
        values: The labels.
        where: Where one stands, by its row.
        names: Of the classes, where the data have them.
    """

    def __init__(
        self, values: Sequence[int | str], where: Where, names: Sequence[str] | None = None
    ) -> None:
        self.values, self.where, self.names = values, where, names
        self._last: tuple[object, Ids] | None = None

    def ids(self, model: nn.Module) -> Ids:
        """Class numbers in the model's order, shape (n,); the same array for the same order.

        Names go through the model's ``config.label2id``. Numbers are taken as they are, unless
        the data set names its classes and the model knows all these names.

        Raises:
            EvaluationError: If the model does not know a name.
        """
        label2id = _label2id(model)
        key = tuple(label2id.items())
        if self._last is None or self._last[0] != key:
            self._last = key, self._numbered(label2id)
        return self._last[1]

    def number(self, value: int | str, model: nn.Module) -> int:
        """The number that one class has in the model's order, given as a label is.

        Raises:
            EvaluationError: If the model does not know its name.
        """
        label2id = _label2id(model)
        found = _number(value, self._names(label2id), label2id)
        if found is None:
            raise EvaluationError(_unknown(f"Class {value!r}", label2id))
        return found

    def _numbered(self, label2id: Mapping[str, int]) -> Ids:
        names = self._names(label2id)
        ids = np.empty(len(self.values), np.int64)
        for row, value in enumerate(self.values):
            number = _number(value, names, label2id)
            if number is None:
                raise EvaluationError(_unknown(f"Label {value!r} ({self.where(row)})", label2id))
            ids[row] = number
        return ids

    def _names(self, label2id: Mapping[str, int]) -> Sequence[str]:
        """The names of the data's classes, if the model knows them all."""
        return self.names if self.names is not None and set(self.names) <= set(label2id) else ()

    def check_range(self, ids: Ids, width: int) -> None:
        """Compares class numbers with the number of classes that a model has.

        Raises:
            EvaluationError: If one is beyond them.
        """
        outside = (ids < 0) | (ids >= width)
        if outside.any():
            row = int(outside.argmax())
            raise EvaluationError(
                f"Label {self.values[row]!r} ({self.where(row)}) is class {ids[row]}, but the "
                f"model has {width} labels, numbered 0 to {width - 1}. Drop or renumber these "
                "examples, or pass head= with a checkpoint that was trained on them."
            )

    def digest(self) -> str:
        """32 hexadecimal digits over the labels as they are given and the names of the classes."""
        return content_digest([json.dumps([list(self.values), self.names]).encode()])


def _label2id(model: nn.Module) -> Mapping[str, int]:
    return getattr(getattr(model, "config", None), "label2id", None) or {}


def _number(value: int | str, names: Sequence[str], label2id: Mapping[str, int]) -> int | None:
    """A class in the model's order; None for a name that the model does not know."""
    if isinstance(value, str):
        return label2id.get(value)
    # Without a name, e.g. the -1 of a hidden label, it is left to the range check.
    return label2id[names[value]] if 0 <= value < len(names) else value


def _unknown(what: str, label2id: Mapping[str, int]) -> str:
    known = sorted(label2id, key=label2id.__getitem__)
    return (
        f"{what} is unknown to the model, which has "
        f"{len(known)} labels{': ' if known else ''}{few(known)}. Rename the labels of the "
        "data, set config.label2id of the model, pass class numbers, or pass head= with a "
        "checkpoint that was trained on them."
    )


class Groups:
    """Groups of examples, e.g. domains: a metric within each counts alike, whatever their sizes.

    Args:
        names: The group of each example.

    Attributes:
        names: The same, as text.
        numbers: Of the groups, from 0, in the order of their names: shape (n,).
    """

    def __init__(self, names: Iterable[object]) -> None:
        self.names = [*map(str, names)]
        self.numbers: Ids = np.unique(self.names, return_inverse=True)[1]

    def beside(self, scores: Scores, ids: Ids) -> Scores:
        """Scores with the number of the group as their last column."""
        return np.column_stack([scores, self.numbers[ids]])

    def mean(self, value: Callable[[Scores], float], scores: Scores) -> float:
        """The mean over the groups of a metric over scores with this column."""
        groups = scores[:, -1]
        return float(np.mean([value(scores[groups == g, :-1]) for g in np.unique(groups)]))

    def digest(self) -> str:
        """32 hexadecimal digits over which examples are in one group."""
        return content_digest([self.numbers.tobytes()])


def groups_of(table: Table, name: str | None) -> Groups | None:
    """The groups that a column names, if one is asked for.

    Raises:
        EvaluationError: If there is no such column.
    """
    return Groups(table.column(name, "Name another with group=.")) if name else None


@dataclass(frozen=True)
class Columns:
    """Which columns to read."""

    text: str = "text"
    text_pair: str | None = None
    image: str | None = None
    label: str | None = None  # None: the data need not have labels
    group: str | None = None


class Table(ABC):
    """Rows of named columns, wherever they come from.

    Attributes:
        names: Of the columns, as far as they are known before all rows are looked at.
    """

    names: Sequence[str]

    def where(self, row: int) -> str:
        """How messages call a row."""
        return _row(row)

    @abstractmethod
    def column(self, name: str, remedy: str = _NAME) -> list[Any]:
        """A column; an EvaluationError if a row lacks it, which says what to do then."""

    @abstractmethod
    def rows(self) -> list[Mapping[str, Any]]:
        """All rows, each with the columns that it has."""

    @abstractmethod
    def images(self, name: str) -> Images:
        """A column of images; an EvaluationError if there can be none."""

    def classes(self, name: str) -> Sequence[str] | None:
        """The names of the classes whose numbers a column holds, if they are known."""
        return None


class Examples(NamedTuple):
    """What is read of a data set.

    Attributes:
        inputs: What models are given.
        values: The column of labels as it stands there; None if none is asked for.
        where: Where a row stands.
        names: The names of the classes whose numbers the labels are, if they are known.
        groups: Of the examples, if a column of them is asked for.
    """

    inputs: Inputs
    values: list[Any] | None
    where: Where
    names: Sequence[str] | None
    groups: Groups | None


def read(
    data: Any, columns: Columns, tokenizer: Any = None, max_length: int | None = None
) -> tuple[Inputs, Labels, Groups | None]:
    """Reads what :class:`Classification` takes as data.

    Raises:
        EvaluationError: If it is none of these, or damaged, or a column is missing.
    """
    inputs, values, where, names, groups = read_examples(data, columns, tokenizer, max_length)
    labels = Labels((), where) if values is None else _labels(values, where, names)
    return inputs, labels, groups


def read_examples(
    data: Any, columns: Columns, tokenizer: Any = None, max_length: int | None = None
) -> Examples:
    """Reads inputs, groups, and labels of any kind, which are not looked at.

    Raises:
        EvaluationError: As :func:`read`.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2 and not _are_rows(data):
        if columns.group is not None:
            raise EvaluationError(
                f"A pair (inputs, labels) has no column {columns.group!r}. Groups are read from a "
                "datasets.Dataset or a JSON lines file."
            )
        return _from_pair(*data)
    table = table_of(data)
    images = None if columns.image is None else table.images(columns.image)
    values = names = None
    if columns.label is not None:
        values, names = table.column(columns.label), table.classes(columns.label)
    groups = groups_of(table, columns.group)
    if images is not None:
        return Examples(images, values, table.where, names, groups)
    pair = columns.text_pair or ("text2" if "text2" in table.names else None)
    pairs = texts(table, pair) if pair else None
    inputs = Texts(texts(table, columns.text), pairs, tokenizer, max_length)
    return Examples(inputs, values, table.where, names, groups)


def table_of(data: Any) -> Table:
    """A data set, or the path of a JSON lines file, as a table.

    Raises:
        EvaluationError: If it is neither, or damaged.
    """
    datasets = sys.modules.get("datasets")  # whoever has a Dataset has imported it
    if datasets is not None and isinstance(data, datasets.Dataset):
        return _Dataset(data)
    if isinstance(data, (str, os.PathLike)):
        return _JsonLines(Path(data))
    if isinstance(data, Mapping):
        raise EvaluationError(
            f"{type(data).__name__} holds {few(list(map(str, data)))}: pass one split of it."
        )
    if _are_rows(data):
        raise EvaluationError(
            f"data is a {type(data).__name__} of rows: pass datasets.Dataset.from_list(rows), or "
            "the path of a JSON lines file with one row a line."
        )
    raise EvaluationError(
        "data must be a datasets.Dataset, the path of a JSON lines file, or a pair of arrays "
        f"(inputs, labels), not {type(data).__name__}."
    )


def _are_rows(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and {*map(type, data)} == {dict}


def texts(table: Table, name: str, remedy: str = _NAME) -> list[str]:
    """A column of texts.

    Raises:
        EvaluationError: If one is something else, or there is no such column; then with a remedy.
    """
    values = table.column(name, remedy)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise EvaluationError(f"{table.where(row)}: {shown(value)} is not a text.")
    return values


class _Dataset(Table):
    def __init__(self, data: Any) -> None:
        # strings, integers and PIL images whatever its format is
        self._data = data.with_format(None)
        self.names = list(self._data.column_names)

    def column(self, name: str, remedy: str = _NAME) -> list[Any]:
        return list(self._with(name, remedy)[name])

    def rows(self) -> list[Mapping[str, Any]]:
        return list(self._data)

    def classes(self, name: str) -> Sequence[str] | None:
        return getattr(self._data.features[name], "names", None)

    def images(self, name: str) -> Images:
        return Images(self._with(name).select_columns([name]), name)

    def _with(self, name: str, remedy: str = _NAME) -> Any:
        if name not in self.names:
            raise EvaluationError(
                f"The data set has no column {name!r}, only {few(self.names)}. {remedy}"
            )
        return self._data


class _JsonLines(Table):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines, self._rows = _read_json_lines(path)
        self.names = list(self._rows[0]) if self._rows else []

    def where(self, row: int) -> str:
        return f"{self._path}, line {self._lines[row]}"

    def column(self, name: str, remedy: str = _NAME) -> list[Any]:
        for row, fields in enumerate(self._rows):
            if name not in fields:
                raise EvaluationError(
                    f"{self.where(row)}: no field {name!r}, only {few(list(fields))}. {remedy}"
                )
        return [fields[name] for fields in self._rows]

    def rows(self) -> list[Mapping[str, Any]]:
        return list(self._rows)

    def images(self, name: str) -> Images:
        raise EvaluationError(f"{self._path}: images are read from a datasets.Dataset only.")


def _read_json_lines(path: Path) -> tuple[list[int], list[dict[str, Any]]]:
    if len(str(path)) > _MOST_PATH or not path.is_file():
        raise EvaluationError(
            f"No file {shown(str(path))}. Check the path; a data set of the hub is loaded with "
            "datasets.load_dataset() first."
        )
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            lines_of = iter(lambda: file.readline(_LINE.characters + 1), "")
            for number, line in enumerate(lines_of, start=1):
                if line.strip():
                    lines.append(number)
                    rows.append(_parse(line, path, number))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise EvaluationError(f"{path} cannot be read: {error}. Restore the file.") from error
    if not rows:
        raise EvaluationError(
            f"{path}: the data set is empty: there is nothing to score a model on."
        )
    return lines, rows


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    if _ARRAY.match(line):
        raise EvaluationError(
            f'{path}, line {number}: not an object {{"text": ..., "label": ...}} but list, a JSON '
            "array. One object a line is needed, without brackets and commas around them."
        )
    fields = load_json(line, f"{path}, line {number}", error=EvaluationError, bounds=_LINE)
    if not isinstance(fields, dict):
        raise EvaluationError(
            f'{path}, line {number}: not an object {{"text": ..., "label": ...}} but '
            f"{type(fields).__name__}."
        )
    return fields


def _from_pair(inputs: Any, labels: Any) -> Examples:
    tensor = inputs if isinstance(inputs, Tensor) else _numbers(inputs)
    values = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else list(labels)
    if tensor.ndim == 0 or len(tensor) != len(values):
        raise EvaluationError(
            f"The inputs have shape {tuple(tensor.shape)}, but there are {len(values)} labels: "
            "one label per input is needed."
        )
    return Examples(Tensors(tensor.detach()), values, _row, None, None)


def _numbers(inputs: Any) -> Tensor:
    array = np.asarray(inputs)
    if array.dtype.kind not in "biuf":
        raise EvaluationError(
            "The inputs of a pair (inputs, labels) must be numbers of one shape, not "
            f"{array.dtype}. Pass texts and images as a datasets.Dataset."
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(values: list[Any], where: Where, names: Sequence[str] | None = None) -> Labels:
    if not values:
        raise EvaluationError("The data set is empty: there is nothing to score a model on.")
    named = isinstance(values[0], str)
    for row, value in enumerate(values):
        is_label = isinstance(value, str if named else Integral)
        if not is_label or (not named and not abs(value) < 1 << 31):
            kind = "a name" if named else "an integer"
            raise EvaluationError(
                f"Label {shown(value)} ({where(row)}) is not {kind}: "
                "labels must be all class numbers or all class names."
            )
    return Labels(values if named else [int(value) for value in values], where, names)


def _row(row: int) -> str:
    return f"row {row}"
