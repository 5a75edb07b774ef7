"""Whether a search would be faster in float32: many CPUs have no arithmetic in 16 bits."""

from __future__ import annotations

import contextlib
import copy
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from merge_optuna.evaluators import batches_of

if TYPE_CHECKING:
    from torch import nn

    from merge_optuna.evaluators import Evaluator

_NARROW = (torch.bfloat16, torch.float16)
_WORTH_SAYING = 1.2
_MEMORY = Path("/proc/meminfo")


def float32_speedup(evaluator: Evaluator, model: nn.Module) -> float | None:
    """How many times faster a copy of a model in float32 is scored, on the first batch.

    None if it is not (less than 1.2 times), and where it is not tried: on other devices than the
    CPU, for models of another data type than bfloat16 and float16, for what an engine of its own
    serves, or without memory for the copy.
    """
    if not hasattr(model, "parameters"):
        return None
    numbers = [tensor for tensor in model.parameters() if tensor.is_floating_point()]
    if not numbers or numbers[0].device.type != "cpu" or numbers[0].dtype not in _NARROW:
        return None
    copied = 4 * sum(tensor.numel() for tensor in numbers)
    if 2 * copied > _available():
        return None
    seconds = _seconds(evaluator, model)
    speedup = seconds / _seconds(evaluator, copy.deepcopy(model).float())
    return round(speedup, 2) if speedup >= _WORTH_SAYING else None


def _seconds(evaluator: Evaluator, model: nn.Module) -> float:
    """Of the first batch, at the second try: the first one also prepares the inputs."""
    for _ in range(2):
        started = time.perf_counter()
        with contextlib.closing(batches_of(evaluator, model)) as batches:
            next(batches)
        seconds = time.perf_counter() - started
    return seconds


def _available() -> int:
    """Bytes of memory that can be had; 0 if unknown."""
    if not _MEMORY.exists():
        return 0
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMORY.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
