"""Baselines: right, scored once, kept in the study, and shown beside its result."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import merge_optuna as mo
from merge_optuna.errors import RecipeError, StudyError
from merge_optuna.study import Baseline, Baselines
from tests import processes, toys
from tests.trained import TOPICS, Task, read_rows, right, write_rows

Batch = tuple[Any, Any]

optuna.logging.set_verbosity(optuna.logging.ERROR)

LAMBDAS = [i / 10 for i in range(1, 11)]
GRID = [f"task arithmetic, λ = {x:g}" for x in LAMBDAS]


def linears(*values: float) -> list[mo.Checkpoint]:
    """Modules in memory whose weights are all one number: base, a, b, ..."""
    made = []
    for name, value in zip(("base", "a", "b", "c"), values, strict=False):
        module = nn.Linear(4, 4, bias=False)
        nn.init.constant_(module.weight, value)
        made.append(mo.Checkpoint.from_module(module, name=name))
    return made


def weight(model: nn.Module) -> float:
    return float(model.weight.mean())  # type: ignore[operator, union-attr, arg-type]


def around(*values: float, evaluate: Any = weight) -> mo.MergeObjective:
    """A search of two weights of task vectors."""
    base, *experts = linears(*values)
    return mo.MergeObjective(
        mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 2)), evaluate
    )


class Near:
    """Four examples: how near the weights are to numbers; larger is better."""

    directions, metric_names = ("maximize",), ("nearness",)

    def __init__(self, *numbers: float) -> None:
        self.numbers = np.array(numbers or (0.0, 1.0, 2.0, 3.0))
        self.calls: list[float] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, model: nn.Module) -> Iterator[Batch]:
        self.calls.append(weight(model))
        for ids in np.array_split(np.arange(len(self)), 2):
            yield ids, -np.abs(self.numbers[ids] - weight(model))

    def value(self, scores: np.ndarray) -> float:
        return float(scores.mean())


# -- what they are ----------------------------------------------------------------------------


def states(task: Task) -> list[dict[str, Tensor]]:
    load = AutoModelForSequenceClassification.from_pretrained
    return [load(folder).state_dict() for folder in task.folders]


def test_each_scores_what_it_scores_by_hand(task: Task, tmp_path: Path) -> None:
    """Against weights that are merged by hand and texts that are read one by one."""
    rows = read_rows(task.dev)[:40]
    base, a, b = states(task)
    model = AutoModelForSequenceClassification.from_pretrained(task.folders[0]).eval()

    def scores(state: dict[str, Tensor]) -> np.ndarray:
        model.load_state_dict(state)
        return right(model, rows)

    def plus(scale: float) -> dict[str, Tensor]:
        return {n: t + scale * ((a[n] - t) + (b[n] - t)) for n, t in base.items()}

    half = {n: (a[n] + b[n]) / 2 for n in base}
    expected = {
        "base": scores(base),
        "source a": scores(a),
        "source b": scores(b),
        "uniform average": scores(half),
        "task_arithmetic, untuned": scores(plus(0.5)),  # the middle of [0, 1]
        **{name: scores(plus(x)) for name, x in zip(GRID, LAMBDAS, strict=True)},
    }
    best = max(("source a", "source b"), key=lambda name: expected[name].mean())
    better = expected["uniform average"].mean() >= expected[best].mean()
    expected["greedy soup"] = expected["uniform average"] if better else expected[best]

    dev = mo.evaluators.Classification(write_rows(tmp_path / "dev.jsonl", rows), batch_size=20)
    objective = mo.MergeObjective(task.recipe(), dev)
    *found, ensemble = table = mo.baselines(objective, progress=False)
    assert ensemble.name == "ensemble"
    assert [row.name for row in found] == list(expected)
    for row in found:
        assert row.scores is not None
        assert (row.scores == expected[row.name]).mean() > 0.97, "rounding may turn one text"
        assert row.value == pytest.approx(expected[row.name].mean(), abs=0.03)
        assert row.recipe is not None
        assert objective.score(row.recipe) == row.value
        assert mo.Recipe.from_yaml(row.recipe.to_yaml()) == row.recipe
    tuned = {row.name for row in found if row.tuned}
    assert tuned == {*GRID, "greedy soup"}
    assert {row.examples for row in found} == {40}, "the members of the soup are known"

    def probabilities(state: dict[str, Tensor], text: str) -> Tensor:
        model.load_state_dict(state)
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)

    tokenizer = AutoTokenizer.from_pretrained(task.folders[0])
    mean = [probabilities(a, r["text"]) + probabilities(b, r["text"]) for r in rows]
    both = [TOPICS[int(p.argmax())] == r["label"] for p, r in zip(mean, rows, strict=True)]
    assert ensemble.scores is not None
    assert (ensemble.scores == both).mean() > 0.97
    assert (ensemble.recipe, ensemble.tuned, ensemble.examples) == (None, False, 80)
    assert table.best is not ensemble
    assert "not a checkpoint" in str(table)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_soup_is_the_textbook_one(direction: str) -> None:
    sign = 1 if direction == "maximize" else -1

    def evaluate(model: nn.Module) -> float:
        return -sign * abs(weight(model) - 2.1)

    evaluator = mo.evaluators.Function(evaluate, direction=direction)
    values = [0.0, 1.0, 2.0, 4.0]
    objective = around(*values, evaluate=evaluator)
    found = mo.baselines(objective, progress=False)["greedy soup"]
    kept: list[float] = []
    for value in sorted(values[1:], key=lambda v: abs(v - 2.1)):
        if not kept or abs(np.mean([*kept, value]) - 2.1) <= abs(np.mean(kept) - 2.1):
            kept.append(value)
    assert found.value == pytest.approx(-sign * abs(np.mean(kept) - 2.1), rel=1e-6)
    names = dict(zip((1.0, 2.0, 4.0), "abc", strict=True))
    assert found.recipe is not None
    assert [m.name for m in found.recipe.models] == [names[v] for v in kept]
    expected = mo.greedy_soup(objective.space.models, evaluator)  # type: ignore[union-attr]
    assert found.recipe.digest == expected.digest
    assert found.examples == 2, "the members alone were known"


def names(objective: mo.MergeObjective) -> list[str]:
    found = mo.baselines(objective, progress=False)
    assert all(row.reason is None for row in found)
    return [row.name for row in found]


def test_what_they_are_in_every_space() -> None:
    base, a, b = linears(0, 1, 2)
    sources = ["source a", "source b", "uniform average"]
    whole = ["base", *sources]
    spaces = mo.spaces
    free = mo.recipes.ties(base, [a, b], density=mo.free(0.1, 1))
    for space, expected in (
        (free, [*whole, "ties, untuned", *GRID, "greedy soup"]),
        (
            mo.recipes.linear([a, b], weight=mo.free(0, 1)),
            [*sources, "linear, untuned", "greedy soup"],
        ),
        (
            mo.recipes.linear([mo.recipes.ties(base, [a, b]), b], weight=mo.free(0, 1)),
            [*whole, "linear, untuned", *GRID, "greedy soup"],
        ),
        (
            mo.recipes.task_arithmetic(base, [a], weight=mo.free(0, 1)),
            ["base", "source a", "task_arithmetic, untuned", *GRID],
        ),
        (spaces.AffineSwarm(base, [a, b]), [*whole, *GRID, "greedy soup"]),
        (spaces.AffineSwarm(base, [a, b], sparsified=False), [*whole, *GRID, "greedy soup"]),
        (spaces.ParticleSwarm(base, [a, b]), [*whole, *GRID, "greedy soup"]),
        (spaces.SplitSlerp([a, b]), [*sources, "greedy soup"]),
        (
            spaces.DifferentialCrossover([a, b, base], merger=mo.recipes.linear([a, b, base])),
            [*sources[:2], "source base", "uniform average", "linear, untuned", "greedy soup"],
        ),
        (
            lambda trial: free.bind({"density/a": 0.5, "density/b": 0.5}),
            [*whole, *GRID, "greedy soup"],
        ),
    ):
        assert names(mo.MergeObjective(space, weight)) == expected  # type: ignore[arg-type]


def test_of_a_path_and_its_models(tmp_path: Path) -> None:
    """Its models may have other depths, and are scored as they are; so they have no average."""
    models = []
    for seed, layers in ((0, 2), (1, 3)):
        module = toys.llama(seed, layers=layers)
        models.append(mo.Checkpoint.from_module(module, name="ab"[seed]))
    ids = torch.arange(12)[None]

    def logit(model: nn.Module) -> float:
        return float(model(ids).logits[0, -1, 3])

    found = mo.baselines(mo.MergeObjective(mo.spaces.LayerPath(models), logit), progress=False)
    for row, seed, layers in ((found["source a"], 0, 2), (found["source b"], 1, 3)):
        assert row.value == pytest.approx(logit(toys.llama(seed, layers=layers)), rel=1e-5)
    assert found["path, untuned"].value == pytest.approx(found["source a"].value, rel=1e-4)
    reason = found["uniform average"].reason
    assert reason is not None
    assert reason.startswith("CheckpointMismatch: ")
    soup = found["greedy soup"]
    assert soup.reason is None or "CheckpointMismatch" in soup.reason


def test_what_merges_leave_out_is_the_same_for_all() -> None:
    """Excluded tensors come from the base, in the average and the soup too."""
    trio = [toys.bert(seed) for seed in range(3)]
    base, *experts = (
        mo.Checkpoint.from_module(m, name=n) for m, n in zip(trio, ("base", "a", "b"), strict=True)
    )
    space = mo.recipes.ties(base, experts, density=mo.free(0.1, 1), exclude=["classifier"])

    def head(model: nn.Module) -> float:
        return float(model.classifier.weight.sum())  # type: ignore[operator, union-attr, arg-type]

    found = mo.baselines(mo.MergeObjective(space, head), progress=False)
    for row in found:
        own = {"source a": trio[1], "source b": trio[2]}.get(row.name, trio[0])
        if row.name != "greedy soup":
            assert row.value == pytest.approx(head(own), rel=1e-5), row.name
    average = found["uniform average"].recipe
    assert average is not None
    merged = mo.Engine().load(average).state_dict()
    name = "bert.encoder.layer.0.output.dense.weight"
    by_hand = (trio[1].state_dict()[name] + trio[2].state_dict()[name]) / 2
    torch.testing.assert_close(merged[name], by_hand)


def test_of_models_with_heads_that_differ() -> None:
    """An expert whose head is another cannot be put in place: it is scored with the base's."""
    trio = [toys.bert(0), toys.bert(1, labels="abc"), toys.bert(2, labels="abcd")]
    base, *experts = (
        mo.Checkpoint.from_module(m, name=n) for m, n in zip(trio, ("base", "a", "b"), strict=True)
    )
    space = mo.recipes.ties(base, experts, density=mo.free(0.1, 1))
    ids = torch.arange(5, 13)[None]

    def logit(model: nn.Module) -> float:
        return float(model(ids).logits[0, 1])

    found = mo.baselines(mo.MergeObjective(space, logit), progress=False)
    assert all(row.reason is None for row in found)
    mixed = copy.deepcopy(trio[1].state_dict())
    mixed |= {n: t for n, t in trio[0].state_dict().items() if n.startswith("classifier")}
    reference = toys.bert(0)
    reference.load_state_dict(mixed)
    assert found["source a"].value == pytest.approx(logit(reference), rel=1e-5)


