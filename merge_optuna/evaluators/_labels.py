"""What is known of examples besides their inputs: labels and groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from torch import nn

from merge_optuna.errors import EvaluationError, few
from merge_optuna.evaluators._inputs import content_digest
from merge_optuna.evaluators._protocol import Ids, Scores

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
        label2id = getattr(getattr(model, "config", None), "label2id", None) or {}
        key = tuple(label2id.items())
        if self._last is None or self._last[0] != key:
            self._last = key, self._numbered(label2id)
        return self._last[1]

    def _numbered(self, label2id: Mapping[str, int]) -> Ids:
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

    def _unknown(self, row: int, known: list[str]) -> str:
        return (
            f"Label {self.values[row]!r} ({self.where(row)}) is unknown to the model, which has "
            f"{len(known)} labels{': ' if known else ''}{few(known)}. Rename the labels of the "
            "data, set config.label2id of the model, pass class numbers, or pass head= with a "
            "checkpoint that was trained on them."
        )


class Groups:
    """Groups of examples, e.g. domains: a metric within each counts alike, whatever their sizes.

    Args:
        names: The group of each example.
    """

    def __init__(self, names: Iterable[object]) -> None:
        self.numbers: Ids = np.unique(list(map(str, names)), return_inverse=True)[1]

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
