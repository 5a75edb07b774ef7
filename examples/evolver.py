"""Evolve the weights of several models by differential evolution (Evolver), alone and with TIES.

Usage: python examples/evolver.py BASE EXPERT_A EXPERT_B EXPERT_C dev.jsonl

The folders are checkpoints of one text classifier as save_pretrained() writes them; each line of
dev.jsonl has a "text" and a "label".
"""

import sys

import merge_optuna as mo

base_folder, *folders, dev = sys.argv[1:]
base = mo.Checkpoint(base_folder, name="base")
experts = [mo.Checkpoint(folder, name=f"expert{i}") for i, folder in enumerate(folders)]
evaluator = mo.evaluators.Classification(dev)

# The paper's searches: every child is scored itself, or the whole population merged with it.
searches = [
    mo.presets.evolver(base, experts, evaluator, generations=5, name="evolver"),
    mo.presets.evolver(base, experts, evaluator, generations=5, merger="ties", name="ties"),
]
for search in searches:
    study = search.run("sqlite:///evolver.db", progress=False)  # goes on if it was stopped
    first = study.trials[0].value
    print(
        f"{search.name}: {study.best_value} in trial {study.best_trial.number}, began at {first}"
    )
    mo.export(study, f"evolved-{search.name}", force=True)
