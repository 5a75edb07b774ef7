"""DESampler on an ordinary objective: nothing is merged here.

Kill it whenever you like and run it again: the search goes on where it was. Start it in other
terminals too: they share one population.

Usage: python examples/plain_objective.py [STORAGE]
"""

import sys

import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import merge_optuna as mo

X, y = load_breast_cancer(return_X_y=True)


def objective(trial: optuna.Trial) -> float:
    C = trial.suggest_float("C", 1e-3, 1e3, log=True)
    gamma = trial.suggest_float("gamma", 1e-5, 10, log=True)
    kernel = trial.suggest_categorical("kernel", ["rbf", "sigmoid"])
    model = make_pipeline(StandardScaler(), SVC(C=C, gamma=gamma, kernel=kernel))
    return cross_val_score(model, X, y, cv=5).mean()


study = optuna.create_study(
    study_name="svc",
    storage=sys.argv[1] if len(sys.argv) > 1 else "sqlite:///svc.db",
    load_if_exists=True,
    direction="maximize",
    sampler=mo.samplers.DESampler(seed=0),
)
mo.optimize(study, objective, n_trials=60)
print(f"{len(study.trials)} trials, best accuracy {study.best_value:.4f}: {study.best_params}")
