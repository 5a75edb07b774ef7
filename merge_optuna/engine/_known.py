"""What does not change while only the numbers of a recipe do: computed once per study."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from merge_optuna.checkpoints import Checkpoint

_WHOLE = 128  # more than any recipe has experts: they are asked for in turn


class Known:
    """Gram matrices and histograms of magnitudes, by the sources that they belong to.

    A histogram of differences of bfloat16 tensors takes some 80 KB, however large they are.

    Args:
        keep: Keep what belongs to single tensors; what is about whole models always is kept.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._known: dict[Hashable, Any] = {}
        self._whole: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()

    def once(self, key: Hashable | None, compute: Callable[[], Any]) -> Any:
        """The value of ``key``, computed at the first request; always if it is not to be kept."""
        if key is None or not self._keep:
            return compute()
        if key not in self._known:
            self._known[key] = compute()  # twice at worst, if two threads ask at the same time
        return self._known[key]

    def last(self, key: Hashable, asked: Hashable, compute: Callable[[], Any]) -> Any:
        """The value of ``key`` for what is asked, of which only the last is kept."""
        known = self._known.get(key)
        if known is None or known[0] != asked:
            known = asked, compute()
            if self._keep:
                self._known[key] = known
        return known[1]

    def whole(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The same of whole models: every tensor asks for it, and one thread computes it."""
        with self._lock:
            if key not in self._whole:
                self._whole[key] = compute()
            self._whole.move_to_end(key)
            if len(self._whole) > _WHOLE:
                self._whole.popitem(last=False)
            return self._whole[key]


def key_of(what: str, name: str, *sources: Any) -> Hashable | None:
    """Key of what is known of a tensor; None if a source is a recipe, whose content changes."""
    return (what, name, sources) if all(isinstance(s, Checkpoint) for s in sources) else None
