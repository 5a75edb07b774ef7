"""What does not change while only the numbers of a recipe do: computed once per study."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from merge_optuna.checkpoints import Checkpoint

T = TypeVar("T")

_WHOLE = 128  # more than any recipe has experts: they are asked for in turn


class Known:
    """What was computed of the sources, by what it is and the sources that it belongs to.

    Gram matrices, histograms of magnitudes (80 KB for bfloat16 tensors, however large), and
    whatever the needs of a method ask for. Every trial asks for all of it in the same order, so
    what does not fit is not kept: to drop the oldest instead would leave nothing that is asked
    for again.

    Args:
        device: Where it is computed.
        keep: Keep what belongs to single tensors; what is about whole models always is kept.
        budget: Bytes of tensors and arrays to keep; a quarter of the machine's memory when
            omitted, and on a GPU as long as half of its free memory is left.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        *,
        keep: bool = True,
        budget: int | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._keep = keep
        self._left = budget
        self._known: dict[Hashable, Any] = {}
        self._whole: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def once(self, key: Hashable | None, compute: Callable[[], T]) -> T:
        """The value of ``key``, computed at the first request; always if it is not to be kept."""
        if key is None or not self._keep:
            return compute()
        value: T
        if key in self._known:
            value = self._known[key]
            return value
        value = compute()  # twice at worst, if two threads ask at the same time
        if self._takes(_nbytes(value)):
            self._known[key] = value
        return value

    def last(self, key: Hashable, asked: Hashable, compute: Callable[[], Any]) -> Any:
        """The value of ``key`` for what is asked, of which only the last is kept."""
        known = self._known.get(key)
        if known is None or known[0] != asked:
            known = asked, compute()
            if self._keep:
                self._known[key] = known
        return known[1]

    def whole(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The same of whole models: every tensor asks for it, and one thread computes it."""
        with self._lock:
            if key not in self._whole:
                self._whole[key] = compute()
            self._whole.move_to_end(key)
            if len(self._whole) > _WHOLE:
                self._whole.popitem(last=False)
            value: T = self._whole[key]
        return value

    def _takes(self, size: int) -> bool:
        if self._left is None and self._device.type == "cuda":
            return 2 * size <= torch.cuda.mem_get_info(self._device)[0]
        if self._left is None:
            self._left = _memory() // 4
        if size > self._left:
            return False
        self._left -= size
        return True


def _memory() -> int:
    """Bytes of the machine's memory; where the system does not say, a small machine's."""
    if not hasattr(os, "sysconf"):
        return 16 << 30
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _nbytes(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum(map(_nbytes, value))
    return int(getattr(value, "nbytes", 0))


def key_of(what: Hashable, name: str, *sources: Any) -> Hashable | None:
    """Key of what is known of a tensor; None if a source is a recipe, whose content changes."""
    return (what, name, sources) if all(isinstance(s, Checkpoint) for s in sources) else None
