"""Replies that are drawn at random, by noise that is a function of seed, example and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from merge_optuna.errors import EvaluationError, shown
from merge_optuna.methods import mask_key, random_bits

Processor: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Tokens so far, shape (b, n), and scores of the next, (b, vocabulary), to other scores."""


@dataclass(frozen=True)
class Sampling:
    """Replies drawn at random: by the same draws in every trial, whatever the batch.

    The token at a step is the likeliest one after noise is added to the logits (Gumbel-max), and
    the noise is a function of seed, example and step. So models that say nearly the same draw
    nearly the same replies, and are compared with little noise. As in transformers, logits are
    divided by the temperature first, then all but the ``top_k`` likeliest tokens are left out,
    then all but the likeliest ones that together have the probability ``top_p``.

    Attributes:
        temperature: Above 0; 1 leaves the probabilities as they are.
        top_p: Above 0 and at most 1.
        top_k: At least 1; None for all tokens.
        seed: A whole number; there is none by default, and without one it is an error.

    Raises:
        EvaluationError: If one is out of its range, or there is no seed.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int):
            raise EvaluationError(
                f"Sampling needs a seed, a whole number, not {shown(self.seed)}: with other draws "
                "in every trial a search would look for luck. Pass seed=0."
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise EvaluationError(
                f"temperature must be above 0, not {self.temperature}. For the likeliest tokens, "
                "pass sampling=None."
            )
        if not 0 < self.top_p <= 1:
            raise EvaluationError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        if self.top_k is not None and self.top_k < 1:
            raise EvaluationError(f"top_k must be at least 1, not {self.top_k}.")

    def processors(self, examples: Sequence[int]) -> list[Processor]:
        """What makes the token to draw the likeliest, for a batch of these examples."""
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        found: list[Processor] = [TemperatureLogitsWarper(float(self.temperature))]
        if self.top_k is not None:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            found.append(TopPLogitsWarper(float(self.top_p)))
        return [*found, _Noise([mask_key(self.seed or 0, "reply", str(e)) for e in examples])]


def refuse_drawing(sampling: Sampling | None, what: str) -> None:
    """Checks that replies are not to be drawn by a generator that has no keyed random numbers.

    Args:
        sampling: How to draw, if at all.
        what: What generates, for the message.

    Raises:
        EvaluationError: If they are.
    """
    if sampling is not None:
        raise EvaluationError(
            f"{what} draws replies by random numbers of its own, not by seed, example and step: "
            "a search that is continued would not be the one that was stopped. Pass "
            'sampling=None, or let mo.Engine run the model with generator="batch".'
        )


class _Noise:
    """Standard Gumbel noise by key (one per row), step and token."""

    def __init__(self, keys: Sequence[int]) -> None:
        self._keys, self._step = keys, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Apple's devices have no float64, without which large numbers would be rounded to 1.
        device = "cpu" if scores.device.type == "mps" else scores.device
        vocabulary = scores.shape[1]
        start = 2 * vocabulary * self._step  # an even index, beyond those of the step before
        bits = [random_bits(key, vocabulary, device, start=start) for key in self._keys]
        self._step += 1
        uniform = torch.stack(bits).double().add_(0.5).div_(1 << 32)
        return scores - uniform.log_().neg_().log_().to(scores)
