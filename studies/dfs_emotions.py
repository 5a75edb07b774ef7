"""A path through two encoders: data-flow space on two of the experts of ``emotions.py``.

    python studies/dfs_emotions.py --data DIR --evaluations 80

Experts, texts and the score are those of ``emotions.py``, whose models in ``runs/emotions`` are
used again or trained. Of the five experts the two that are best on dev are merged in parameter
space (a weight for every layer), in data-flow space, as in the paper with and without scales and
by depth, and in both; beside a greedy exchange of layers. The table and the paths go to
``studies/dfs_emotions``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import optuna
import torch
import transformers
from _comparison import Results, tables
from emotions import (
    DOMAINS,
    DTYPE,
    ENCODER,
    OUT,
    Key,
    Model,
    Search,
    Setting,
    Tested,
    Tester,
    dev_texts,
    make_models,
    read,
    run,
    scorer,
    summary,
)

import merge_optuna as mo
from merge_optuna.study import Kind

RESULTS = Path(__file__).with_suffix("")
BEST, SECOND, AVERAGE = "the best expert", "the second", "their average"
PS, DFS, PLAIN, BOTH = "PS", "DFS", "DFS without scales", "PS + DFS"
DEPTH, GREEDY, DEPTH_BOTH = "DFS by depth", "greedy exchange of layers", "PS + DFS by depth"
BEGINS = {PS: AVERAGE, DFS: BEST, PLAIN: BEST, DEPTH: BEST, GREEDY: BEST}
PAPER = {"layout": "paper", "repeats": 3}


def found_in(setting: Setting, name: str, space: Any, n_trials: int, storage: str) -> mo.Recipe:
    """The recipe of the best trial of a search."""
    search = Search(f"{name}, {n_trials}", lambda _: space, (n_trials,), "the best expert")
    return mo.recipe_of(run(search, setting, storage, n_trials))


def searched(setting: Setting, n: int, storage: str) -> dict[str, mo.Recipe]:
    """What the searches find, each with so many evaluations."""
    pair = setting.experts
    weights = mo.recipes.linear(pair, weight=mo.free(0, 1, per="layer"), name="merged")
    half = found_in(setting, PS, weights, n // 2, storage)
    both = [half, pair[0]]
    path, rest = mo.spaces.LayerPath, n - n // 2
    return {
        PS: found_in(setting, PS, weights, n, storage),
        DFS: found_in(setting, DFS, path(pair, **PAPER), n, storage),
        PLAIN: found_in(setting, PLAIN, path(pair, scales="none", **PAPER), n, storage),
        BOTH: found_in(setting, BOTH, path(both, **PAPER), rest, storage),
        DEPTH: found_in(setting, DEPTH, path(pair), n, storage),
        DEPTH_BOTH: found_in(setting, DEPTH_BOTH, path(both), rest, storage),
        GREEDY: exchanged(setting, storage),
    }


def exchanged(setting: Setting, storage: str) -> mo.Recipe:
    """Layers of the best expert exchanged for the second's as long as it helps."""
    space = mo.spaces.LayerPath(setting.experts, scales="none")
    objective = mo.MergeObjective(space, setting.dev, dtype=DTYPE)
    name = f"{GREEDY}, seed {setting.seed}"
    return mo.recipe_of(mo.greedy_path(objective, storage=storage, name=name))


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get("MERGE_OPTUNA_DATA")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--encoder", default=ENCODER, help="hub id or folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="work folder (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(3))
    parser.add_argument("--evaluations", type=int, default=100, help="of each search")
    parser.add_argument(
        "--tables", action="store_true", help="write the tables from results.json, run nothing"
    )
    arguments = parser.parse_args()
    if arguments.tables:
        report()
        return
    if arguments.data is None:
        parser.error("--data or MERGE_OPTUNA_DATA must say where the texts are")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tests = scorer([row for d in DOMAINS for row in read(arguments.data, d, "test")])
    tester = Tester(arguments.out / "answers", tests)
    repetitions = []
    for seed in arguments.seeds:
        models = make_models(
            arguments.out / f"seed-{seed}", arguments.data, arguments.encoder, seed
        )
        dev = scorer(dev_texts(arguments.data, seed))
        base, *experts = models.values()
        experts.sort(key=lambda model: -dev.value(tester.answers(model, dev)))
        setting = Setting(seed, base, experts[:2], dev)
        storage = f"sqlite:///{arguments.out / 'paths.db'}"
        repetitions.append(repeat(setting, tester, storage, arguments.evaluations))
        lines, texts = summary(repetitions, tests)
        Results(len(dev), len(tests), lines, texts).save(RESULTS)  # so far
        report()


def repeat(setting: Setting, tester: Tester, storage: str, n: int) -> dict[Key, Tested]:
    """All lines of one repetition."""
    best, second = setting.experts

    def tested(model: Model, kind: Kind, begins: str = "") -> Tested:
        dev = setting.dev.value(tester.answers(model, setting.dev))
        return Tested(dev, tester(model), kind, begins, path=path_of(model))

    return {
        (BEST, 0): tested(best, "tuned baseline"),
        (SECOND, 0): tested(second, "baseline"),
        (AVERAGE, 0): tested(mo.recipes.linear(setting.experts), "baseline"),
        **{
            (name, n): tested(recipe, "search", BEGINS.get(name, ""))
            for name, recipe in searched(setting, n, storage).items()
        },
    }


def path_of(model: Model) -> str:
    """The path, if it is one."""
    is_path = isinstance(model, mo.Recipe) and model.path is not None
    return f"{model.path:.2f}" if is_path else ""


NOTE = """\
# A path through two emotion experts

Mean over five domains of macro-F1, on {results.dev} dev and {results.test} test texts; mean over
{results.seeds} seeds, of which each has its own experts. PS + DFS had half of its evaluations for
each. A path begins with the best of the five experts (on dev). In paths A is that expert (in PS +
DFS the merged model), B the second (the best).
"""


def report() -> None:
    """Writes the tables from ``results.json``."""
    results = Results.read(RESULTS)
    text = f"{NOTE.format(results=results)}\n{tables(results, results.board())}"
    (RESULTS / "results.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
