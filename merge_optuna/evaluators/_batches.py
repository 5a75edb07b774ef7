"""The batches that examples are scored in: their order, and their inputs on the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators._arguments import Arguments, place_of, placed
from merge_optuna.evaluators._inputs import Inputs
from merge_optuna.evaluators._protocol import Ids

T = TypeVar("T")


class ReadyBatch(NamedTuple):
    """Ids of examples, and what the model is called with."""

    ids: Ids
    arguments: Arguments


class Batches:
    """All examples in batches, prepared once for models that take the same.

    The order of the batches is fixed by the first tokenizer; for one that splits texts otherwise,
    batches are less compact, but they are the same. Sorting by characters instead would cost every
    model 12 to 42 % more padding (measured on eleven sets of short texts).

    Args:
        inputs: Of the examples.
        size: The largest batch.
    """

    def __init__(self, inputs: Inputs, size: int) -> None:
        self._inputs, self.size = inputs, size
        self._order: list[Ids] | None = None
        self._ready: tuple[Hashable, Sequence[ReadyBatch]] = None, ()

    def of(self, model: nn.Module) -> Sequence[ReadyBatch]:
        """The batches on the device of a model, in its data type."""
        # The model itself is no part of the key: a search over layer paths makes a new one for
        # every trial.
        place = place_of(model)
        key = self._inputs.key(model), place
        if self._ready[0] != key:
            self._ready = None, ()  # frees the old batches before the new ones are made
            encoded = self._inputs.encode(model)
            if self._order is None:
                self._order = in_batches(encoded.lengths, self.size)
            found = [ReadyBatch(ids, placed(encoded.batch(ids), *place)) for ids in self._order]
            self._ready = key, found
        return self._ready[1]

    def probe(self, model: nn.Module) -> Arguments:
        """Two of the longest examples, to see whether a model can be run on them."""
        longest = max(self.of(model), key=lambda batch: batch.arguments.width)
        return longest.arguments.map(lambda tensor: tensor[:2])


class Pieces:
    """Runs the examples of a batch at once, or in as small pieces as fit into the memory.

    The batch remains what it is, for pruners as well; only how it is run changes, from the first
    time on that the device is out of memory.

    Args:
        most: The largest piece.
    """

    def __init__(self, most: int) -> None:
        self._most, self._told = most, False

    def run(self, n: int, fn: Callable[[slice], T]) -> list[T]:
        """What a function returns for each piece of examples 0 to n − 1, in their order.

        Raises:
            EvaluationError: If the memory does not do for one example.
        """
        results: list[T] = []
        start = 0
        while start < n:
            piece = slice(start, min(start + self._most, n))
            try:
                results.append(fn(piece))
                start = piece.stop
                continue
            except torch.OutOfMemoryError as error:
                self._most = (piece.stop - piece.start) // 2
                if self._most == 0:
                    raise EvaluationError(
                        f"The device has not enough memory for a single example: {error} "
                        "Pass a smaller max_length=, or use a smaller data type or another device."
                    ) from error
            # Not before the error is gone, which holds on to what was computed so far.
            self._make_room(piece.stop - piece.start)
        return results

    def _make_room(self, examples: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._told:
            warnings.warn(
                f"The device was out of memory with {examples} examples at once. Batches are run "
                "in halves, or smaller pieces still, from now on; their scores differ at most in "
                "rounding. Pass a smaller batch_size= to be rid of this.",
                stacklevel=2,
            )
            self._told = True


def mixed(n: int) -> Ids:
    """Examples 0 to n − 1 in an order that favours none; data sets are often sorted by class."""
    # Raw bits of a counter-based generator: its permutations may change between numpy versions.
    return np.argsort(np.random.Philox(key=0).random_raw(n), kind="stable")


def in_batches(lengths: Ids, batch_size: int) -> list[Ids]:
    """Splits examples into batches of similar length, in an order that favours no length.

    The order depends on nothing but the lengths and the batch size: neither on the model nor on
    the machine. Batches differ by at most one in size, so that each weighs alike in a race.

    Args:
        lengths: Length per example, shape (n,), n > 0.
        batch_size: Largest batch.

    Returns:
        Example ids, each once.
    """
    n = len(lengths)
    count = -(-n // batch_size)
    order = mixed(n)
    by_length = order[np.argsort(lengths[order], kind="stable")]
    batches = np.array_split(by_length, count)
    draws = np.random.Philox(key=0).random_raw(n + count)[n:]
    return [batches[i] for i in np.argsort(draws, kind="stable")]
