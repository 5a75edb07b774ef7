"""Fronts of merges: does a search with weights per layer beat a sweep of uniform weights?

    python studies/fronts.py --data DIR      # makes models, searches, exports, writes the tables

Two experiments, with two objectives each. "answers": a small decoder that thinks before it answers
and one that answers at once, merged for right answers and few tokens. "glue": an encoder that is
fine-tuned for SST-2 and one for STS-B, merged for both, each task scored under its own head.

Both are searched with weights per expert that change with the depth, by NSGA-II, ours and
Optuna's, and by TPE, and swept with weights that are the same in all layers, with as many
evaluations. What is compared is the hypervolume of the front on dev, and what the points of that
front are worth on test. Ours is also run in a process that is killed in its middle and started
again, and points of its front are written and scored by plain transformers.

DIR holds the folders ``glue_sst2`` and ``glue_stsb`` with ``train``, ``dev`` and
``test.jsonl.gz``. Stop it and start it again: models on disk are used again, finished trials are
kept. Everything but the tables is in ``runs/fronts``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _fronts_answers
import _fronts_glue
import numpy as np
import optuna
import torch
import transformers
from _fronts_checks import Make, done, exported, killed
from _fronts_experiment import LINES, SWEEPS, Experiment, Inputs
from _fronts_picture import picture
from _fronts_search import OURS, declared, front, seconds, sweep
from _rows import by_rows
from numpy.typing import NDArray

import merge_optuna as mo
from merge_optuna.study import Cost, Draws, Entry, Leaderboard, Run

Array = NDArray[np.float64]
Results = dict[str, Any]
PARTS = ("dev", "test")
WHAT = ("", ", above both lines", ", above the grid as well")
OUT, RESULTS = Path("runs/fronts"), Path(__file__).with_suffix("")
EXPERIMENTS: dict[str, Make] = {"answers": _fronts_answers.make, "glue": _fronts_glue.make}


# -- Tests --------------------------------------------------------------------------------------


class Tester:
    """Scores models on test examples, and keeps the scores in a folder."""

    def __init__(self, folder: Path, test: mo.evaluators.Evaluator) -> None:
        self.folder, self.test, self.engine = folder, test, mo.Engine()
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, model: mo.Recipe) -> Array:
        """Scores in the order of the examples, shape (n, k)."""
        about = json.dumps([model.digest, self.test.digest], default=str)
        place = self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.npy"
        if not place.exists():
            ids, scores = map(
                np.concatenate, zip(*self.test(self.engine.load(model)), strict=True)
            )
            with place.with_suffix(".unfinished").open("wb") as file:
                np.save(file, scores[np.argsort(ids)])
            place.with_suffix(".unfinished").rename(place)
        return np.load(place)


@dataclass(frozen=True)
class Found:
    """The front of one search or sweep.

    Attributes:
        dev: Of each point the values on dev.
        test: The values of the same points on test.
        scores: On test, of all points side by side, shape (examples, points × k).
        cost: Of the search.
    """

    dev: list[tuple[float, ...]]
    test: list[tuple[float, ...]]
    scores: Array
    cost: Cost


def tested(study: optuna.Study, tester: Tester) -> Found:
    """The front of a study, on test."""
    points = front(study)
    scores = [tester(mo.recipe_of(study, number)) for number, _ in points]
    return Found(
        [values for _, values in points],
        [tester.test.value(one) for one in scores],
        np.hstack(scores),
        Cost(evaluations=len(done(study)), seconds=seconds(study)),
    )


Fronts = dict[
    str, dict[int | None, Found]
]  # of each method and seed; None where nothing is random


def board(experiment: Experiment, fronts: Fronts) -> Leaderboard:
    """All methods by the hypervolume on test of what they have chosen on dev."""
    width = {f.scores.shape[1] // len(f.dev) for runs in fronts.values() for f in runs.values()}

    def value(scores: Array) -> float:
        points = np.split(scores, scores.shape[1] // min(width), axis=1)
        return experiment.hypervolume([experiment.test.value(one) for one in points])

    entries = []
    for name, runs in fronts.items():
        of_runs = [
            Run(experiment.hypervolume(one.dev), one.scores, seed, one.cost)
            for seed, one in runs.items()
        ]
        entries.append(Entry(name, of_runs, "tuned baseline" if name in SWEEPS else "search"))
    return Leaderboard.of(entries, value=value, metric="hypervolume", draws=Draws(resamples=500))


# -- An experiment --------------------------------------------------------------------------------


def run(
    make: Make, folder: Path, inputs: Inputs, trials: int | None, seeds: Sequence[int]
) -> Results:
    """Everything of one experiment; what is there already is not run again."""
    experiment = make(folder, inputs)
    n_trials = trials or experiment.trials
    storage = f"sqlite:///{folder / 'searches.db'}"
    tester = Tester(folder / "tested", experiment.test)
    fronts: Fronts = {}
    for name in SWEEPS:
        study = sweep(experiment, name, n_trials).run(storage, progress=False)
        fronts[name] = {None: tested(study, tester)}
    for name in experiment.searches:
        fronts[name] = {}
        for seed in seeds:
            study = declared(experiment, name, seed, n_trials).run(storage, progress=False)
            fronts[name][seed] = tested(study, tester)
    whole = declared(experiment, OURS, seeds[0], n_trials).open(storage)
    return {
        "title": experiment.title,
        "axes": experiment.dev.metric_names,
        "sizes": {"dev": len(experiment.dev), "test": len(experiment.test)},
        "weights": len(experiment.space(experiment.way.per).slots),
        "first": len(experiment.way.first),
        "box": {"reference": experiment.reference, "ideal": experiment.ideal},
        "kill": killed(make, folder, inputs, seeds[0], done(whole)[: n_trials // 2]),
        "exported": exported(experiment, whole, folder / "exported"),
        "seconds": sum(one.cost.seconds or 0 for runs in fronts.values() for one in runs.values()),
        "fronts": {
            name: [rounded({"dev": one.dev, "test": one.test}) for one in runs.values()]
            for name, runs in fronts.items()
        },
        "hypervolume": {
            name: {
                "dev": [round(experiment.hypervolume(one.dev), 4) for one in runs.values()],
                "test": [round(experiment.hypervolume(one.test), 4) for one in runs.values()],
            }
            for name, runs in fronts.items()
        },
        "table": board(experiment, fronts).to_markdown(),
    }


def rounded(points: dict[str, list[tuple[float, ...]]]) -> dict[str, list[list[float]]]:
    return {part: [[round(x, 4) for x in p] for p in some] for part, some in points.items()}


# -- Tables ---------------------------------------------------------------------------------------

INTRODUCTION = """\
What `python studies/fronts.py` has found. Two experts are merged by task arithmetic, with weights
from 0 to 1.5. Searches have weights that change with the depth. Sweeps have the same ones in all
layers: two are along a line, both experts alike or from one to the other; the third is a grid over
both weights. All have the same number of evaluations. A seed is one repetition of a
search: models and examples stay. Points are chosen on dev: hypervolumes on test are those of what
is the front on dev. The box of a hypervolume was set before the searches, by what guessing is
worth or the longest reply, and by what cannot be exceeded. Weights, starting points and steps of
the searches were chosen by their hypervolumes on dev, so those are a little flattering; test was
looked at once. A bootstrap draws seeds and test examples; what searches are compared with there is
the best of all sweeps on test.
"""

NOTE = """\
## {title}

