"""Right answers and few tokens: the small decoders of ``examples/small_reasoners.py``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import transformers
from _fronts_experiment import LARGER, OPTUNAS, OURS, TPE, Experiment, Inputs, Way, interpolation

import merge_optuna as mo

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import small_reasoners

MOST = 12  # tokens of a reply


def scorer(file: Path) -> mo.evaluators.Generation:
    """The share of right answers, and the mean tokens of a reply."""
    return mo.evaluators.Generation(
        str(file),
        max_new_tokens=MOST,
        extract=r"(\w+)$",  # the last word
        objectives=("accuracy", "tokens"),
        batch_size=100,
    )


def make(folder: Path, inputs: Inputs) -> Experiment:
    """A model that thinks before it answers, and one that answers at once."""
    if not (folder / "made").exists():
        with contextlib.chdir(folder):
            small_reasoners.main()
        (folder / "made").touch()  # so a killed run makes all of them again
    dev, test = (scorer(folder / f"{split}.jsonl") for split in ("dev", "test"))

    def plain(place: Path) -> tuple[float, ...]:
        model = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
        value = dev.value(np.concatenate([scores for _, scores in dev(model)]))
        assert isinstance(value, tuple)
        return value

    names = ("base", "thinker", "fast")
    return Experiment(
        "answers",
        "Right answers and few tokens",
        {name: mo.Checkpoint(folder / "models" / name, name=name) for name in names},
        dev,
        test,
        way=Way("layer", interpolation(11)),  # from one expert to the other
        reference=(0.0, float(MOST)),
        ideal=(1.0, 0.0),
        plain=plain,
        searches=(OURS, LARGER, OPTUNAS, TPE),
        trials=300,
        population=16,
    )
