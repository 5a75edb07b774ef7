"""Identical candidates take over a finished trial's result instead of being scored again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from torch import nn

import merge_optuna as mo
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

LOW, HIGH = 0.2, 0.9


class Counted(mo.evaluators.Classification):
    """Counts how often a model is scored."""

    calls = 0

    def __call__(self, model: nn.Module) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.calls += 1
        yield from super().__call__(model)


class Noisy(Counted):
    deterministic = False


def recipe_of(task: Task) -> mo.Recipe:
    base, *experts = task.checkpoints()
    return mo.recipes.task_arithmetic(base, experts, weight=mo.free(-2, 2, per="model"))


def search(
    objective: mo.MergeObjective,
    weights: list[float],
    *,
    study: optuna.Study | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    storage: object = None,
) -> optuna.Study:
    """Trials whose weights are all the same number."""
    study = study or optuna.create_study(
        study_name="same",
        storage=storage,  # type: ignore[arg-type]
        load_if_exists=True,
        directions=objective.directions,
        pruner=pruner or optuna.pruners.NopPruner(),
    )
    for weight in weights:
        study.enqueue_trial(dict.fromkeys(objective.space.distributions(), weight))
    study.optimize(objective, n_trials=len(weights))
    return study


def results(study: optuna.Study) -> list[tuple[object, ...]]:
    return [
        (t.params, t.state, t.values, t.intermediate_values, mo.scores(study, t).tolist())
        for t in study.trials
    ]


@pytest.mark.parametrize(
    ("pruner", "reports"),
    [
        (optuna.pruners.NopPruner(), 0),
        (optuna.pruners.MedianPruner(n_startup_trials=100), 4),
        (optuna.pruners.WilcoxonPruner(p_threshold=1e-9), 4),
    ],
    ids=["nothing", "running", "batches"],
)
def test_all_is_as_if_scored_again(
    task: Task, pruner: optuna.pruners.BasePruner, reports: int
) -> None:
    weights = [LOW, HIGH, LOW, HIGH, 0.5, LOW]
    found, calls = [], []
    for evaluator in (Counted(task.dev, batch_size=40), Noisy(task.dev, batch_size=40)):
        objective = mo.MergeObjective(recipe_of(task), evaluator)
        found.append(search(objective, weights, pruner=pruner))
        calls.append(evaluator.calls)
    once, again = found
    assert calls == [3, 6]
    assert results(once) == results(again)
    assert all(len(t.intermediate_values) == reports for t in once.trials)
    same = [t.user_attrs.get("same_as") for t in once.trials]
    assert same == [None, None, 0, 1, None, 0]
    assert [t.user_attrs["examples"] for t in once.trials] == [160, 160, 0, 0, 160, 0]
    assert mo.recipe_of(once, 5).digest == mo.recipe_of(once, 0).digest


def test_only_complete_trials_count(task: Task) -> None:
    """What was pruned is raced again, and what completes is not pruned when it comes again."""
    evaluator = Counted(task.dev, batch_size=10)
    objective = mo.MergeObjective(recipe_of(task), evaluator)
    pruner = optuna.pruners.ThresholdPruner(lower=0.3)  # of the running accuracy
    study = search(objective, [-2.0, -2.0, 0.5, 0.5], pruner=pruner)
    states = [t.state for t in study.trials]
    assert evaluator.calls == sum("same_as" not in t.user_attrs for t in study.trials)
    for first, second in ((0, 1), (2, 3)):
        assert states[first] == states[second]
        taken = study.trials[second].user_attrs.get("same_as")
        assert taken == (first if states[first] == TrialState.COMPLETE else None)
    assert {TrialState.COMPLETE, TrialState.PRUNED} <= {*states}


def test_another_pruner_or_data_type_is_scored_anew(task: Task) -> None:
    evaluator = Counted(task.dev, batch_size=40)
    objective = mo.MergeObjective(recipe_of(task), evaluator)
    study = search(objective, [LOW])
    study.pruner = optuna.pruners.WilcoxonPruner(p_threshold=1e-9)
    search(objective, [LOW, LOW], study=study)
    other = mo.MergeObjective(recipe_of(task), evaluator, dtype="float64")
    search(other, [LOW], study=study)
    assert [t.user_attrs.get("same_as") for t in study.trials] == [None, None, 1, None]
    assert [*study.trials[2].intermediate_values] == [0, 1, 2, 3]


def test_a_search_without_a_pruner_takes_over_whatever_was_reported(task: Task) -> None:
    """Also from databases in which searches without pruners have reported the running value."""
    evaluator = Counted(task.dev, batch_size=40)
    objective = mo.MergeObjective(recipe_of(task), evaluator)
    study = search(objective, [LOW], pruner=optuna.pruners.MedianPruner())
    assert len(study.trials[0].intermediate_values) == 4
    study.pruner = optuna.pruners.NopPruner()
    search(objective, [LOW, HIGH, HIGH], study=study)
    assert [t.user_attrs.get("same_as") for t in study.trials] == [None, 0, None, 2]
    assert [len(t.intermediate_values) for t in study.trials] == [4, 0, 0, 0]
    assert mo.scores(study, 1).tolist() == mo.scores(study, 0).tolist()


def test_over_processes(task: Task, tmp_path: Path) -> None:
    """Each objective is what a process has; trials are finished by others after they were seen."""
    url = f"sqlite:///{tmp_path}/same.db"
    evaluators = [Counted(task.dev) for _ in range(2)]
    mine, theirs = (mo.MergeObjective(recipe_of(task), e) for e in evaluators)
    study = search(mine, [LOW], storage=mo.storage(url))
    other = optuna.load_study(study_name="same", storage=mo.storage(url), pruner=study.pruner)
    names = mine.space.distributions()

    def ask(study: optuna.Study, weight: float) -> optuna.Trial:
        study.enqueue_trial(dict.fromkeys(names, weight))
        return study.ask()

    running = ask(study, HIGH)
    search(theirs, [LOW], study=other)  # after a restart
    twin = ask(other, HIGH)  # while the first one runs
    for objective, of, trial in ((mine, study, running), (theirs, other, twin)):
        of.tell(trial, objective(trial))
    search(mine, [HIGH], study=study)
    found: list[FrozenTrial] = study.get_trials()
    assert [t.user_attrs.get("same_as") for t in found] in (
        [None, None, 0, None, 1],
        [None, None, 0, 1, 1],
    )
    assert len({t.value for t in found if t.params[min(names)] == HIGH}) == 1


def test_functions_are_called_each_time_unless_told(task: Task) -> None:
    calls = []

    def score(model: nn.Module) -> float:
        calls.append(model)
        return float(len(calls))

    search(mo.MergeObjective(recipe_of(task), score), [LOW, LOW])
    assert len(calls) == 2
    told = mo.evaluators.Function(score, deterministic=True)
    study = search(mo.MergeObjective(recipe_of(task), told), [LOW, LOW])
    assert len(calls) == 3
    assert [t.value for t in study.trials] == [3.0, 3.0]


def test_tasks(task: Task) -> None:
    parts = {"a": Counted(task.dev), "b": Counted(task.test)}
    study = search(
        mo.MergeObjective(recipe_of(task), mo.evaluators.Tasks(parts)), [LOW, LOW, HIGH]
    )
    assert [part.calls for part in parts.values()] == [2, 2]
    one, two, _ = (t.user_attrs for t in study.trials)
    for name, part in parts.items():
        value = np.mean([s for _, s in [*part(mo.Engine().load(mo.recipe_of(study, 1)))]])
        assert two[f"value/{name}"] == one[f"value/{name}"] == pytest.approx(value)
    noisy = mo.evaluators.Tasks({"a": parts["a"], "b": Noisy(task.test)})
    again = search(mo.MergeObjective(recipe_of(task), noisy), [LOW, LOW])
    assert "same_as" not in again.trials[1].user_attrs


def test_a_genetic_algorithm_scores_distinct_children_only(task: Task) -> None:
    base, *experts = task.checkpoints()

    def space(trial: optuna.Trial) -> mo.Recipe:
        weights = [trial.suggest_categorical(name, [0.0, 0.5, 1.0]) for name in "ab"]
        return mo.recipes.task_arithmetic(base, experts, weight=weights)

    choices = optuna.distributions.CategoricalDistribution([0.0, 0.5, 1.0])
    evaluator = Counted(task.dev)
    study = optuna.create_study(
        direction="maximize",
        sampler=mo.samplers.GASampler({"a": choices, "b": choices}, population_size=6, seed=0),
    )
    study.optimize(mo.MergeObjective(space, evaluator), n_trials=24)
    distinct = {(t.params["a"], t.params["b"]): t.value for t in study.trials}
    assert len(study.trials) == 24
    assert evaluator.calls - 1 <= len(distinct) <= evaluator.calls <= 9 + 1
    assert all(t.value == distinct[t.params["a"], t.params["b"]] for t in study.trials)
