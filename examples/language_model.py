"""Merge a language model for Japanese and one for maths into one that can do both.

Usage: python examples/language_model.py

Takes models and questions of examples/small_models.py from the current folder, and makes them if
they are not there. Then it searches three times: by how likely the right answers are, by the
answers that are written, and with a population of models (M2N2). It takes less than two minutes on
two cores. Start it again and it goes on where it was.
"""

from functools import partial
from pathlib import Path

import datasets
import numpy as np
import optuna
import small_models
import torch
import transformers

import merge_optuna as mo

if not Path("models/math/model.safetensors").exists():
    small_models.main()
torch.set_num_threads(1)  # the models are tiny: more threads only get in each other's way
transformers.logging.disable_progress_bar()
base, ja, math = (mo.Checkpoint(f"models/{name}", name=name) for name in small_models.STEPS)
dev, test = (datasets.Dataset.from_json(f"{name}.jsonl") for name in ("dev", "test"))
japanese, maths = (test.filter(lambda row, s=s: row["skill"] == s) for s in ("japanese", "math"))

# Two ways to score a model: nats per token of the right answers, which is quick and smooth, and
# the share of written answers that are right, which is what counts in the end. In eight batches,
# so that the pruner can see early that a merge is worse than the best.
batches = {"question": "question", "answer": "answer", "batch_size": 50}
nats = partial(mo.evaluators.NegativeLogLikelihood, **batches)
right = partial(mo.evaluators.Generation, max_new_tokens=12, **batches)
pruner = optuna.pruners.WilcoxonPruner()

# What each expert has learned on top of the base, with a weight per layer.
recipe = mo.recipes.task_arithmetic(base, [ja, math], weight=mo.free(0, 1.5, per="layer"))
by_nats, by_answers = (mo.MergeObjective(recipe, score(dev)) for score in (nats, right))
searches = {
    "best by likelihood": mo.MergeStudy("nats", by_nats, n_trials=100, pruner=pruner),
    "best by answers": mo.MergeStudy(
        "answers", by_answers, n_trials=60, pruner=pruner, baselines=False
    ),
    "best of M2N2 by likelihood": mo.presets.m2n2(
        None, [ja, math], nats(dev), n_trials=100, baselines=False
    ),
}
studies = {name: s.run("sqlite:///language_model.db") for name, s in searches.items()}

# Beside what needs no search, on the data of the search (dev) and on other questions (test).
baselines = mo.baselines(studies["best by likelihood"])
rows = {row.name: row.recipe for row in baselines.headlines}
rows |= {name: mo.recipe_of(study) for name, study in studies.items()}
print(f"{'right answers in %':28}{'nats':>8}{'dev':>8}{'test':>8}  (Japanese and maths)")
evaluators = nats(dev), right(dev), right(japanese), right(maths)
for name, model in rows.items():
    loss, on_dev, *parts = (by_answers.score(model, evaluator) for evaluator in evaluators)
    scores = f"{loss:8.3f}{100 * on_dev:8.1f}{50 * sum(parts):8.1f}"
    print(f"{name:28}{scores}  ({100 * parts[0]:.1f} and {100 * parts[1]:.1f})", flush=True)

# An ordinary checkpoint, with which transformers answers every question as in the search.
best = studies["best by answers"]
folder = mo.export(best, "merged", force=True)
merged = transformers.AutoModelForCausalLM.from_pretrained(folder)
scores = np.full(len(dev), np.nan)
for ids, some in right(dev)(merged):
    scores[ids] = some[:, 0]
assert np.array_equal(scores, mo.scores(best, best.best_trial))
print(f"{folder}, loaded with transformers: {scores.sum():.0f} of {len(dev)} right, as searched.")
