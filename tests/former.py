"""A search as commit d128686 ran it, whose digests were of samples.

``python -m tests.former FOLDER`` with that commit made ``tests/data/former.sql`` (six of its ten
trials), ``former.yaml`` (the recipe of trial 4) and ``former.json`` (all ten, and the names).
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from safetensors.torch import save_file
from torch import nn

import merge_optuna as mo
from tests import toys

DATA = Path(__file__).parent / "data"
TRIALS, BEFORE = 10, 6


def _numbers(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The same on every machine and with every version of torch."""
    n = np.arange(int(np.prod(shape)), dtype=np.int64)
    mixed = (n * 48271 + (seed + 1) * 69621 * (n % 89 + 7)) % 65521
    return torch.from_numpy((mixed / 65521 - 0.5).astype(np.float32)).reshape(shape)


def _model(seed: int) -> nn.Module:
    model = toys.llama(vocab_size=600)  # an embedding of more than 64 KiB, which was sampled
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(_numbers(tuple(parameter.shape), seed + 10 * i))
    return model


def make(root: Path) -> None:
    """Writes the sources: two whole models and an adapter."""
    for i, name in enumerate(("base", "plain")):
        toys.save(_model(i), root / name)
    (root / "lora").mkdir()
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    lora = {f"{prefix}A.weight": _numbers((2, 32), 5), f"{prefix}B.weight": _numbers((32, 2), 6)}
    save_file(lora, root / "lora/adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (root / "lora/adapter_config.json").write_text(json.dumps(settings))


def recipe(root: Path) -> mo.Recipe:
    """Of a model without a name, an adapter, and a module in memory."""
    base = mo.Checkpoint(root / "base", name="base")
    models = [
        mo.Checkpoint(root / "plain"),
        mo.Checkpoint(root / "lora", name="lora", base=base),
        module(),
    ]
    return mo.recipes.dare_ties(base, models, weight=mo.free(0.1, 1), density=mo.free(0.2, 0.9))


def module() -> mo.Checkpoint:
    """The one that no recipe can open."""
    return mo.Checkpoint.from_module(_model(2), name="memory")


def score(model: nn.Module) -> float:
    """A number that every dropped element and every name of a source changes."""
    weight = model.get_parameter("model.layers.1.mlp.up_proj.weight")
    return float((weight * 256).round().to(torch.int64).sum())


def search(root: Path, storage: str, n_trials: int) -> optuna.Study:
    """Starts or goes on, up to a total."""
    space = recipe(root)
    objective = mo.MergeObjective(space, score)
    sampler = mo.samplers.DESampler(space.distributions(), population_size=4, seed=7)
    study = mo.MergeStudy("former", objective, sampler=sampler, n_trials=n_trials)
    return study.run(storage, progress=False)


def trials(study: optuna.Study) -> list[Any]:
    return [[t.number, t.params, t.values] for t in study.trials]


def database(folder: Path) -> str:
    """The URL of a copy of the database."""
    with closing(sqlite3.connect(folder / "former.db")) as made:
        made.executescript((DATA / "former.sql").read_text())
    return f"sqlite:///{folder / 'former.db'}"


def main(folder: Path) -> None:
    make(folder)
    study = search(folder, f"sqlite:///{folder}/former.db", BEFORE)
    with closing(sqlite3.connect(folder / "former.db")) as made:
        text = "\n".join(made.iterdump())
    (DATA / "former.sql").write_text(text.replace(str(folder), "/former") + "\n")
    yaml = mo.recipe_of(study, 4, sources={"memory": module()}).to_yaml()
    (DATA / "former.yaml").write_text(yaml.replace(str(folder), "/former"))
    done = trials(search(folder, f"sqlite:///{folder}/former.db", TRIALS))
    names = [source.name for source in recipe(folder).checkpoints()]
    (DATA / "former.json").write_text(json.dumps({"names": names, "trials": done}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
