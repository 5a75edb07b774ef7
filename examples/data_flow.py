"""Search a path through the layers of two language models (data-flow space), after merging them.

Usage: python examples/data_flow.py BASE EXPERT_A EXPERT_B dev.txt

The folders are checkpoints of language models of one architecture as save_pretrained() writes
them; dev.txt is text that the merged model should know, one passage per line.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

import merge_optuna as mo

base_folder, a_folder, b_folder, dev = sys.argv[1:]
base = mo.Checkpoint(base_folder, name="base")
a, b = mo.Checkpoint(a_folder, name="a"), mo.Checkpoint(b_folder, name="b")
tokenizer = AutoTokenizer.from_pretrained(a_folder)
passages = [line for line in Path(dev).read_text().splitlines() if line.strip()]
tokens = [tokenizer(passage, return_tensors="pt").input_ids[:, :256] for passage in passages]


def loss(model: torch.nn.Module) -> float:
    """Nats per token, mean over the passages; lower is better."""
    with torch.no_grad():
        return sum(model(input_ids=ids, labels=ids).loss.item() for ids in tokens) / len(tokens)


evaluator = mo.evaluators.Function(loss, direction="minimize")

# First in parameter space: DARE-TIES with a weight and a density for every layer.
merging = mo.presets.evolutionary_merge(base, [a, b], evaluator, n_trials=60, name="ps")
ps = merging.run("sqlite:///data_flow.db", progress=False)
print(f"merged: {ps.best_value:.3f}")

# Then in data-flow space: a path through the merged model and an expert.
merged = mo.recipe_of(ps)
search = mo.presets.data_flow(
    None, [merged, b], evaluator, max_hops=12, generations=10, population_size=16, name="dfs"
)
dfs = search.run("sqlite:///data_flow.db", progress=False)
print(f"routed: {dfs.best_value:.3f} by {dfs.best_trial.user_attrs['path']}")
mo.export(dfs, "routed", force=True)  # an ordinary model with as many layers as the path

# And a path by hand: all of one model with the end of the other.
by_hand = mo.recipes.path("A[0:2] B[1:2]", [a, b])
print(f"by hand: {search.objective.score(by_hand):.3f}")
mo.write(by_hand, "by_hand", force=True)
