"""Constraints: what must not become worse, against loops by hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from torch import nn

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import EvaluationError, StudyError
from merge_optuna.evaluators import NoWorse
from merge_optuna.study import best_trial, ranked
from tests import processes
from tests.study.linears import Near, linears, weight
from tests.trained import TOPICS, Task, right, rows, write_rows

optuna.logging.set_verbosity(optuna.logging.ERROR)


def value(sign: int = 1, **options: Any) -> mo.evaluators.Function:
    """The weight of the model, or what is left of it, as a score."""
    return mo.evaluators.Function(lambda model: sign * weight(model), name="weight", **options)


def searched(
    evaluator: Any,
    constraints: list[NoWorse],
    weights: list[float],
    *,
    study: optuna.Study | None = None,
    **options: Any,
) -> optuna.Study:
    """Trials of the models 0 (base) and 1: each is the weight that it has."""
    base, a = linears(0, 1)
    recipe = mo.recipes.task_arithmetic(base, [a], weight=mo.free(-4, 4))
    objective = mo.MergeObjective(recipe, evaluator, constraints=constraints)
    if study is None:
        study = optuna.create_study(
            study_name="s", load_if_exists=True, directions=objective.directions, **options
        )
    for number in weights:
        study.enqueue_trial(dict.fromkeys(recipe.distributions(), number))
    mo.optimize(study, objective, len(study.trials), progress=False)
    return study


class Noted(Near):
    """Notes what it scores."""

    metric_names = ("noted",)


def violations(study: optuna.Study) -> list[float]:
    """Those of the only constraint, or nan."""
    return [next(iter(t.constraints.values()), np.nan) for t in study.trials]


# -- what a search with constraints finds --------------------------------------------------------


def test_nothing_is_forgotten(task: Task, tmp_path: Path) -> None:
    """The best merge for two topics loses the other two, unless that is a constraint."""
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1.5))
    data = {
        (name, part): rows(80, seed=seed + 10 * (name == "old"), topics=topics)
        for part, seed in (("dev", 2), ("test", 3))
        for name, topics in (("new", TOPICS[2:]), ("old", TOPICS[:2]))
    }
    new, old = (
        mo.evaluators.Classification(write_rows(tmp_path / name, data[name, "dev"]), batch_size=80)
        for name in ("new", "old")
    )

    def search(constraints: list[NoWorse]) -> optuna.Study:
        objective = mo.MergeObjective(recipe, new, constraints=constraints)
        study = optuna.create_study(
            directions=objective.directions, sampler=recipe.sampler(seed=0)
        )
        mo.optimize(study, objective, 20, progress=False)
        return study

    def accuracy(source: Any, name: str, part: str) -> float:
        return float(right(engine.load(source), data[name, part]).mean())

    engine = mo.Engine()
    free, kept = search([]), search([NoWorse(old)])
    before = {part: accuracy(base, "old", part) for part in ("dev", "test")}
    winners = {study: mo.recipe_of(study) for study in (free, kept)}
    assert winners[free].digest != winners[kept].digest
    for part, least in before.items():
        assert accuracy(winners[free], "old", part) < least - 0.3, "it is forgotten"
        assert accuracy(winners[kept], "old", part) >= least, "it is not"

    # The winner is the best of those that keep it, by hand.
    found = []
    for trial in [*kept.trials[:3], best_trial(kept)]:
        model = engine.load(recipe.bind(trial.params))
        score, least = right(model, data["old", "dev"]).mean(), before["dev"]
        assert trial.user_attrs["constraint/accuracy no worse than base"] == score
        assert trial.constraints["accuracy no worse than base"] == pytest.approx(least - score)
        assert trial.user_attrs["examples"] == 160
        found.append((score < least, -trial.values[0], trial.number))
    assert best_trial(kept).number == min(found)[2]
    assert best_trial(kept).number == kept.best_trial.number, "what Optuna says"


@pytest.mark.parametrize(
    ("direction", "than", "slack", "reference"),
    [
        ("maximize", "base", 0.0, 0.0),
        ("maximize", "best source", 0.25, 3.0),
        ("minimize", "best source", 0.0, 0.0),
        ("minimize", 2, 0.5, 2.0),
    ],
)
def test_by_hand(direction: str, than: Any, slack: float, reference: float) -> None:
    base, a, b = linears(0, 1, 3)
    recipe = mo.recipes.task_arithmetic(base, [a, b], weight=mo.free(-1, 1))
    other = value(direction=direction)
    constraints = [NoWorse(other, than, slack), NoWorse(other, 10.0, name="another")]
    objective = mo.MergeObjective(recipe, Near(), constraints=constraints)
    study = optuna.create_study(directions=objective.directions, pruner=optuna.pruners.NopPruner())
    study.optimize(objective, n_trials=12)
    first = constraints[0].name
    sign = 1 if direction == "maximize" else -1

    def key(trial: optuna.trial.FrozenTrial) -> tuple[float, float, int]:
        merged = trial.params["weight/a"] + 3 * trial.params["weight/b"]
        expected = {
            first: sign * (reference - merged) - slack,
            "another": sign * (10 - merged),
        }
        assert trial.constraints == pytest.approx(expected, abs=1e-5)
        assert trial.user_attrs[f"constraint/{first}"] == pytest.approx(merged, abs=1e-5)
        assert trial.user_attrs["examples"] == 4 + 1 + 1
        return sum(max(0, c) for c in expected.values()), -trial.values[0], trial.number

    by_hand = sorted(study.trials, key=key)
    assert [t.number for t in ranked(study)] == [t.number for t in by_hand]


def test_rounding_is_no_violation() -> None:
    one = NoWorse(value(), 0.8, 0.1)
    assert 0.8 - 0.7 - 0.1 > 0
    assert one.violation(0.7, 0.8) == 0
    assert one.violation(0.7 - 1e-9, 0.8) == pytest.approx(1e-9)
    assert NoWorse(value(direction="minimize"), 0.2, 0.1).violation(0.1 + 0.2, 0.2) <= 0


def test_every_evaluator_gets_the_merge_itself() -> None:
    """Whatever those before it have done to the live model."""
    seen: list[float] = []

    def spoils(model: nn.Module) -> float:
        seen.append(weight(model))
        model.weight.data.fill_(9)  # type: ignore[union-attr, operator]
        return seen[-1]

    constraints = [NoWorse(spoils, -9, name=name) for name in "ab"]
    searched(spoils, constraints, [0.5, 2.0])
    assert seen == [0.5] * 3 + [2.0] * 3


def test_it_is_not_asked_without_need() -> None:
    calls: list[float] = []

    def asked(model: nn.Module) -> float:
        calls.append(weight(model))
        return {2.0: np.nan, 3.0: np.inf}.get(calls[-1], calls[-1])

    def evaluate(model: nn.Module) -> float:
        return np.nan if weight(model) == 1 else weight(model)

    constraints = [NoWorse(asked, 0, name="a"), NoWorse(lambda model: 1.0, 0, name="b")]
    study = searched(evaluate, constraints, [0.5, 1.0, 2.0, 3.0])
    assert calls == [0.5, 2.0, 3.0]
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] + [TrialState.PRUNED] * 3
    reasons = [t.user_attrs.get("reason") for t in study.trials]
    assert reasons[1:] == [
        "The score is not finite: nan.",
        "The score of the constraint 'a' is nan.",
        "The score of the constraint 'a' is inf.",
    ]
    assert [sorted(t.constraints) for t in study.trials] == [["a", "b"], [], [], []]


def test_one_that_raises_fails_its_trial_only() -> None:
    def raises(model: nn.Module) -> float:
        if weight(model) == 1:
            raise OSError("gone")
        return weight(model)

    study = searched(value(), [NoWorse(raises, "base")], [0.5, 1.0])
    assert [t.state for t in study.trials[:2]] == [TrialState.COMPLETE, TrialState.FAIL]
    assert "OSError: gone" in study.trials[1].user_attrs["error"]


def test_identical_candidates_keep_the_same_constraints() -> None:
    study = searched(
        value(deterministic=True),
        [NoWorse(value(deterministic=True), "base")],
        [0.5, -1.0, 0.5, -1.0],
    )
    assert [t.user_attrs.get("same_as") for t in study.trials] == [None, None, 0, 1]
    np.testing.assert_allclose(violations(study), [-0.5, 1, -0.5, 1])
    assert study.trials[3].user_attrs["constraint/weight no worse than base"] == -1
    again = searched(value(deterministic=True), [NoWorse(value(), "base")], [0.5, 0.5])
    assert "same_as" not in again.trials[1].user_attrs, "the constraint may say something else"


def test_a_copy_of_a_killed_trial_is_judged_anew() -> None:
    """Optuna's retries copy attributes, and ``set_constraint`` would keep the copied value."""
    base, a = linears(0, 1)
    recipe = mo.recipes.task_arithmetic(base, [a], weight=mo.free(0, 4))
    objective = mo.MergeObjective(recipe, value(), constraints=[NoWorse(value(), 3, name="c")])
    study = optuna.create_study(directions=objective.directions)
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            system_attrs={**compat.constraint_attrs({"c": -7.0}), "fixed_params": {"weight/a": 2}},
        )
    )
    study.optimize(objective, n_trials=1)
    assert study.trials[0].constraints == {"c": pytest.approx(1.0)}


