"""Several tasks as one evaluator, beside the tasks by themselves and sklearn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

import merge_optuna as mo
from merge_optuna.checkpoints import Checkpoint
from merge_optuna.errors import EvaluationError
from merge_optuna.evaluators import Classification, Function, Tasks, batches_of, value_of
from merge_optuna.search import MergeStudy
from tests import toys
from tests.processes import command

from .conftest import EMOTIONS, bert, load, make_rows, one_by_one, write_lines

TOPICS = ["sport", "war", "money"]


@pytest.fixture
def expert(tmp_path: Path) -> Path:
    """A model with other weights and another label set."""
    bert(11, TOPICS).save_pretrained(tmp_path / "expert")
    return tmp_path / "expert"


@pytest.fixture
def rows() -> dict[str, list[dict[str, Any]]]:
    """Three tasks of unequal sizes, one of them with two texts."""
    topics = make_rows(21, seed=3)
    for i, row in enumerate(topics):
        row["label"] = TOPICS[i % 3]
    return {"emotions": make_rows(40), "topics": topics, "pairs": make_rows(13, pairs=True)}


@pytest.fixture
def parts(rows: Any, expert: Path, tmp_path: Path) -> dict[str, Classification]:
    """A vector of scores, rows of three and rows of two."""
    files = {name: write_lines(tmp_path / f"{name}.jsonl", those) for name, those in rows.items()}
    head = Checkpoint(expert)
    return {
        "emotions": Classification(files["emotions"], batch_size=8),
        "topics": Classification(files["topics"], batch_size=8, metric="macro_f1", head=head),
        "pairs": Classification(files["pairs"], batch_size=4, group="label"),
    }


@pytest.fixture
def expected(rows: Any, expert: Path, model: nn.Module, tokenizer: Any) -> dict[str, float]:
    """Every task text by text, with sklearn."""
    spliced = load(expert)
    spliced.bert.load_state_dict(model.bert.state_dict())
    true = {"emotions": EMOTIONS, "topics": TOPICS, "pairs": EMOTIONS}
    models = {"emotions": model, "topics": spliced, "pairs": model}
    found = {}
    for name, labels in true.items():
        predicted = one_by_one(models[name], tokenizer, rows[name])
        classes = np.array([labels.index(row["label"]) for row in rows[name]])
        if name == "topics":
            found[name] = f1_score(classes, predicted, average="macro", labels=range(3))
        elif name == "emotions":
            found[name] = accuracy_score(classes, predicted)
        else:
            groups = [classes == label for label in np.unique(classes)]
            found[name] = np.mean([accuracy_score(classes[g], predicted[g]) for g in groups])
    assert len(set(found.values())) == 3
    return found


# name of the metric, and the value of three values
AGGREGATES: dict[str, tuple[Any, Any]] = {
    "mean": ("mean", lambda a, b, c: (a + b + c) / 3),
    "weighted mean": (
        {"pairs": 1, "emotions": 3, "topics": 0.5},
        lambda a, b, c: (3 * a + b / 2 + c) / 4.5,
    ),
    "geometric mean": ("geometric", lambda a, b, c: (a * b * c) ** (1 / 3)),
    "worst": ("worst", min),
}


@pytest.mark.parametrize("name", AGGREGATES)
def test_the_value_is_the_aggregate_of_the_tasks(
    name: str, parts: Any, expected: dict[str, float], model: nn.Module
) -> None:
    aggregate, reference = AGGREGATES[name]
    evaluator = Tasks(parts, aggregate)
    evaluator.check(model)
    assert evaluator.metric_names == (f"{name} of emotions, topics, pairs",)
    assert value_of(evaluator, model) == pytest.approx(reference(*expected.values()), abs=1e-12)


def test_a_task_gets_back_its_own_scores(parts: Any, model: nn.Module) -> None:
    """Also in any order, and of some examples only."""
    evaluator = Tasks(parts)
    batches = list(batches_of(evaluator, model))
    ids = np.concatenate([ids for ids, _ in batches])
    scores = np.concatenate([scores for _, scores in batches])
    start = 0
    for number, (name, part) in enumerate(parts.items()):
        alone = list(batches_of(part, model))
        mine = [(i[s[:, -1] == number], s[s[:, -1] == number]) for i, s in batches]
        mine = [batch for batch in mine if len(batch[0])]
        for (own_ids, own), (their_ids, theirs) in zip(alone, mine, strict=True):
            np.testing.assert_array_equal(own_ids + start, their_ids)
            np.testing.assert_array_equal(theirs[:, 0], own if own.ndim == 1 else own[:, 0])
        start += len(part)
        some = np.random.default_rng(0).permutation(len(ids))[: len(ids) // 2]
        own_scores = np.concatenate([own for _, own in alone])
        where = {i: place for place, i in enumerate(np.concatenate([i for i, _ in alone]))}
        offset = start - len(part)
        picked = [where[i - offset] for i in ids[some] if offset <= i < start]
        assert evaluator.breakdown(scores[some])[name] == part.value(own_scores[picked])
    assert sorted(ids) == list(range(len(evaluator)))


def test_tasks_alternate_in_proportion(parts: Any, model: nn.Module) -> None:
    """At no time is a task further ahead of another than by one batch of its own."""
    evaluator = Tasks(parts)
    assert len(evaluator) == 40 + 21 + 13
    numbers = _tasks(evaluator, model)
    counts = np.bincount(numbers)
    assert counts.tolist() == [5, 3, 4]
    assert numbers[:3] == [0, 1, 2]
    assert len(list(evaluator(model))) == len(numbers) - 2, "the first three are one batch"
    for n in range(len(numbers)):
        done = np.bincount(numbers[: n + 1], minlength=3) / counts
        assert (done.max() - done.min()) <= max(1 / counts) + 1e-9
    other = toys.noised(model, 1, scale=1)
    assert numbers == _tasks(evaluator, other)


def _tasks(evaluator: Tasks, model: nn.Module) -> list[int]:
    """The tasks of the batches as they come."""
    return [
        int(number)
        for _, scores in evaluator(model)
        for number in dict.fromkeys(scores[:, -1].tolist())
    ]


def test_tasks_not_seen_yet_are_left_out(parts: Any, model: nn.Module) -> None:
    evaluator = Tasks(parts, {"emotions": 1, "topics": 2, "pairs": 4})
    begun = next(iter(evaluator(model)))[1]
    scores = [begun[begun[:, -1] == number] for number in range(3)]
    values = [part.value(_own(s)) for part, s in zip(parts.values(), scores, strict=True)]
    assert evaluator.value(scores[1]) == values[1]
    assert evaluator.breakdown(scores[1]) == {"topics": values[1]}
    both = np.concatenate([scores[2], scores[0]])
    assert evaluator.value(both) == pytest.approx((values[0] + 4 * values[2]) / 5)


def _own(scores: np.ndarray) -> np.ndarray:
    return {0: scores[:, 0], 1: scores[:, :3], 2: scores[:, :2]}[int(scores[0, -1])]


def test_geometric_mean_of_what_has_none() -> None:
    def value(*values: float) -> Any:
        parts = {f"t{i}": Function(lambda model, v=v: v) for i, v in enumerate(values)}
        return value_of(Tasks(parts, "geometric"), nn.Linear(1, 1))

    assert value(4.0, 9.0) == pytest.approx(6)
    assert value(0.0, 9.0) == 0
    assert np.isnan(value(-1.0, 9.0))
    assert np.isnan(value(float("nan"), 9.0))


def test_the_worst_of_losses_is_the_largest() -> None:
    parts = {
        f"t{i}": Function(lambda model, v=v: v, direction="minimize")
        for i, v in [(0, 1.0), (1, 3.0)]
    }
    evaluator = Tasks(parts, "worst")
    assert evaluator.directions == ("minimize",)
    assert value_of(evaluator, nn.Linear(1, 1)) == 3


class Groups:
    """Two examples, with a breakdown of its own."""

    directions = ("maximize",)
    metric_names = ("share",)

    def __len__(self) -> int:
        return 2

    def __call__(self, model: nn.Module) -> Iterator[Any]:
        yield np.arange(2), np.array([[0.25, 0.0], [0.75, 1.0]])

    def value(self, scores: np.ndarray) -> float:
        return float(scores[:, 0].mean())

    def breakdown(self, scores: np.ndarray) -> dict[str, float]:
        return {f"group {int(g)}": float(s) for s, g in scores}


def test_the_breakdown_of_a_part() -> None:
    evaluator = Tasks({"a": Groups(), "b": Function(lambda model: 1.0)})
    scores = np.concatenate([scores for _, scores in evaluator(nn.Linear(1, 1))])
    assert evaluator.breakdown(scores) == {"a": 0.5, "a/group 0": 0.25, "a/group 1": 0.75, "b": 1}


class Costs(Groups):
    """Two objectives, and what they are made of."""

    directions = ("maximize", "minimize")
    metric_names = ("share", "size")

    def value(self, scores: np.ndarray) -> Any:
        return tuple(map(float, scores.mean(axis=0)))


def test_each_task_is_an_objective(
    parts: Any, expected: dict[str, float], model: nn.Module
) -> None:
    """In its own direction; of several objectives, each is."""
    loss = Function(lambda model: 3.0, direction="minimize", name="loss")
    evaluator = Tasks({**parts, "loss": loss, "cost": Costs()}, aggregate="each")
    evaluator.check(model)
    assert evaluator.directions == (*["maximize"] * 3, "minimize", "maximize", "minimize")
    assert evaluator.metric_names == (*parts, "loss", "cost/share", "cost/size")
    first, *_ = batches = list(batches_of(evaluator, model))
    assert [*np.unique(first[1][:, -1])] == [0, 1, 2, 3, 4], "one of each"
    scores = np.concatenate([scores for _, scores in batches])
    wanted = (*expected.values(), 3, 0.5, 0.5)
    assert evaluator.value(scores) == pytest.approx(wanted, abs=1e-12)
    assert evaluator.value(np.random.default_rng(0).permutation(scores)) == pytest.approx(wanted)
    values = dict(zip(evaluator.metric_names, evaluator.value(scores), strict=True))
    assert evaluator.breakdown(scores) == {
        **values,
        "cost/group 0": 0.25,
        "cost/group 1": 0.75,
    }
    assert evaluator.heads == Tasks(parts).heads | {"loss": None, "cost": None}
    without = scores[scores[:, -1] != 1]
    left = (wanted[0], np.nan, *wanted[2:])
    assert evaluator.value(without) == pytest.approx(left, abs=1e-12, nan_ok=True)
    assert "topics" not in evaluator.breakdown(without)
    as_mean = Tasks(parts).digest
    assert Tasks(parts, "each").digest == {**as_mean, "aggregate": "each"}


def test_one_task_of_its_own_is_one_objective() -> None:
    evaluator = Tasks({"a": Groups()}, "each")
    assert value_of(evaluator, nn.Linear(1, 1)) == 0.5
    assert evaluator.metric_names == ("a",)


def test_digest_names_the_tasks(parts: Any) -> None:
    digest = Tasks(parts).digest
    assert digest["topics/head_content"] == parts["topics"].digest["head_content"]
    assert digest["emotions/inputs"] == parts["emotions"].digest["inputs"]
    others = [Tasks(parts, "worst"), Tasks(parts, {"emotions": 2, "topics": 1, "pairs": 1})]
    assert len({str(sorted(t.digest.items())) for t in [Tasks(parts), *others]}) == 3


def test_check_names_the_task(parts: Any, tmp_path: Path, model: nn.Module) -> None:
    wrong = Classification(write_lines(tmp_path / "wrong.jsonl", [{"text": "w1", "label": "war"}]))
    with pytest.raises(EvaluationError, match=r"^Task 'other': Label 'war' \(.*line 1\)"):
        Tasks({**parts, "other": wrong}).check(model)

    def fails(model: nn.Module) -> float:
        return "much"  # type: ignore[return-value]

    with pytest.raises(EvaluationError, match=r"^Task 'f': fails must return a number"):
        list(Tasks({**parts, "f": Function(fails)})(model))


def test_what_is_refused(parts: Any) -> None:
    loss = Function(lambda model: 1.0, direction="minimize", name="loss")
    for tasks, aggregate, message in [
        ({}, "mean", "by name"),
        ([*parts.values()], "mean", "by name"),
        ({"a": 3}, "mean", "Task 'a': An evaluator or a function"),
        ({"a/b": loss}, "mean", "'a/b' cannot be the name of a task"),
        ({"..": loss}, "mean", "cannot be the name"),
        (
            {"a": Groups(), "b": loss},
            "mean",
            "'a' is to maximize share, task 'b' to minimize loss",
        ),
        ({"a": Costs()}, "mean", "Task 'a' has 2 objectives: share, size.*aggregate=\"each\""),
        ({"a": Tasks({"b": loss})}, "mean", "Task 'a' is itself several tasks: b"),
        (
            {"a": loss},
            "median",
            "Unknown aggregate 'median'. Aggregates: mean, geometric, worst, .*each",
        ),
        ({"a": loss, "b": loss}, {"a": 1, "c": 2}, "no task 'c' and no weight for 'b'"),
        ({"a": loss}, {"a": 0}, "The weight of task 'a' must be above 0, not 0"),
        ({"a": loss}, {"a": "2"}, "weight of task 'a' must return a number"),
    ]:
        with pytest.raises(EvaluationError, match=message):
            Tasks(tasks, aggregate)


def test_a_task_that_does_not_score_all_its_examples(model: nn.Module) -> None:
    few = Groups()
    few.__class__ = type("Few", (Groups,), {"__len__": lambda self: 3})
    with pytest.raises(EvaluationError, match="Task 'few': Few has yielded 2 of its 3 examples"):
        list(Tasks({"few": few, "b": Groups()})(model))


# -- in a search ------------------------------------------------------------------------------


def nets(aggregate: Any = "mean") -> tuple[mo.Recipe, Tasks]:
    """Two tasks, each of which one of two small networks was made for."""
    models = [toys.noised(nn.Linear(4, 3), seed, scale=2) for seed in range(2)]
    inputs = torch.randn(160, 4, generator=torch.Generator().manual_seed(0))
    parts = {
        name: Classification((part, model(part).argmax(1)), batch_size=10, metric=metric)
        for (name, metric), model, part in zip(
            [("a", "accuracy"), ("b", "macro_f1")], models, inputs.split([100, 60]), strict=True
        )
    }
    sources = [Checkpoint.from_module(m, name=f"n{i}") for i, m in enumerate(models)]
    recipe = mo.recipes.linear(sources, weight=mo.free(-2, 2), normalize=False)
    return recipe, Tasks(parts, aggregate)


@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.WilcoxonPruner(p_threshold=0.3),
        optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=20),
    ],
)
def test_pruners(pruner: Any) -> None:
    recipe, evaluator = nets()
    study = optuna.create_study(
        direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(mo.MergeObjective(recipe, evaluator), n_trials=12)
    states = [trial.state.name for trial in study.trials]
    assert set(states) == {"COMPLETE", "PRUNED"}
    for trial in study.trials:
        values = [k for k in trial.user_attrs if k.startswith("value/")]
        assert values == (["value/a", "value/b"] if trial.state.name == "COMPLETE" else [])
        if values:
            assert trial.value == pytest.approx(np.mean([trial.user_attrs[k] for k in values]))
            scores = mo.scores(study, trial)
            assert trial.user_attrs["value/a"] == pytest.approx(scores[:100].mean())


def test_a_search_for_each_task() -> None:
    """Every trial has the values that each task by itself gives the model of its recipe."""
    recipe, evaluator = nets("each")
    objective = mo.MergeObjective(recipe, evaluator)
    study = optuna.create_study(
        directions=objective.directions, sampler=optuna.samplers.NSGAIISampler(seed=0)
    )
    study.optimize(objective, n_trials=4)
    assert study.metric_names == ["a", "b"]
    sources = {one.name: one for one in recipe.checkpoints()}
    for trial in study.trials:
        merged = mo.recipe_of(study, trial.number, sources=sources)
        alone = [
            mo.MergeObjective(recipe, part).score(merged) for part in evaluator.tasks.values()
        ]
        assert trial.values == alone
        assert [trial.user_attrs[f"value/{name}"] for name in "ab"] == alone
        assert not trial.intermediate_values
    assert len({*map(tuple, (trial.values for trial in study.trials))}) > 1


def test_values_of_tasks_are_shown(tmp_path: Path) -> None:
    recipe, evaluator = nets()
    url = f"sqlite:///{tmp_path}/s.db"
    declared = MergeStudy("two", mo.MergeObjective(recipe, evaluator), n_trials=2)
    study = declared.run(url, progress=False)
    best = study.best_trial
    shown = command("show", url, cwd=tmp_path).wait()
    assert shown.code == 0, shown.err
    header = next(line for line in shown.out.splitlines() if line.split()[:1] == ["trial"])
    assert header.split() == ["trial", "mean", "of", "a,", "b", "a", "b", "recipe"]
    row = next(line for line in shown.out.splitlines() if line.split()[:1] == [str(best.number)])
    numbers = [best.value, best.user_attrs["value/a"], best.user_attrs["value/b"]]
    assert row.split()[1:4] == [f"{number:.4g}" for number in numbers]
    mo.export(study, tmp_path / "out", sources=declared.sources)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| a (dev) | {best.user_attrs['value/a']} |" in card
    assert f"| mean of a, b (dev) | {best.value} |" in card
