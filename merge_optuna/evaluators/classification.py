"""Classification of texts, images or tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments, live, logits_in, running
from merge_optuna.evaluators._batches import Batches, Pieces
from merge_optuna.evaluators._data import Columns, read
from merge_optuna.evaluators._head import Head
from merge_optuna.evaluators._protocol import BATCH_SIZE, Batch, Ids, Scores, check_counts

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

_NEEDED = "of shape (batch, labels). Merge models with a classification head, or pass head=."


class Classification:
    """Accuracy, F1 or Matthews correlation of a classifier on labelled examples.

    The model runs in eval mode, without gradients, on its own device and in its own dtype; it
    returns logits of shape (b, number of labels), as a tensor or as ``.logits``. Inputs are
    prepared once and stay on the model's device.

    Scores per example are 1 (right) or 0 (wrong); for macro-F1 and the Matthews correlation a row
    of three: right or wrong, the predicted and the true class number; for F1 right or wrong, and
    whether predicted and true class are the positive one. With groups the number of its group, in
    sorted order, comes last in the row. Logits with a NaN score NaN (and predict -1).

    Attributes:
        directions: ``("maximize",)``.
        metric_names: ``(metric,)``, with groups e.g. ``("macro_f1 per domain",)``.
        inputs: What models are given; the labels stay inside.
        head: What is put in the place of the models' own head, or None.
    """

    directions = ("maximize",)
    deterministic = True

    def __init__(
        self,
        data: Any,
        *,
        metric: str = "accuracy",
        positive: int | str | None = None,
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
            metric: ``"accuracy"``; ``"macro_f1"``, the mean of F1 over the classes; ``"f1"`` of
                one class, as MRPC is scored; or ``"mcc"``, the Matthews correlation of any number
                of classes, as CoLA is scored.
            positive: The class whose F1 ``"f1"`` is: a number or a name, as labels are. When
                omitted, class 1 of two; of more classes it has to be said.
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
        if positive is not None and metric != "f1":
            raise EvaluationError(
                f"positive={positive!r} is the class that metric='f1' looks at; {metric!r} looks "
                "at all of them. Leave it out."
            )
        check_counts(batch_size=batch_size, max_length=max_length)
        self.metric_names = (metric if group is None else f"{metric} per {group}",)
        self._metric = _METRICS[metric]
        self._positive = 1 if positive is None else positive
        self._is_binary = metric == "f1" and positive is None
        columns = Columns(text, text_pair, image, label, group)
        self.inputs, self._labels, self._groups = read(data, columns, tokenizer, max_length)
        self._batches, self._pieces = Batches(self.inputs, batch_size), Pieces(batch_size)
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
        classes, positive = self._labels.ids(scored), self._positive_in(scored)
        for ids, arguments in self._batches.of(model):
            logits = self._logits(scored, arguments)
            self._labels.check_range(classes, logits.shape[1])
            yield ids, self._scores(ids, _likeliest(logits), classes, positive)

    def ensemble(self, models: Iterable[nn.Module]) -> Iterator[Batch]:
        """Scores the mean of the probabilities that several models give to each class.

        Args:
            models: One after another: each is done with before the next is asked for, so that
                they may be one live model that is filled anew.

        Yields:
            As a call does.

        Raises:
            EvaluationError: If a model cannot be scored, or their classes are not the same.
        """
        known: tuple[Ids, int] | None = None
        summed: dict[int, tuple[Ids, Tensor]] = {}
        for model in models:
            scored = self._scored(model)
            classes, positive = self._labels.ids(scored), self._positive_in(scored)
            if known is not None and not np.array_equal(known[0], classes):
                raise EvaluationError(
                    "The models of an ensemble number their classes differently, so that their "
                    "probabilities cannot be averaged. Give them one label2id."
                )
            known = classes, positive
            for i, (ids, arguments) in enumerate(self._batches.of(model)):
                found = self._logits(scored, arguments).float().softmax(-1)
                self._labels.check_range(classes, found.shape[1])
                summed[i] = ids, found + (summed[i][1] if i in summed else 0)
        for ids, total in summed.values():
            assert known is not None  # there is a batch, so there was a model
            yield ids, self._scores(ids, _likeliest(total), *known)

    def value(self, scores: Scores) -> float:
        """The metric over the scores of any of the examples, as scikit-learn has it.

        Macro-F1 is averaged over the labels with a true example among those given: over all
        labels of the data when all its examples are there. On a part of them, a rare label that
        has not come up yet neither counts as 0 nor lives by a chance prediction. So it is with
        groups. F1 is 0 where the positive class is neither predicted nor true, the Matthews
        correlation where one class is predicted everywhere, or true. NaN if a score is NaN.
        """
        scores = np.asarray(scores)
        if np.isnan(scores).any():
            return float("nan")
        if self._groups is None:
            return self._metric.value(scores)
        return self._groups.mean(self._metric.value, scores)

    def check(self, model: nn.Module) -> None:
        """Runs two examples, the longest, and compares all labels with the shape of the logits.

        F1 also needs an example of the positive class, without which it is 0 whatever the model.

        Raises:
            EvaluationError: If this model cannot be scored on these examples.
        """
        scored = self._scored(model)
        probe = self._batches.probe(model)
        with running(scored, probe):  # first: the labels of a model without a head mean nothing
            width = _logits(scored, probe).shape[1]
        classes = self._labels.ids(scored)
        self._labels.check_range(classes, width)
        if self._is_binary and width > 2:
            raise EvaluationError(
                f"metric='f1' is the F1 of one class, and the model has {width}: say which with "
                "positive=, or pass metric='macro_f1'."
            )
        if self._metric is _METRICS["f1"] and self._positive_in(scored) not in classes:
            raise EvaluationError(
                f"No example is of the class {self._positive!r}, whose F1 is asked for: it is 0 "
                "for every model. Pass positive= with a class that is among the labels."
            )

    @property
    def parts(self) -> Sequence[str] | None:
        """The group of each example; None without groups."""
        return None if self._groups is None else self._groups.names

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of the inputs, of the labels and, if there are any, of groups and head.

        With the longest text and the tokenizer, where they are not the model's own.
        """
        parts: dict[str, str | int | None] = {
            "inputs": self.inputs.digest(),
            "labels": self._labels.digest(),
            **self.inputs.settings(),
            BATCH_SIZE: self._batches.size,
        }
        if self._groups is not None:
            parts["groups"] = self._groups.digest()
        if self._metric is _METRICS["f1"]:
            parts["positive"] = self._positive
        return parts if self.head is None else {**parts, **self.head.digest()}

    def _positive_in(self, model: nn.Module) -> int:
        return self._labels.number(self._positive, model)

    def _logits(self, model: nn.Module, arguments: Arguments) -> Tensor:
        """Shape (b, number of labels), on the device and in the data type of the model."""
        found = self._pieces.run(
            arguments.examples, lambda piece: _logits(model, arguments.part(piece))
        )
        return found[0] if len(found) == 1 else torch.cat(found)

    def _scores(self, ids: Ids, predicted: Ids, classes: Ids, positive: int) -> Scores:
        true = classes[ids]
        right = np.where(predicted < 0, np.nan, predicted == true)
        scores = self._metric.scores(right, predicted, true, positive)
        return scores if self._groups is None else self._groups.beside(scores, ids)

    def _scored(self, model: nn.Module) -> nn.Module:
        model = live(model)
        return model if self.head is None else self.head.on(model)


