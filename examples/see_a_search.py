"""Look at a search: in the dashboard while it runs, and on a page of its own when it is done.

Usage: python examples/see_a_search.py

Takes models and questions of examples/small_models.py from the current folder, and makes them if
they are not there; the search takes half a minute on two cores. Cards, notes and files are kept
with the study, so that a second terminal can look at it while it runs:

    merge-optuna dashboard seen.db
"""

from pathlib import Path

import small_models
import torch
import transformers

import merge_optuna as mo

if not Path("models/math/model.safetensors").exists():
    small_models.main()
torch.set_num_threads(1)  # the models are tiny: more threads only get in each other's way
transformers.logging.disable_progress_bar()
base, ja, math = (mo.Checkpoint(f"models/{name}", name=name) for name in small_models.STEPS)

columns = {"question": "question", "answer": "answer", "group": "skill"}
dev, test = (
    mo.evaluators.NegativeLogLikelihood(f"{part}.jsonl", **columns) for part in ("dev", "test")
)
recipe = mo.recipes.task_arithmetic(base, [ja, math], weight=mo.free(0, 1.5, per="layer"))
declared = mo.MergeStudy("seen", mo.MergeObjective(recipe, dev), n_trials=200, test=test)
study = declared.run("sqlite:///seen.db")

# What is scored on test data is kept with the study, and shown beside the dev data.
best = mo.baselines(study).best.name
for model in (mo.recipe_of(study), mo.recipe_of(study, baseline=best)):
    declared.test_value(study, model)

# One file, to read without a server, on a telephone or on paper, and to send to somebody.
page = mo.reports.save_html(study, "seen.html")
print(f"Open {page} in a browser.")

# The same figures, to look at in a notebook or to change.
for name, figure in mo.reports.figures(study).items():
    print(f"{name}: {figure.layout.title.text}")
