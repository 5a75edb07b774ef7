"""What an evaluator is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

Ids: TypeAlias = NDArray[np.int64]
Scores: TypeAlias = NDArray[np.float64]
Batch: TypeAlias = tuple[Ids, Scores]
DIRECTIONS = ("maximize", "minimize")

ADDED_PARTS = frozenset(("function", "head_content", "max_length", "tokenizer"))
"""Parts of digests that earlier versions have not stored: without them, nothing is said."""


@runtime_checkable
class Evaluator(Protocol):
    """Scores a model example by example.

    An evaluator may also have ``check(model)``, called once before a search: it raises
    :class:`~merge_optuna.errors.EvaluationError` if it cannot score this model. And it may have
    ``digest``, a mapping from the parts of its data, e.g. inputs and labels, to digests or plain
    values: with it a search is not continued on other data than it began with.
    """

    @property
    def directions(self) -> Sequence[str]:
        """``"maximize"`` or ``"minimize"``, one per objective."""

    @property
    def metric_names(self) -> Sequence[str]:
        """One name per objective."""

    def __len__(self) -> int:
        """Number of examples."""

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Yields batches of example ids, shape (b,), and scores, shape (b,) or (b, k).

        The ids lie in ``range(len(self))``, each comes once, and the batches are the same, in the
        same order, for every model. Column 0 is the score of the example; further columns are
        whatever :meth:`value` needs besides. Not asking for the next batch stops early.
        """

    def value(self, scores: Scores) -> float | tuple[float, ...]:
        """The metric over the scores of any examples, in any order: shape (n,) or (n, k)."""


def name_of(evaluator: Evaluator) -> str:
    """What an evaluator is called in messages: the function's name, or else its class's."""
    one = getattr(evaluator, "fn", evaluator)
    return getattr(one, "__name__", type(one).__name__)
