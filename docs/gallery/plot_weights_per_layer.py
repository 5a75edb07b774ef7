r"""
A weight for each layer
=======================

Two experts are merged by task arithmetic,

.. math:: \theta = \theta_0 + \sum_i w_{i,g}\,(\theta_i - \theta_0) ,

with a weight :math:`w_{i,g}` per expert :math:`i` and layer :math:`g`. One expert was trained for
much longer than the other, as it happens with models that one finds: in a plain average it drowns
the other one.
"""

import matplotlib.pyplot as plt
import numpy as np
import optuna
from _digits import TEST, family, right

import merge_optuna as mo

optuna.logging.set_verbosity(optuna.logging.ERROR)

# %%
# The models live in memory here; a folder or a name on the hub would do as well.
networks = family(low=(range(5), 40), high=(range(5, 10), 300))
base, low, high = (mo.Checkpoint.from_module(m, name=name) for name, m in networks.items())

# %%
# A recipe whose weights are left open is the search space. What a merge is worth is told by any
# function of the live model: here which of 400 dev digits it reads.
recipe = mo.recipes.task_arithmetic(base, [low, high], weight=mo.free(0, 1.5, per="layer"))
dev = mo.evaluators.Function(right, per_example=True, name="accuracy")
objective = mo.MergeObjective(recipe, dev)
study = optuna.create_study(directions=objective.directions, sampler=recipe.sampler(seed=0))

# %%
# What needs no search is scored first: whether a search was worth it is told by that.
baselines = mo.baselines(objective, study, progress=False)
print(baselines)

# %%
mo.optimize(study, objective, n_trials=300, progress=False)
print(f"best on dev: {study.best_value:.3f} in trial {study.best_trial.number}")

# %%
# How the best merge came about, beside what needs no search. Scores of dev are too good for what
# has been chosen by them, the best of ten λ as much as the best of 300 trials.
values = [trial.value for trial in study.trials]
figure, axes = plt.subplots()
axes.plot(values, ".", color="0.8", label="trials")
axes.plot(np.maximum.accumulate(values), color="C0", label="best so far")
for n, name in enumerate(("base", "source low", "source high", "uniform average"), start=1):
    axes.axhline(baselines[name].value, color=f"C{n}", linestyle="--", label=name)
axes.axhline(baselines.best.value, color="C5", linestyle=":", label=f"best: {baselines.best.name}")
axes.set(xlabel="trial", ylabel="accuracy on dev (higher is better)")
axes.legend(fontsize="small", ncols=2)
figure.tight_layout()

# %%
# The best weights, layer by layer: what was trained for longer counts for less.
best = study.best_trial.params
layers = sorted({name.rsplit("/", 1)[1] for name in best})
weights = np.array([[best[f"weight/{model}/{g}"] for model in ("low", "high")] for g in layers])
figure, axes = plt.subplots(figsize=(4, 4))
axes.imshow(weights, aspect="auto", cmap="Blues", vmin=0, vmax=1.5)
axes.set(xticks=[0, 1], xticklabels=["low", "high"], yticks=range(len(layers)))
axes.set_yticklabels(layers)
axes.set(title="weight", ylabel="layer")
for (row, column), weight in np.ndenumerate(weights):
    axes.text(column, row, f"{weight:.2f}", ha="center", va="center")
figure.tight_layout()

# %%
# On digits that the search has not seen:
sources = {source.name: source for source in (base, low, high)}
merges = {
    "base": base,
    "uniform average": mo.recipes.linear([low, high]),
    "best λ on dev": baselines.best.recipe.with_sources(sources),
    "best trial": mo.recipe_of(study, sources=sources),
}
for name, merge in merges.items():
    print(f"{name:16} {np.mean(right(objective.engine.load(merge), TEST)):.3f}")
