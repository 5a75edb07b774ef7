"""What lies around a page when its code is run: files in the current folder, and names."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import merge_optuna as mo
from tests import toys
from tests.docs.blocks import block
from tests.spaces.models import Waves
from tests.spaces.routes import Logits
from tests.trained import Task, read_rows, write_rows

Names = dict[str, Any]


def needs(stage: Callable[..., Names]) -> list[str]:
    """The fixtures that a stage is made of."""
    return list(inspect.signature(stage).parameters)


def plain() -> Names:
    """A search space, and nothing to merge."""
    space = {name: FloatDistribution(0, 1) for name in "xyz"}
    return {"space": space}


def language(language_models: Path) -> Names:
    """Three language models with questions, as examples/small_models.py makes them."""
    here = Path.cwd()
    (here / "models").symlink_to(language_models / "models")
    for name in ("dev", "test"):
        shutil.copy(language_models / f"{name}.jsonl", here)
    names = {"base": "base", "ja": "japanese", "math": "math"}
    models = {name: mo.Checkpoint(f"models/{f}", name=name) for name, f in names.items()}
    nats = mo.evaluators.NegativeLogLikelihood("dev.jsonl", question="question")
    return {**models, "evaluator": nats, **plain()}


def mergekit(language_models: Path) -> Names:
    """The language models, and the file of the page."""
    Path("config.yml").write_text(block("docs/start/from_mergekit.md", "config.yml"))
    return language(language_models)


def search_file(language_models: Path) -> Names:
    """The language models, and the search file of the page, with few trials."""
    code = block("docs/howto/command_line.md", "search.py")
    Path("search.py").write_text(code.replace("n_trials=100", "n_trials=3"))
    return language(language_models)


FRONT = """
import merge_optuna as mo
base, thinker, fast = (
    mo.Checkpoint(f"models/{f}", name=n)
    for n, f in {"base": "base", "thinker": "japanese", "fast": "math"}.items()
)
"""


def front(language_models: Path) -> Names:
    """Models called as those of examples/small_reasoners.py, and the page's search as a file."""
    language(language_models)
    shutil.copy("dev.jsonl", "dev-japanese.jsonl")
    names: Names = {}
    exec(FRONT, names)
    code = block("docs/fronts.md", "front").partition('.run("sqlite:///front.db")')[0]
    Path("search.py").write_text(FRONT + code.replace("n_trials=200", "n_trials=3"))
    return names


def adapters(language_models: Path) -> Names:
    """The language models, and an adapter of one in the format of peft."""
    names = language(language_models)
    model = AutoModelForCausalLM.from_pretrained("models/base")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        "adapters/ja"
    )
    return names


def classifiers(task: Task) -> Names:
    """A text classifier and two experts of it, with data."""
    Path("models").symlink_to(task.root)
    for name in ("dev", "test"):
        write_rows(Path(f"{name}.jsonl"), read_rows(getattr(task, name))[:24])
    for name in "ab":
        shutil.copy("dev.jsonl", f"{name}.jsonl")
    base, a, b = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, [a, b], weight=mo.free(0, 1))
    objective = mo.MergeObjective(recipe, mo.evaluators.Classification("dev.jsonl"))
    return {"base": base, "a": a, "b": b, "recipe": recipe, "objective": objective}


def evaluators(task: Task) -> Names:
    """Data of all the kinds that the page has, and models of the one kind that are run."""
    names = classifiers(task)
    more = {
        "question": "2 + 3?",
        "answer": "It is 5. #### 5",
        "solution": "5",
        "domain": "sums",
        "language": "en",
    }
    rows = read_rows(Path("dev.jsonl"))
    write_rows(Path("dev.jsonl"), [{**row, **more} for row in rows])
    for name in ("mr", "subj", "old", "new"):
        write_rows(Path(f"{name}.jsonl"), rows)
    pairs = [{"text": row["text"], "text2": row["text"]} for row in rows]
    write_rows(Path("stsb.jsonl"), [{**row, "label": i % 5} for i, row in enumerate(pairs)])
    labels = ("equivalent", "other")
    write_rows(Path("mrpc.jsonl"), [{**r, "label": labels[i % 2]} for i, r in enumerate(pairs)])
    write_rows(Path("arc.jsonl"), [{"question": "2 + 3?", "choices": ["5", "6"], "answer": 0}] * 4)
    for name in ("mgsm_ja", "maths", "web"):
        write_rows(Path(f"{name}.jsonl"), [{**more, "text": "a text"}] * 4)
    return {
        **names,
        **dict(zip(("mr", "subj"), (names["a"], names["b"]), strict=True)),
        "questions": [("2 + 3?", "5")],
        "answer": lambda model, question: "5",
        "share_of_unsafe_replies": lambda model: 0.0,
    }


def leaderboards(task: Task) -> Names:
    """Two searches in two storages, and a file with test data."""
    names = classifiers(task)
    objective = names["objective"]
    studies = [
        mo.MergeStudy(f"search, seed {seed}", objective, 3, baselines=["base"]).run(url)
        for seed, url in enumerate(("sqlite:///a.db", "sqlite:///b.db"))
    ]
    test = mo.evaluators.Classification("test.jsonl")
    mo.MergeStudy("merges", objective, 2, baselines=False).run("sqlite:///merge.db")
    task.file(Path("search.py"), name="'merges'", n_trials=2)
    one = np.arange(4) % 2
    return {
        **names,
        "studies": studies,
        "test": test,
        "test_scores": [one] * 5,
        "scores_of_average": one,
    }


def genealogies() -> Names:
    """Three classifiers, and an evaluator with a score per example."""
    for seed, name in enumerate("abc"):
        toys.bert(seed).save_pretrained(name)
    return {name: mo.Checkpoint(name, name=name) for name in "abc"} | {"evaluator": Waves()}


def paths() -> Names:
    """Two decoders without a tokenizer, and what they are scored by."""
    for seed, name in enumerate("ab"):
        toys.llama(seed).save_pretrained(name)
    return {name: mo.Checkpoint(name, name=name) for name in "ab"} | {"evaluator": Logits()}


STAGES: dict[str, Callable[..., Names]] = {
    "docs/baselines.md": classifiers,
    "docs/data_flow.md": paths,
    "docs/evaluators.md": evaluators,
    "docs/evolution.md": genealogies,
    "docs/fronts.md": front,
    "docs/leaderboard.md": leaderboards,
    "docs/howto/adapters.md": adapters,
    "docs/howto/command_line.md": search_file,
    "docs/howto/resume.md": language,
    "docs/howto/scan.md": paths,
    "docs/howto/see_a_search.md": language,
    "docs/start/from_mergekit.md": mergekit,
    "docs/start/from_optuna.md": language,
    "docs/start/install.md": classifiers,
    "docs/start/language_model.md": language,
    "docs/start/several_tasks.md": classifiers,
    **dict.fromkeys(
        (
            f"docs/algorithms/{name}.md"
            for name in ("evolutionary_merge", "m2n2", "evolver", "pso_merging")
        ),
        language,
    ),
}
"""Of each page that needs more than a search space."""
