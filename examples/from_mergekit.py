"""Search from a merge that you have: its mergekit YAML is where the search begins.

Usage: python examples/from_mergekit.py config.yml dev.jsonl

What comes out is the best merge found, as a checkpoint and, where mergekit can say it, as YAML.
"""

import sys

import optuna

import merge_optuna as mo

config, dev = sys.argv[1:]
yours = mo.Recipe.from_mergekit(config)
space = yours.free(per="layer")  # what is worth searching, around your numbers
objective = mo.MergeObjective(space, mo.evaluators.Classification(dev))

study = optuna.create_study(
    study_name="from-mergekit",
    storage=mo.storage("sqlite:///from-mergekit.db"),
    load_if_exists=True,
    directions=objective.directions,
    sampler=space.sampler(seed=0),
)
mo.optimize(study, objective, n_trials=40)

print("yours:", objective.score(yours))
print("best found:", study.best_value)
mo.export(study, "merged/", force=True)
mo.recipe_of(study).to_mergekit("merged.yml")