def test_a_space_that_is_a_function() -> None:
    base, *experts = linears(0, 1, 3)

    def space(trial: optuna.Trial) -> mo.Recipe:
        weight = trial.suggest_float("weight", 0, 2)
        return mo.recipes.task_arithmetic(base, experts, weight=weight)

    objective = mo.MergeObjective(space, value(), constraints=[NoWorse(value(), "best source")])
    study = optuna.create_study(directions=objective.directions)
    mo.optimize(study, objective, 3, progress=False)
    assert len(study.trials) == 3
    expected = [3 - 4 * t.params["weight"] for t in study.trials]
    np.testing.assert_allclose(violations(study), expected, atol=1e-5)


def test_a_genealogy_refers_to_its_sources() -> None:
    _, *seeds = linears(0, 1, 3)
    space = mo.spaces.SplitSlerp(seeds)
    constraints = [NoWorse(value(), "best source", slack=0.5)]
    objective = mo.MergeObjective(space, Near(), constraints=constraints)
    study = mo.MergeStudy("s", objective, n_trials=4, baselines=False).run(progress=False)
    np.testing.assert_allclose(violations(study)[:2], [3 - 1 - 0.5, -0.5], atol=1e-5)
    with pytest.raises(StudyError, match="refers to the base, but the linear of a, b has none"):
        mo.MergeObjective(
            mo.recipes.linear(seeds, weight=mo.free(0, 1)),
            Near(),
            constraints=[NoWorse(value())],
        )


