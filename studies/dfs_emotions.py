"""A path through two encoders: data-flow space on two of the experts of ``emotions.py``.

    python studies/dfs_emotions.py --data DIR --evaluations 80

Experts, texts and the score are those of ``emotions.py``, whose models in ``runs/emotions`` are
used again or trained. Of the five experts the two that are best on dev are merged in parameter
space (a weight for every layer), in data-flow space with and without scales, and in both. The
table and the paths go to ``studies/dfs_emotions``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import transformers
from _comparison import difference
from _rows import by_rows
from emotions import (
    DOMAINS,
    ENCODER,
    OUT,
    Model,
    Search,
    Setting,
    Tester,
    dev_texts,
    make_models,
    read,
    run,
    scorer,
)

import merge_optuna as mo

PS, DFS, PLAIN, BOTH = "PS", "DFS", "DFS without scales", "PS + DFS"


def found_in(setting: Setting, name: str, space: Any, n_trials: int, storage: str) -> mo.Recipe:
    """The recipe of the best trial of a search."""
    search = Search(f"{name}, {n_trials}", lambda _: space, (n_trials,), "the best expert")
    return mo.recipe_of(run(search, setting, storage, n_trials))


def searched(setting: Setting, n: int, storage: str) -> dict[str, mo.Recipe]:
    """What the searches find, each with so many evaluations."""
    pair = setting.experts
    weights = mo.recipes.linear(pair, weight=mo.free(0, 1, per="layer"), name="merged")
    half = found_in(setting, PS, weights, n // 2, storage)
    return {
        PS: found_in(setting, PS, weights, n, storage),
        DFS: found_in(setting, DFS, mo.spaces.LayerPath(pair), n, storage),
        PLAIN: found_in(setting, PLAIN, mo.spaces.LayerPath(pair, scales="none"), n, storage),
        BOTH: found_in(setting, BOTH, mo.spaces.LayerPath([half, pair[0]]), n - n // 2, storage),
    }


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get("MERGE_OPTUNA_DATA")
    parser.add_argument("--data", type=Path, default=data, required=data is None)
    parser.add_argument("--encoder", default=ENCODER, help="hub id or folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="work folder (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(3))
    parser.add_argument("--evaluations", type=int, default=100, help="of each search")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tests = scorer([row for d in DOMAINS for row in read(arguments.data, d, "test")])
    tester = Tester(arguments.out / "answers", tests)
    found: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        models = make_models(
            arguments.out / f"seed-{seed}", arguments.data, arguments.encoder, seed
        )
        dev = scorer(dev_texts(arguments.data, seed))
        base, *experts = models.values()
        experts.sort(key=lambda model: -dev.value(tester.answers(model, dev)))
        setting = Setting(seed, base, experts[:2], dev)
        rivals: dict[str, Model] = {
            "the best expert": experts[0],
            "the second": experts[1],
            "their average": mo.recipes.linear(setting.experts),
        }
        storage = f"sqlite:///{arguments.out / 'paths.db'}"
        results = rivals | searched(setting, arguments.evaluations, storage)
        found.append(
            {
                name: (dev.value(tester.answers(model, dev)), tester(model), str_of(model))
                for name, model in results.items()
            }
        )
        report(Path(__file__).with_suffix(""), found, len(dev), len(tests), arguments.evaluations)


def str_of(model: Model) -> str:
    """The path, if it is one."""
    is_path = isinstance(model, mo.Recipe) and model.path is not None
    return f"{model.path:.2f}" if is_path else ""


def report(
    folder: Path, found: list[dict[str, Any]], dev: int, test: int, evaluations: int
) -> None:
    """Writes the table of the seeds so far."""
    folder.mkdir(exist_ok=True)
    reference = [seed["the best expert"][1] for seed in found]
    lines = [
        "# A path through two emotion experts",
        "",
        f"Mean over five domains of macro-F1, on {dev} dev and {test} test texts; mean over "
        f"{len(found)} seeds, of which each has its own experts. Searches had {evaluations} "
        "evaluations, PS + DFS half of them each. The gain is over the best of the five experts "
        "(on dev), which every path begins with, with its 95 % interval in a paired bootstrap.",
        "",
        "| | dev | test | by seed | gain |",
        "|---|---|---|---|---|",
    ]
    plain = {}
    for name in found[0]:
        scores = [seed[name][1] for seed in found]
        seeds = [float(one[:, 0].mean()) for one in scores]
        means = float(np.mean([seed[name][0] for seed in found])), float(np.mean(seeds))
        gain = difference(scores, reference)
        plain[name] = {"dev": means[0], "test": means[1], "test by seed": seeds, "gain": gain}
        low, high = gain["interval"]
        lines.append(
            f"| {name} | {means[0]:.3f} | {means[1]:.3f} | "
            f"{', '.join(f'{seed:.3f}' for seed in seeds)} | "
            f"{gain['mean']:+.3f} [{low:+.3f}, {high:+.3f}] |"
        )
    lines += [
        "",
        "Paths, A the best expert (in PS + DFS the merged one), B the second (the best):",
    ]
    for name in (DFS, PLAIN, BOTH):
        paths = "; ".join(f"`{seed[name][2]}`" for seed in found)
        lines += ["", f"- {name}: {paths}"]
    (folder / "results.md").write_text("\n".join([*lines, ""]))
    (folder / "results.json").write_text(by_rows(plain))


if __name__ == "__main__":
    main()
