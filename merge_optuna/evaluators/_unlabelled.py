"""The inputs of examples without their labels, for what learns from a model's own predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments
from merge_optuna.evaluators._batches import mixed
from merge_optuna.evaluators._data import Columns, read
from merge_optuna.evaluators._head import architecture
from merge_optuna.evaluators._inputs import Inputs, Tensors
from merge_optuna.evaluators._protocol import check_counts
from merge_optuna.evaluators.classification import Classification

if TYPE_CHECKING:
    from merge_optuna.checkpoints import Checkpoint


def batches(checkpoint: Checkpoint, data: Any, *, n: int | None, size: int) -> list[Arguments]:
    """The inputs of some examples as the model of a checkpoint takes them, on the CPU.

    Args:
        checkpoint: Its tokenizer or image processor prepares the inputs.
        data: What :class:`Classification` takes, labels not needed; a ``Classification``, for
            other columns or another tokenizer; a tensor of inputs; or an iterable of batches, each
            a mapping from argument to tensor with the examples in the first dimension.
        n: Examples to take: the first ones of an iterable, else the first ones in an order that
            favours no class. None: all.
        size: Examples per batch.

    Raises:
        EvaluationError: If the data cannot be read, holds no example, or an argument is not valid.
    """
    check_counts(n=n, batch_size=size)
    inputs = _inputs(data)
    if inputs is None:
        found = list(_split(_first(_given(data), n), size))
    else:
        order = mixed(len(inputs))[:n]
        encoded = inputs.encode(outline(checkpoint))
        found = [encoded.batch(order[i : i + size]) for i in range(0, len(order), size)]
    if not found:
        raise EvaluationError("The data is empty: there is no example to learn from.")
    return found


def outline(checkpoint: Checkpoint) -> nn.Module:
    """The model of a checkpoint without its weights: enough to prepare inputs for it."""
    if checkpoint.module is not None:
        return checkpoint.module
    cls, config = architecture(checkpoint)
    with torch.device("meta"):
        model: nn.Module = cls(cls.config_class.from_dict(config))
    model.config._name_or_path = str(checkpoint.folder)  # type: ignore[union-attr]
    return model


def _inputs(data: Any) -> Inputs | None:
    """The inputs of a data set; None for batches that are given as they are."""
    if isinstance(data, Classification):
        return data.inputs
    if isinstance(data, Tensor):
        return Tensors(data.detach())
    if _holds_batches(data):
        return None
    return read(data, Columns())[0]


def _holds_batches(data: Any) -> bool:
    """Whether to go through it; not a path, a data set with columns, a pair (inputs, labels)."""
    if isinstance(data, (str, Mapping)) or hasattr(data, "column_names"):
        return False
    if isinstance(data, (list, tuple)):
        return all(isinstance(batch, Mapping) for batch in data)
    return isinstance(data, Iterable)


def _given(data: Iterable[Any]) -> Iterator[Arguments]:
    for number, batch in enumerate(data):
        tensors = dict(batch) if isinstance(batch, Mapping) else {}
        if not tensors or not all(isinstance(t, Tensor) and t.ndim for t in tensors.values()):
            raise EvaluationError(
                f"Batch {number} of the data is {type(batch).__name__}, not a mapping from "
                "argument to tensor, e.g. {'input_ids': ..., 'attention_mask': ...}."
            )
        yield Arguments((), {str(name): t.detach().cpu() for name, t in tensors.items()})


def _first(given: Iterator[Arguments], n: int | None) -> Iterator[Arguments]:
    """Cuts the stream of batches off after ``n`` examples, and asks for no more than that."""
    left = n
    while left is None or left > 0:
        batch = next(given, None)
        if batch is None:
            return
        batch = batch.map(lambda t, end=left: t[:end])  # type: ignore[misc]
        yield batch
        left = None if left is None else left - batch.examples


def _split(given: Iterable[Arguments], size: int) -> Iterator[Arguments]:
    """Splits batches that are larger than ``size``."""
    for batch in given:
        for start in range(0, batch.examples, size):
            yield batch.map(lambda t, a=start: t[a : a + size])  # type: ignore[misc]
