"""The same search in Optuna's define-by-run style: the space is a function of the trial.

Usage: python examples/define_by_run.py BASE EXPERT_A EXPERT_B dev.jsonl
"""

import sys

import optuna

import merge_optuna as mo

*folders, dev = sys.argv[1:]
base, a, b = (mo.Checkpoint(f, name=n) for f, n in zip(folders, ["base", "a", "b"]))


def recipe(trial: optuna.Trial) -> mo.Recipe:
    if trial.suggest_categorical("method", ["ties", "task_arithmetic"]) == "ties":
        density = trial.suggest_float("density", 0.1, 1)
        return mo.recipes.ties(base, [a, b], density=density)
    weight = trial.suggest_float("weight", 0, 1)
    return mo.recipes.task_arithmetic(base, [a, b], weight=weight)


objective = mo.MergeObjective(recipe, mo.evaluators.Classification(dev))
study = optuna.create_study(directions=objective.directions)  # any sampler of Optuna
mo.optimize(study, objective, n_trials=30)
print(study.best_params)
mo.export(study, "merged", force=True)
