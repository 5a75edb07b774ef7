"""What an evaluator is, and a plain function as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._checks import as_number, batches_of, value_over
from merge_optuna.evaluators._source import function_digest

if TYPE_CHECKING:
    from torch import nn

Batch: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]
_DIRECTIONS = ("maximize", "minimize")

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

    def value(self, scores: NDArray[np.float64]) -> float | tuple[float, ...]:
        """The metric over the scores of any examples, in any order: shape (n,) or (n, k)."""


class Function:
    """A function of the model as an evaluator with one example."""

    def __init__(
        self,
        fn: Callable[[nn.Module], float],
        *,
        direction: str = "maximize",
        name: str = "score",
        digest: str | Mapping[str, str] | None = None,
    ) -> None:
        """Wraps ``fn``.

        Args:
            fn: Takes the live model and returns a number. The model is refilled for the next
                trial: keep no reference to it.
            direction: ``"maximize"`` or ``"minimize"``.
            name: Name of the metric.
            digest: What a search must go on with: a word for the version of the function, or a
                mapping from the parts of its data to digests. When omitted, the name and the
                source text of the function without comments; neither what it calls nor the data
                that it reads count then.

        Raises:
            EvaluationError: If ``fn`` cannot be called or ``direction`` is neither of the two.
        """
        if not callable(fn):
            raise EvaluationError(f"fn must be a function of the model, not {fn!r}.")
        if direction not in _DIRECTIONS:
            raise EvaluationError(f"direction must be one of {_DIRECTIONS}, not {direction!r}.")
        self.fn = fn
        self.directions = (direction,)
        self.metric_names = (name,)
        self._digest = digest

    @property
    def digest(self) -> Mapping[str, str]:
        """What a search is not continued without; see ``digest`` of :class:`Function`."""
        if isinstance(self._digest, Mapping):
            return self._digest
        return {"function": self._digest or function_digest(self.fn)}

    def __len__(self) -> int:
        return 1

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Yields the one example with the number that the function returns.

        Raises:
            EvaluationError: If the function returns anything but a number.
        """
        score = as_number(self.fn(model), name_of(self))
        yield np.zeros(1, np.int64), np.full(1, score)

    def value(self, scores: NDArray[np.float64]) -> float:
        """The one number."""
        return float(np.mean(scores))


def name_of(evaluator: Evaluator) -> str:
    """What an evaluator is called in messages: the function's name, or else its class's."""
    one = getattr(evaluator, "fn", evaluator)
    return getattr(one, "__name__", type(one).__name__)


def value_of(evaluator: Evaluator, model: nn.Module) -> float | tuple[float, ...]:
    """The metric over all examples.

    Raises:
        EvaluationError: If what the evaluator yields or returns is no score.
    """
    batches = batches_of(evaluator, model)
    return value_over(evaluator, np.concatenate([scores for _, scores in batches]))


def as_evaluator(obj: Any) -> Evaluator:
    """Returns an evaluator as it is and wraps a function ``(model) -> float``.

    Raises:
        EvaluationError: If it is neither, or an evaluator that lacks a part.
    """
    if isinstance(obj, Evaluator):
        return obj
    parts = ("directions", "metric_names", "__len__", "__call__", "value")
    missing = [part for part in parts if not hasattr(obj, part)]
    if "value" not in missing or "directions" not in missing:
        raise EvaluationError(
            f"{type(obj).__name__} is not an evaluator: it has no {', '.join(missing)}."
        )
    if not callable(obj):
        raise EvaluationError(
            f"An evaluator or a function (model) -> float is needed, not {obj!r}."
        )
    return Function(obj)
