"""Merge five experts for emotions in texts: do evolved merges beat the simple ones?

    python studies/emotions.py --data DIR      # trains, searches, writes the tables

A small pre-trained encoder with one six-way head learns a little about emotions from three sets
of texts. Five experts are fine-tuned from it, each on another domain: tweets, reports, dialogues,
comments. Every method merges them into one model for all five domains and is scored by the mean
over the domains of macro-F1, in its search on dev texts, in the tables on all test texts. All of
them are on one leaderboard, and a second table says what each search gained over what it begins
with.

DIR holds one folder per set, ``emo_tec`` and so on, with ``train``, ``dev`` and ``test.jsonl.gz``,
a "text" and a "label" per line. A seed is one repetition of everything: the texts and the order
of training, the dev texts, the searches. Stop it and start it again: models on disk are used
again, finished trials are kept. Everything but the tables is in ``runs/emotions``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import transformers
from _comparison import Array, Line, Results, figure, packed, tables
from datasets import Dataset
from torch import nn

import merge_optuna as mo
from merge_optuna.study import Kind

DOMAINS = ("tec", "isear", "crowdflower", "dailydialog", "goemotions")
WARM = ("dair", "meld", "emoevent")  # for the base, never merged
LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
OUT, RESULTS = Path("runs/emotions"), Path(__file__).with_suffix("")
WARM_TEXTS, TRAIN_TEXTS, DEV_TEXTS = 600, 2000, 200  # per set
MAX_LENGTH = 48  # tokens
DTYPE = "bfloat16"  # of the live model

Rows = list[dict[str, Any]]  # text, label, domain
Model = mo.Checkpoint | mo.Recipe
Key = tuple[str, int]  # a line of the tables: method, evaluations


def read(data: Path, domain: str, split: str) -> Rows:
    """All examples of a split."""
    with gzip.open(data / f"emo_{domain}" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) | {"domain": domain} for line in file]


def draw(rows: Rows, n: int, seed: int) -> Rows:
    """Some examples, or all if there are no more."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n]
    return [rows[i] for i in chosen]


