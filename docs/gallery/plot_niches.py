"""
Natural niches, and the cards of a search
=========================================

M2N2 evolves the weights of two experts. Models compete for examples: whoever is right where few
are has a place in the archive, and is mated with who is good where it is not.
"""

import optuna
from _digits import Shown, family, right

import merge_optuna as mo

optuna.logging.set_verbosity(optuna.logging.ERROR)

# %%
networks = family(low=(range(5), 100), high=(range(5, 10), 100))
low, high = (mo.Checkpoint.from_module(networks[name], name=name) for name in ("low", "high"))
dev = mo.evaluators.Function(right, per_example=True, name="accuracy")

# %%
# The first two trials are the experts; a child is a spherical interpolation with a split point.
search = mo.presets.m2n2(None, [low, high], dev, n_trials=150)
study = search.run(progress=False)
print(study.best_trial.number, study.best_value, study.best_trial.params)
print(mo.baselines(study))

# %%
# The figures are those of the dashboard and of a report.
figures = mo.reports.figures(study, sources={"low": low, "high": high})
print(", ".join(figures))

# %%
# What won: how much of each expert is in each layer.
Shown(figures["1-winner"])

# %%
# How much better it is than what needs no search.
Shown(figures["2-progress"])

# %%
# Whom it descends from.
Shown(figures["5-lineage"])

# %%
# Who is the best at which examples.
Shown(figures["5-niches"])