# -- once per study ---------------------------------------------------------------------------


def search(url: str | None, evaluator: Any, **options: Any) -> optuna.Study:
    objective = around(0, 1, 3, evaluate=evaluator)
    options = {"n_trials": 2, **options}
    return mo.MergeStudy("s", objective, **options).run(url, progress=False)


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_they_are_scored_before_the_search_and_once(scheme: str, tmp_path: Path) -> None:
    url, near = f"{scheme}:///{tmp_path}/s", Near()
    study = search(url, near)
    assert len(study.trials) == 2, "they are no trials"
    names = ["base", "source a", "source b", "uniform average", "task_arithmetic, untuned"]
    found = mo.baselines(study)
    assert [row.name for row in found] == [*names, *GRID, "greedy soup"]
    by_hand = [0, 1, 3, 2, 4, *(4 * x for x in LAMBDAS), 2]
    np.testing.assert_allclose(near.calls, by_hand + near.calls[-2:], rtol=1e-6)
    for row, value in zip(found, [*by_hand[:-1], 2], strict=True):
        assert row.scores is not None
        np.testing.assert_allclose(row.scores, -np.abs(near.numbers - value), atol=1e-6)
        assert row.value == pytest.approx(row.scores.mean(), rel=1e-6)
        assert row.examples == 4
    again = Near()
    resumed = search(url, again, n_trials=4)
    assert len(again.calls) == 2, "two trials and no baseline"
    assert mo.baselines(resumed)[:] == found[:]
    plain = around(0, 1, 3, evaluate=Near())
    alone = mo.MergeStudy("s", plain, n_trials=4, baselines=False).run(None, progress=False)
    assert [(t.params, t.values) for t in resumed.trials] == [
        (t.params, t.values) for t in alone.trials
    ], "the search does not know of them"


