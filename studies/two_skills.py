"""Merge two skills of a small chat model: word problems, and what a question asks for.

    python studies/two_skills.py --data DIR      # trains, searches, exports, writes the tables

Two LoRA adapters are trained on SmolLM2-135M-Instruct. One answers word problems of SVAMP with a
short calculation, "7 - 2 = 5"; the other says whether a question of TREC asks for a person, a
place, a number and so on. Each skill is asked through the chat template. Searches see how likely
the right answers to some dev examples are; the tables also tell how many test problems a model
solves in its own words and how many test questions it sorts rightly, and that of all baselines.

DIR has the folders ``math_svamp`` and ``cls_trec`` with ``train``, ``dev`` and ``test.jsonl.gz``.
A seed is one repetition of everything: the order of training, the dev examples, the searches. Stop
it and start it again: adapters on disk are used again, finished trials are kept. Everything but
the tables is in ``runs/two_skills``. On two cores a seed takes an hour or two.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import transformers
from _lora import train
from _rows import by_rows
from datasets import Dataset
from numpy.typing import NDArray
from torch import nn

import merge_optuna as mo
from merge_optuna.study import Cost, Entry, Leaderboard, Run

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
UNKNOWN = Cost()
OUT, RESULTS = Path("runs/two_skills"), Path(__file__).with_suffix("")
SYSTEM = "Answer briefly."
DEV, TEST = 48, 300  # examples of each skill, or all there are
REPLY = 24  # tokens

Array = NDArray[np.float64]
Row = dict[str, Any]
Model = mo.Checkpoint | mo.Recipe


# -- Skills -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Skill:
    """A kind of question.

    Attributes:
        folder: Of its data.
        ask: From a row of the data to a question, its answer and what else scoring needs.
        test: From rows to the evaluator of the tables.
    """

    folder: str
    ask: Callable[[Row], Row]
    test: Callable[[Dataset], mo.evaluators.Evaluator]


KINDS = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "thing",
    "HUM": "person",
    "LOC": "place",
    "NUM": "number",
}


def problem(row: Row) -> Row:
    """A word problem; the answer is its calculation, of which only the result is scored."""
    equation = row["equation"].strip().removeprefix("(").removesuffix(")")
    words = [f"{float(word):.10g}" if word[0].isdigit() else word for word in equation.split()]
    calculation = " ".join(words).replace("( ", "(").replace(" )", ")")
    result = f"{float(row['answer']):.10g}"
    return {
        "question": row["question"],
        "answer": f"{calculation} = {result}",
        "result": result,
    }


def kind(row: Row) -> Row:
    """A question about a question."""
    *others, last = KINDS.values()
    asked = f"{row['text']}\nWhat does this ask for: {', '.join(others)} or {last}?"
    return {"question": asked, "answer": KINDS[row["label"]], "choices": [*KINDS.values()]}


def solved(rows: Dataset) -> mo.evaluators.Generation:
    """The share of problems that a model solves: its reply ends with the right number."""
    return mo.evaluators.Generation(
        rows,
        answer="result",
        chat=True,
        system=SYSTEM,
        max_new_tokens=REPLY,
        extract="last_number",
        scorer="numeric",
        batch_size=25,
    )


def sorted_rightly(rows: Dataset) -> mo.evaluators.MultipleChoice:
    """The share of questions of which the right kind is the likeliest answer."""
    return mo.evaluators.MultipleChoice(rows, chat=True, system=SYSTEM, batch_size=8)


SKILLS = {
    "maths": Skill("math_svamp", problem, solved),
    "kinds": Skill("cls_trec", kind, sorted_rightly),
}


def read(data: Path, skill: Skill, split: str) -> list[Row]:
    """All examples of a split, without those that are in an earlier one."""
    seen: set[str] = set()
    for name in ("train", "dev", "test"):
        with gzip.open(data / skill.folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [skill.ask(json.loads(line)) for line in file]
        if name == split:
            return [row for row in rows if row["question"] not in seen]
        seen |= {row["question"] for row in rows}
    raise ValueError(f"There is no split {split!r}.")


def draw(rows: list[Row], n: int, seed: int) -> Dataset:
    """Some examples, or all if there are no more."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n]
    return Dataset.from_list([rows[i] for i in chosen])


def likelihood(data: Path, seed: int) -> mo.evaluators.Tasks:
    """Nats per token of the right answers, the mean of both skills: what searches minimise."""
    return mo.evaluators.Tasks(
        {
            name: mo.evaluators.NegativeLogLikelihood(
                draw(read(data, skill, "dev"), DEV, seed),
                question="question",
                answer="answer",
                chat=True,
                system=SYSTEM,
            )
            for name, skill in SKILLS.items()
        }
    )


