"""Search for the best merge of two fine-tuned models, resumable at any moment.

Usage: python examples/search.py BASE EXPERT_A EXPERT_B dev.jsonl

The three folders are checkpoints of one text classifier as save_pretrained() writes them; each
line of dev.jsonl has a "text" and a "label". Stop it with ctrl-C or kill it, and start it again:
it goes on where it was. Start it in several terminals and they share the work.
"""

import sys

import optuna

import merge_optuna as mo

base_folder, a_folder, b_folder, dev = sys.argv[1:]
base = mo.Checkpoint(base_folder, name="base")
experts = [mo.Checkpoint(a_folder, name="a"), mo.Checkpoint(b_folder, name="b")]

# What the search may choose: a weight per expert and layer, and how much of each expert's
# difference from the base is kept, as five numbers spread over the depth.
recipe = mo.recipes.dare_ties(
    base,
    experts,
    weight=mo.free(0, 1, per="layer"),
    density=mo.free(0.1, 1, per=mo.depth(5)),
)

# An ordinary Optuna objective and an ordinary Optuna study.
objective = mo.MergeObjective(recipe, mo.evaluators.Classification(dev))
study = optuna.create_study(
    study_name="a-b",
    storage=mo.storage("sqlite:///merge.db"),
    load_if_exists=True,
    directions=objective.directions,
    sampler=recipe.sampler(seed=0),
    pruner=optuna.pruners.WilcoxonPruner(),
)
mo.optimize(study, objective, n_trials=100)  # in total

print("base:", objective.score(base))
print("uniform average:", objective.score(mo.recipes.linear(experts)))
print("best found:", study.best_value, study.best_params)
mo.export(study, "merged", force=True)