def test_a_study_that_has_all_its_trials_is_left_alone(tmp_path: Path) -> None:
    url, near = f"sqlite:///{tmp_path}/s.db", Near()
    search(url, near, baselines=False)
    study = search(url, near)
    assert len(near.calls) == 2
    assert list(mo.baselines(study)) == []
    assert repr(mo.baselines(study)) == "no baselines"


def test_some_kinds_only() -> None:
    near = Near()
    study = search(None, near, baselines=["greedy soup", "base"])
    assert [row.name for row in mo.baselines(study)] == ["base", "greedy soup"]
    assert len(near.calls) == 1 + 3 + 2
    with pytest.raises(StudyError, match=r"no baselines 'souces'\. .* list of these: base, sou"):
        search(None, near, baselines=["souces"])


def test_another_evaluator_or_family_is_scored_anew() -> None:
    """Of spaces and evaluators that do not say what they are, so that no study refuses them."""
    study, near = optuna.create_study(direction="maximize"), Near()
    base, a, b = linears(0, 1, 3)

    def objective(models: Sequence[mo.Checkpoint]) -> mo.MergeObjective:
        def space(trial: optuna.Trial) -> mo.Recipe:
            weight = trial.suggest_float("weight", 0, 1)
            return mo.recipes.task_arithmetic(base, models, weight=weight)

        return mo.MergeObjective(space, near)

    kinds = ["source", "uniform average"]
    mo.baselines(objective([a, b]), study, kinds=kinds, progress=False)
    assert near.calls == [1, 3, 2]
    mo.baselines(objective([a, b]), study, kinds=kinds, progress=False)
    assert near.calls == [1, 3, 2]
    found = mo.baselines(objective([b, a]), study, kinds=kinds, progress=False)
    assert near.calls == [1, 3, 2, 3, 1, 2], "an average in another order is another recipe"
    assert [row.name for row in found] == ["source b", "source a", "uniform average"]