# -- where nothing is feasible -------------------------------------------------------------------


def test_a_constraint_that_nothing_meets() -> None:
    pruner = optuna.pruners.WilcoxonPruner()
    study = searched(Near(), [NoWorse(value(), 9)], [1.0, 3.5, 2.0], pruner=pruner)
    with pytest.raises(ValueError, match="No feasible trials"):
        _ = study.best_trial
    assert best_trial(study).number == 1, "the least infeasible one"
    assert [t.number for t in ranked(study)] == [1, 2, 0]


def test_best_trials_on_disk(tmp_path: Path) -> None:
    """The best feasible one takes the place of better infeasible ones; cards tell them apart."""
    base, a = linears(0, 1)
    recipe = mo.recipes.task_arithmetic(base, [a], weight=mo.free(-4, 4))
    objective = mo.MergeObjective(recipe, value(), constraints=[NoWorse(value(-1), -1)])
    study = mo.MergeStudy(
        "s",
        objective,
        n_trials=3,
        first=[{"weight/a": x} for x in (3.0, 2.0, 0.5)],
        baselines=["base", "source"],
        keep_best=2,
        folder=tmp_path / "best",
    ).run(progress=False)
    assert [t.number for t in ranked(study)] == [2, 1, 0]
    folders = sorted(path.name for path in (tmp_path / "best").glob("trial-*"))
    assert folders == ["trial-00001", "trial-00002"]
    cards = [(tmp_path / "best" / name / "README.md").read_text() for name in folders]
    assert "| weight no worse than -1 | -2, must be at least -1: violated by 1 |" in cards[0]
    assert "| weight no worse than -1 | -0.5, must be at least -1: kept |" in cards[1]
    mo.export(study, tmp_path / "a", baseline="source a", sources={"a": a})
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| weight no worse than -1 | -1, must be at least -1: kept |" in card


