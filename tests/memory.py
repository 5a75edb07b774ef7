"""The anonymous memory of a process while it does something."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import torch

import merge_optuna as mo

_M_MMAP_THRESHOLD = -3


def anonymous_memory() -> int:
    """Bytes of this process that are not mapped from a file."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class SampledMemory:
    """By how many bytes the anonymous memory of this process grows, sampled each millisecond."""

    def __enter__(self) -> SampledMemory:
        self._before, self.grown, self._done = anonymous_memory(), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.001):
            self.grown = max(self.grown, anonymous_memory() - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def print_growth_while_streaming(adapter: str, base: str) -> None:
    """Reads every tensor of an adapter on its base once, in a process of its own."""
    # glibc would keep some of the freed blocks: let it map and unmap those from 1 MiB on
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    checkpoint = mo.Checkpoint(adapter, base=mo.Checkpoint(base))
    torch.ones(8, 8).addmm_(torch.ones(8, 8), torch.ones(8, 8))  # BLAS takes its buffers
    with SampledMemory() as memory:
        for name in checkpoint.names():
            assert float(checkpoint.tensor(name)[3, 5]) == 8
    print(memory.grown)
