"""What other processes run: imports neither pytest nor the toys, which takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from torch import nn

import merge_optuna as mo
from merge_optuna.testing import kill_at, on_write
from tests.samplers.storages import make_storage

TRIALS = 15


def swarm(folder: str) -> mo.MergeStudy:
    """PSO-Merging of the models in a folder."""
    base, *experts = (mo.Checkpoint(f"{folder}/{n}", name=n) for n in ("base", "ja", "math"))
    return mo.presets.pso_merging(base, experts, embedding_norm, steps=3, seed=4, baselines=False)


def embedding_norm(model: nn.Module) -> float:
    weight: Any = model.get_input_embeddings().weight  # type: ignore[operator]
    return -abs(float(weight.double().norm()) - 9.2)


def run(folder: str, kind: str, kill: int | None = None) -> None:
    """Runs it, or is killed after a write of its eighth trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = make_storage(kind, Path(folder))
    if kill is not None:
        storage = on_write(storage, kill_at(kill, after=True, trial=7))
    swarm(folder).run(storage, progress=False)
