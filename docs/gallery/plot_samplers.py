"""
Where samplers look
===================

The samplers of ``mo.samplers`` on a function of two numbers with a long bent valley, 200 trials
each, early ones pale. Nothing is merged here: they serve any Optuna study.
"""

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.distributions import FloatDistribution

import merge_optuna as mo

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = {"x": FloatDistribution(-2, 2), "y": FloatDistribution(-1, 3)}


def valley(x, y):
    """Rosenbrock's function: 0 at (1, 1), which lies in a bent valley."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def search(sampler):
    """A study of 200 trials."""
    study = optuna.create_study(sampler=sampler)
    study.optimize(
        lambda t: valley(t.suggest_float("x", -2, 2), t.suggest_float("y", -1, 3)), n_trials=200
    )
    return study


def picture(title, trials):
    """Points over the valley."""
    x, y = np.meshgrid(np.linspace(-2, 2, 200), np.linspace(-1, 3, 200))
    figure, axes = plt.subplots(figsize=(5, 4))
    axes.contourf(x, y, np.log1p(valley(x, y)), levels=12, cmap="Greys", alpha=0.5)
    points = np.array([(trial.params["x"], trial.params["y"]) for trial in trials])
    numbers = [trial.number for trial in trials]
    axes.scatter(*points.T, c=numbers, cmap="Blues", s=14, edgecolors="0.4", linewidths=0.3)
    axes.plot(1, 1, "r+", markersize=12)
    axes.set(title=title, xlabel="x", ylabel="y")
    figure.tight_layout()


# %%
# CMA-ES: a normal distribution that turns into the valley.
study = search(mo.samplers.CmaEsSampler(SPACE, seed=0))
picture(f"CMA-ES, best {study.best_value:.3g}", study.trials)

# %%
# Differential evolution, with SHADE: steps are differences of members.
study = search(mo.samplers.DESampler(SPACE, seed=0))
picture(f"differential evolution, best {study.best_value:.3g}", study.trials)

# %%
# A particle swarm.
study = search(mo.samplers.PSOSampler(SPACE, seed=0))
picture(f"particle swarm, best {study.best_value:.3g}", study.trials)

# %%
# A genetic algorithm.
study = search(mo.samplers.GASampler(SPACE, population_size=20, seed=0))
picture(f"genetic algorithm, best {study.best_value:.3g}", study.trials)

# %%
# The cross-entropy method: its distribution cannot turn.
study = search(mo.samplers.CrossEntropySampler(SPACE, seed=0))
picture(f"cross-entropy method, best {study.best_value:.3g}", study.trials)

# %%
# MAP-Elites keeps the best of each of twenty strips of x: here those that it has kept.
grid = {"x": (-2, 2, 20)}
sampler = mo.samplers.MAPElitesSampler(SPACE, descriptors=grid, initial=50, seed=0)
study = search(sampler)
picture("MAP-Elites, the elites", list(sampler.archive(study).values()))
