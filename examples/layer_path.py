"""Search a path through the layers of two language models, and repeat blocks of one of them.

Usage: python examples/layer_path.py EXPERT_A EXPERT_B dev.txt

The folders are checkpoints of language models of one architecture as save_pretrained() writes
them; dev.txt is text that the result should know, one passage per line.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

import merge_optuna as mo

a_folder, b_folder, dev = sys.argv[1:]
a, b = mo.Checkpoint(a_folder, name="a"), mo.Checkpoint(b_folder, name="b")
tokenizer = AutoTokenizer.from_pretrained(a_folder)
passages = [line for line in Path(dev).read_text().splitlines() if line.strip()]
tokens = [tokenizer(passage, return_tensors="pt").input_ids[:, :256] for passage in passages]
storage = "sqlite:///layer_path.db"


def loss(model: torch.nn.Module) -> float:
    """Nats per token, mean over the passages; lower is better."""
    with torch.no_grad():
        return sum(model(input_ids=ids, labels=ids).loss.item() for ids in tokens) / len(tokens)


evaluator = mo.evaluators.Function(loss, direction="minimize")

# At every depth a layer of a, one of b, or none, twice over, and how strongly each hands on.
space = mo.spaces.LayerPath([a, b], repeats=2)
search = mo.MergeStudy("path", mo.MergeObjective(space, evaluator), n_trials=60)
found = search.run(storage, progress=False)
print(f"path: {found.best_value:.3f} by {found.best_trial.user_attrs['path']}")
mo.export(found, "routed", force=True)  # an ordinary model with as many layers as the path

# What to beat: layers exchanged one by one as long as it helps; and a search that begins there.
exchanged = mo.greedy_path(mo.MergeObjective(space, evaluator), storage=storage)
print(f"greedy: {exchanged.best_value:.3f} after {len(exchanged.trials)} evaluations")
space = mo.spaces.LayerPath([a, b], repeats=2, start=mo.recipe_of(exchanged))
search = mo.MergeStudy("path from there", mo.MergeObjective(space, evaluator), n_trials=60)
print(f"from there: {search.run(storage, progress=False).best_value:.3f}")

# One model: which block of its layers is worth running twice?
scan = mo.scan(a, evaluator, storage=storage)
print(f"scan: {scan.best_value:.3f} by {scan.best_trial.user_attrs['path']}")
mo.reports.save_html(scan, "scan.html")  # with the heat map: where a block begins, how long it is
