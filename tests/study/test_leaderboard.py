"""Studies side by side: what they have come to, at what cost, and how far that is from chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from sklearn.metrics import f1_score

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.study import Cost, Draws, Entry, Leaderboard, Run
from tests.docs.blocks import ROOT, blocks
from tests.engine.test_heads import Family
from tests.trained import Task, read_rows, right

optuna.logging.set_verbosity(optuna.logging.ERROR)


def searched(task: Task, name: str, seed: int, n_trials: int = 4, **options: Any) -> optuna.Study:
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    dev = mo.evaluators.Classification(task.dev, batch_size=80, **options)
    objective = mo.MergeObjective(recipe, dev)
    study = optuna.create_study(
        study_name=name,
        directions=objective.directions,
        sampler=recipe.sampler(seed=seed),
        pruner=optuna.pruners.NopPruner(),
    )
    study.optimize(objective, n_trials=n_trials)
    return study


@pytest.fixture(scope="module")
def studies(task: Task) -> list[optuna.Study]:
    return [searched(task, f"cma, seed {seed}", seed) for seed in (0, 1, 2)]


def plain(name: str, values: Sequence[float], **options: Any) -> optuna.Study:
    """Of any objective, without merging."""
    study = optuna.create_study(study_name=name, **{"direction": "minimize", **options})
    for value in values:
        study.add_trial(optuna.trial.create_trial(value=value))
    return study


# -- what rows say -------------------------------------------------------------------------------


def test_rows_are_the_best_trials_on_test(task: Task, studies: list[optuna.Study]) -> None:
    other = searched(task, "other", 5, n_trials=2)
    test = mo.evaluators.Classification(task.test)
    board = mo.leaderboard([*studies, other], test=test)
    rows = {row.name: row for row in board.rows}
    assert rows.keys() == {"cma", "other"}
    assert (board.metric, board.direction, board.on) == ("accuracy", "maximize", "test")

    engine, texts = mo.Engine(), read_rows(task.test)
    scores = np.array([right(engine.load(mo.recipe_of(s)), texts) for s in studies])
    row = rows["cma"]
    assert row.test is not None
    assert row.test.value == pytest.approx(scores.mean())
    assert row.test.low < row.test.value < row.test.high
    assert (row.seeds, row.test.seeds, row.test.examples) == (3, 3, 160)
    assert row.dev.value == pytest.approx(np.mean([s.best_value for s in studies]))
    assert np.isnan(row.dev.low)
    assert (row.cost.evaluations, row.cost.examples) == (4, 4 * 160)
    attrs = [t.user_attrs for s in studies for t in s.trials]
    seconds = sum(a["seconds_merge"] + a["seconds_evaluate"] for a in attrs) / 3
    assert row.cost.seconds == pytest.approx(seconds)
    assert (row.cost.tokens, row.difference, board.best_baseline) == (None, None, None)
    assert any("Run with one seed" in note and "other" in note for note in board.notes)

    # the same numbers from scores that are there already
    runs = [
        Run(study.best_value, score, seed)
        for seed, (study, score) in enumerate(zip(studies, scores, strict=True))
    ]
    again = Leaderboard.of([Entry("cma", runs)], metric="accuracy")
    assert again.rows[0].test == pytest.approx(row.test)


def test_a_search_can_be_the_baseline_of_others(task: Task, studies: list[optuna.Study]) -> None:
    test = mo.evaluators.Classification(task.test, metric="macro_f1")
    tuned = [searched(task, f"tuned-seed-{seed}", seed, n_trials=1) for seed in (0, 1, 2)]
    board = mo.leaderboard([*studies, *tuned], test=test, baselines=["tuned"])
    assert board.best_baseline == "tuned"
    row = next(row for row in board.rows if row.name == "cma")
    best = next(row for row in board.rows if row.name == "tuned")
    assert (row.kind, best.kind, best.difference) == ("search", "tuned baseline", None)
    assert row.test is not None
    assert best.test is not None
    assert row.difference is not None
    assert row.difference.value == pytest.approx(row.test.value - best.test.value)
    assert (row.difference.seeds, row.difference.examples) == (3, 160)
    engine, texts = mo.Engine(), read_rows(task.test)
    names = sorted({text["label"] for text in texts})
    expected = []
    for study in studies:
        model = engine.load(mo.recipe_of(study))
        batches = mo.evaluators.Classification(task.test, metric="macro_f1")(model)
        _, predicted, true = np.concatenate([scores for _, scores in batches]).astype(int).T
        assert len(names) == len(np.unique(true))
        expected.append(f1_score(true, predicted, average="macro"))
    assert row.test.value == pytest.approx(np.mean(expected))


def test_trials_of_a_study(task: Task, studies: list[optuna.Study]) -> None:
    study = studies[0]
    test = mo.evaluators.Classification(task.test)
    board = mo.leaderboard(study, trials=[3, study.trials[1]], test=test)
    assert {row.name for row in board.rows} == {"trial 1", "trial 3"}
    one = next(row for row in board.rows if row.name == "trial 1")
    assert one.dev.value == study.trials[1].value
    assert (one.cost.evaluations, one.cost.examples) == (1, 160)
    assert board.difference("trial 1", "trial 3").examples == 160
    asked = optuna.create_study(study_name="asked")
    asked.ask()
    with pytest.raises(StudyError, match="Trials 0 of the study 'asked' are not complete"):
        mo.leaderboard(asked, trials=[0])
    with pytest.raises(StudyError, match="are of one study, but there are 2"):
        mo.leaderboard(studies[:2], trials=[0])


def test_without_a_test_it_compares_dev_and_says_so(
    task: Task, studies: list[optuna.Study]
) -> None:
    board = mo.leaderboard(studies)
    (row,) = board.rows
    assert (board.on, row.test, row.dev.examples, row.dev.seeds) == ("dev", None, 160, 3)
    assert row.dev.low < row.dev.value < row.dev.high
    assert any("better than they are" in note for note in board.notes)
    # macro-F1 is more than the stored column
    (other,) = mo.leaderboard(searched(task, "f1", 0, metric="macro_f1")).rows
    assert other.dev.examples == 0
    assert np.isnan(other.dev.low)


def test_dev_data_as_test_are_told(task: Task, studies: list[optuna.Study]) -> None:
    seen = "these are the examples that the searches have seen"
    for size in (32, 7):  # however they are batched
        test = mo.evaluators.Classification(task.dev, batch_size=size)
        board = mo.leaderboard(studies, test=test)
        assert seen in board.notes[-1]
    assert seen in board.to_markdown()
    board = mo.leaderboard(studies, test=mo.evaluators.Classification(task.test))
    assert not any(seen in note for note in board.notes)


def test_of_equal_baselines_the_untuned_one_is_the_best() -> None:
    entries = [
        Entry("soup", [Run(1.0, 1.0)], "tuned baseline"),
        Entry("average", [Run(1.0, 1.0)], "baseline"),
    ]
    assert Leaderboard.of(entries).best_baseline == "average"


def test_a_trial_that_took_over_a_result_has_scored_nothing() -> None:
    study = plain("a", [1.0, 2.0])
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"same_as": 0}))
    assert mo.leaderboard(study).rows[0].cost.evaluations == 2


# -- which studies are one search ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["ja math, seed {}", "ja math-seed-{}", "ja math_seed{}"])
def test_names_that_differ_in_a_seed_are_one_search(name: str) -> None:
    (row,) = mo.leaderboard([plain(name.format(i), [i]) for i in (3, 1)]).rows
    assert (row.name, row.seeds, row.dev.value, row.dev.seeds) == ("ja math", 2, 2.0, 2)


def test_a_number_alone_is_no_seed() -> None:
    board = mo.leaderboard([plain("cma-100", [1.0]), plain("cma-200", [0.5])])
    assert [row.name for row in board.rows] == ["cma-200", "cma-100"]
    given = mo.leaderboard({"cma": [plain("cma-100", [1.0]), plain("cma-200", [0.5])]})
    assert [(row.name, row.seeds) for row in given.rows] == [("cma", 2)]


def test_seeds_are_those_of_the_names() -> None:
    first = [plain(f"one, seed {seed}", [float(seed)]) for seed in (2, 0, 1)]
    second = [plain(f"two, seed {seed}", [seed + 0.25]) for seed in (0, 1, 2)]
    board = mo.leaderboard([*first, *second], baselines=["one"])
    assert board.difference("two", "one") == pytest.approx((0.25, 0.25, 0.25, 3, 0))
    same = {"one": first, "two": second}
    assert mo.leaderboard(same).difference("two", "one").high == pytest.approx(0.25)
    with pytest.raises(StudyError, match="no 'three' among one, two"):
        mo.leaderboard(same).difference("three", "one")


# -- what is refused -----------------------------------------------------------------------------


def test_what_cannot_be_compared() -> None:
    low, high = plain("low", [1.0]), plain("high", [1.0], direction="maximize")
    message = "'low' is to minimize value, 'high' is to maximize value. Choose .* --study"
    with pytest.raises(StudyError, match=message):
        mo.leaderboard([low, high])
    with pytest.raises(StudyError, match="has no completed trial"):
        mo.leaderboard(plain("empty", []))
    with pytest.raises(StudyError, match="has 2 objectives"):
        mo.leaderboard(optuna.create_study(directions=["minimize"] * 2))
    with pytest.raises(StudyError, match="names three, but the searches are low"):
        mo.leaderboard(low, baselines=["three"])
    with pytest.raises(StudyError, match=r"Expected studies, not .*trials="):
        mo.leaderboard([low.trials[0]])  # type: ignore[list-item]
    with pytest.raises(StudyError, match="nothing to compare"):
        mo.leaderboard([])
    with pytest.raises(StudyError, match="Several studies are called low"):
        mo.leaderboard([low, plain("low", [2.0])])
    with pytest.raises(StudyError, match="Two studies of 'x' have one seed"):
        mo.leaderboard({"x": [plain("a, seed 1", [1.0]), plain("b, seed 1", [1.0])]})


def test_what_is_tested_may_be_another_metric(task: Task) -> None:
    """Searches for a low loss, compared by right answers: more of them are better."""
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    dev = mo.evaluators.Classification(task.dev)
    loss = mo.evaluators.Function(
        lambda model: 1 - mo.evaluators.value_of(dev, model), direction="minimize", name="loss"
    )
    objective = mo.MergeObjective(recipe, loss)
    study = mo.MergeStudy("a", objective, n_trials=3, baselines=["base", "source"]).run()
    board = mo.leaderboard(study, test=mo.evaluators.Classification(task.test))
    assert (board.metric, board.direction, board.dev_metric) == ("accuracy", "maximize", "loss")
    head, cells = board.table()
    assert {"dev loss", "test accuracy"} <= {*head}
    tests = [float(row[head.index("test accuracy")].split()[0]) for row in cells]
    assert tests == sorted(tests, reverse=True)
    assert len(tests) == 4
    (found,) = [row for row in board.rows if row.kind == "search"]
    assert found.dev.value == study.best_value == min(trial.value for trial in study.trials)
    baselines = {row.name: row.test.value for row in board.rows if row.kind != "search"}
    assert board.best_baseline == max(baselines, key=baselines.__getitem__)


def test_a_test_of_several_objectives_is_refused(task: Task) -> None:
    two = mo.evaluators.Classification(task.test)
    two.directions, two.metric_names = ("maximize", "minimize"), ("accuracy", "cost")  # type: ignore[assignment]
    with pytest.raises(StudyError, match="Classification has 2 objectives, accuracy, cost"):
        mo.leaderboard(plain("loss", [1.0]), test=two)


def test_entries_that_do_not_fit() -> None:
    with pytest.raises(StudyError, match=r"seeds \[0, 0\]: each needs one of its own"):
        Entry("twice", [Run(0, 0, 0), Run(0, 0, 0)])
    one, other = (Entry(str(n), [Run(0, np.arange(n), 0)]) for n in (3, 4))
    with pytest.raises(StudyError, match=r"the same examples .* 3 of '3', 4 of '4'"):
        Leaderboard.of([one, other])
    with pytest.raises(StudyError, match="Several rows are called 3"):
        Leaderboard.of([one, one])


# -- in words ------------------------------------------------------------------------------------


def board(direction: str = "minimize") -> Leaderboard:
    rng = np.random.default_rng(0)
    hard = rng.normal(3, 1, 50)
    cost = Cost(evaluations=100, examples=5, seconds=12.4)
    runs = [Run(1.0, hard - 0.2 + rng.normal(0, 0.01, 50), seed, cost) for seed in range(3)]
    base = [Run(1.5, hard)]
    return Leaderboard.of(
        [
            Entry("base|line", base, "baseline"),
            Entry("search", runs),
            Entry("tuned", base, "tuned baseline"),
        ],
        metric="nats",
        direction=direction,
    )


def test_the_table_is_read_by_people_and_by_programs() -> None:
    found = board()
    head, cells = found.table()
    assert head == [
        *("method", "kind", "seeds", "dev nats", "test nats", "− best baseline"),
        *("evaluations", "examples", "seconds"),
    ]
    assert [line[0] for line in cells] == ["search", "base|line", "tuned"]
    assert cells[0][1:4] == ["search", "3", "1.000"]
    assert cells[0][5].startswith("-0.2")
    assert cells[0][-3:] == ["100", "5", "12"]
    assert cells[1][5] == ""
    markdown = found.to_markdown(digits=2)
    assert "| base\\|line |" in markdown
    assert "nats" in repr(found)
    assert str(found).splitlines()[0].split()[:2] == ["method", "kind"]
    assert "The best baseline is base|line, of all 2 the best on test." in found.notes
    assert not any("No search beats" in note for note in found.notes)
    assert "No search beats it beyond chance." in board("maximize").notes
    data = json.loads(json.dumps(found.to_data(), allow_nan=False))
    assert data["rows"][0]["difference"]["seeds"] == 3
    assert data["rows"][0]["dev"]["low"] is None
    assert data["rows"][0]["cost"] == {
        "evaluations": 100.0,
        "examples": 5.0,
        "tokens": None,
        "seconds": 12.4,
    }


def test_the_first_column_counts_unless_a_metric_is_given() -> None:
    rows = np.array([[0.0, 9.0], [1.0, 9.0]])
    (row,) = Leaderboard.of([Entry("a", [Run(0, rows)])]).rows
    assert row.test is not None
    assert row.test.value == 0.5


def test_values_that_are_not_numbers_come_last() -> None:
    good, bad = Entry("good", [Run(0, 0.1, 0)]), Entry("bad", [Run(0, np.nan, 0)])
    for direction in ("maximize", "minimize"):
        rows = Leaderboard.of([bad, good], direction=direction).rows
        assert [row.name for row in rows] == ["good", "bad"]


def test_scores_that_are_not_there_are_said_not_to_be_drawn() -> None:
    runs = [Run(0, value, seed) for seed, value in enumerate((0.1, 0.2, 0.4))]
    found = Leaderboard.of([Entry("a", runs)], draws=Draws(500))
    assert (found.rows[0].test or ())[3:] == (3, 0)
    assert any(note.startswith("No interval over test examples:") for note in found.notes)
    assert any("no scores of single examples" in note for note in found.notes)


def test_the_page_runs_as_it_stands(task: Task, studies: list[optuna.Study]) -> None:
    page = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    found = [one.code for one in blocks("docs/leaderboard.md") if one.language == "python"]
    from_studies, from_scores = found
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    test = mo.evaluators.Classification(task.test)
    names: dict[str, Any] = {"mo": mo, "studies": studies, "test": test}
    names["objective"] = mo.MergeObjective(recipe, test)
    exec(from_studies, names)
    assert names["board"].rows[0].name == "cma"
    rng = np.random.default_rng(0)
    names["test_scores"], names["scores_of_average"] = rng.random((5, 40)), rng.random(40)
    exec(from_scores, names)
    assert names["board"].best_baseline == "average"
    table = {name for name in ("dev", "test", "− best baseline") if f"| `{name}` |" in page}
    assert len(table) == 3


# -- baselines that studies hold -----------------------------------------------------------------


@pytest.fixture(scope="module")
def beside(task: Task) -> list[optuna.Study]:
    """A search with two seeds and one with another method, with baselines."""
    base, *experts = task.checkpoints()
    free = mo.free(0, 1)
    arithmetic = mo.recipes.task_arithmetic(base, experts, weight=free)
    ties = mo.recipes.ties(base, experts, weight=free, density=0.5)
    found = []
    for name, recipe, seed in (
        ("arithmetic", arithmetic, 0),
        ("arithmetic", arithmetic, 1),
        ("ties", ties, 0),
    ):
        objective = mo.MergeObjective(recipe, mo.evaluators.Classification(task.dev))
        sampler = recipe.sampler(seed=seed)
        declared = mo.MergeStudy(f"{name}, seed {seed}", objective, 2, sampler=sampler)
        found.append(declared.run(progress=False))
    return found


def test_baselines_are_rows_and_the_best_on_test_is_the_best(
    task: Task, beside: list[optuna.Study]
) -> None:
    test = mo.evaluators.Classification(task.test)
    found = mo.leaderboard(beside, test=test)
    rows = {row.name: row for row in found.rows}
    stored = mo.baselines(beside[0])
    untuned = {"task_arithmetic, untuned", "ties, untuned"}
    names = {row.name for row in stored.headlines if row.kind != "task arithmetic"}
    names -= {*untuned, "ensemble"}
    assert rows.keys() == names | untuned | {"arithmetic", "ties", "task arithmetic, λ by dev"}

    engine, texts = mo.Engine(), read_rows(task.test)
    for name in names:
        row = rows[name]
        recipe = mo.recipe_of(beside[0], baseline=name)
        assert row.test is not None
        assert row.test.value == pytest.approx(right(engine.load(recipe), texts).mean())
        assert (row.seeds, row.test.seeds, row.test.examples) == (0, 0, 160)  # the same for all
        assert row.kind == ("tuned baseline" if stored[name].tuned else "baseline")
        assert row.dev.value == stored[name].value
    of_lambda = rows["task arithmetic, λ by dev"]
    grid = [row for row in stored if row.kind == "task arithmetic"]
    assert of_lambda.dev.value == max(row.value for row in grid)
    assert of_lambda.cost.evaluations == len(grid)
    assert (rows["uniform average"].cost.evaluations, of_lambda.kind) == (1, "tuned baseline")
    values = {n: r.test.value for n, r in rows.items() if r.kind != "search" and r.test}
    assert found.best_baseline is not None
    assert values[found.best_baseline] == max(values.values())
    difference = rows["arithmetic"].difference
    assert difference is not None
    assert (difference.seeds, difference.examples) == (2, 160)
    assert any("Run with one seed" in note and note.endswith(": ties.") for note in found.notes)


def test_several_tasks_over_a_base_without_a_head(tmp_path: Path) -> None:
    family = Family("Bert", tmp_path, base_head=None)
    base, *experts = family.checkpoints
    tokens = torch.randint(3, 60, (40, 9), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 2
    tasks = mo.evaluators.Tasks(
        {e.name: mo.evaluators.Classification((tokens, labels), head=e) for e in experts}
    )
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    objective = mo.MergeObjective(recipe, tasks)
    declared = mo.MergeStudy("heads", objective, 2, baselines=["uniform average", "source"])
    study = declared.run(progress=False)
    found = mo.leaderboard(study, test=tasks)
    rows = {row.name: row for row in found.rows}
    assert len(rows) >= 2 + len(experts)
    for row in rows.values():
        assert row.test is not None
        assert row.test.value == pytest.approx(row.dev.value)  # dev and test are one here
        assert row.test.examples == 40 * len(experts)


def test_baselines_on_dev_and_beside_trials(beside: list[optuna.Study]) -> None:
    found = mo.leaderboard(beside[:1], trials=[0])
    assert (found.on, found.rows[0].dev.examples) == ("dev", 160)
    assert {"trial 0", "uniform average"} <= {row.name for row in found.rows}
    best = next(row for row in found.rows if row.name == found.best_baseline)
    stored = mo.baselines(beside[0]).best
    assert stored is not None
    assert best.dev.value == stored.value
