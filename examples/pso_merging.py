"""Merge fine-tuned models by a particle swarm (PSO-Merging, arXiv 2508.19839).

Usage: python examples/pso_merging.py BASE EXPERT [EXPERT ...] dev.jsonl

The swarm begins with the base, the experts, and the experts with most of their difference from
the base dropped. All particles are sums of these models, so a trial stores a handful of numbers
and only one merged model is ever in memory. Stop it with ctrl-C or kill it, and start it again:
it goes on where it was.
"""

import sys
from pathlib import Path

import merge_optuna as mo

base_folder, *folders, dev = sys.argv[1:]
base = mo.Checkpoint(base_folder, name="base")
experts = [mo.Checkpoint(folder, name=Path(folder).name) for folder in folders]

# The paper's constants, declared as a search that can be opened on any storage.
study = mo.presets.pso_merging(base, experts, mo.evaluators.Classification(dev), steps=6)
done = study.run("sqlite:///merge.db")

for expert in experts:
    print(f"{expert.name}:", study.objective.score(expert))
print("best found:", done.best_value)
print("coefficients:", done.best_params)
mo.export(done, "merged", force=True)
