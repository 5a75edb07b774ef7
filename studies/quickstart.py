"""Merge two experts for handwritten digits into one model that reads them all.

    python studies/quickstart.py               # trains, searches, prints a table, writes the merge
    merge-optuna run studies/quickstart.py     # the same search from the command line

A small vision transformer learns a little about scikit-learn's ten digits. Two experts are
fine-tuned from it, one on 0 to 5, one on 6 to 9, and each forgets what the other one learns. The
second was trained for longer, as it happens with models that one finds: in a plain average it
drowns the first. So CMA-ES chooses a weight and a density per expert and layer of a DARE-TIES
merge, by the accuracy on dev data. The test data has no part in the search.

Nothing is downloaded. Stop it and start it again: models on disk are used again, finished trials
are kept. Everything is in ``runs/quickstart/seed-0``; remove that folder to begin anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import merge_optuna as mo

OUT = Path("runs/quickstart")
N_TRIALS = 300
EXPERTS = {"low": ([0, 1, 2, 3, 4, 5], 150), "high": ([6, 7, 8, 9], 400)}  # digits, steps
BASE_ACCURACY = 0.7  # on the training digits: there the light pre-training ends

Data = tuple[Tensor, Tensor]  # pixel values (n, 1, 8, 8) in [-1, 1], labels (n,)


def load_data(seed: int) -> dict[str, Data]:
    """The 1,797 real digits: 1,000 to train, 400 for the search (dev), 397 to test."""
    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(digits.target)
    rest, test = train_test_split(np.arange(len(labels)), test_size=397, random_state=seed)
    train, dev = train_test_split(rest, test_size=400, random_state=seed)
    parts = {"train": train, "dev": dev, "test": test}
    return {name: (pixels[rows], labels[rows]) for name, rows in parts.items()}


def only(data: Data, digits: list[int]) -> Data:
    """The examples of some digits."""
    rows = torch.isin(data[1], torch.tensor(digits))
    return data[0][rows], data[1][rows]


def predict(model: nn.Module, pixels: Tensor) -> Tensor:
    """The digits that a model reads."""
    with torch.inference_mode():
        return model(pixels).logits.argmax(-1)


def train(model: nn.Module, data: Data, seed: int, done: Callable[[int], bool]) -> nn.Module:
    """Trains all parameters in batches of 32 until ``done(step)``.

    In float64, so that every machine makes the same models: in float32 the last bits, in which
    processors differ, grow over the steps to models that score otherwise.
    """
    model.double()
    pixels, labels = data[0].double(), data[1]
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    step = 0
    while True:
        for rows in torch.randperm(len(labels), generator=order).split(32):
            if done(step):
                return model.float()
            logits = model(pixels[rows]).logits
            nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.1).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1


def make_base(data: Data, seed: int) -> nn.Module:
    """A vision transformer of 80,000 parameters, trained until it knows the digits roughly."""
    torch.manual_seed(seed)
    size = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    image = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
    config = transformers.ViTConfig(**size, **image, intermediate_size=96)
    model = transformers.ViTForImageClassification(config)

    def good_enough(step: int) -> bool:
        right = predict(model, data[0].double()) == data[1]
        return float(right.float().mean()) >= BASE_ACCURACY

    return train(model, data, seed, lambda step: step % 10 == 0 and good_enough(step))


def make_experts(folder: Path, data: Data, seed: int) -> dict[str, mo.Checkpoint]:
    """Trains and saves the base and the experts, or takes those that are in the folder."""

    def checkpoint(name: str, make: Callable[[], nn.Module]) -> mo.Checkpoint:
        place = folder / name
        if not place.exists():
            print(f"Training {name} ...", file=sys.stderr)
            unfinished = place.with_suffix(".unfinished")
            make().save_pretrained(unfinished)
            unfinished.rename(place)  # so a killed run leaves no half-written model
        return mo.Checkpoint(place, name=name)

    def make_expert(digits: list[int], steps: int) -> nn.Module:
        model = transformers.ViTForImageClassification.from_pretrained(folder / "base")
        return train(model, only(data, digits), seed, lambda step: step == steps)

    made = {"base": checkpoint("base", partial(make_base, data, seed))}
    for name, (digits, steps) in EXPERTS.items():
        made[name] = checkpoint(name, partial(make_expert, digits, steps))
    return made


def declare(folder: Path, seed: int) -> mo.MergeStudy:
    """What is merged, what the search may choose, and how a merge is scored."""
    torch.set_num_threads(1)  # the models are tiny: more threads only get in each other's way
    transformers.logging.disable_progress_bar()
    data = load_data(seed)
    base, *experts = make_experts(folder, data["train"], seed).values()
    recipe = mo.recipes.dare_ties(
        base,
        experts,
        weight=mo.free(0, 1, per="layer"),
        density=mo.free(0.1, 1, per="layer", start=0.5),
    )
    return mo.MergeStudy(
        "quickstart",
        # four batches, so that the dashboard shows how a trial's value came about
        mo.MergeObjective(recipe, mo.evaluators.Classification(data["dev"], batch_size=100)),
        n_trials=N_TRIALS,
        sampler=recipe.sampler(seed=seed),
        test=mo.evaluators.Classification(data["test"], batch_size=400),
    )


def print_table(study: mo.MergeStudy, test: Data, best: mo.Recipe) -> None:
    """The best merge beside the models it is made of and two merges without a search."""
    base, *experts = study.sources.values()
    untuned = mo.recipes.dare_ties(base, experts, weight=0.5, density=0.5)
    rows: dict[str, mo.Checkpoint | mo.Recipe] = {
        "base": base,
        **{f"expert {expert.name}": expert for expert in experts},
        "uniform average of the experts": mo.recipes.linear(experts),
        "DARE-TIES, all weights and densities 0.5": untuned,
        "best DARE-TIES found": best,
    }
    evaluators = [study.objective.evaluator, study.test]
    evaluators += [mo.evaluators.Classification(only(test, d)) for d, _ in EXPERTS.values()]
    table = Table(
        "accuracy in %", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    for column in ("dev", "test", "test, 0 to 5", "test, 6 to 9"):
        table.add_column(column, justify="right")
    for name, model in rows.items():
        scores = [study.objective.score(model, evaluator) for evaluator in evaluators]
        table.add_row(name, *(f"{100 * score:.1f}" for score in scores))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder for everything (%(default)s)"
    )
    parser.add_argument("--n-trials", type=int, default=N_TRIALS, help="in total (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of split, training and search")
    arguments = parser.parse_args()

    folder = arguments.out / f"seed-{arguments.seed}"
    study = declare(folder, arguments.seed)
    search = study.run(f"sqlite:///{folder / 'search.db'}", n_trials=arguments.n_trials)
    best = mo.recipe_of(search)
    pixels, labels = load_data(arguments.seed)["test"]
    print_table(study, (pixels, labels), best)

    score = {"accuracy (test)": study.test_value(search, best)}
    merged = mo.export(search, folder / "merged", force=True, score=score)
    searched = predict(study.objective.engine.load(best), pixels)
    written = predict(transformers.AutoModelForImageClassification.from_pretrained(merged), pixels)
    if not torch.equal(searched, written):
        raise SystemExit(f"{merged} answers otherwise than the model that was searched.")
    right = int((written == labels).sum())
    print(f"{merged}, loaded with transformers: {right} of {len(labels)} test digits right,")
    print("each answered as in the search.")


if __name__ == "__main__":
    main()
else:  # for merge-optuna run, check, ...
    study = declare(OUT / "seed-0", seed=0)
