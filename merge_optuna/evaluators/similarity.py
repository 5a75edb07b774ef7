"""Correlation of the similarity of two embeddings with the labels, e.g. on STS-B."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments, token_mask
from merge_optuna.evaluators._correlation import Correlation, targets_digest, targets_of
from merge_optuna.evaluators._data import Columns, read_examples
from merge_optuna.evaluators._inputs import Encoded, Texts
from merge_optuna.evaluators._protocol import BATCH_SIZE, Ids, Scores, check_counts


class Similarity(Correlation):
    """Correlation of the cosine of two texts' embeddings with the label of the pair.

    Each text goes through the encoder alone: the whole model if it has no head, else its
    ``base_model``. Nothing is trained, so it scores what has no head, as sentence encoders.

    Scores per example are (−(cosine − target)², cosine, target), with the labels mapped linearly
    to targets from 0 to 1: what sentence encoders are trained on (N. Reimers and I. Gurevych,
    Sentence-BERT, 2019) stands for the example in niches and races.

    Attributes:
        directions: ``("maximize",)``.
        metric_names: ``(metric,)``.
        inputs: What models are given, two rows per example; the labels stay inside.
    """

    def __init__(
        self,
        data: Any,
        *,
        metric: str = "spearman",
        text: str = "text",
        text_pair: str = "text2",
        label: str = "label",
        pooling: str = "mean",
        tokenizer: Any = None,
        max_length: int | None = None,
        batch_size: int = 32,
    ) -> None:
        """Reads the examples.

        Args:
            data: A ``datasets.Dataset``, or the path of a JSON lines file (``.gz`` or not) with
                one ``{"text": ..., "text2": ..., "label": ...}`` per line.
            metric: ``"pearson"`` or ``"spearman"``.
            text: Column of texts.
            text_pair: Column of second texts.
            label: Column of labels: any finite numbers, larger for pairs that are more alike.
            pooling: What the embedding of a text is: ``"mean"`` of its tokens, or ``"cls"``, the
                first of them.
            tokenizer: A tokenizer, or the folder or hub id of one; by default the one in the
                model's own checkpoint.
            max_length: Longest text in tokens; by default what tokenizer and model can take.
            batch_size: Largest batch, in pairs.

        Raises:
            EvaluationError: If the data cannot be read, is empty, or an argument is not valid.
        """
        if pooling not in _POOLING:
            raise EvaluationError(f"Unknown pooling {pooling!r}: {' or '.join(_POOLING)}.")
        check_counts(max_length=max_length)
        examples = read_examples(data, Columns(text, text_pair, label=label))
        if not isinstance(examples.inputs, Texts) or examples.inputs.pairs is None:
            raise EvaluationError(
                "Similarity compares texts: pass a datasets.Dataset or a JSON lines file."
            )
        targets = targets_of(examples)
        inputs = _BothTexts(examples.inputs.texts, examples.inputs.pairs, tokenizer, max_length)
        scaled = (targets - targets.min()) / np.ptp(targets)
        super().__init__(metric, inputs, scaled, batch_size)
        self._pooling = pooling

    @cached_property
    def digest(self) -> dict[str, str | int | None]:
        """Digests of the inputs and of the labels; pooling, the longest text, the tokenizer."""
        return {
            "inputs": self.inputs.digest(),
            "labels": targets_digest(self._targets),
            "pooling": self._pooling,
            **self.inputs.settings(),
            BATCH_SIZE: self._batches.size,
        }

    def _scored(self, model: nn.Module) -> nn.Module:
        model = super()._scored(model)
        return getattr(model, "base_model", model)

    def _predicted(self, model: nn.Module, arguments: Arguments) -> Scores:
        with torch.inference_mode():
            output = model(*arguments.args, **arguments.kwargs)
            states = getattr(output, "last_hidden_state", output)
            if not isinstance(states, Tensor) or states.ndim != 3:
                raise EvaluationError(
                    f"{type(model).__name__} returns no hidden states of shape (batch, tokens, "
                    "width). Merge encoders of transformers."
                )
            mask = token_mask(arguments, states.shape[:2])
            seen = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
            # in float32 at least: the sum of many tokens loses digits in bfloat16
            embedded = _POOLING[self._pooling](states.float(), seen.float()).double()
            cosine = nn.functional.cosine_similarity(embedded[::2], embedded[1::2])
            found: Scores = cosine.cpu().numpy()
            return found


class _BothTexts:
    """The texts of pairs, each for itself: rows 2i and 2i + 1 are example i."""

    def __init__(
        self, texts: Sequence[str], pairs: Sequence[str], tokenizer: Any, max_length: int | None
    ) -> None:
        both = [text for pair in zip(texts, pairs, strict=True) for text in pair]
        self._texts = Texts(both, None, tokenizer, max_length)

    def __len__(self) -> int:
        return len(self._texts) // 2

    def key(self, model: nn.Module) -> Hashable:
        return self._texts.key(model)

    def encode(self, model: nn.Module) -> Encoded:
        lengths, encoded = self._texts.encode(model)

        def batch(ids: Ids) -> Arguments:
            return encoded(np.stack([2 * ids, 2 * ids + 1], 1).ravel())

        return Encoded(lengths.reshape(-1, 2).max(1), batch)

    def digest(self) -> str:
        return self._texts.digest()

    def settings(self) -> dict[str, str | int | None]:
        return self._texts.settings()


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _first(states: Tensor, mask: Tensor) -> Tensor:
    """Of tokens that are no padding, which may stand on the left."""
    return states[torch.arange(len(states), device=states.device), mask.argmax(1)]


_POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": _mean, "cls": _first}
