"""MergeObjective on a trained classifier, against loops by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file
from torch import nn

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna.errors import CheckpointError, EvaluationError, RecipeError, StudyError
from tests.trained import Task, read_rows, right, write_rows

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Batches:
    """An evaluator over given batches of example ids; ``score(step, ids)`` gives their scores."""

    metric_names = ("mean",)

    def __init__(
        self,
        batches: list[list[int]],
        score: Callable[[int, np.ndarray], Any] = lambda step, ids: ids * 1.0,
        direction: str = "maximize",
    ) -> None:
        self.batches = [np.array(batch) for batch in batches]
        self.score = score
        self.directions = (direction,)

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __call__(self, model: nn.Module) -> Iterator[Any]:
        for step, ids in enumerate(self.batches):
            yield ids, np.asarray(self.score(step, ids))

    def value(self, scores: np.ndarray) -> float:
        return float(np.mean(scores))


def study_of(objective: mo.MergeObjective, **options: Any) -> optuna.Study:
    options = {"sampler": objective.space.sampler(seed=0), **options}
    return optuna.create_study(directions=objective.directions, **options)


def small(task: Task) -> mo.Recipe:
    """Two free weights."""
    base, *experts = task.checkpoints()
    return mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))


# -- what a trial gives -----------------------------------------------------------------------


def test_values_and_scores_equal_a_loop_by_hand(task: Task, tmp_path: Any) -> None:
    rows = read_rows(task.dev)[:48]
    dev = write_rows(tmp_path / "dev.jsonl", rows)
    recipe = task.recipe()
    objective = mo.MergeObjective(recipe, mo.evaluators.Classification(dev, batch_size=10))
    study = study_of(objective)
    study.optimize(objective, n_trials=5)

    engine = mo.Engine()
    for trial in study.trials:
        expected = right(engine.load(recipe.bind(trial.params)), rows)
        assert trial.value == expected.mean()
        np.testing.assert_array_equal(mo.scores(study, trial), expected)
        assert trial.user_attrs["examples"] == 48
        assert next(iter(trial.user_attrs)) == "recipe"  # the first that the dashboard shows
        assert 0 < trial.user_attrs["seconds_merge"] < 60
        assert 0 < trial.user_attrs["seconds_evaluate"] < 60
    assert len({trial.value for trial in study.trials}) > 1
    assert (
        objective.score(task.checkpoints()[1])
        == right(engine.load(task.checkpoints()[1]), rows).mean()
    )


def test_a_journal_writes_what_a_trial_gives_at_once(task: Task, tmp_path: Path) -> None:
    objective = mo.MergeObjective(small(task), Batches([[0, 1]]))
    study = study_of(objective, storage=mo.storage(f"journal:///{tmp_path}/log"))
    trial = study.ask()
    value = objective(trial)
    optuna.load_study(
        study_name=study.study_name, storage=mo.storage(f"journal:///{tmp_path}/log")
    ).tell(trial.number, value)
    known = study.trials[0]
    assert [*known.user_attrs] == ["recipe", "seconds_merge", "seconds_evaluate", "examples"]
    np.testing.assert_array_equal(mo.scores(study, 0), [0, 1])

    # Somebody else has finished it: that is said once, and nothing is left to be refused later.
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        compat.set_attrs(study, trial, user={"a": 1, "b": 2}, system={"c": 3})
    assert study.trials == [known]


def test_scores_lie_at_their_examples(task: Task) -> None:
    objective = mo.MergeObjective(small(task), Batches([[3, 0], [4], [1, 2]]))
    study = study_of(objective)
    study.optimize(objective, n_trials=1)
    np.testing.assert_array_equal(mo.scores(study, 0), [0, 1, 2, 3, 4])
    assert study.trials[0].value == 2


def test_a_function_is_minimised_when_wrapped(task: Task) -> None:
    norm = lambda model: sum(p.norm() for p in model.parameters())  # noqa: E731
    objective = mo.MergeObjective(
        small(task), mo.evaluators.Function(norm, direction="minimize", name="norm")
    )
    assert (objective.directions, objective.metric_names) == (["minimize"], ["norm"])
    study = study_of(objective)
    study.optimize(objective, n_trials=2)
    model = mo.Engine().load(small(task).bind(study.trials[1].params))
    assert study.trials[1].value == float(norm(model))


def test_ask_and_tell(task: Task) -> None:
    objective = mo.MergeObjective(small(task), lambda model: 0.5)
    study = study_of(objective)
    trial = study.ask()
    study.tell(trial, objective(trial))
    assert study.trials[0].value == 0.5


def test_two_objectives(task: Task) -> None:
    class Two(Batches):
        directions = metric_names = ("up", "down")

        def __init__(self) -> None:
            super().__init__([[0, 1], [2, 3]])
            self.directions = ("maximize", "minimize")

        def value(self, scores: np.ndarray) -> Any:
            return float(scores.mean()), float(scores.max())

    objective = mo.MergeObjective(small(task), Two())
    study = optuna.create_study(directions=objective.directions)
    study.optimize(objective, n_trials=2)
    assert [t.values for t in study.trials] == [[1.5, 3.0]] * 2
    with pytest.raises(StudyError, match="2 objectives"):
        mo.recipe_of(study)
    assert mo.recipe_of(study, 1) == small(task).bind(study.trials[1].params)
    with pytest.raises(StudyError, match="NSGA"):
        study_of(objective).optimize(objective, n_trials=1)


# -- bad trials -------------------------------------------------------------------------------


def test_an_evaluator_that_raises_fails_its_trial_only(task: Task) -> None:
    calls = []

    def fragile(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return 1.0

    study = study_of(objective := mo.MergeObjective(small(task), fragile))
    study.optimize(objective, n_trials=4)
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    error = study.trials[1].user_attrs["error"]
    assert "in fragile" in error
    assert error.endswith("OSError: the disk is gone\n")
    assert study.trials[2].params == study.trials[1].params, "a failed candidate comes again"


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batches", [[[0, 1, 2]], [[0], [1, 2]]])
def test_a_score_that_is_not_finite_is_pruned(
    task: Task, score: float, batches: list[list[int]]
) -> None:
    evaluator = Batches(batches, lambda step, ids: np.where(ids == 2, score, 1.0))
    study = study_of(objective := mo.MergeObjective(small(task), evaluator))
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert study.trials[0].user_attrs["reason"] == f"The score is not finite: {score}."
    np.testing.assert_array_equal(mo.scores(study, 0), [1, 1, score])


def test_an_infeasible_recipe_is_pruned(task: Task) -> None:
    a, b = task.checkpoints()[1:]
    recipe = mo.recipes.linear([a, b], weight=[1.0, mo.free(-1, 1)])
    study = study_of(objective := mo.MergeObjective(recipe, lambda model: 1.0))
    study.enqueue_trial({"weight/b": -1.0})
    study.optimize(objective, n_trials=2)
    assert [t.state.name for t in study.trials] == ["PRUNED", "COMPLETE"]
    assert "weights" in study.trials[0].user_attrs["reason"]


def test_ctrl_c_costs_the_candidate_nothing(task: Task) -> None:
    interrupts = iter([False, True, True, True, False, False])

    def evaluate(model: nn.Module) -> float:
        if next(interrupts):
            raise KeyboardInterrupt
        return 1.0

    objective = mo.MergeObjective(small(task), evaluate)
    study = study_of(objective, sampler=objective.space.sampler(seed=0, max_attempts=1))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            study.optimize(objective, n_trials=3)
    study.optimize(objective, n_trials=2)
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    plain = study_of(smooth := mo.MergeObjective(small(task), lambda model: 1.0))
    plain.optimize(smooth, n_trials=3)
    done = [t.params for t in study.trials if t.state == TrialState.COMPLETE]
    assert done == [t.params for t in plain.trials]
    assert mo.remaining(study, 10) == 7


def test_a_bad_trial_of_a_function_fails_alone(task: Task) -> None:
    base, *experts = task.checkpoints()

    def space(trial: optuna.Trial) -> mo.Recipe:
        density = [0.5, 7.0, 0.5][trial.number]
        return mo.recipes.ties(base, experts, density=density)

    study = optuna.create_study(direction="maximize")
    study.optimize(mo.MergeObjective(space, lambda model: 1.0), n_trials=3)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "RecipeError: density must be in [0, 1]" in study.trials[1].user_attrs["error"]


# -- refused before anything runs -------------------------------------------------------------


def broken(task: Task, folder: Any) -> mo.Checkpoint:
    """Expert a with a NaN."""
    tensors = load_file(f"{task.root}/a/model.safetensors")
    tensors["bert.encoder.layer.1.output.dense.weight"][3, 4] = torch.nan
    (folder / "broken").mkdir()
    (folder / "broken/config.json").write_text((task.root / "a/config.json").read_text())
    save_file(tensors, folder / "broken/model.safetensors", {"format": "pt"})
    return mo.Checkpoint(folder / "broken", name="broken")


def test_nan_weights_are_refused(task: Task, tmp_path: Any) -> None:
    base, a, _ = task.checkpoints()
    bad = broken(task, tmp_path)
    message = "layer.1.output.dense.weight of 'broken' .* 1 value"
    recipe = mo.recipes.ties(base, [a, bad], density=mo.free(0, 1))
    with pytest.raises(CheckpointError, match=message):
        mo.MergeObjective(recipe, lambda model: 1.0)
    by_function = mo.MergeObjective(
        lambda trial: mo.recipes.ties(base, [a, bad]), lambda model: 1.0
    )
    study = optuna.create_study(direction="maximize")
    with pytest.raises(CheckpointError, match=message):
        study.optimize(by_function, n_trials=3)
    assert [t.state.name for t in study.trials] == ["FAIL"]


def test_bad_data_is_refused(task: Task, tmp_path: Any) -> None:
    with pytest.raises(EvaluationError, match="empty"):
        mo.evaluators.Classification(write_rows(tmp_path / "empty.jsonl", []))
    with pytest.raises(EvaluationError, match="no examples"):
        mo.MergeObjective(small(task), Batches([]))
    rows = [{"text": "art0", "label": 0}, {"text": "art0", "label": 4}]
    outside = mo.evaluators.Classification(write_rows(tmp_path / "x.jsonl", rows))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match=r"line 2\) is class 4, but the model has 4 labels"):
        mo.MergeObjective(small(task), outside)
    good = mo.MergeObjective(small(task), lambda model: 1.0)
    with pytest.raises(EvaluationError, match="is class 4"):
        mo.MergeStudy("s", good, n_trials=1, test=outside)


def test_a_recipe_without_freedom_is_refused(task: Task) -> None:
    with pytest.raises(RecipeError, match=r"mo\.free"):
        mo.MergeObjective(mo.recipes.linear(task.checkpoints()), lambda model: 1.0)


def test_a_space_must_give_recipes(task: Task) -> None:
    objective = mo.MergeObjective(lambda trial: task.checkpoints()[0], lambda model: 1.0)  # type: ignore[arg-type,return-value]
    with pytest.raises(StudyError, match="must return a recipe"):
        optuna.create_study(direction="maximize").optimize(objective, n_trials=1)


def test_another_direction_is_refused(task: Task) -> None:
    objective = mo.MergeObjective(small(task), lambda model: 1.0)
    study = optuna.create_study(study_name="down", direction="minimize")
    message = "'down' is to minimize, but score is to maximize.*directions=objective.directions"
    with pytest.raises(StudyError, match=message):
        study.optimize(objective, n_trials=5)


def test_another_space_is_refused(task: Task, tmp_path: Any) -> None:
    base, a, b = task.checkpoints()
    url = f"sqlite:///{tmp_path}/s.db"

    def run(recipe: mo.Recipe) -> None:
        declared = mo.MergeStudy(
            "s", mo.MergeObjective(recipe, lambda model: 1.0), n_trials=2, baselines=False
        )
        declared.run(url, progress=False)

    run(mo.recipes.ties(base, [a, b], density=mo.free(0.1, 1)))
    for other, difference in {
        "range": mo.recipes.ties(base, [a, b], density=mo.free(0.2, 1)),
        "method": mo.recipes.task_arithmetic(base, [a, b], weight=mo.free(0.1, 1)),
        "sources": mo.recipes.ties(base, [b, a], density=mo.free(0.1, 1)),
    }.items():
        words = {"range": r"density=.*low=0\.1.*low=0\.2", "method": "ties, now task_arithmetic"}
        with pytest.raises(StudyError, match=words.get(other, other)):
            run(difference)
    assert len(optuna.load_study(study_name="s", storage=url).trials) == 2


def test_moved_sources_are_the_same_space(task: Task, tmp_path: Any) -> None:
    objective = mo.MergeObjective(small(task), lambda model: 1.0)
    url = f"sqlite:///{tmp_path}/s.db"
    mo.MergeStudy("s", objective, n_trials=2, baselines=False).run(url, progress=False)
    moved = [
        mo.Checkpoint((tmp_path / c.name).resolve(), name=c.name)
        for c in task.checkpoints()
        if (tmp_path / c.name).symlink_to(c.ref) is None
    ]
    recipe = mo.recipes.task_arithmetic(moved[0], moved[1:], weight=mo.free(0, 1))
    again = mo.MergeObjective(recipe, lambda model: 1.0)
    search = mo.MergeStudy("s", again, n_trials=3, baselines=False)
    assert len(search.run(url, progress=False).trials) == 3


def test_threads_are_refused(task: Task) -> None:
    import threading

    both = threading.Barrier(2, timeout=600)
    waited = []

    def evaluate(model: nn.Module) -> float:
        if not waited:
            waited.append(1)
            both.wait()  # until the other thread has been refused
        return 1.0

    objective = mo.MergeObjective(small(task), evaluate)

    def guarded(trial: optuna.Trial) -> Any:
        try:
            return objective(trial)
        except StudyError:
            both.wait()
            raise

    study = optuna.create_study(direction="maximize")
    with pytest.raises(StudyError, match="n_jobs=1"):
        study.optimize(guarded, n_trials=4, n_jobs=2)


def test_hyperband_is_refused(task: Task) -> None:
    objective = mo.MergeObjective(small(task), lambda model: 1.0)
    study = study_of(objective, pruner=optuna.pruners.HyperbandPruner())
    with pytest.raises(StudyError, match="HyperbandPruner"):
        study.optimize(objective, n_trials=1)
    assert all(t.state == TrialState.FAIL for t in study.trials)


def test_a_study_scored_by_another_metric(task: Task) -> None:
    study = optuna.create_study(directions=["maximize"])
    mo.MergeObjective(task.recipe(), mo.evaluators.Classification(task.dev)).store_space(study)
    assert study.metric_names == ["accuracy"]
    other = mo.evaluators.Classification(task.dev, metric="macro_f1")
    with pytest.raises(StudyError, match="scored by accuracy, not by macro_f1"):
        mo.MergeObjective(task.recipe(), other).check_study(study)


def test_other_dev_data_are_refused(task: Task, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    rows = read_rows(task.dev)[:40]

    def run(rows: list[dict[str, str]], **options: Any) -> None:
        dev = write_rows(tmp_path / "dev.jsonl", rows)
        evaluator = mo.evaluators.Classification(dev, **options)
        objective = mo.MergeObjective(small(task), evaluator)
        mo.MergeStudy("s", objective, n_trials=1, baselines=False).run(url, progress=False)

    run(rows)
    run(rows, batch_size=7)
    renamed = [{**rows[0], "label": rows[1]["label"]}, *rows[1:]]
    rewritten = [{**rows[0], "text": rows[0]["text"] + " art0"}, *rows[1:]]
    for other, difference in (
        (rows[1:], r"examples, inputs, labels differ \(40 examples, now 39\)"),
        (renamed, "other dev data: labels differ"),
        (rewritten, "other dev data: inputs differ"),
    ):
        with pytest.raises(StudyError, match=difference):
            run(other)
    with pytest.raises(StudyError, match="head differ"):
        run(rows, head=task.checkpoints()[1])
    optuna.load_study(study_name="s", storage=url).set_user_attr("dev", None)
    run(rows[1:])  # of a study that was made before data had digests


def test_what_can_be_scored_is_said_without_printing_a_model(task: Task) -> None:
    objective = mo.MergeObjective(task.recipe(), lambda model: 0.0)
    for given in ("models/base", mo.Engine().load(task.checkpoints()[0])):
        with pytest.raises(
            StudyError, match=r"pass a recipe, mo\.Checkpoint\('\.\.\.'\)"
        ) as found:
            objective.score(given)  # type: ignore[arg-type]
        assert len(str(found.value)) < 200


def test_swapped_arguments(task: Task) -> None:
    evaluator = mo.evaluators.Classification(task.dev)
    order = r"the space first and then the evaluator: .* not \(Classification, Recipe\)"
    with pytest.raises(RecipeError, match=order):
        mo.MergeObjective(evaluator, small(task))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="the space first"):
        mo.MergeObjective(lambda model: 1.0, small(task))  # type: ignore[arg-type,return-value]
    with pytest.raises(RecipeError, match="the space first"):
        mo.MergeObjective(evaluator, lambda trial: small(task))  # type: ignore[arg-type,return-value]
    with pytest.raises(RecipeError, match="A space is a recipe with free numbers or a function"):
        mo.MergeObjective(task.checkpoints()[0], evaluator)  # type: ignore[arg-type]


def test_a_sampler_of_another_space(task: Task) -> None:
    _, *experts = task.checkpoints()
    sampler = mo.recipes.linear(experts, weight=mo.free(0, 1)).sampler(seed=0)
    objective = mo.MergeObjective(task.recipe(), mo.evaluators.Classification(task.dev))
    study = optuna.create_study(directions=objective.directions, sampler=sampler)
    with pytest.raises(StudyError, match="made for another space"):
        objective.check_study(study)


def test_one_model_instead_of_a_list(task: Task) -> None:
    base, ja, *_ = task.checkpoints()
    with pytest.raises(RecipeError, match=r"a list of models: \["):
        mo.recipes.ties(base, ja)
