"""Correlation of what a regression head predicts with the labels, e.g. on STS-B."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments, logits_in
from merge_optuna.evaluators._correlation import Correlation, targets_digest, targets_of
from merge_optuna.evaluators._data import Columns, read_examples
from merge_optuna.evaluators._head import Head
from merge_optuna.evaluators._protocol import BATCH_SIZE, Scores, check_counts

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint

_NEEDED = "of shape (batch, numbers). Merge models with a regression head, or pass head=."


class Regression(Correlation):
    """Pearson's or Spearman's correlation of a predicted number with the label.

    The model returns logits of shape (b, 1), as a tensor or as ``.logits``, or (b, k) of which
    ``logit`` is the one that counts. Scores per example are (−(prediction − label)², prediction,
    label): the first, what such heads are trained on, stands for the example in niches and races.

    Attributes:
        directions: ``("maximize",)``.
        metric_names: ``(metric,)``.
        inputs: What models are given; the labels stay inside.
        head: What is put in the place of the models' own head, or None.
    """

    def __init__(
        self,
        data: Any,
        *,
        metric: str = "pearson",
        text: str = "text",
        text_pair: str | None = None,
        label: str = "label",
        logit: int | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        batch_size: int = 32,
        head: Checkpoint | None = None,
    ) -> None:
        """Reads the examples.

        Args:
            data: A ``datasets.Dataset``; the path of a JSON lines file (``.gz`` or not) with one
                ``{"text": ..., "label": ...}`` per line; or a pair of tensors or arrays
                ``(inputs, labels)``, with inputs as the model takes them first.
            metric: ``"pearson"`` or ``"spearman"``.
            text: Column of texts.
            text_pair: Column of second texts; ``"text2"`` where the data has it.
            label: Column of labels: any finite numbers.
            logit: Which of several logits is the prediction, from 0; needed if there are several.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint.
            max_length: Longest text in tokens; by default what tokenizer and model can take.
            batch_size: Largest batch.
            head: Score with the task head of this checkpoint in place of the model's own.

        Raises:
            EvaluationError: If the data cannot be read, is empty, or an argument is not valid.
        """
        check_counts(max_length=max_length)
        if logit is not None and logit < 0:
            raise EvaluationError(f"logit counts from 0 and cannot be {logit}.")
        columns = Columns(text, text_pair, label=label)
        examples = read_examples(data, columns, tokenizer, max_length)
        super().__init__(metric, examples.inputs, targets_of(examples), batch_size)
        self._logit = logit
        self.head = None if head is None else Head(head)

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of the inputs, of the labels and, if there is one, of the head; the settings."""
        return {
            "inputs": self.inputs.digest(),
            "labels": targets_digest(self._targets),
            "logit": self._logit,
            **self.inputs.settings(),
            BATCH_SIZE: self._batches.size,
            **({} if self.head is None else self.head.digest()),
        }

    def _scored(self, model: nn.Module) -> nn.Module:
        model = super()._scored(model)
        return model if self.head is None else self.head.on(model)

    def _predicted(self, model: nn.Module, arguments: Arguments) -> Scores:
        with torch.inference_mode():
            output = model(*arguments.args, **arguments.kwargs)
            chosen = self._chosen(logits_in(output, model, _NEEDED, ndim=(2,)))
            predicted: Scores = chosen.double().cpu().numpy()
            return predicted

    def _chosen(self, logits: Tensor) -> Tensor:
        width = logits.shape[1]
        if self._logit is None and width != 1:
            raise EvaluationError(
                f"The model has {width} logits, and a prediction is one: say which with "
                "logit=, or pass head= with a checkpoint that was trained on these labels."
            )
        if (self._logit or 0) >= width:
            raise EvaluationError(
                f"logit={self._logit}, but the model has {width}, numbered from 0."
            )
        return logits[:, self._logit or 0]
