"""Diagonal Fisher information (Matena & Raffel 2022, arXiv 2111.09832, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from merge_optuna._bar import ProgressBar
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.engine import Engine, build
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import (
    Arguments,
    batches,
    logits_of,
    placed,
    token_mask,
)
from merge_optuna.statistics._folder import kept

_LABELS = ("hard", "soft")


def fisher(
    checkpoint: Checkpoint,
    data: Any,
    *,
    labels: str = "hard",
    n: int | None = 256,
    device: torch.device | str = "cpu",
    folder: str | Path | None = None,
) -> Checkpoint:
    """Diagonal Fisher information of every parameter of a model.

    The mean over the examples of the squared gradient of log p(y|x). The labels y are the model's
    own predictions, those of the data are not read. In a language model y is the next token at
    every place of the text, and log p(y|x) their sum.

    Examples are taken one by one in float32, because the squares of their gradients cannot be told
    from the gradient of a batch. It takes three times the memory of the model in float32.

    Args:
        checkpoint: A model that returns logits: a classifier or a language model.
        data: What ``mo.evaluators.Classification`` takes, labels not needed; a
            ``Classification``, for other columns or another tokenizer; a tensor of inputs; or an
            iterable of batches (mappings from argument to tensor), for any other model.
        labels: The model's most probable label (``"hard"``), or the expectation over all labels by
            their probability (``"soft"``: a backward pass per label, so not for language models).
        n: Number of examples: the first ones of an iterable, else some of all classes. None: all.
        device: Where to compute.
        folder: Where to keep the result; below ``~/.cache/merge_optuna`` when omitted
            (``MERGE_OPTUNA_CACHE`` in the environment names another place). A recipe refers to it,
            so it must stay there as long as the recipe is used.

    Returns:
        One tensor per parameter, of its shape, not negative, in float32.

    Raises:
        EvaluationError: If the data cannot be read or do not fit the model, or a gradient is NaN.
        ExportError: If the folder holds something else.
    """
    if labels not in _LABELS:
        raise EvaluationError(f"labels must be 'hard' or 'soft', not {labels!r}.")
    examples = batches(checkpoint, data, n=n, size=1)

    def compute() -> dict[str, Tensor]:
        model = Engine(device, "float32").load(checkpoint)
        sums, views = build(checkpoint, torch.float32, torch.device(device))
        bar = ProgressBar(
            examples, f"Fisher of {checkpoint.name}", delay=2, leave=False, unit="example"
        )
        squares = _sum_squares(model, sums, bar, labels)
        memory = {square.untyped_storage().data_ptr() for square in squares}  # not of buffers
        return {k: t for k, t in views.items() if t.untyped_storage().data_ptr() in memory}

    return kept("fisher", checkpoint, examples, folder, compute, labels=labels)


def _sum_squares(
    model: nn.Module, sums: nn.Module, examples: Sequence[Arguments], labels: str
) -> list[Tensor]:
    """Fills the parameters of a model of the same kind with the Fisher information."""
    parameters = [p.requires_grad_() for p in model.parameters() if p.is_floating_point()]
    squares: list[Tensor] = [p.zero_() for p in sums.parameters() if p.is_floating_point()]
    device = squares[0].device
    for example in examples:
        for log_p, p in _scores(model, placed(example, device, torch.float32), labels):
            gradients = torch.autograd.grad(
                log_p, parameters, retain_graph=True, allow_unused=True
            )
            for square, gradient in zip(squares, gradients, strict=True):
                if gradient is not None:
                    square.addcmul_(gradient, gradient, value=p / len(examples))
    _check_finite(sums)
    return squares


def _scores(model: nn.Module, example: Arguments, labels: str) -> Iterator[tuple[Tensor, float]]:
    """The log-probabilities whose gradients count for one example, and by how much."""
    log_p = logits_of(model, example).log_softmax(-1)[0]
    if log_p.ndim == 2:  # of each token
        if labels == "soft":
            raise EvaluationError(
                f"labels='soft' needs a backward pass for each of the {log_p.shape[1]} possible "
                f"tokens at each of {log_p.shape[0]} places. Use labels='hard'."
            )
        mask = token_mask(example, (1, len(log_p)))
        best = log_p.max(-1).values
        yield (best if mask is None else best[mask[0]]).sum(), 1.0
    elif labels == "hard":
        yield log_p.max(-1).values, 1.0
    else:
        yield from zip(log_p, log_p.detach().exp().tolist(), strict=True)


def _check_finite(sums: nn.Module) -> None:
    for name, square in sums.named_parameters():
        if not torch.isfinite(square).all():
            raise EvaluationError(
                f"The gradient of {name} is not finite for some example. Look for NaN in the "
                "model and in the data."
            )
