"""Reads labelled examples from a data set, a JSON lines file or a pair of arrays."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from merge_optuna._documents import Bounds, load_json
from merge_optuna.errors import EvaluationError, few, shown
from merge_optuna.evaluators._inputs import Images, Inputs, Labels, Tensors, Texts, Where

_LINE = Bounds(10_000_000)
_MOST_PATH = 4000


@dataclass(frozen=True)
class Columns:
    """Which columns to read."""

    text: str
    text_pair: str | None
    image: str | None
    label: str | None  # None: the data need not have labels
    group: str | None = None


Groups: TypeAlias = list[Any] | None  # one per example, if there is a column of them


def read(
    data: Any, columns: Columns, tokenizer: Any, max_length: int | None
) -> tuple[Inputs, Labels, Groups]:
    """Reads what :class:`Classification` takes as data.

    Raises:
        EvaluationError: If it is none of these, or damaged, or a column is missing.
    """
    datasets = sys.modules.get("datasets")  # whoever has a Dataset has imported it
    if datasets is not None and isinstance(data, datasets.Dataset):
        return _from_dataset(data, columns, tokenizer, max_length)
    if isinstance(data, (str, os.PathLike)):
        return _from_json_lines(Path(data), columns, tokenizer, max_length)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        if columns.group is not None:
            raise EvaluationError(
                f"A pair (inputs, labels) has no column {columns.group!r}. Groups are read from a "
                "datasets.Dataset or a JSON lines file."
            )
        return _from_pair(*data)
    if isinstance(data, Mapping):
        raise EvaluationError(
            f"{type(data).__name__} holds {few(list(map(str, data)))}: pass one split of it."
        )
    raise EvaluationError(
        "data must be a datasets.Dataset, the path of a JSON lines file, or a pair of arrays "
        f"(inputs, labels), not {type(data).__name__}."
    )


def _from_dataset(
    data: Any, columns: Columns, tokenizer: Any, max_length: int | None
) -> tuple[Inputs, Labels, Groups]:
    data = data.with_format(None)  # strings, integers and PIL images whatever its format is
    there = list(data.column_names)
    inputs = columns.image or columns.text
    pair = _pair_column(columns, there)
    for name in (inputs, columns.label, pair, columns.group):
        if name is not None and name not in there:
            raise EvaluationError(
                f"The data set has no column {name!r}, only {few(there)}. "
                "Name the columns with text=, text_pair=, image=, label= and group=."
            )
    labels = Labels((), _row)
    if columns.label is not None:
        labels = _labels(list(data[columns.label]), _row)
        names = getattr(data.features[columns.label], "names", None)
        labels = Labels(labels.values, labels.where, names)
    groups = list(data[columns.group]) if columns.group else None
    if columns.image is not None:
        return Images(data.select_columns([columns.image]), columns.image), labels, groups
    pairs = _texts(list(data[pair]), _row) if pair else None
    return Texts(_texts(list(data[inputs]), _row), pairs, tokenizer, max_length), labels, groups


def _from_json_lines(
    path: Path, columns: Columns, tokenizer: Any, max_length: int | None
) -> tuple[Inputs, Labels, Groups]:
    if columns.image is not None:
        raise EvaluationError(f"{path}: images are read from a datasets.Dataset only.")
    lines, rows = _read_json_lines(path)

    def where(row: int) -> str:
        return f"{path}, line {lines[row]}"

    def column(name: str) -> list[Any]:
        for row, fields in enumerate(rows):
            if name not in fields:
                raise EvaluationError(
                    f"{where(row)}: no field {name!r}, only {few(list(fields))}. "
                    "Name the fields with text=, text_pair=, label= and group=."
                )
        return [fields[name] for fields in rows]

    labels = Labels((), where)
    if columns.label is not None:
        labels = _labels(column(columns.label), where)
    pair = _pair_column(columns, list(rows[0]) if rows else [])
    pairs = _texts(column(pair), where) if pair else None
    texts = Texts(_texts(column(columns.text), where), pairs, tokenizer, max_length)
    return texts, labels, column(columns.group) if columns.group else None


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
    return lines, rows


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    fields = load_json(line, f"{path}, line {number}", error=EvaluationError, bounds=_LINE)
    if not isinstance(fields, dict):
        raise EvaluationError(
            f'{path}, line {number}: not an object {{"text": ..., "label": ...}} but '
            f"{type(fields).__name__}."
        )
    return fields


def _from_pair(inputs: Any, labels: Any) -> tuple[Inputs, Labels, Groups]:
    tensor = inputs if isinstance(inputs, Tensor) else _numbers(inputs)
    values = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else list(labels)
    if tensor.ndim == 0 or len(tensor) != len(values):
        raise EvaluationError(
            f"The inputs have shape {tuple(tensor.shape)}, but there are {len(values)} labels: "
            "one label per input is needed."
        )
    return Tensors(tensor.detach()), _labels(values, _row), None


def _numbers(inputs: Any) -> Tensor:
    array = np.asarray(inputs)
    if array.dtype.kind not in "biuf":
        raise EvaluationError(
            "The inputs of a pair (inputs, labels) must be numbers of one shape, not "
            f"{array.dtype}. Pass texts and images as a datasets.Dataset."
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _labels(values: list[Any], where: Where) -> Labels:
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
    return Labels(values if named else [int(value) for value in values], where)


def _texts(values: list[Any], where: Where) -> list[str]:
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise EvaluationError(f"{where(row)}: {shown(value)} is not a text.")
    return values


def _pair_column(columns: Columns, there: list[str]) -> str | None:
    if columns.image is not None:
        return None
    return columns.text_pair or ("text2" if "text2" in there else None)


def _row(row: int) -> str:
    return f"row {row}"
