"""An objective written by hand around mo.Engine: the live model is refilled in place.

Usage: python examples/own_objective.py BASE EXPERT_A EXPERT_B
"""

import sys

import optuna
import torch

import merge_optuna as mo

base, a, b = (mo.Checkpoint(f, name=n) for f, n in zip(sys.argv[1:], ["base", "a", "b"]))
recipe = mo.recipes.task_arithmetic(base, [a, b], weight=mo.free(0, 1))
engine = mo.Engine(device="cpu")


def objective(trial: optuna.Trial) -> float:
    model = engine.load(recipe(trial))  # always the same object
    tokens = torch.arange(8).unsqueeze(0)  # your data here
    with torch.inference_mode():
        return float(model(tokens).logits.float().logsumexp(-1).mean())


study = optuna.create_study(sampler=recipe.sampler(seed=0))
mo.optimize(study, objective, n_trials=20)
mo.write(recipe.bind(study.best_params), "merged", force=True)
