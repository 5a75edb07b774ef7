"""Merge a model that thinks with its fast sibling: every trade-off between right and short.

Usage: python examples/front.py

Takes models and questions of examples/small_reasoners.py from the current folder, and makes them
if they are not there. There is no best merge here but a front: merges of which none is both more
often right and shorter than another. What the base knows of Japanese must not be forgotten on the
way. It takes a minute or two on an idle core. Start it again and it goes on where it was.
"""

from pathlib import Path

import datasets
import numpy as np
import optuna
import small_reasoners
import torch
import transformers

import merge_optuna as mo

if not Path("models/fast/model.safetensors").exists():
    small_reasoners.main()
torch.set_num_threads(1)  # the models are tiny: more threads only get in each other's way
transformers.logging.disable_progress_bar()
base, thinker, fast = (mo.Checkpoint(f"models/{n}", name=n) for n in small_reasoners.TRAINING)
dev, words = (datasets.Dataset.from_json(f"{n}.jsonl") for n in ("dev", "dev-japanese"))

# Two objectives: how often the last word of a reply is right, and how many tokens a reply has.
last, short = r"(\w+)$", {"max_new_tokens": 12, "batch_size": 100}
ways = mo.evaluators.Generation(dev, extract=last, objectives=("accuracy", "tokens"), **short)
# A constraint: of 100 numbers in Japanese, at most 5 less than the base knows.
kept = mo.evaluators.NoWorse(mo.evaluators.Generation(words, **short), than="base", slack=0.05)


# What needs no search: one weight for the whole model, from fast to thinker in 20 steps.
def between(trial):
    share = trial.suggest_float("share", 0, 1)
    return mo.recipes.task_arithmetic(base, [thinker, fast], weight=[share, 1 - share])


storage, shares = "sqlite:///front.db", [n / 20 for n in range(21)]
grid = optuna.samplers.GridSampler({"share": shares}, seed=0)
objective = mo.MergeObjective(between, ways, constraints=[kept])
sweep = mo.MergeStudy("sweep", objective, n_trials=21, sampler=grid, baselines=False).run(storage)

# The search: what each of the two has learned on top of the base, with a weight per layer. NSGA-II
# begins with the merges of the sweep; without a sampler= it would begin with random ones.
recipe = mo.recipes.task_arithmetic(base, [thinker, fast], weight=mo.free(0, 1.5, per="layer"))
names = recipe.distributions()
start = [{name: x if "thinker" in name else 1 - x for name in names} for x in shares]
options = {"population_size": 30, "initial_population": start}
sampler = recipe.sampler(seed=0, objectives=2, **options)
objective = mo.MergeObjective(recipe, ways, constraints=[kept])
study = mo.MergeStudy("front", objective, n_trials=200, sampler=sampler).run(storage)

front, reference = mo.pareto(study), (0.4, 4.6)  # right less often, or longer, is of no use
print(front)  # beside what needs no search
beside = mo.pareto(sweep)
for name, found in (("front", front), ("sweep", beside)):
    print(f"hypervolume of the {name}: {found.hypervolume(reference):.3f}")
figure = optuna.visualization.plot_pareto_front(study, target_names=front.metrics)
right, tokens = zip(*[point.values for point in beside], strict=True)
figure.add_scatter(x=right, y=tokens, mode="markers", name="sweep").write_html("front.html")

# Each point is an ordinary checkpoint, with which transformers writes what the search has scored.
folder, *_ = mo.export_front(study, "front", most=5)  # those five that spread best
merged = transformers.AutoModelForCausalLM.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
asked = tokenizer([*dev["question"]], padding=True, return_tensors="pt")
ids, mask = asked["input_ids"], asked["attention_mask"]
written = merged.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
written = written[:, ids.shape[1] :]
said = [text.split()[-1:] for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
right = np.mean([words == [answer] for words, answer in zip(said, dev["answer"], strict=True)])
tokens = (written > tokenizer.eos_token_id).sum(1).double().mean().item()
assert (right, tokens) == front.spread(5)[0].values
print(
    f"{folder}, loaded with transformers: {right:.1%} right in {tokens:.2f} tokens, as searched."
)
