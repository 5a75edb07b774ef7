"""Baselines: each scores what it should, and is shown beside the result of a search."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import merge_optuna as mo
from merge_optuna.errors import RecipeError, StudyError
from merge_optuna.study import Baseline, Baselines
from tests import toys
from tests.engine.test_heads import LABELS, Family
from tests.study.linears import GRID, LAMBDAS, Near, around, linears, weight
from tests.study.test_heads import TOKENS, accuracy
from tests.trained import TOPICS, Task, read_rows, right, write_rows

optuna.logging.set_verbosity(optuna.logging.ERROR)

KINDS = ["base", "source", "uniform average", "untuned operator"]


# -- what they are ----------------------------------------------------------------------------


def states(task: Task) -> list[dict[str, Tensor]]:
    load = AutoModelForSequenceClassification.from_pretrained
    return [load(folder).state_dict() for folder in task.folders]


def test_each_scores_what_it_scores_by_hand(task: Task, tmp_path: Path) -> None:
    """Against weights that are merged by hand and texts that are read one by one."""
    rows = read_rows(task.dev)[:24]
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
        **{name: scores(plus(x)) for name, x in zip(GRID[::3], LAMBDAS[::3], strict=True)},
    }
    best = max(("source a", "source b"), key=lambda name: expected[name].mean())
    better = expected["uniform average"].mean() >= expected[best].mean()
    expected["greedy soup"] = expected["uniform average"] if better else expected[best]

    dev = mo.evaluators.Classification(write_rows(tmp_path / "dev.jsonl", rows), batch_size=20)
    objective = mo.MergeObjective(task.recipe(), dev)
    *found, ensemble = table = mo.baselines(objective, progress=False)
    assert ensemble.name == "ensemble"
    names = [name for name in expected if name not in GRID]
    assert [row.name for row in found] == [*names[:-1], *GRID, "greedy soup"]
    for row in found:
        assert row.scores is not None
        assert row.recipe is not None
        assert objective.score(row.recipe) == row.value
        assert mo.Recipe.from_yaml(row.recipe.to_yaml()) == row.recipe
        if row.name not in expected:
            continue  # the other λ
        assert (row.scores == expected[row.name]).mean() > 0.95, "rounding may turn one text"
        assert row.value == pytest.approx(expected[row.name].mean(), abs=0.05)
    tuned = {row.name for row in found if row.tuned}
    assert tuned == {*GRID, "greedy soup"}
    assert {row.examples for row in found} == {24}, "the members of the soup are known"

    tokenizer, total = AutoTokenizer.from_pretrained(task.folders[0]), 0
    for state in (a, b):
        model.load_state_dict(state)
        with torch.no_grad():
            encoded = [tokenizer(r["text"], return_tensors="pt") for r in rows]
            total = total + torch.cat([model(**text).logits.softmax(-1) for text in encoded])
    both = [TOPICS[i] == r["label"] for i, r in zip(total.argmax(-1), rows, strict=True)]
    assert ensemble.scores is not None
    assert (ensemble.scores == both).mean() > 0.95
    assert (ensemble.recipe, ensemble.tuned, ensemble.examples) == (None, False, 48)
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
        return model(ids).logits[0, -1, 3].item()

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


def test_of_tasks_whose_base_has_no_head(tmp_path: Path) -> None:
    """Each encoder under the head of each task, against transformers alone."""
    family = Family("Bert", tmp_path, base_head=None)
    base, *experts = family.checkpoints
    truth = {e.name: torch.arange(40) % LABELS[e.name] for e in experts}
    tasks = {
        e.name: mo.evaluators.Classification((TOKENS, truth[e.name]), head=e) for e in experts
    }
    space = mo.recipes.dare_ties(base, experts, weight=mo.free(0, 1), density=0.5)
    objective = mo.MergeObjective(space, mo.evaluators.Tasks(tasks))
    found = mo.baselines(objective, kinds=["source", "uniform average"], progress=False)
    assert all(row.reason is None for row in found)
    states = {name: model.state_dict() for name, model in family.experts.items()}
    for task, model in family.experts.items():
        inside = f"{model.base_model_prefix}."
        shared = [n for n in states[task] if n.startswith(inside)]
        for row in found:
            own = [row.name.removeprefix("source ")] if row.kind == "source" else [*LABELS]
            mixed = {n: sum(states[e][n] for e in own) / len(own) for n in shared}
            merged = type(model)(model.config).eval()
            merged.load_state_dict({**states[task], **mixed})
            assert row.breakdown[task] == accuracy(merged, truth[task])
    assert all(name in str(found) for name in LABELS)


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
    tie = Baselines([row("soup", sign * 2.0, tuned=True), *rows[:3]], [direction], ["x"])
    assert tie.best is tie["first"], "which owes nothing to the dev data"
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
    stands = "as good as" if beaten else "+2.4 over" if sign == 1 else "2.4 better than"
    shown = f"{study.best_value:.4g}, {stands} the best baseline"
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
        assert f"| {one.name} | baseline | {one.value:.4f} [" in card
    with pytest.raises(StudyError, match="Give trial= or baseline=, not both"):
        mo.export(study, tmp_path / "x", trial=0, baseline="base")
    with pytest.raises(StudyError, match=r"No baseline is called 'avg'; there are base, source"):
        mo.recipe_of(study, baseline="avg")
    moved = {"a": task.folders[1]}
    assert mo.recipe_of(study, baseline="source a", sources=moved).leaves()[0].ref == moved["a"]
    with pytest.raises(RecipeError):
        mo.recipe_of(study, baseline="source a", sources={"b": task.folders[2]})
    every = dict(zip(("base", "a", "b"), task.folders, strict=True))
    board = mo.leaderboard(study, test=evaluator, sources=every)
    assert {row.name for row in board.rows} == {"toy", *(one.name for one in found)}
