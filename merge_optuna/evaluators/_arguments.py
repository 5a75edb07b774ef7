"""What a model is called with, and what it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from merge_optuna.checkpoints import bytes_of, hex_digest
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._serving import Model, Serving


class Arguments(NamedTuple):
    """What a model is called with."""

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    def map(self, fn: Callable[[Tensor], Tensor]) -> Arguments:
        """Applies ``fn`` to every tensor."""
        return Arguments(tuple(map(fn, self.args)), {k: fn(t) for k, t in self.kwargs.items()})

    def part(self, piece: slice) -> Arguments:
        """Those of some examples; itself, where they are all."""
        if piece.indices(self.examples) == (0, self.examples, 1):
            return self
        return self.map(lambda tensor: tensor[piece])

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len((*self.args, *self.kwargs.values())[0])

    @property
    def width(self) -> int:
        """Elements per example."""
        return sum(t[0].numel() for t in (*self.args, *self.kwargs.values()))

    def describe(self) -> str:
        """Names, shapes and dtypes."""
        named = {**{f"input {i}": t for i, t in enumerate(self.args)}, **self.kwargs}
        return ", ".join(f"{k} {tuple(t.shape)} {t.dtype}" for k, t in named.items())


def placed(arguments: Arguments, device: torch.device, dtype: torch.dtype) -> Arguments:
    """The arguments on a device, those that are no indices in a data type."""
    return arguments.map(lambda t: t.to(device, dtype if t.is_floating_point() else None))


def live(model: Any) -> nn.Module:
    """A model, in eval mode.

    Raises:
        EvaluationError: If it is none, e.g. a checkpoint that is not loaded yet, or if an engine
            serves it.
    """
    if isinstance(model, Serving):
        raise EvaluationError(
            f"{type(model).__name__} gives replies, not logits, which this evaluator needs. Use "
            "an evaluator of replies, mo.evaluators.Generation, or a live model: leave out "
            "engine=, or pass engine=mo.Engine(...)."
        )
    if not isinstance(model, nn.Module):
        raise EvaluationError(
            f"An evaluator takes a live model, not a {type(model).__name__}: load a checkpoint or "
            "a recipe first, mo.Engine().load(checkpoint)."
        )
    return model.eval() if model.training else model


def live_or_served(model: Any) -> Model:
    """A live model, in eval mode, or one that an engine serves.

    Raises:
        EvaluationError: If it is neither.
    """
    return model if isinstance(model, Serving) else live(model)


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and data type of a model."""
    tensors = (t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point())
    first = next(tensors, torch.empty(0))
    return first.device, first.dtype


@contextlib.contextmanager
def running(model: nn.Module, arguments: Arguments) -> Iterator[None]:
    """A block that runs a model, which may not be made for these arguments.

    Raises:
        EvaluationError: If it is not.
    """
    try:
        yield
    except (EvaluationError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise EvaluationError(
            f"{type(model).__name__} cannot be run on {arguments.describe()}: {error}"
        ) from error


def run(model: nn.Module, arguments: Arguments) -> Any:
    """What the model returns.

    Raises:
        EvaluationError: If it does not take these arguments.
    """
    with running(model, arguments):
        return model(*arguments.args, **arguments.kwargs)


def logits_in(output: Any, model: nn.Module, needed: str, *, ndim: Sequence[int]) -> Tensor:
    """The logits in what a model has returned, a tensor or something with ``.logits``.

    Args:
        output: What it has returned.
        model: The model.
        needed: What is needed, and where to get it: for the message.
        ndim: How many dimensions they may have.

    Raises:
        EvaluationError: If it is anything else.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim not in ndim:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise EvaluationError(f"{type(model).__name__} returns {found}, not logits {needed}")
    return logits


def logits_of(model: nn.Module, arguments: Arguments) -> Tensor:
    """The model's logits: (b, labels), or (b, tokens, vocabulary) of a language model.

    Raises:
        EvaluationError: If it returns anything else.
    """
    needed = (
        "of shape (batch, labels) or (batch, tokens, vocabulary). Use models with a "
        "classification or language head."
    )
    return logits_in(run(model, arguments), model, needed, ndim=(2, 3))


def token_mask(arguments: Arguments, shape: Sequence[int]) -> Tensor | None:
    """Which of (b, tokens) are no padding, where the arguments tell it for this shape."""
    for name in ("decoder_attention_mask", "attention_mask"):
        mask = arguments.kwargs.get(name)
        if mask is not None and tuple(mask.shape) == tuple(shape):
            return mask.bool()
    return None


def digest_of(inputs: Iterable[Arguments]) -> str:
    """32 hexadecimal digits over names, types, shapes and every byte of the inputs."""
    return hex_digest(
        part
        for arguments in inputs
        for name, tensor in (*enumerate(arguments.args), *arguments.kwargs.items())
        for part in (f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode(), bytes_of(tensor))
    )