def test_a_script_without_a_declared_study(tmp_path: Path) -> None:
    objective = around(0, 1, 3, evaluate=Near())
    study = optuna.create_study(directions=objective.directions)
    found = mo.baselines(objective, study, progress=False)
    assert mo.baselines(study)[:] == found[:]
    mo.optimize(study, objective, n_trials=2, progress=False)
    assert len(study.trials) == 2
    with pytest.raises(StudyError, match=r"takes a mo\.MergeObjective or a study, not 3"):
        mo.baselines(3)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="to minimize, but nearness is to maximize"):
        mo.baselines(objective, optuna.create_study())


# The file notes what it scores, and waits in the third baseline to be killed.
WAITING = """
import os, time

def evaluate(model):
    value = float(model.bert.embeddings.word_embeddings.weight.double().sum())
    with open("scored", "a") as file:
        file.write(f"{value}\\n")
    if not os.path.exists("go on") and len(open("scored").readlines()) == 3:
        time.sleep(1000)
    return value

objective = mo.MergeObjective(recipe, evaluate)
"""
KINDS = ["base", "source", "uniform average", "untuned operator"]


def scored(folder: Path) -> list[str]:
    file = folder / "scored"
    return file.read_text().split() if file.exists() else []


def wait_until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_and_started_again(task: Task, tmp_path: Path) -> None:
    """``kill -9`` in the third: the first two are kept, the others come, none comes twice."""
    file = task.file(tmp_path / "search.py", n_trials=1, lines=WAITING, test=None, baselines=KINDS)
    first = processes.command("run", file, cwd=tmp_path)
    wait_until(lambda: len(scored(tmp_path)) == 3)
    first.kill()
    first.wait()
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    kept = mo.baselines(study)
    assert [row.name for row in kept] == ["base", "source a"]
    (tmp_path / "go on").touch()
    again = processes.command("run", file, cwd=tmp_path).wait()
    assert again.code == 0, again.err
    found = mo.baselines(study)
    assert found[:2] == kept[:]
    assert [row.kind for row in found] == ["base", "source", "source", *KINDS[2:]]
    lines = scored(tmp_path)
    assert len(lines) == 5 + 1 + 1, "one was lost, and there is a trial"
    assert lines[2] == lines[3]
    assert [row.value for row in found] == [float(x) for x in [*lines[:2], *lines[3:6]]]