def test_several_objectives() -> None:
    """NSGA-II, and a front of feasible trials beside baselines that are feasible or not."""
    base, *experts = linears(0, 1, 3)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))

    class Both(Near):
        directions, metric_names = ("maximize", "minimize"), ("up", "down")  # type: ignore[assignment]

        def value(self, scores: np.ndarray) -> Any:
            return float(scores[:, 0].mean()), float(scores[:, 1].mean())

        def __call__(self, model: nn.Module) -> Iterator[Any]:
            at = weight(model)
            yield np.arange(4), np.tile([at, at**2], (4, 1))

    objective = mo.MergeObjective(recipe, Both(), constraints=[NoWorse(value(), 3.5, slack=0.5)])
    sampler = recipe.sampler(seed=0, objectives=2, population_size=10)
    kinds = ["base", "source"]
    study = mo.MergeStudy("s", objective, n_trials=50, sampler=sampler, baselines=kinds)
    found = study.run(progress=False)
    front = mo.pareto(found)
    feasible = {t.number for t in found.trials if t.values[0] >= 3 - 1e-9}
    assert {point.number for point in front} == feasible, "none dominates another"
    assert sum(n >= 40 for n in feasible) > 2 * sum(n < 10 for n in feasible), "it has learned"
    assert all({"base", "source a"} <= set(point.dominates) for point in front)
    assert not any(point.no_better_than for point in front)


# -- samplers ------------------------------------------------------------------------------------


def _samplers() -> dict[str, Any]:
    own, opt = mo.samplers, optuna.samplers
    return {
        "cmaes": lambda space: own.CmaEsSampler(space, seed=0),
        "de": lambda space: own.DESampler(space, population_size=8, seed=0),
        "ga": lambda space: own.GASampler(space, population_size=8, seed=0),
        "pso": lambda space: own.PSOSampler(space, population_size=8, seed=0),
        "tpe": lambda space: opt.TPESampler(seed=0),
        "nsga2": lambda space: own.NSGA2Sampler(space, population_size=8, seed=0),
        "optuna's": lambda space: opt.NSGAIISampler(population_size=8, seed=0),
    }


@pytest.mark.parametrize("name", ["cmaes", "de", "ga", "pso", "nsga2", "tpe", "optuna's"])
def test_samplers_go_where_it_is_kept(name: str) -> None:
    """The more is better, but more than 1 is too much: the last trials know."""
    base, a, b = linears(0, 1, 1)
    recipe = mo.recipes.task_arithmetic(base, [a, b], weight=mo.free(0, 4))

    def last(constraints: list[NoWorse]) -> float:
        objective = mo.MergeObjective(recipe, value(), constraints=constraints)
        sampler = _samplers()[name](recipe.distributions())
        study = optuna.create_study(directions=objective.directions, sampler=sampler)
        study.optimize(objective, n_trials=56)
        return float(np.median([t.values[0] for t in study.trials[-16:]]))

    assert last([]) > 4
    assert last([NoWorse(value(-1), -1.0)]) < 3


# -- baselines -----------------------------------------------------------------------------------


def _of_two() -> tuple[mo.MergeObjective, Noted]:
    """Base 0, experts 1 and 3; a merge should be near 3, and its weight at most 2.5."""
    base, *experts = linears(0, 1, 3)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 2))
    other = Noted(0.5)
    constraints = [NoWorse(other, "best source", slack=1.5)]
    return mo.MergeObjective(recipe, Near(3.0), constraints=constraints), other


@pytest.mark.parametrize("kept", [True, False])
def test_the_best_baseline_is_a_feasible_one(kept: bool) -> None:
    objective, other = _of_two()
    study = optuna.create_study(directions=objective.directions) if kept else None
    found = mo.baselines(objective, study, progress=False)
    weights = {"base": 0, "source a": 1, "source b": 3, "uniform average": 2}
    weights |= {f"task arithmetic, λ = {i / 10:g}": i / 10 * 4 for i in range(1, 11)}
    bound = -0.5 - 1.5  # the base and source a are equally near to 0.5
    name = "noted no worse than best source"
    for row_name, number in weights.items():
        row, score = found[row_name], -abs(0.5 - number)
        assert row.constrained == pytest.approx({name: score}, abs=1e-5)
        assert row.violations == pytest.approx({name: bound - score}, abs=1e-5)
        own = 1 if row_name in ("base", "source a", "source b") else 2
        assert row.examples == own, "what sources score in the constraint is known"
    feasible = [n for n, number in weights.items() if abs(0.5 - number) <= 2 + 1e-6]
    best = min(feasible, key=lambda n: abs(3 - weights[n]))
    assert found.best is not None
    assert found.best.name == best == "task arithmetic, λ = 0.6"
    assert found.best_untuned is not None
    assert found.best_untuned.name == "uniform average", "source b is better, but infeasible"
    assert found["source b"].note == "violates 'noted no worse than best source' by 0.5"
    assert len(other.calls) == len(found)
    if study is not None:
        assert mo.baselines(study)[:] == found[:]
        assert other.calls[:3] == [0, 1, 3]


