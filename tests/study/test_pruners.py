"""Optuna's pruners on real merge trials, each on the stream that it is made for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from torch import nn

import merge_optuna as mo
from merge_optuna._schema import PARTIAL
from merge_optuna.errors import StudyError
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)


def run(
    task: Task, pruner: optuna.pruners.BasePruner, n_trials: int, *, metric: str = "accuracy"
) -> tuple[optuna.Study, list[np.ndarray]]:
    """A search among good and bad merges, and the example ids of each batch."""
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(-2, 2, per="layer"))
    evaluator = mo.evaluators.Classification(task.dev, batch_size=10, metric=metric)
    objective = mo.MergeObjective(recipe, evaluator)
    study = optuna.create_study(
        direction="maximize", sampler=recipe.sampler(seed=0, sigma0=0.4), pruner=pruner
    )
    study.enqueue_trial(dict.fromkeys(recipe.distributions(), 0.0))  # the base itself
    study.optimize(objective, n_trials=n_trials)
    batches = [ids for ids, _ in evaluator(mo.Engine().load(base))]
    assert len(batches) == 16
    return study, batches


def split(study: optuna.Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert len(complete) + len(pruned) == len(study.trials)
    return complete, pruned


def check_cost(study: optuna.Study, batches: list[np.ndarray], pruner: str) -> None:
    complete, pruned = split(study)
    assert complete
    assert len(pruned) >= 3
    assert {t.user_attrs["examples"] for t in complete} == {160}
    for trial in pruned:
        used = trial.user_attrs["examples"]
        assert used < 160
        assert trial.user_attrs["reason"].startswith(pruner)
        scores = mo.scores(study, trial)
        seen = np.concatenate(batches)[:used]
        assert not np.isnan(scores[seen]).any()
        assert np.isnan(scores).sum() == 160 - used
    saved = sum(160 - t.user_attrs["examples"] for t in pruned)
    assert saved > 0.2 * 160 * len(study.trials), "a fifth of all examples at least"


def test_median_gets_the_running_value(task: Task) -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=20)
    study, batches = run(task, pruner, 14)
    check_cost(study, batches, "MedianPruner")
    order = np.concatenate(batches)
    for trial in study.trials:
        scores = mo.scores(study, trial)
        expected = {
            used: scores[order[:used]].mean()
            for used in range(10, trial.user_attrs["examples"] + 1, 10)
        }
        assert trial.intermediate_values == pytest.approx(expected)
        if trial.state == TrialState.COMPLETE:
            assert trial.intermediate_values[160] == pytest.approx(trial.value)


def test_wilcoxon_gets_the_batches(task: Task) -> None:
    study, batches = run(task, optuna.pruners.WilcoxonPruner(p_threshold=0.2), 14)
    check_cost(study, batches, "WilcoxonPruner")
    for trial in study.trials:
        scores = mo.scores(study, trial)
        steps = trial.user_attrs["examples"] // 10
        expected = {step: scores[batches[step]].mean() for step in range(steps)}
        assert trial.intermediate_values == pytest.approx(expected)
    for trial in split(study)[1]:
        # what the sampler ranks a pruned trial by is its value so far, not its last batch
        assert trial.system_attrs[PARTIAL] == pytest.approx(np.nanmean(mo.scores(study, trial)))


def test_a_metric_that_is_no_mean(task: Task) -> None:
    """Macro-F1: the running value is that of the examples so far, batches report accuracy."""
    from sklearn.metrics import f1_score

    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    evaluator = mo.evaluators.Classification(task.dev, batch_size=40, metric="macro_f1")
    objective = mo.MergeObjective(recipe, evaluator)
    study = optuna.create_study(direction="maximize", sampler=recipe.sampler(seed=0))
    study.optimize(objective, n_trials=1)
    trial = study.trials[0]
    rows = np.concatenate([s for _, s in evaluator(mo.Engine().load(recipe.bind(trial.params)))])
    for used in (40, 80, 120, 160):
        _, predicted, true = rows[:used].T
        expected = f1_score(true, predicted, average="macro", labels=np.unique(true))
        assert trial.intermediate_values[used] == pytest.approx(expected)
    wilcoxon = optuna.create_study(direction="maximize", pruner=optuna.pruners.WilcoxonPruner())
    wilcoxon.enqueue_trial(trial.params)
    wilcoxon.optimize(objective, n_trials=1)
    assert wilcoxon.trials[0].intermediate_values == pytest.approx(
        {step: rows[40 * step : 40 * step + 40, 0].mean() for step in range(4)}
    )


class Batches:
    """Four examples in two batches, or in one."""

    directions, metric_names = ("minimize",), ("loss",)

    def __init__(self, *batches: list[int]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 4

    def __call__(self, model: nn.Module) -> Iterator[Any]:
        for batch in self.batches:
            yield np.array(batch), np.array(batch, float)

    def value(self, scores: np.ndarray) -> Any:
        return np.float32(scores.mean())  # a number, if not a float


class From(optuna.pruners.BasePruner):
    """Prunes from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.last_step is not None and trial.last_step >= self.step


@pytest.mark.parametrize(
    ("batches", "step", "state", "reported"),
    [
        ([[0, 1], [2, 3]], 0, TrialState.PRUNED, {2: 0.5}),
        ([[0, 1], [2, 3]], 4, TrialState.COMPLETE, {2: 0.5, 4: 1.5}),
        ([[0, 1, 2, 3]], 0, TrialState.COMPLETE, {}),
    ],
)
def test_nothing_is_pruned_once_everything_is_evaluated(
    task: Task, batches: list[list[int]], step: int, state: TrialState, reported: dict[int, float]
) -> None:
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))
    objective = mo.MergeObjective(recipe, Batches(*batches))
    study = optuna.create_study(pruner=From(step), sampler=recipe.sampler(seed=0))
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == state
    assert study.trials[0].intermediate_values == reported
    if state == TrialState.COMPLETE:
        assert study.trials[0].value == 1.5


@pytest.mark.parametrize("tasks", [False, True])
def test_batches_of_another_size_are_refused_where_the_pruner_compares_batches(
    task: Task, tasks: bool
) -> None:
    base, *experts = task.checkpoints()
    recipe = mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))

    def objective(size: int) -> mo.MergeObjective:
        evaluator: Any = mo.evaluators.Classification(task.dev, batch_size=size)
        return mo.MergeObjective(
            recipe, mo.evaluators.Tasks({"mr": evaluator}) if tasks else evaluator
        )

    def study(pruner: optuna.pruners.BasePruner, size: int) -> optuna.Study:
        made = optuna.create_study(direction="maximize", pruner=pruner)
        objective(size).store_space(made)
        return made

    objective(30).check_study(study(optuna.pruners.MedianPruner(), 50))
    wilcoxon = study(optuna.pruners.WilcoxonPruner(), 50)
    objective(50).check_study(wilcoxon)
    message = r"with (mr/)?batch_size=50, now it is (mr/)?batch_size=30.*Go on with (mr/)?batch"
    with pytest.raises(StudyError, match=message):
        objective(30).check_study(wilcoxon)
    dev = wilcoxon.user_attrs["dev"]  # as it was before batches were recorded
    wilcoxon.set_user_attr("dev", {k: v for k, v in dev.items() if "batch_size" not in k})
    objective(30).check_study(wilcoxon)