def test_processes_share_the_work(task: Task, tmp_path: Path) -> None:
    """While one is killed in the third, the other scores the rest, and that one in the end."""
    file = task.file(tmp_path / "search.py", n_trials=2, lines=WAITING, test=None, baselines=KINDS)
    first = processes.command("run", file, cwd=tmp_path)
    wait_until(lambda: len(scored(tmp_path)) == 3)
    second = processes.command("run", file, cwd=tmp_path)
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    wait_until(lambda: len(mo.baselines(study)) == 4)
    assert second.alive, "it waits for the other"
    assert len(study.get_trials()) == 0
    first.kill()
    first.wait()
    assert (result := second.wait()).code == 0, result.err
    assert [row.name for row in mo.baselines(study)][2] == "source b"
    assert len(scored(tmp_path)) == 5 + 1 + 2


# -- what goes wrong --------------------------------------------------------------------------


class Moody(Near):
    """Fails where the weights are near certain numbers."""

    def __init__(self, moods: dict[float, Any]) -> None:
        super().__init__()
        self.moods = moods

    def value(self, scores: np.ndarray) -> float:
        for where, mood in self.moods.items():
            if abs(self.calls[-1] - where) < 1e-6:
                if isinstance(mood, Exception):
                    raise mood
                return float(mood)
        return super().value(scores)


def test_what_fails_is_told_and_ends_nothing() -> None:
    moods = {0.0: OSError("the disk"), 1.0: float("nan"), 2.0: float("inf"), 3.0: MemoryError()}
    evaluator = Moody(moods)
    study = search(None, evaluator)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 2
    found = mo.baselines(study)
    assert {row.name: row.reason for row in found if row.reason} == {
        "base": "OSError: the disk",
        "source a": "The score is not finite: nan.",
        "source b": "MemoryError: ",
        "uniform average": "The score is not finite: inf.",
        GRID[4]: "The score is not finite: inf.",
        "greedy soup": "No expert has a score that is a number.",
    }
    assert all(row.values is None and row.examples == 0 for row in found if row.reason)
    assert found.best is not None
    assert found.best.reason is None
    assert "the disk" in str(found)
    with pytest.raises(StudyError, match="The baseline 'base' is no checkpoint: OSError: the di"):
        mo.recipe_of(study, baseline="base")
    evaluator.moods = {}
    objective = around(0, 1, 3, evaluate=evaluator)
    again = mo.baselines(objective, study, progress=False)
    assert all(row.reason is None for row in again), "those that have failed are tried again"
    assert again[GRID[0]] == found[GRID[0]]


