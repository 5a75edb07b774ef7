"""Fisher merging: each parameter counts by how much it matters to its model.

Usage: python examples/fisher.py EXPERT_A EXPERT_B texts.jsonl dev.jsonl

The Fisher information comes from texts without labels, one "text" per line of texts.jsonl. It is
computed once and kept in a folder, until the model or the texts change.
"""

import sys

import optuna

import merge_optuna as mo

a_folder, b_folder, texts, dev = sys.argv[1:]
experts = [mo.Checkpoint(a_folder, name="a"), mo.Checkpoint(b_folder, name="b")]
statistics = [
    mo.statistics.fisher(expert, texts, folder=f"fisher/{expert.name}") for expert in experts
]

# Beside its Fisher information each expert has a weight, of which only the proportions matter.
recipe = mo.recipes.fisher(experts, statistics=statistics, weight=mo.free(0, 1))
objective = mo.MergeObjective(recipe, mo.evaluators.Classification(dev))
study = optuna.create_study(directions=objective.directions, sampler=recipe.sampler(seed=0))
mo.optimize(study, objective, n_trials=10)

print("uniform average:", objective.score(mo.recipes.linear(experts)))
print("Fisher:", objective.score(mo.recipes.fisher(experts, statistics=statistics)))
print("best found:", study.best_value, study.best_params)
mo.export(study, "merged", force=True)
