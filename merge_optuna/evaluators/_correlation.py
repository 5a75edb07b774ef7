"""How well one number per example goes with its label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy as np
from torch import nn

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.evaluators._arguments import Arguments, live, running
from merge_optuna.evaluators._batches import Batches, Pieces
from merge_optuna.evaluators._data import Examples
from merge_optuna.evaluators._inputs import Inputs, content_digest
from merge_optuna.evaluators._protocol import Batch, Scores, check_counts

_LARGEST = 1e100  # its square is a number, too


class Correlation(ABC):
    """What evaluators have in common that predict a number and are scored by a correlation.

    Scores per example are a row of three: minus the squared distance of prediction and target,
    which stands for the example in niches and races, since a correlation is no mean over examples;
    the prediction; and the target. The correlation is that of the last two.

    Attributes:
        directions: ``("maximize",)``.
        metric_names: ``("pearson",)`` or ``("spearman",)``.
        inputs: What models are given.
    """

    directions = ("maximize",)
    deterministic = True

    def __init__(self, metric: str, inputs: Inputs, targets: Scores, batch_size: int) -> None:
        if metric not in _METRICS:
            raise EvaluationError(f"Unknown metric {metric!r}. Metrics: {', '.join(_METRICS)}.")
        check_counts(batch_size=batch_size)
        self.metric_names = (metric,)
        self.inputs = inputs
        self._targets = targets
        self._correlation = _METRICS[metric]
        self._batches, self._pieces = Batches(inputs, batch_size), Pieces(batch_size)

    def __len__(self) -> int:
        return len(self.inputs)

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Scores the examples in batches of similar length, the same ones for every model.

        Args:
            model: Put into eval mode if it is not.

        Yields:
            Example ids, shape (b,), and scores, shape (b, 3).

        Raises:
            EvaluationError: If the model cannot be scored; :meth:`check` tells before.
        """
        scored = self._scored(model)
        for ids, arguments in self._batches.of(model):
            predicted, targets = self._in_pieces(scored, arguments, len(ids)), self._targets[ids]
            yield ids, np.stack([-((predicted - targets) ** 2), predicted, targets], 1)

    def value(self, scores: Scores) -> float:
        """The correlation over the scores of any of the examples, as scipy has it.

        It is 0 where scipy's is not defined: of one example, or where all predictions or all
        targets are alike. NaN if a score is NaN.
        """
        _, predicted, targets = np.asarray(scores).T
        return self._correlation(predicted, targets)

    def check(self, model: nn.Module) -> None:
        """Runs the model on one or two examples, the longest.

        Raises:
            EvaluationError: If this model cannot be scored on these examples.
        """
        scored, probe = self._scored(model), self._batches.probe(model)
        with running(scored, probe):
            self._predicted(scored, probe)

    def _in_pieces(self, model: nn.Module, arguments: Arguments, examples: int) -> Scores:
        rows = arguments.examples // examples  # a pair of texts is two

        def predict(piece: slice) -> Scores:
            part = slice(rows * piece.start, rows * piece.stop)
            return self._predicted(model, arguments.part(part))

        return np.concatenate(self._pieces.run(examples, predict))

    def _scored(self, model: nn.Module) -> nn.Module:
        """What is run."""
        return live(model)

    @abstractmethod
    def _predicted(self, model: nn.Module, arguments: Arguments) -> Scores:
        """Predictions, shape (b,)."""


def targets_of(examples: Examples) -> Scores:
    """The labels as numbers, shape (n,).

    Raises:
        EvaluationError: If one is no number, or all are alike, which nothing correlates with.
    """
    values: list[Any] = examples.values or []
    if not values:
        raise EvaluationError("The data set is empty: there is nothing to score a model on.")
    for row, value in enumerate(values):
        if not _is_number(value):
            raise EvaluationError(
                f"Label {shown(value)} ({examples.where(row)}) is not a finite number: drop the "
                "example, or name another column with label=."
            )
    targets = np.array(values, np.float64)
    if targets.min() == targets.max():
        raise EvaluationError(
            f"All {len(values)} labels are {shown(values[0])}: nothing correlates with a constant."
            " Pass data whose labels differ."
        )
    return targets


def _is_number(value: Any) -> bool:
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    return bool(abs(number) < _LARGEST)


def targets_digest(targets: Scores) -> str:
    """32 hexadecimal digits over the labels."""
    return content_digest([targets.tobytes()])


def _pearson(a: Scores, b: Scores) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    # norms first: a product of both sums of squares may be too large
    return float(a / np.linalg.norm(a) @ (b / np.linalg.norm(b)))


def _spearman(a: Scores, b: Scores) -> float:
    return _pearson(_ranks(a), _ranks(b))


def _ranks(x: Scores) -> Scores:
    """From 1; equal numbers share the mean of theirs."""
    if np.isnan(x).any():
        return np.full(len(x), np.nan)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks: Scores = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


_METRICS: dict[str, Callable[[Scores, Scores], float]] = {
    "pearson": _pearson,
    "spearman": _spearman,
}
