"""A plain function of the model as an evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._checks import as_number
from merge_optuna.evaluators._protocol import DIRECTIONS, Batch, Evaluator, Scores, name_of
from merge_optuna.evaluators._source import function_digest

if TYPE_CHECKING:
    from torch import nn


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
        if direction not in DIRECTIONS:
            raise EvaluationError(f"direction must be one of {DIRECTIONS}, not {direction!r}.")
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

    def value(self, scores: Scores) -> float:
        """The one number."""
        return float(np.mean(scores))


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