def train(folder: Path, rows: Rows, seed: int) -> tuple[nn.Module, Any]:
    """Fine-tunes all parameters of the model in a folder: AdamW, 2 epochs in batches of 32."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.float32,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    for batch in [*torch.randperm(len(rows)).split(32), *torch.randperm(len(rows)).split(32)]:
        texts = [rows[i]["text"] for i in batch]
        labels = torch.tensor([LABELS.index(rows[i]["label"]) for i in batch])
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(**tokens).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def make_models(folder: Path, data: Path, encoder: str, seed: int) -> dict[str, mo.Checkpoint]:
    """Trains and saves the base and the experts, or takes those that are in the folder."""

    def checkpoint(name: str, start: str | Path, texts: Callable[[], Rows]) -> mo.Checkpoint:
        place = folder / name
        if not place.exists():
            print(f"Training {name} of seed {seed} ...", file=sys.stderr)
            unfinished = place.with_suffix(".unfinished")
            for part in train(start, texts(), seed):
                part.save_pretrained(unfinished)
            unfinished.rename(place)  # so a killed run leaves no half-written model
        return mo.Checkpoint(place, name=name)

    def some(sets: Iterable[str], n: int) -> Rows:
        return [row for name in sets for row in draw(read(data, name, "train"), n, seed)]

    made = {"base": checkpoint("base", encoder, lambda: some(WARM, WARM_TEXTS))}
    for domain in DOMAINS:
        made[domain] = checkpoint(
            domain, folder / "base", lambda domain=domain: some([domain], TRAIN_TEXTS)
        )
    return made


def dev_texts(data: Path, seed: int) -> Rows:
    """Some dev texts of each domain, without those that are among the test texts as well."""
    test = {row["text"] for domain in DOMAINS for row in read(data, domain, "test")}
    dev = {domain: read(data, domain, "dev") for domain in DOMAINS}
    unseen = {d: [row for row in rows if row["text"] not in test] for d, rows in dev.items()}
    return [row for rows in unseen.values() for row in draw(rows, DEV_TEXTS, seed)]


def scorer(rows: Rows) -> mo.evaluators.Classification:
    """Mean over the domains of macro-F1."""
    return mo.evaluators.Classification(
        Dataset.from_list(rows),
        metric="macro_f1",
        group="domain",
        max_length=MAX_LENGTH,
        batch_size=100,
    )


@dataclass(frozen=True)
class Setting:
    """What all methods have in common in one repetition."""

    seed: int
    base: mo.Checkpoint
    experts: list[mo.Checkpoint]
    dev: mo.evaluators.Classification


@dataclass(frozen=True)
class Search:
    """A method that searches.

    Attributes:
        name: As in the tables.
        space: Where it searches; the space's own sampler has the constants of its paper.
        budgets: After how many evaluations the best so far is tested.
        begin: What it begins with, as in the tables: its base merger, ...
        first: ... the best on dev of so many first trials.
    """

    name: str
    space: Callable[[Setting], Any]
    budgets: Sequence[int]
    begin: str
    first: int = 1


def average(setting: Setting) -> mo.Recipe:
    return mo.recipes.linear(setting.experts)


def task_arithmetic(setting: Setting) -> mo.Recipe:
    lambda_ = mo.free(0, 1.5, start=0.4)
    return mo.recipes.task_arithmetic(setting.base, setting.experts, lambda_=lambda_)


def ties(setting: Setting, lambda_: Any = 1.0) -> mo.Recipe:
    return mo.recipes.ties(setting.base, setting.experts, density=0.2, lambda_=lambda_)


def dare_ties(setting: Setting) -> mo.Recipe:
    weight, density = mo.free(0, 1, start=0.5), mo.free(0, 1, start=0.5)
    return mo.recipes.dare_ties(
        setting.base, setting.experts, weight=weight, density=density, seed=setting.seed
    )


def swarm(setting: Setting) -> mo.spaces.AffineSwarm:
    return mo.spaces.AffineSwarm(setting.base, setting.experts, seed=setting.seed)


def niches(setting: Setting) -> mo.spaces.SplitSlerp:
    return mo.spaces.SplitSlerp(setting.experts)


def evolver(setting: Setting, merger: Any = None) -> mo.spaces.DifferentialCrossover:
    merged = None if merger is None else merger(setting)
    return mo.spaces.DifferentialCrossover(setting.experts, merger=merged)


AVERAGE, ARITHMETIC, TIES = "uniform average", "task arithmetic, λ = 0.4", "TIES, λ = 1"
DARE_TIES = "DARE-TIES, all 0.5"
TUNED = (
    Search("task arithmetic, λ searched", task_arithmetic, (35, 100), ARITHMETIC),
    Search("TIES, λ searched", lambda s: ties(s, mo.free(0, 5, start=1)), (35, 100), TIES),
)
SEARCHES = (
    *TUNED,
    Search("CMA-ES DARE-TIES", dare_ties, (35, 100, 200), DARE_TIES),
    Search("PSO-Merging", swarm, (35, 100), "PSO-Merging, best of its first 11", first=11),
    Search("M2N2", niches, (200,), "best expert", first=5),
    Search("Evolver", evolver, (105,), "best expert", first=5),
    Search("Evolver of the average", lambda s: evolver(s, average), (101,), AVERAGE),
    Search("Evolver of TIES", lambda s: evolver(s, ties), (101,), TIES),
)
UNTUNED = (AVERAGE, ARITHMETIC, TIES, DARE_TIES)


def run(search: Search, setting: Setting, storage: str, n_trials: int) -> optuna.Study:
    """Runs a search, or what is left of it. What begins at a start tries that first."""
    space = search.space(setting)
    begins_there = isinstance(space, mo.Recipe | mo.spaces.LayerPath)
    declared = mo.MergeStudy(
        f"{search.name}, seed {setting.seed}",
        mo.MergeObjective(space, setting.dev, dtype=DTYPE),
        n_trials=n_trials,
        sampler=space.sampler(seed=setting.seed),
        first=[space.start()] if begins_there else [],
        baselines=False,  # all searches have the same: they are scored once, for the tables
    )
    return declared.run(storage)


def best_of_first(study: optuna.Study, n: int) -> optuna.trial.FrozenTrial:
    """The best of the first so many evaluations, the earliest among equals."""
    complete, pruned = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
    done = study.get_trials(deepcopy=False, states=[complete, pruned])[:n]
    return max((t for t in done if t.state == complete), key=lambda trial: trial.value)


class Tester:
    """Scores models, and keeps in a folder what they have answered."""

    def __init__(self, folder: Path, test: mo.evaluators.Classification) -> None:
        self.folder = folder
        self.test = test
        self.engine = mo.Engine(dtype=DTYPE)
        folder.mkdir(parents=True, exist_ok=True)

    def answers(self, model: Model, texts: mo.evaluators.Classification) -> Array:
        """Right or wrong, predicted class, true class and domain of each text, shape (n, 4)."""
        digests = (model.digest, *texts.digest.values())
        place = self.folder / f"{'-'.join(str(digest)[:12] for digest in digests)}.npy"
        if not place.exists():
            ids, scores = map(np.concatenate, zip(*texts(self.engine.load(model)), strict=True))
            with place.with_suffix(".unfinished").open("wb") as file:
                np.save(file, scores[np.argsort(ids)].astype(np.int8))
            place.with_suffix(".unfinished").rename(place)
        return np.load(place).astype(np.int64)

    def __call__(self, model: Model) -> Array:
        """Answers to the test texts, shape (n, 4)."""
        return self.answers(model, self.test)


@dataclass(frozen=True)
class Tested:
    """A line of the tables in one repetition.

    Attributes:
        dev: Mean over the domains of macro-F1.
        answers: To the test texts, as a :class:`Tester` gives them.
        kind: As in a leaderboard.
        begins: The line of what its search began with, if it is one.
        seconds: Per evaluation.
        path: If it is one through the layers.
    """

    dev: float
    answers: Array
    kind: Kind = "baseline"
    begins: str = ""
    seconds: float | None = None
    path: str = ""


def repeat(setting: Setting, tester: Tester, storage: str, most: int) -> dict[Key, Tested]:
    """All baselines and searches of one repetition."""
    lines: dict[Key, Tested] = {}
    models: dict[str, Model] = {m.name: m for m in (setting.base, *setting.experts)}
    models[AVERAGE] = average(setting)
    for name, model in models.items():
        dev = setting.dev.value(tester.answers(model, setting.dev))
        lines[name, 0] = Tested(dev, tester(model))
    for search in SEARCHES:
        budgets = [min(n, most) for n in search.budgets]
        study = run(search, setting, storage, max(budgets))
        first = best_of_first(study, search.first)
        kind: Kind = "baseline" if search.begin in UNTUNED else "tuned baseline"
        begin = Tested(first.value, tester(mo.recipe_of(study, first)), kind)
        lines.setdefault((search.begin, 0), begin)
        kind = "tuned baseline" if search in TUNED else "search"
        for n in budgets:
            best = best_of_first(study, n)
            answers = tester(mo.recipe_of(study, best))
            lines[search.name, n] = Tested(best.value, answers, kind, search.begin, seconds(study))
    return lines


def seconds(study: optuna.Study) -> float:
    """Of an evaluation: merging and scoring, the median."""
    spent = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    parts = ("seconds_merge", "seconds_evaluate")
    return float(np.median([sum(s[part] for part in parts) for s in spent if parts[1] in s]))


def summary(
    repetitions: Sequence[dict[Key, Tested]], test: mo.evaluators.Classification
) -> tuple[list[Line], dict[str, str]]:
    """The lines of the tables, and true class and domain of the test texts, packed."""
    made = []
    for method, evaluations in sorted(repetitions[0], key=lambda key: key[1] > 0):
        tested = [lines[method, evaluations] for lines in repetitions]
        times = [one.seconds for one in tested if one.seconds is not None]
        line = Line(
            method,
            tested[0].kind,
            evaluations,
            dev=[one.dev for one in tested],
            test=[test.value(one.answers) for one in tested],
            by_domain={
                domain: float(np.mean([test.value(_in(one.answers, i)) for one in tested]))
                for i, domain in enumerate(sorted(DOMAINS))
            },
            begins=tested[0].begins,
            seconds=times,
            answers=[packed(one.answers[:, 1]) for one in tested],
            paths=[one.path for one in tested if one.path],
        )
        made.append(line)
    *_, true, domain = next(iter(repetitions[0].values())).answers.T
    return made, {"true": packed(true), "domain": packed(domain)}


def _in(answers: Array, domain: int) -> Array:
    return answers[answers[:, -1] == domain]


NOTE = """\
Mean over five domains of macro-F1, on {results.dev} dev and {results.test} test texts; mean over
{results.seeds} seeds. A seed is one repetition of everything: training texts, dev texts, search.
Of experts and merges that take no search nothing is chosen on dev; what is called a tuned baseline
has one number, or one model, that was.
"""


def report(folder: Path) -> None:
    """Writes the tables and the figure from ``results.json``."""
    results = Results.read(folder)
    board = results.board()
    text = f"{NOTE.format(results=results)}\n{tables(results, board)}"
    text += "\n![test macro-F1](results.svg)\n"
    (folder / "results.md").write_text(text, encoding="utf-8")
    seeds = {line.name: line.test for line in results.lines}
    (folder / "results.svg").write_text(figure(board, seeds), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = os.environ.get("MERGE_OPTUNA_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=data,
        help="folder with the texts (default: $MERGE_OPTUNA_DATA)",
    )
    parser.add_argument("--encoder", default=ENCODER, help="hub id or folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="work folder (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5), help="0 to 4")
    parser.add_argument(
        "--n-trials", type=int, default=10**6, help="at most so many per search, for a first look"
    )
    parser.add_argument(
        "--tables", action="store_true", help="write the tables from results.json, run nothing"
    )
    arguments = parser.parse_args()
    if arguments.tables:
        report(arguments.results)
        return
    if arguments.data is None:
        parser.error("--data or MERGE_OPTUNA_DATA must say where the texts are")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    test = scorer([row for d in DOMAINS for row in read(arguments.data, d, "test")])
    tester = Tester(arguments.out / "answers", test)
    repetitions = []
    for seed in arguments.seeds:
        folder = arguments.out / f"seed-{seed}"
        models = make_models(folder, arguments.data, arguments.encoder, seed)
        base, *experts = models.values()
        setting = Setting(seed, base, experts, scorer(dev_texts(arguments.data, seed)))
        storage = f"sqlite:///{arguments.out / 'searches.db'}"
        repetitions.append(repeat(setting, tester, storage, arguments.n_trials))
        lines, texts = summary(repetitions, test)
        Results(len(setting.dev), len(test), lines, texts).save(arguments.results)  # so far
        report(arguments.results)


if __name__ == "__main__":
    main()
