"""Searches for layer paths; also run by processes of their own, so nothing here needs pytest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from torch import nn

import merge_optuna as mo
from merge_optuna.evaluators import Evaluator
from merge_optuna.testing import kill_at, on_write
from tests.samplers.storages import make_storage

TRIALS = 24


class Logits(Evaluator):
    """How far some logits are from those of nobody, text by text in three batches."""

    directions = ("minimize",)
    metric_names = ("distance",)

    def __len__(self) -> int:
        return 6

    def __call__(
        self, model: nn.Module
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        ids = torch.randint(3, 60, (6, 7), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            found = model(input_ids=ids).logits[:, -1].double()
        wanted = torch.linspace(-1, 1, found.shape[-1], dtype=torch.float64)
        scores = (found - wanted).square().mean(-1).numpy()
        for first in range(0, 6, 2):
            yield np.arange(first, first + 2), scores[first : first + 2]

    def value(self, scores: NDArray[np.float64]) -> float:
        return float(np.mean(scores))


def models(folder: str | Path) -> list[mo.Checkpoint]:
    """The models in a folder."""
    return [mo.Checkpoint(Path(folder) / name, name=name) for name in ("ja", "math")]


def declared(folder: str | Path, **options: Any) -> mo.MergeStudy:
    """A search through them."""
    space = mo.spaces.LayerPath(models(folder), **{"repeats": 2, **options})
    objective = mo.MergeObjective(space, Logits())
    return mo.MergeStudy(
        "dfs", objective, n_trials=TRIALS, sampler=space.sampler(seed=3), baselines=False
    )


def run(folder: str, kind: str, kill: int | None = None) -> None:
    """Runs it, or is killed after a write of its tenth trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    storage = make_storage(kind, Path(folder))
    if kill is not None:
        storage = on_write(storage, kill_at(kill, after=True, trial=9))
    declared(folder).run(storage, progress=False)