def test_a_recipe_without_a_result() -> None:
    _, a, b = linears(0, 1, 2)
    space = mo.recipes.linear([a, b], weight=[1, mo.free(-1, 1, start=-1)])
    found = mo.baselines(mo.MergeObjective(space, weight), progress=False)
    assert found["linear, untuned"].reason is not None
    assert "sum to 0 and cannot be normalised" in found["linear, untuned"].reason


def test_the_time_that_one_may_take() -> None:
    def evaluate(model: nn.Module) -> float:
        if weight(model) == 3:
            time.sleep(60)
        return weight(model)

    started = time.monotonic()
    study = search(None, evaluate, trial_timeout=1)
    assert time.monotonic() - started < 50
    reason = "It took longer than trial_timeout=1 seconds."
    assert {row.name: row.reason for row in mo.baselines(study) if row.reason} == {
        "source b": reason,
    }
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 2


def test_the_time_of_a_run_is_for_them_too(caplog: pytest.LogCaptureFixture) -> None:
    def evaluate(model: nn.Module) -> float:
        time.sleep(0.5)
        return 1.0

    study = search(None, evaluate, timeout=1)
    assert 1 <= len(mo.baselines(study)) <= 3
    assert study.trials == []
    assert "Stopped with 2 of 2 trials to go: its 1 seconds are over." in caplog.text


def test_ctrl_c_in_one_keeps_those_before(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    calls = itertools.count()

    def evaluate(model: nn.Module) -> float:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return weight(model)

    named = mo.evaluators.Function(evaluate, digest="1")
    with pytest.raises(KeyboardInterrupt):
        search(url, named)
    study = optuna.load_study(study_name="s", storage=url)
    assert [row.name for row in mo.baselines(study)] == ["base", "source a"]
    assert study.trials == []
    assert len(mo.baselines(search(url, named))) == 16
    assert next(calls) == 3 + 14 + 2


def test_a_changed_source_ends_it(tmp_path: Path) -> None:
    folders = [toys.save(toys.bert(seed), tmp_path / f"m{seed}") for seed in range(2)]
    a, b = (mo.Checkpoint(folder, name=f"m{i}") for i, folder in enumerate(folders))
    file = next((tmp_path / "m1").glob("*.safetensors"))

    def evaluate(model: nn.Module) -> float:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        return 1.0

    objective = mo.MergeObjective(mo.recipes.linear([a, b], weight=mo.free(0, 1)), evaluate)
    with pytest.raises(mo.errors.SourceChanged):
        mo.MergeStudy("s", objective, n_trials=1).run(None, progress=False)


# -- what is made of them ---------------------------------------------------------------------


def row(name: str, value: float | None, kind: str = "source", tuned: bool = False) -> Baseline:
    values = None if value is None else (value,)
    return Baseline(name, kind, tuned, values, None, 1, 0.1, None, None, "", 0)


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_which_is_the_best(direction: str, sign: int) -> None:
    rows = [
        row("none", None),
        row("first", sign * 2.0),
        row("equal", sign * 2.0),
        row("λ", sign * 3.0, "task arithmetic", tuned=True),
        row("other λ", sign * 2.5, "task arithmetic", tuned=True),
        row("all together", sign * 4.0, "ensemble"),
    ]
    found = Baselines(rows, [direction], ["x"])
    assert found.best is found["λ"]
    assert found.best_untuned is found["first"]
    assert [r.name for r in found.headlines] == ["none", "first", "equal", "λ", "all together"]
    assert found.gain([sign * 3.5]) == 0.5
    assert found.gain([sign * 2.0]) == -1.0
    nothing = Baselines(rows[:1], [direction], ["x"])
    assert (nothing.best, nothing.best_untuned, nothing.gain([1.0])) == (None, None, None)
    with pytest.raises(StudyError, match=r"No baseline is called 'soup'; there are none, first,"):
        found["soup"]


class Two(Near):
    directions, metric_names = ("maximize", "minimize"), ("nearness", "size")

    def value(self, scores: np.ndarray) -> tuple[float, float]:  # type: ignore[override]
        return float(scores.mean()), abs(self.calls[-1])


def test_of_several_objectives() -> None:
    found = mo.baselines(around(0, 1, 3, evaluate=Two()), progress=False)
    assert "greedy soup" not in [r.name for r in found], "which needs one"
    for r in found:
        assert isinstance(r.value, tuple)
        assert len(r.value) == 2
    nearest = max(found, key=lambda r: r.values[0] if r.values else -math.inf)
    assert found.best_in(0) is nearest
    assert found.best_in(1) is found["base"]
    with pytest.raises(StudyError, match="2 objectives, and each has its best baseline"):
        found.best  # noqa: B018
    study = optuna.create_study(directions=["maximize", "minimize"])
    objective = around(0, 1, 3, evaluate=Two())
    mo.baselines(objective, study, progress=False)
    mo.optimize(study, objective, n_trials=2)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(("first", "beaten"), [(0.5, True), (0.8, False)])
def test_a_search_that_finds_nothing_better_says_so(
    direction: str, first: float, beaten: bool, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """The best baseline, λ = 1, has weights of 4 or minus that; trials have eight times first."""
    sign = 1 if direction == "maximize" else -1
    evaluator = mo.evaluators.Function(
        lambda model: sign * weight(model), direction=direction, name="size"
    )
    base, *experts = linears(0, 1, 3)
    space = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 2, start=0.9))
    declared = mo.MergeStudy(
        "s",
        mo.MergeObjective(space, evaluator),
        n_trials=1,
        first=[dict.fromkeys(space.distributions(), 2 * first)],
    )
    study = declared.run(None)
    assert study.best_value == pytest.approx(sign * 8 * first)
    difference = sign * (8 * first - 4) or 0.0
    word = "over" if difference > 0 or first == 0.5 else "under"
    shown = f"{study.best_value:.4g}, {difference:+.2g} {word} the best baseline"
    assert f"best={shown}" in capfd.readouterr().err
    declared.run(study._storage, progress=False)
    said = (
        f"The best trial is as good as, not better than, the baseline 'task arithmetic, λ = 1': "
        f"size {4 * sign}, that {4 * sign}. To write the baseline: mo.export(study, folder, "
        "baseline='task arithmetic, λ = 1'), or merge-optuna export STORAGE DIR --study s "
        "--baseline 'task arithmetic, λ = 1'"
    )
    assert (said in caplog.text) == beaten
    assert ("The best trial is" in caplog.text) == beaten


