"""A search that can be left alone: it keeps the best merges on disk and stops by itself.

Usage: python examples/keep_best.py BASE EXPERT_A EXPERT_B dev.jsonl

The best three are in best/trial-00017 and so on at any time, each a checkpoint that
from_pretrained() loads. Started again it goes on, or stays over if it was.
"""

import sys

import optuna

import merge_optuna as mo

*folders, dev = sys.argv[1:]
base, a, b = (mo.Checkpoint(f, name=n) for f, n in zip(folders, ["base", "a", "b"]))
recipe = mo.recipes.ties(base, [a, b], density=mo.free(0.1, 1), lambda_=mo.free(0.3, 1.5))
objective = mo.MergeObjective(recipe, mo.evaluators.Classification(dev))
study = optuna.create_study(
    study_name="left-alone",
    storage=mo.storage("sqlite:///keep.db"),
    load_if_exists=True,
    directions=objective.directions,
    sampler=recipe.sampler(seed=0),
)
callbacks = [
    mo.callbacks.KeepBest(3, "best"),
    mo.callbacks.Stagnation(10),  # none better among the last 10 that were completed
]
mo.optimize(study, objective, n_trials=200, timeout=8 * 3600, callbacks=callbacks)
print(study.best_trial.number, study.best_value)