Objectives: {axes[0]} and {axes[1]}, on {sizes[dev]} dev and {sizes[test]} test examples.
Searches have {weights} weights, and begin with {first} points at which they are the same in all
layers. Hypervolumes are shares of the box between {box[reference]} and {box[ideal]}.
"""


def report(folder: Path) -> None:
    """Writes the tables and figures from the files of the experiments."""
    blocks = [INTRODUCTION]
    for name in EXPERIMENTS:
        if not (folder / f"{name}.json").exists():
            continue
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        panels = {
            part: {n: [run[part] for run in runs] for n, runs in about["fronts"].items()}
            for part in PARTS
        }
        (folder / f"{name}.svg").write_text(picture(panels, about["axes"]), encoding="utf-8")
        blocks += [NOTE.format(**about), about["table"], by_seed(about["hypervolume"])]
        blocks += [checks(about), f"![fronts on dev and on test]({name}.svg)"]
    (folder / "results.md").write_text("\n\n".join(b.strip() for b in blocks) + "\n", "utf-8")


def by_seed(hypervolumes: dict[str, Any]) -> str:
    """The hypervolumes of each seed, and of how many it is above the sweeps."""
    head = ["hypervolume by seed", *(f"{part}{what}" for part in PARTS for what in WHAT)]
    rows = [head, ["---"] * len(head)]
    for name, found in hypervolumes.items():
        row = [name]
        for part in PARTS:
            volumes = found[part]
            row.append(", ".join(f"{volume:.3f}" for volume in volumes))
            for sweeps in (LINES, SWEEPS):
                best = max(*(hypervolumes[sweep][part] for sweep in sweeps))[0]
                above = sum(volume > best for volume in volumes)
                row.append("" if name in SWEEPS else f"{above} of {len(volumes)}")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def checks(about: Results) -> str:
    """What came of the kill and of the files, in sentences."""
    kill, files = about["kill"], about["exported"]
    same = sum(file["study"] == file["plain"] for file in files)
    return (
        f"A process of ours, killed after {kill['at']} trials and started again, has made "
        f"{kill['same']} of {kill['of']} trials exactly as the one that was not. Of "
        f"{len(files)} points written and loaded by plain transformers, {same} score on dev "
        "exactly what the study says, in both objectives."
    )


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = os.environ.get("MERGE_OPTUNA_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=data,
        help="folder with the texts of GLUE (default: $MERGE_OPTUNA_DATA)",
    )
    parser.add_argument(
        "--encoder", default=_fronts_glue.ENCODER, help="hub id or folder (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="work folder (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--trials", type=int, help="per search (answers 300, glue 64)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="0 1 2")
    parser.add_argument(
        "--experiments", nargs="+", choices=EXPERIMENTS, default=[*EXPERIMENTS], help="both"
    )
    parser.add_argument(
        "--tables", action="store_true", help="write the tables from what is there, run nothing"
    )
    arguments = parser.parse_args()
    if "glue" in arguments.experiments and arguments.data is None and not arguments.tables:
        parser.error("--data or MERGE_OPTUNA_DATA must say where the texts are")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    inputs = Inputs(arguments.data, arguments.encoder)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in [] if arguments.tables else arguments.experiments:
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        about = run(EXPERIMENTS[name], folder, inputs, arguments.trials, arguments.seeds)
        (arguments.results / f"{name}.json").write_text(by_rows(about), encoding="utf-8")
    report(arguments.results)


if __name__ == "__main__":
    main()