def test_the_recipe_of_one_and_its_checkpoint(task: Task, tmp_path: Path) -> None:
    evaluator = mo.evaluators.Classification(task.dev, batch_size=80)
    declared = mo.MergeStudy(
        "toy", mo.MergeObjective(task.recipe(), evaluator), n_trials=1, baselines=KINDS
    )
    url = f"sqlite:///{tmp_path}/s.db"
    found = mo.baselines(declared.run(url, progress=False))
    study = optuna.load_study(study_name="toy", storage=url)
    average = found["uniform average"]
    assert mo.recipe_of(study, baseline="uniform average") == mo.recipes.linear(
        task.checkpoints()[1:]
    )
    folder = mo.export(study, tmp_path / "out", baseline="uniform average")
    assert declared.objective.score(mo.Checkpoint(folder)) == average.value
    card = (folder / "README.md").read_text()
    assert f"| accuracy (dev) | {average.value} |" in card
    assert "| baseline | uniform average |" in card
    assert "--baseline 'uniform average'" in card
    best = mo.export(study, tmp_path / "best", score={"accuracy (test)": 0.5})
    card = (best / "README.md").read_text()
    for one in found:
        assert f"| accuracy (dev) of the baseline {one.name} | {one.value} |" in card
    with pytest.raises(StudyError, match="Give trial= or baseline=, not both"):
        mo.export(study, tmp_path / "x", trial=0, baseline="base")
    with pytest.raises(StudyError, match=r"No baseline is called 'avg'; there are base, source"):
        mo.recipe_of(study, baseline="avg")
    moved = {"a": task.folders[1]}
    assert mo.recipe_of(study, baseline="source a", sources=moved).leaves()[0].ref == moved["a"]
    with pytest.raises(RecipeError):
        mo.recipe_of(study, baseline="source a", sources={"b": task.folders[2]})