def test_a_search_is_measured_by_feasible_baselines(caplog: Any) -> None:
    objective, _ = _of_two()
    study = mo.MergeStudy("s", objective, n_trials=2, first=[{"weight/a": 0, "weight/b": 0.5}])
    found = study.run(progress=False)
    assert best_trial(found).number == 0
    assert "no better than the baseline 'task arithmetic, λ = 0.6'" in caplog.text


def test_a_feasible_baseline_where_no_trial_is(caplog: Any, tmp_path: Path) -> None:
    objective, _ = _of_two()
    first = [{"weight/a": 1.5, "weight/b": 1.5}]
    declared = mo.MergeStudy("s", objective, n_trials=1, first=first)
    study = declared.run(progress=False)
    best = mo.baselines(study).best
    assert best is not None
    assert f"The baseline {best.name!r} keeps them, with nearness {best.value:.4g}." in caplog.text
    with pytest.warns(UserWarning, match="is infeasible"):
        card = (
            mo.export(study, tmp_path / "a", sources=declared.sources) / "README.md"
        ).read_text()
    lines = {line.split("|")[1].strip(): line for line in card.splitlines() if line[:1] == "|"}
    told = {row.name: "violates" in lines[row.name] for row in mo.baselines(study).headlines}
    assert told == {row.name: row.violation > 0 for row in mo.baselines(study).headlines}
    assert len({*told.values()}) == 2


# -- once per study ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_references_are_scored_once(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}:///{tmp_path}/s"
    first, again = Noted(), Noted()
    searched(Near(), [NoWorse(first, "best source")], [0.5], storage=mo.storage(url))
    assert first.calls == [0.0, 1.0, 0.5], "base, source, trial"
    study = searched(Near(), [NoWorse(again, "best source")], [3.0], storage=mo.storage(url))
    assert again.calls == [3.0]
    np.testing.assert_allclose(violations(study), [-1 - -1.25, -1 - -1.5])
    kept = compat.study_system_attrs(study)[
        "merge_optuna:reference:noted no worse than best source"
    ]
    assert kept == {"value": -1.0, "of": {"base": -1.5, "source a": -1.0}}


def test_a_finished_study_is_left_alone() -> None:
    evaluator = Noted()
    study = searched(Near(), [NoWorse(evaluator, 0)], [1.0])
    assert evaluator.calls == [1.0]
    searched(Near(), [NoWorse(evaluator, 0)], [], study=study)
    assert evaluator.calls == [1.0]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([], r"held to 'weight no worse than base', now to no constraints"),
        ([NoWorse(value(), name="x")], r"now to 'x'. Go on as before, or use another study_name"),
        ([NoWorse(value(), slack=1)], r"had slack=0.0, now slack=1.0"),
        (
            [NoWorse(value(), 1.0, name="weight no worse than base")],
            r"had than='base', now than=1.0",
        ),
        ([NoWorse(value(digest="2"))], r"scored on other data, or by another function: function"),
    ],
)
def test_others_are_refused(now: list[NoWorse], message: str) -> None:
    study = searched(value(), [NoWorse(value())], [1.0])
    with pytest.raises(StudyError, match=message):
        searched(value(), now, [1.0], study=study)
    searched(value(), [NoWorse(value())], [1.0], study=study)


def test_a_study_without_constraints_gets_none() -> None:
    study = searched(value(), [], [1.0])
    with pytest.raises(StudyError, match="were held to no constraints, now to 'weight no worse"):
        searched(value(), [NoWorse(value())], [1.0], study=study)


def test_a_source_without_a_score_ends_the_search() -> None:
    def undefined(model: nn.Module) -> float:
        return np.nan if weight(model) == 0 else 1.0

    message = (
        r"'score no worse than base' refers to the base, which has no score: its score is nan\. "
        r"Use than=\.\.\. with a number"
    )
    with pytest.raises(StudyError, match=message):
        searched(value(), [NoWorse(undefined)], [1.0])
    base, a = linears(0, 1)
    recipe = mo.recipes.task_arithmetic(base, [a], weight=mo.free(0, 4))
    objective = mo.MergeObjective(recipe, value(), constraints=[NoWorse(undefined)])
    with pytest.raises(StudyError, match="which has no score"):
        optuna.create_study(directions=objective.directions).optimize(objective, n_trials=3)