def answers(data: Path) -> mo.evaluators.Tasks:
    """The share of right answers on test examples, the mean of both skills."""
    return mo.evaluators.Tasks(
        {
            name: skill.test(draw(read(data, skill, "test"), TEST, 0))
            for name, skill in SKILLS.items()
        }
    )


# -- Experts ------------------------------------------------------------------------------


def make_models(folder: Path, base: str, data: Path, seed: int) -> dict[str, mo.Checkpoint]:
    """The base, and the experts, which are trained unless they are in the folder."""
    made = {"base": mo.Checkpoint(base, name="base")}
    for name, skill in SKILLS.items():
        place = folder / name
        if not place.exists():
            print(f"Training {name} of seed {seed} ...", file=sys.stderr)
            unfinished = place.with_suffix(".unfinished")
            train(base, read(data, skill, "train"), SYSTEM, unfinished, seed)
            unfinished.rename(place)  # so a killed run leaves no half-trained expert
        made[name] = mo.Checkpoint(place, name=name, base=made["base"])
    return made


# -- Searches -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What all searches have in common in one repetition.

    Attributes:
        seed: Of everything.
        models: By name, the base first.
        dev: What searches minimise.
        dtype: Of the live model; None for that of the base.
    """

    seed: int
    models: dict[str, mo.Checkpoint]
    dev: mo.evaluators.Tasks
    dtype: str | None


def task_arithmetic(models: dict[str, mo.Checkpoint], per: Any = "model") -> mo.Recipe:
    """A weight per expert, and per part of the depth."""
    base, *experts = models.values()
    return mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1.5, per=per, start=0.5))


def dare_ties(models: dict[str, mo.Checkpoint]) -> mo.Recipe:
    """A weight and a density per expert."""
    base, *experts = models.values()
    weight, density = mo.free(0, 1.5, start=0.5), mo.free(0.1, 1, start=0.5)
    return mo.recipes.dare_ties(base, experts, weight=weight, density=density)


SEARCHES: dict[str, Callable[[dict[str, mo.Checkpoint]], mo.Recipe]] = {
    "task arithmetic, 2 weights": task_arithmetic,
    "task arithmetic, 2 × 3 weights": lambda models: task_arithmetic(models, mo.depth(3)),
    "DARE-TIES, 2 weights, 2 densities": dare_ties,
}


def search(name: str, setting: Setting, storage: str, n_trials: int) -> optuna.Study:
    """Runs a search, or what is left of it; it begins with the merge that nobody has tuned.

    The baselines that all searches share are scored beside the first.
    """
    space = SEARCHES[name](setting.models)
    declared = mo.MergeStudy(
        f"{name}, seed {setting.seed}",
        mo.MergeObjective(space, setting.dev, dtype=setting.dtype),
        n_trials=n_trials,
        sampler=space.sampler(seed=setting.seed),
        first=[space.start()],
        baselines=True if name == next(iter(SEARCHES)) else ["untuned operator"],
    )
    return declared.run(storage)


@dataclass(frozen=True)
class Found:
    """A line of the tables in one repetition; ``kind`` as in leaderboards."""

    name: str
    kind: Any
    model: Model
    dev: float
    cost: Cost = UNKNOWN


def baselines(study: optuna.Study) -> Iterator[Found]:
    """Those that are kept in a study; of task arithmetic with one λ only the best."""
    for row in mo.baselines(study).headlines:
        if row.recipe is not None and isinstance(row.value, float):
            name = f"{row.kind}, best of ten λ" if row.kind == "task arithmetic" else row.name
            yield Found(name, "tuned baseline" if row.tuned else "baseline", row.recipe, row.value)


def best(study: optuna.Study, name: str) -> Found:
    """What a search has found."""
    spent = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    seconds = sum(s.get("seconds_merge", 0) + s.get("seconds_evaluate", 0) for s in spent)
    cost = Cost(evaluations=len(spent), seconds=seconds)
    return Found(name, "search", mo.recipe_of(study), study.best_value, cost)


# -- Tests --------------------------------------------------------------------------------


def in_order(evaluator: mo.evaluators.Evaluator, model: nn.Module) -> Array:
    """Scores in the order of the examples, shape (n, k)."""
    ids, scores = map(np.concatenate, zip(*evaluator(model), strict=True))
    return scores[np.argsort(ids)]


class Tester:
    """Scores models on test examples, and keeps the scores in a folder."""

    def __init__(self, folder: Path, test: mo.evaluators.Tasks, dtype: str | None) -> None:
        self.folder, self.test, self.dtype = folder, test, dtype
        self.engine = mo.Engine(dtype=dtype)
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, model: Model) -> Array:
        """Scores in the order of the examples, shape (n, k)."""
        about = json.dumps([model.digest, self.dtype, self.test.digest], default=str)
        place = self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.npy"
        if not place.exists():
            with place.with_suffix(".unfinished").open("wb") as file:
                np.save(file, in_order(self.test, self.engine.load(model)))
            place.with_suffix(".unfinished").rename(place)
        return np.load(place)


def export(study: optuna.Study, folder: Path, setting: Setting, tester: Tester) -> Row:
    """Writes the best merge; how many examples score the same once plain transformers loads it."""
    mo.export(study, folder, force=True, dtype=setting.dtype)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    merge = mo.recipe_of(study)
    tested = tester(merge)
    live = in_order(setting.dev, tester.engine.load(merge))
    same = {
        "dev": (live == in_order(setting.dev, plain)).all(1),
        "test": (tested == in_order(tester.test, plain)).all(1),
    }
    return {split: {"same": int(s.sum()), "of": len(s)} for split, s in same.items()}


# -- Tables -------------------------------------------------------------------------------

NOTE = """\
What searches minimise, on dev: nats per token of the right answers to {dev} examples, the mean of
both skills. What they are compared by, on test: the share of right answers to {test} examples, the
mean of both skills. The last columns say what it is made of: word problems solved in the model's
own words, of which the last number counts; the tokens of such a reply, at most {reply}, so that
whoever explains before he answers is cut off; and questions of which the right kind is the
likeliest of six. A seed is one repetition of everything: training, dev examples, searches.
"""


def board(
    repetitions: dict[int, list[Found]], tester: Tester
) -> tuple[Leaderboard, dict[str, Row]]:
    """All methods with their intervals, and what the test value of each is made of."""
    runs: dict[str, list[Run]] = {}
    kinds: dict[str, Any] = {}
    for seed, lines in repetitions.items():
        for line in lines:
            run = Run(line.dev, tester(line.model), seed, line.cost)
            runs.setdefault(line.name, []).append(run)
            kinds[line.name] = line.kind
    entries = [Entry(name, some, kinds[name]) for name, some in runs.items()]
    made = Leaderboard.of(
        entries, value=tester.test.value, metric="right answers", dev_metric="nats"
    )
    parts = {n: [tester.test.breakdown(run.scores) for run in some] for n, some in runs.items()}
    means = {
        name: {part: float(np.mean([one[part] for one in some])) for part in some[0]}
        for name, some in parts.items()
    }
    return made, means


def write(folder: Path, made: Leaderboard, parts: dict[str, Row], about: Row) -> None:
    """Writes ``results.json`` and ``results.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {**about, **made.to_data(), "parts": parts}
    (folder / "results.json").write_text(by_rows(data), encoding="utf-8")
    head, rows = made.table()
    names = [*next(iter(parts.values()))]
    table = [[*head, *names], ["---"] * (len(head) + len(names))]
    table += [[*row, *(f"{x:.2f}" for x in parts[row[0]].values())] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in table]
    same = "; ".join(
        f"{counts['same']} of {counts['of']} {split} examples of seed {seed}"
        for seed, one in about["exports"].items()
        for split, counts in one.items()
    )
    exports = f"Written, and loaded by plain transformers, the best merge scores the same: {same}."
    blocks = [NOTE.format(**about).rstrip(), "\n".join(lines), " ".join(made.notes), exports]
    (folder / "results.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = os.environ.get("MERGE_OPTUNA_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=data,
        required=data is None,
        help="folder with the examples (default: $MERGE_OPTUNA_DATA)",
    )
    parser.add_argument("--base", default=BASE, help="hub id or folder (%(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="work folder (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="0")
    parser.add_argument("--n-trials", type=int, default=30, help="per search (%(default)s)")
    parser.add_argument(
        "--dtype", help="of the live model, e.g. float32 on a processor without bfloat16"
    )
    arguments = parser.parse_args()

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tester = Tester(arguments.out / "tested", answers(arguments.data), arguments.dtype)
    storage = f"sqlite:///{arguments.out / 'searches.db'}"
    repetitions: dict[int, list[Found]] = {}
    exports: dict[int, Row] = {}
    for seed in arguments.seeds:
        folder = arguments.out / f"seed-{seed}"
        models = make_models(folder, arguments.base, arguments.data, seed)
        setting = Setting(seed, models, likelihood(arguments.data, seed), arguments.dtype)
        studies = {name: search(name, setting, storage, arguments.n_trials) for name in SEARCHES}
        lines = [line for study in studies.values() for line in baselines(study)]
        lines += [best(study, name) for name, study in studies.items()]
        repetitions[seed] = [*{line.name: line for line in lines}.values()]
        winner = min(studies.values(), key=lambda study: study.best_value)
        exports[seed] = export(winner, folder / "merged", setting, tester)
        about = {"dev": len(setting.dev), "test": len(tester.test), "reply": REPLY}
        about |= {"seeds": [*repetitions], "exports": exports}
        write(arguments.results, *board(repetitions, tester), about)  # so far


if __name__ == "__main__":
    main()
