"""Evolve a population of fine-tuned models with natural niches (M2N2), one live model in memory.

Usage: python examples/m2n2.py EXPERT_A EXPERT_B dev.jsonl

The folders are checkpoints of one text classifier as save_pretrained() writes them; each line of
dev.jsonl has a "text" and a "label". Stop it with ctrl-C or kill it, and start it again: it goes
on where it was.
"""

import sys

import optuna

import merge_optuna as mo

a_folder, b_folder, dev = sys.argv[1:]
experts = [mo.Checkpoint(a_folder, name="a"), mo.Checkpoint(b_folder, name="b")]

# A trial is one of the experts, or a child of two individuals: up to a random split point nearer
# to the one, from there on nearer to the other.
space = mo.spaces.SplitSlerp(experts)

# The evaluator scores every example on its own: individuals compete for examples, and a parent
# looks for a partner that is good where it is not.
objective = mo.MergeObjective(space, mo.evaluators.Classification(dev))
study = optuna.create_study(
    study_name="m2n2",
    storage=mo.storage("sqlite:///evolution.db"),
    load_if_exists=True,
    directions=objective.directions,
    sampler=space.sampler(seed=0, archive_size=10),
    pruner=optuna.pruners.NopPruner(),  # who is bad on average may be good in a niche
)
mo.optimize(study, objective, n_trials=100)  # in total

print("best found:", study.best_value, "in trial", study.best_trial.number)
print("living individuals:", [trial.number for trial in study.sampler.archive(study)])
mo.export(study, "evolved", force=True)  # any trial can be rebuilt: mo.export(..., trial=17)