def test_damaged_ones_are_told_as_such() -> None:
    study = searched(value(), [NoWorse(value())], [1.0])
    name = "weight no worse than base"
    study.add_trial(
        optuna.trial.create_trial(value=1.0, system_attrs={f"constraints:{name}": "much"})
    )
    with pytest.raises(StudyError, match=r"constraints of trial 1 is damaged"):
        best_trial(study)
    for key, message in (
        (f"merge_optuna:reference:{name}", "references of the constraints of the study 's'"),
        ("constraints", f"constraint '{name}' of the study 's'"),
    ):
        study = searched(value(), [NoWorse(value())], [1.0])
        if key == "constraints":
            study.set_user_attr(key, {name: 3})
        else:
            compat.set_study_system_attr(study, key, {"value": "much"})
        with pytest.raises(StudyError, match=f"{message} is damaged"):
            searched(value(), [NoWorse(value())], [1.0], study=study)


class Deadly(Noted):
    """Kills its process in the second batch of a call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call = call

    def __call__(self, model: nn.Module) -> Iterator[Any]:
        for step, batch in enumerate(super().__call__(model)):
            if step and len(self.calls) == self.call:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


def _search(folder: str, call: int) -> None:
    base, *experts = linears(0, 1, 3)
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-1, 1))
    constraints = [NoWorse(Deadly(call), "best source", slack=0.3)]
    objective = mo.MergeObjective(recipe, Near(), constraints=constraints)
    sampler = recipe.sampler(seed=3, population_size=4)
    one = mo.MergeStudy("s", objective, n_trials=7, sampler=sampler, baselines=False)
    one.run(f"sqlite:///{folder}/s.db", progress=False)


def _kept(folder: Path) -> list[tuple[Any, ...]]:
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db")
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    return [
        (t.params, t.values, t.constraints, sorted(t.user_attrs.items())[:2]) for t in complete
    ]


def test_killed_and_started_again(tmp_path: Path) -> None:
    """While it scores the second of three sources, and in the sixth trial."""
    folders = [tmp_path / name for name in ("whole", "2", "9")]
    for folder in folders:
        folder.mkdir()

    def codes(calls: list[int]) -> list[int]:
        started = [
            processes.call(_search, str(folder), call, cwd=tmp_path)
            for folder, call in zip(folders, calls, strict=True)
        ]
        return [one.wait().code for one in started]

    assert codes([0, 2, 9]) == [0, -9, -9]
    assert codes([0, 0, 0]) == [0, 0, 0]
    whole, *others = map(_kept, folders)
    assert len(whole) == 7
    assert len({str(params) for params, *_ in whole}) == 7
    assert [kept == whole for kept in others] == [True, True]


# -- what is no constraint -----------------------------------------------------------------------


class Two(Near):
    directions, metric_names = ("maximize", "minimize"), ("a", "b")  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "An evaluator or a function"),
        ((Two(),), r"compares one number, but Two has 2 objectives: a, b\. Pass an evaluator"),
        ((Near(), "bases"), r"than= is 'base', 'best source' or a finite number, not 'bases'"),
        ((Near(), np.nan), r"or a finite number, not nan"),
        ((Near(), True), r"or a finite number, not True"),
        ((Near(), None), r"or a finite number, not None"),
        ((Near(), "base", -0.1), r"a finite number of 0 or more, not -0\.1"),
        ((Near(), "base", np.nan), r"a finite number of 0 or more, not nan"),
        ((Near(), "base", "0.1"), r"a finite number of 0 or more, not '0\.1'"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        NoWorse(*arguments)


def test_wrong_names() -> None:
    assert NoWorse(Near(), 0.25).name == "nearness no worse than 0.25"
    for name in ("", "x" * 201, 3):
        with pytest.raises(EvaluationError, match="name= is a few words"):
            NoWorse(Near(), name=name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (NoWorse(Near()), "constraints= is a list of"),
        ([Near()], r"A constraint is an mo\.evaluators\.NoWorse\(evaluator, than='base'\), not"),
        ([NoWorse(Near()), NoWorse(Near(), slack=1)], "Two constraints are called 'nearness no"),
    ],
)
def test_wrong_constraints(constraints: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        searched(Near(), constraints, [])


def test_its_evaluator_is_checked_before_the_search(task: Task, tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "art0", "label": "sport"}])
    other = mo.evaluators.Classification(bad)
    with pytest.raises(EvaluationError, match="sport"):
        mo.MergeObjective(
            task.recipe(), mo.evaluators.Classification(task.dev), constraints=[NoWorse(other)]
        )
