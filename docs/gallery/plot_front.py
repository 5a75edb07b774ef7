"""
A front instead of a best merge
===============================

Two objectives: the digits from 0 to 4, and those from 5 to 9. Between the experts lie merges
of which none is better in both.
"""

import matplotlib.pyplot as plt
import numpy as np
import optuna
from _digits import DEV, LABELS, family, right

import merge_optuna as mo

optuna.logging.set_verbosity(optuna.logging.ERROR)

# %%
networks = family(low=(range(5), 100), high=(range(5, 10), 100))
base, low, high = (mo.Checkpoint.from_module(m, name=name) for name, m in networks.items())


class BothHalves:
    """Right or not, for each digit; the accuracy on each half of the digits."""

    directions = ("maximize", "maximize")
    metric_names = ("0 to 4", "5 to 9")
    deterministic = True
    low = (LABELS[DEV] < 5).numpy()

    def __len__(self):  # digits of dev
        return len(self.low)

    def __call__(self, model):
        yield np.arange(len(self)), np.column_stack([right(model), self.low])

    def value(self, scores):
        half = scores[:, 1] == 1
        return scores[half, 0].mean(), scores[~half, 0].mean()


# %%
# NSGA-II is the sampler where there are several objectives.
recipe = mo.recipes.task_arithmetic(base, [low, high], weight=mo.free(0, 1.5, per="layer"))
objective = mo.MergeObjective(recipe, BothHalves())
search = mo.MergeStudy("halves", objective, n_trials=150)
study = search.run(progress=False)
front = mo.pareto(study)
print(front)

# %%
# Beside the merges with one weight for all layers, which are ten of the baselines.
figure, axes = plt.subplots()
values = np.array([trial.values for trial in study.trials])
axes.plot(*values.T, ".", color="0.85", label="trials")
axes.step(*np.array([point.values for point in front]).T, "C0.-", where="pre", label="front")
sweep = np.array([row.values for row in front.baselines if row.kind == "task arithmetic"])
axes.plot(*sweep.T, "C1x", label="task arithmetic, one \u03bb")
for name in ("base", "source low", "source high", "uniform average"):
    axes.plot(*front.baselines[name].values, "o", label=name)
axes.set(xlabel="accuracy on 0 to 4", ylabel="accuracy on 5 to 9", title="on dev")
axes.legend(fontsize="small")
figure.tight_layout()