def _logits(model: nn.Module, arguments: Arguments) -> Tensor:
    # Not around the loop of the caller, which would leave it on while the generator waits.
    with torch.inference_mode():
        output = model(*arguments.args, **arguments.kwargs)
        return logits_in(output, model, _NEEDED, ndim=(2,))


def _likeliest(logits: Tensor) -> Ids:
    """Predicted classes, shape (b,); -1 where a number is none."""
    best, predicted = logits.max(-1)
    classes: Ids = predicted.masked_fill(best.isnan(), -1).cpu().numpy()
    return classes


@dataclass(frozen=True)
class _Metric:
    """What is kept of an example, and what it adds up to.

    Attributes:
        scores: Of right or wrong, predicted class, true class and the positive class.
        value: Of the scores of some examples, none of them NaN.
    """

    scores: Callable[[Scores, Ids, Ids, int], Scores]
    value: Callable[[Scores], float]


def _all_classes(right: Scores, predicted: Ids, true: Ids, positive: int) -> Scores:
    return np.stack([right, predicted, true], 1)


def _one_class(right: Scores, predicted: Ids, true: Ids, positive: int) -> Scores:
    return np.stack([right, predicted == positive, true == positive], 1)


def _counts(scores: Scores) -> tuple[Ids, Ids, Ids]:
    """How often each class is predicted rightly, predicted, and true."""
    # as sklearn.metrics, forty times faster: values are reported after every batch
    _, predicted, true = scores.astype(np.int64).T
    width = max(2, int(max(predicted.max(), true.max())) + 1)
    right = np.bincount(true[predicted == true], minlength=width)
    return right, np.bincount(predicted, minlength=width), np.bincount(true, minlength=width)


def _f1(scores: Scores) -> Scores:
    right, predicted, true = _counts(scores)
    f1: Scores = 2 * right / np.maximum(predicted + true, 1)
    return f1


def _macro_f1(scores: Scores) -> float:
    _, _, true = _counts(scores)
    return float(_f1(scores)[true > 0].mean())


def _mcc(scores: Scores) -> float:
    """R_K of J. Gorodkin (2004); of two classes it is the Matthews correlation."""
    right, predicted, true = (count / len(scores) for count in _counts(scores))
    spread = (1 - predicted @ predicted) * (1 - true @ true)
    return float((right.sum() - predicted @ true) / np.sqrt(spread)) if spread > 0 else 0.0


_METRICS = {
    "accuracy": _Metric(lambda right, *_: right, lambda scores: float(scores.mean())),
    "macro_f1": _Metric(_all_classes, _macro_f1),
    "f1": _Metric(_one_class, lambda scores: float(_f1(scores)[1])),
    "mcc": _Metric(_all_classes, _mcc),
}
