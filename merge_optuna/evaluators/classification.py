"""Classification of texts, images or tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments, logits_in, running
from merge_optuna.evaluators._batches import Batches
from merge_optuna.evaluators._data import Columns, read
from merge_optuna.evaluators._head import Head
from merge_optuna.evaluators._protocol import Batch, Ids, Scores, check_counts

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

_NEEDED = "of shape (batch, labels). Merge models with a classification head, or pass head=."


class Classification:
    """Accuracy or macro-F1 of a classifier on labelled examples.

    The model runs in eval mode, without gradients, on its own device and in its own dtype; it
    returns logits of shape (b, number of labels), as a tensor or as ``.logits``. Inputs are
    prepared once and stay on the model's device.

    Scores per example are 1 (right) or 0 (wrong), for macro-F1 a row of three: right or wrong,
    the predicted and the true class number. With groups the number of its group, in sorted order,
    comes last in the row. Logits with a NaN score NaN (and predict -1).

    Attributes:
        directions: ``("maximize",)``.
        metric_names: ``(metric,)``, with groups e.g. ``("macro_f1 per domain",)``.
        inputs: What models are given; the labels stay inside.
        head: What is put in the place of the models' own head, or None.
    """

    directions = ("maximize",)

    def __init__(
        self,
        data: Any,
        *,
        metric: str = "accuracy",
        text: str = "text",
        text_pair: str | None = None,
        image: str | None = None,
        label: str = "label",
        group: str | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        batch_size: int = 32,
        head: Checkpoint | None = None,
    ) -> None:
        """Reads the examples.

        Args:
            data: A ``datasets.Dataset``; the path of a JSON lines file (``.gz`` or not) with one
                ``{"text": ..., "label": ...}`` per line; or a pair of tensors or arrays
                ``(inputs, labels)``, with inputs as the model takes them first, e.g.
                ``pixel_values`` of shape (n, channels, height, width).
            metric: ``"accuracy"`` or ``"macro_f1"``.
            text: Column of texts.
            text_pair: Column of second texts; ``"text2"`` where the data has it.
            image: Column of images. If given, the model is an image model.
            label: Column of labels: class numbers, or names that the model's ``label2id`` knows.
                A ``ClassLabel`` column counts by its names if the model knows them all.
            group: Column of groups, e.g. domains or languages: the metric is computed within each
                group, and the value is the mean over the groups, whatever their sizes.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint. (Images use the image processor there.)
            max_length: Longest text in tokens; by default what tokenizer and model can take.
            batch_size: Largest batch.
            head: Score with the task head of this checkpoint in place of the model's own; its
                ``label2id`` counts. So experts with different heads can share an encoder, with
                one evaluator for each task.

        Raises:
            EvaluationError: If the data cannot be read, is empty, or an argument is not valid.
        """
        if metric not in _METRICS:
            raise EvaluationError(f"Unknown metric {metric!r}. Metrics: {', '.join(_METRICS)}.")
        check_counts(batch_size=batch_size, max_length=max_length)
        self.metric_names = (metric if group is None else f"{metric} per {group}",)
        self._metric = _METRICS[metric]
        columns = Columns(text, text_pair, image, label, group)
        self.inputs, self._labels, self._groups = read(data, columns, tokenizer, max_length)
        self._batches = Batches(self.inputs, batch_size)
        self.head = None if head is None else Head(head)

    def __len__(self) -> int:
        return len(self.inputs)

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        """Scores the examples batch by batch.

        Batches hold examples of similar length, in an order that is random but always the same:
        it depends on the data and on the tokenizer of the first model, on nothing else.

        Args:
            model: Put into eval mode if it is not.

        Yields:
            Example ids, shape (b,), and scores, shape (b,) or (b, 3), with groups (b, 2) or
            (b, 4).

        Raises:
            EvaluationError: If the model cannot be scored; :meth:`check` tells before.
        """
        scored = self._scored(model)
        classes = self._labels.ids(scored)
        for ids, arguments in self._batches.of(model):
            predicted, width = _predict(scored, arguments)
            self._labels.check_range(classes, width)
            true = classes[ids]
            right = np.where(predicted < 0, np.nan, predicted == true)
            scores = self._metric.scores(right, predicted, true)
            yield ids, scores if self._groups is None else self._groups.beside(scores, ids)

    def value(self, scores: Scores) -> float:
        """The metric over the scores of any of the examples.

        Macro-F1 is averaged over the labels with a true example among those given: over all
        labels of the data when all its examples are there. On a part of them, a rare label that
        has not come up yet neither counts as 0 nor lives by a chance prediction. So it is with
        groups. NaN if a score is NaN.
        """
        scores = np.asarray(scores)
        if self._groups is None:
            return self._metric.value(scores)
        return self._groups.mean(self._metric.value, scores)

    def check(self, model: nn.Module) -> None:
        """Runs two examples, the longest, and compares all labels with the shape of the logits.

        Raises:
            EvaluationError: If this model cannot be scored on these examples.
        """
        scored = self._scored(model)
        classes, probe = self._labels.ids(scored), self._batches.probe(model)
        with running(scored, probe):
            _, width = _predict(scored, probe)
        self._labels.check_range(classes, width)

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of the inputs, of the labels and, if there are any, of groups and head.

        With the longest text and the tokenizer, where they are not the model's own.
        """
        parts: dict[str, str | int | None] = {
            "inputs": self.inputs.digest(),
            "labels": self._labels.digest(),
            **self.inputs.settings(),
        }
        if self._groups is not None:
            parts["groups"] = self._groups.digest()
        return parts if self.head is None else {**parts, **self.head.digest()}

    @property
    def heads(self) -> dict[str, Checkpoint | None]:
        """The checkpoint of ``head=`` by its name; empty where the model's own head counts."""
        return {} if self.head is None else {self.head.checkpoint.name: self.head.checkpoint}

    def _scored(self, model: nn.Module) -> nn.Module:
        if model.training:
            model.eval()
        return model if self.head is None else self.head.on(model)


def _predict(model: nn.Module, arguments: Arguments) -> tuple[Ids, int]:
    """Predicted classes (-1: not a number), shape (b,), and the number of classes."""
    # Not around the loop of the caller, which would leave it on while the generator waits.
    with torch.inference_mode():
        output = model(*arguments.args, **arguments.kwargs)
        logits = logits_in(output, model, _NEEDED, ndim=(2,))
        best, predicted = logits.max(-1)
        predicted = predicted.masked_fill(best.isnan(), -1)
        return predicted.cpu().numpy(), logits.shape[1]


@dataclass(frozen=True)
class _Metric:
    """What is kept of right or wrong, predicted and true class, and what it adds up to."""

    scores: Callable[[Scores, Ids, Ids], Scores]
    value: Callable[[Scores], float]


def _macro_f1(scores: Scores) -> float:
    # as sklearn.metrics.f1_score, forty times faster: it is reported after every batch
    if np.isnan(scores).any():
        return float("nan")
    _, predicted, true = scores.astype(np.int64).T
    width = int(max(predicted.max(), true.max())) + 1
    positive = np.bincount(true, minlength=width)
    right = np.bincount(true[predicted == true], minlength=width)
    f1 = 2 * right / np.maximum(positive + np.bincount(predicted, minlength=width), 1)
    return float(f1[positive > 0].mean())


_METRICS = {
    "accuracy": _Metric(lambda right, predicted, true: right, lambda scores: float(scores.mean())),
    "macro_f1": _Metric(
        lambda right, predicted, true: np.stack([right, predicted, true], 1), _macro_f1
    ),
}
