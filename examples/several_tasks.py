"""Several tasks: experts with heads of their own become one model for all of them.

Usage: python examples/several_tasks.py BASE EXPERT_A EXPERT_B a.jsonl b.jsonl

The experts were fine-tuned from BASE, each with a head for its task; BASE needs no head. What is
inside is merged, and each task is scored under its expert's head. There can be more than two, each
with its lines of {"text": ..., "label": ...}.
"""

import sys
from pathlib import Path

import merge_optuna as mo

base_folder, *given = sys.argv[1:]
folders, files = given[: len(given) // 2], given[len(given) // 2 :]
base = mo.Checkpoint(base_folder, name="base")
experts = [mo.Checkpoint(folder, name=Path(folder).name) for folder in folders]

evaluator = mo.evaluators.Tasks(
    {
        expert.name: mo.evaluators.Classification(file, head=expert)
        for expert, file in zip(experts, files, strict=True)
    },
    aggregate="mean",  # or "worst", "geometric", a weight per task
)
recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
objective = mo.MergeObjective(recipe, evaluator)
study = mo.MergeStudy("several-tasks", objective, n_trials=20).run(progress=False)

for expert in experts:
    alone = objective.score(expert, evaluator.tasks[expert.name])
    merged = study.best_trial.user_attrs[f"value/{expert.name}"]
    print(f"{expert.name}: expert {alone:.3f}, merged {merged:.3f}")
print("mean of the merged:", study.best_value)

# merged/EXPERT_A and merged/EXPERT_B are checkpoints that share what is merged.
mo.export(study, "merged", heads=evaluator.heads, force=True)
