"""The tensors of checkpoints on the device that merges them."""

from __future__ import annotations

import torch
from torch import Tensor

from merge_optuna.checkpoints import Checkpoint

_SHARE = 0.8  # of the free memory: activations and the temporaries of a merge need the rest


class Sources:
    """Gives tensors of checkpoints on a device; keeps them there while they fit.

    On the CPU they are the mapped files themselves. On a GPU a search reads every source once and
    then merges from the GPU's memory; what does not fit is copied again for each merge, through
    pinned memory.

    Args:
        device: Where tensors are wanted.
        budget: Bytes that may stay there; four fifths of what is free at the first tensor when
            omitted.
    """

    def __init__(self, device: torch.device, budget: int | None = None) -> None:
        self.device = device
        self._left = budget
        self._kept: dict[tuple[Checkpoint, str], Tensor] = {}

    def tensor(self, checkpoint: Checkpoint, name: str) -> Tensor:
        """A tensor on the device; not to be written to."""
        if self.device.type == "cpu" and self._left is None:
            return checkpoint.tensor(name)
        kept = self._kept.get((checkpoint, name))
        if kept is not None:
            return kept
        source = checkpoint.tensor(name)
        if self._left is None:
            self._left = int(torch.cuda.mem_get_info(self.device)[0] * _SHARE)
        if source.nbytes > self._left:
            return self._copied(source)
        self._left -= source.nbytes
        self._kept[checkpoint, name] = self._copied(source)
        return self._kept[checkpoint, name]

    def _copied(self, source: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return source.to(self.device, copy=True)
        return source.pin_memory().to(self.device, non_blocking=True)
