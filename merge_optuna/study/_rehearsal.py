"""One trial outside of any study, to know beforehand what a search will cost."""

from __future__ import annotations

import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch

from merge_optuna.errors import InfeasibleRecipe
from merge_optuna.evaluators import value_of
from merge_optuna.recipes import Recipe
from merge_optuna.spaces import Space, own_sampler
from merge_optuna.study._float32 import float32_speedup
from merge_optuna.study._loading import load_for, measured
from merge_optuna.study._progress import quiet

if TYPE_CHECKING:
    from torch import nn

    from merge_optuna.study._objective import MergeObjective

_DRAWS = 10
_SAMPLE_SECONDS = 0.005
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Rehearsal:
    """What one trial has taken in this process.

    Attributes:
        seconds_first_merge: The first merge, which also computes what later ones reuse.
        seconds_merge: A merge after it.
        seconds_evaluate: The evaluation on all examples, without pruning, and in the constraints.
        peak_rss_bytes: Largest memory of the process since its start, mapped files included;
            None where the system does not tell.
        peak_anonymous_bytes: Largest memory during the trial without mapped files, which the
            system can take back at any time; Linux only.
        peak_gpu_bytes: Largest memory of tensors on the GPU; None on the CPU.
        float32_speedup: How many times faster a batch is scored in float32, where that is worth
            saying: many CPUs have no arithmetic in 16 bits. None elsewhere.
    """

    seconds_first_merge: float
    seconds_merge: float
    seconds_evaluate: float
    peak_rss_bytes: int | None
    peak_anonymous_bytes: int | None
    peak_gpu_bytes: int | None
    float32_speedup: float | None

    def hours(self, n_trials: int) -> float:
        """Hours that one process needs for ``n_trials`` trials, if no pruner shortens them."""
        first = self.seconds_first_merge - self.seconds_merge
        return (max(0.0, first) + n_trials * (self.seconds_merge + self.seconds_evaluate)) / 3600


def rehearse(objective: MergeObjective) -> Rehearsal:
    """Merges twice, evaluates once (and a batch in float32), and stores nothing.

    The first recipe is drawn at random and takes the warm-up; the second, at which the model is
    evaluated, is the start of the search, or another random one if the space is a function. Those
    of a space of ``mo.spaces`` are the first two of a search.

    Raises:
        InfeasibleRecipe: If none of ten recipes has a well-defined result.
        MergeOptunaError: Whatever else keeps the first trial of a search from running.
    """
    space = objective.space
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=0)
    if isinstance(space, Space):
        sampler = own_sampler(space, len(objective.directions))
    with quiet():
        study = optuna.create_study(directions=objective.directions, sampler=sampler)
    with _AnonymousMemory() as memory:
        first, _, _ = _merge(objective, study)
        if isinstance(objective.space, Recipe):
            study.enqueue_trial(objective.space.start())
        again, model, recipe = _merge(objective, study)
        evaluate = _evaluate(objective, model, recipe)
    peak_rss = _peak_rss()  # before the model is copied
    return Rehearsal(
        seconds_first_merge=first,
        seconds_merge=again,
        seconds_evaluate=evaluate,
        peak_rss_bytes=peak_rss,
        peak_anonymous_bytes=memory.peak,
        peak_gpu_bytes=_peak_gpu(objective.engine.device),
        float32_speedup=float32_speedup(objective.evaluator, model),
    )


def _merge(objective: MergeObjective, study: optuna.Study) -> tuple[float, nn.Module, Recipe]:
    """Seconds to merge the next recipe of the space that can be merged, the live model, and it."""
    for _ in range(_DRAWS):
        recipe = objective.recipe(study.ask())
        started = time.perf_counter()
        try:
            model = load_for(objective.evaluator, objective.engine, recipe)
        except InfeasibleRecipe as error:
            reason = error
            continue
        _wait_for(objective.engine.device)
        return time.perf_counter() - started, model, recipe
    raise InfeasibleRecipe(
        f"None of {_DRAWS} recipes drawn from the space can be merged, the last one because: "
        f"{reason} Choose other ranges for what is free."
    ) from reason


def _evaluate(objective: MergeObjective, model: nn.Module, recipe: Recipe) -> float:
    """Seconds to score a model on all examples, and in the constraints."""
    started = time.perf_counter()
    value_of(objective.evaluator, model)
    for constraint in objective.constraints:
        measured(constraint.other, objective.engine, recipe)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- memory -----------------------------------------------------------------------------------


class _AnonymousMemory:
    """Samples the anonymous memory of this process; the system keeps no maximum of it."""

    def __init__(self) -> None:
        self.peak = _status("RssAnon")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _AnonymousMemory:
        if self.peak is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        if self.peak is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak or 0, _status("RssAnon") or 0)


def _status(field: str) -> int | None:
    """A line of ``/proc/self/status`` in bytes, None on systems without it."""
    if not _STATUS.exists():
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _peak_rss() -> int | None:
    # Not getrusage on Linux: its maximum survives an exec, so it can be that of a parent.
    if (peak := _status("VmHWM")) is not None:
        return peak
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_gpu(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
