"""Fronts and hypervolumes, against their definitions on random values with ties."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial
from transformers import BertForSequenceClassification

import merge_optuna as mo
from merge_optuna.errors import ExportError, StudyError
from tests import processes
from tests.hub import files_of
from tests.study import halves
from tests.study.halves import Halves
from tests.study.linears import Near, around
from tests.trained import Task, read_rows, right

optuna.logging.set_verbosity(optuna.logging.ERROR)

DIRECTIONS = [[*pair] for pair in itertools.product(["maximize", "minimize"], repeat=2)]
SIGNS = {"maximize": -1, "minimize": 1}


class Two(Near):
    """How near the weights are to numbers, and how large they are."""

    directions, metric_names = ("maximize", "minimize"), ("nearness", "size")

    def value(self, scores: np.ndarray) -> tuple[float, float]:  # type: ignore[override]
        return float(scores.mean()), abs(self.calls[-1])


def random_study(directions: Sequence[str], n: int, *, seed: int) -> optuna.Study:
    """Whole numbers, so that many are equal; constraints, pruned and failed trials among them."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(directions=[*directions])
    for _ in range(n):
        constraints: dict[str, float] = (
            {"safe": float(rng.integers(-2, 2))} if rng.random() < 0.7 else {}
        )
        states = [TrialState.COMPLETE] * 8 + [TrialState.PRUNED, TrialState.FAIL]
        state = states[rng.integers(len(states))]
        values = rng.integers(0, 8, len(directions)).astype(float).tolist()
        study.add_trial(
            create_trial(
                state=state,
                values=values if state == TrialState.COMPLETE else None,
                constraints=constraints,
            )
        )
    return study


def dominates(one: Sequence[float], other: Sequence[float], directions: Sequence[str]) -> bool:
    pairs = [(SIGNS[d] * a, SIGNS[d] * b) for a, b, d in zip(one, other, directions, strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def by_definition(study: optuna.Study) -> list[int]:
    directions = [d.name.lower() for d in study.directions]

    def feasible(trial: FrozenTrial) -> bool:
        return all(value <= 0 for value in trial.constraints.values())

    those = [t for t in study.trials if t.state == TrialState.COMPLETE and feasible(t)]
    free = [t for t in those if not any(dominates(o.values, t.values, directions) for o in those)]
    signs = [SIGNS[d] for d in directions]
    order = [([s * v for s, v in zip(signs, t.values, strict=True)], t.number) for t in free]
    return [number for _, number in sorted(order)]


def cells(
    points: Sequence[Sequence[float]], reference: Sequence[float], directions: Sequence[str]
) -> float:
    """The hypervolume of whole numbers: unit cells between the reference and some point."""
    signs = np.array([SIGNS[d] for d in directions])
    losses, limit = signs * np.array(points), signs * np.array(reference)
    axes = [np.arange(low, high) for low, high in zip(losses.min(axis=0), limit, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(signs))
    return float((losses[:, None] <= grid[None]).all(axis=2).any(axis=0).sum())


@pytest.mark.parametrize("directions", [*DIRECTIONS, ["maximize", "minimize", "maximize"]])
def test_against_the_definitions(directions: list[str]) -> None:
    for seed in range(5):
        study = random_study(directions, 40, seed=seed)
        front = mo.pareto(study)
        assert [point.number for point in front] == by_definition(study)
        assert {point.number for point in front} == {t.number for t in study.best_trials}
        assert [p.values for p in front] == [tuple(study.trials[p.number].values) for p in front]
        assert all(p.constraints == study.trials[p.number].constraints for p in front)
        values = [t.values for t in study.trials if t.state == TrialState.COMPLETE]
        worst = tuple(
            (min if d == "maximize" else max)(column)
            for d, column in zip(directions, zip(*values, strict=True), strict=True)
        )
        assert front.reference == worst
        points = [point.values for point in front]
        assert front.hypervolume() == cells(points, worst, directions)
        further = [w + 3 * SIGNS[d] for w, d in zip(worst, directions, strict=True)]
        assert front.hypervolume(further) == cells(points, further, directions)
        # a reference within: what is worse in an objective adds nothing
        inside = [p for p in points if not dominates([4] * len(p), p, directions)]
        inside = [
            p
            for p in inside
            if all(SIGNS[d] * v <= SIGNS[d] * 4 for v, d in zip(p, directions, strict=True))
        ]
        expected = cells(inside, [4] * len(directions), directions) if inside else 0
        assert front.hypervolume([4.0] * len(directions)) == expected


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_those_that_spread_best(directions: list[str]) -> None:
    """The greedy choice: one after the other, each the one that adds most."""
    rng = np.random.default_rng(0)
    signs = np.array([SIGNS[d] for d in directions])
    angles = rng.uniform(0, np.pi / 2, 30)
    losses = np.stack([1 - np.cos(angles), 1 - np.sin(angles)], axis=1)
    losses *= rng.uniform(1, 1.2, (30, 1))
    study = optuna.create_study(directions=directions)
    study.add_trials([create_trial(values=row.tolist()) for row in signs * losses])
    front = mo.pareto(study)

    def volume(points: list[Any]) -> float:
        made = optuna.create_study(directions=directions)
        made.add_trials([create_trial(values=[*p.values]) for p in points])
        return mo.pareto(made).hypervolume(front.reference)

    chosen: list[Any] = []
    for _ in range(3):
        left = [point for point in front if point not in chosen]
        chosen.append(max(left, key=lambda point: volume([*chosen, point])))
    assert len(front) > 3
    assert front.spread(3) == [point for point in front if point in chosen]
    assert signs[0] * front[0].values[0] == min(signs[0] * p.values[0] for p in front)
    assert front.spread(99) == [*front]
    with pytest.raises(StudyError, match="at least 1, not 0"):
        front.spread(0)


def test_one_objective() -> None:
    study = optuna.create_study()
    study.add_trials([create_trial(value=x) for x in (3.0, 1.0, 2.0, 1.0)])
    front = mo.pareto(study)
    assert [point.number for point in front] == [1, 3]
    assert front.hypervolume() == 2


def test_none_is_feasible() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    with pytest.raises(StudyError, match="has no completed trial yet"):
        mo.pareto(study)
    for a, b in [(0.5, 0.0), (0.1, 0.2), (0.1, 0.4)]:
        study.add_trial(create_trial(values=[1.0, 2.0], constraints={"safe": a, "kept": b}))
    message = (
        r"None of the 3 completed trials of .* Trial 1 is infeasible: "
        r"(safe.* by 0.1.*, kept.* by 0.2|kept.* by 0.2.*, safe.* by 0.1).* "
        r"the least infeasible one, with the values 1, 2: .*--trial"
    )
    with pytest.raises(StudyError, match=message):
        mo.pareto(study)
    study.add_trial(create_trial(values=[0.0, 3.0], constraints={"safe": 0.0, "kept": -1.0}))
    (point,) = mo.pareto(study)
    assert (point.number, point.constraints) == (3, {"safe": 0.0, "kept": -1.0})


def test_what_is_refused() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trial(create_trial(values=[1.0, 2.0]))
    front = mo.pareto(study)
    for bad in ([1.0], [1.0, float("nan")]):
        with pytest.raises(StudyError, match="a finite number for each of value, value"):
            front.hypervolume(bad)
    with pytest.raises(StudyError, match="Expected a study"):
        mo.pareto(front)  # type: ignore[arg-type]


def test_beside_the_baselines() -> None:
    objective = around(0, 1, 3, evaluate=Two(2.0, 3.0, 4.0))
    declared = mo.MergeStudy(
        "two", objective, n_trials=8, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study = declared.run(progress=False)
    front, found = mo.pareto(study), mo.baselines(study)
    directions = study.directions
    words = [d.name.lower() for d in directions]
    scored = [row for row in found if row.values is not None]
    for point in front:
        behind = [r.name for r in scored if dominates(point.values, r.values, words)]
        assert [*point.dominates] == behind
        ahead = [r.name for r in scored if not dominates(point.values, r.values, words)]
        ahead = [
            n
            for n in ahead
            if dominates(found[n].values, point.values, words) or found[n].values == point.values
        ]
        assert [*point.no_better_than] == ahead
    assert front.reference == (
        min(v[0] for v in [*(t.values for t in study.trials), *(r.values for r in scored)]),
        max(v[1] for v in [*(t.values for t in study.trials), *(r.values for r in scored)]),
    )
    printed = str(front)
    assert max(map(len, printed.splitlines())) <= 80
    for row in (*front, *found.headlines):
        assert f"\n{row.name} " in printed
    assert f"{len(front)} points, hypervolume {front.hypervolume():.4g}" in printed
    markdown = front.to_markdown()
    assert f"| trial {front[0].number} |" in markdown


# -- as checkpoints -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(task: Task, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Killed, as it were, after half of the trials, and gone on with from the database."""
    where = f"sqlite:///{tmp_path_factory.mktemp('front')}/s.db"
    for n_trials in (8, 16):
        declared = mo.MergeStudy(
            "halves",
            halves.objective(task),
            n_trials=n_trials,
            sampler=optuna.samplers.RandomSampler(seed=n_trials),
            baselines=["base", "source"],
        )
        assert len(declared.run(where, progress=False).trials) == n_trials
    return where


def load(url: str) -> optuna.Study:
    return optuna.load_study(study_name="halves", storage=url)


def values_of(folder: Path, task: Task) -> list[float]:
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    return halves.by_hand(model, read_rows(task.dev))


def test_points_score_as_in_the_search(url: str, task: Task, tmp_path: Path) -> None:
    study = load(url)
    front = mo.pareto(study)
    assert [point.number for point in front] == by_definition(study)
    assert len(front) > 2
    folders = mo.export_front(study, tmp_path / "front")
    assert folders == [tmp_path / f"front/trial-{point.number:05}" for point in front]
    for point, folder in zip(front, folders, strict=True):
        assert values_of(folder, task) == [*point.values]
        card = (folder / "README.md").read_text()
        assert f"| right (dev) | {point.values[0]} |" in card
        assert f"| errors (dev) | {point.values[1]} |" in card
        assert f"--trial {point.number}" in card
    alone = mo.export(study, tmp_path / "one", trial=front[1])
    again = mo.recipe_of(study, front[1])
    assert again == mo.recipe_of(study, front[1].number)
    with pytest.raises(StudyError, match=r"its number, or a point of mo.pareto.study., not '25'"):
        mo.recipe_of(study, "25")  # type: ignore[arg-type]
    assert files_of(alone)["model.safetensors"] == files_of(folders[1])["model.safetensors"]
    two = mo.export_front(study, tmp_path / "two", most=2)
    assert [path.name for path in two] == [f"trial-{p.number:05}" for p in front.spread(2)]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in two)


def export_until(renames: int, url: str, folder: str) -> None:
    """Kills this process before it puts so many folders at their place."""
    seen = 0

    def audit(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "os.rename" and str(args[1]).startswith(f"{folder}/trial-"):
            seen += 1
            if seen == renames:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    mo.export_front(load(url), folder)


def test_killed_it_goes_on(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "front"
    killed = processes.call(export_until, 2, url, str(folder), cwd=tmp_path).wait()
    assert killed.code == -signal.SIGKILL, killed.err
    (done,) = folder.glob("trial-*")
    inode = (done / "model.safetensors").stat().st_ino
    folders = mo.export_front(load(url), folder)
    assert sorted(folder.iterdir()) == sorted(folders), "nothing is left of the killed one"
    assert done in folders
    assert (done / "model.safetensors").stat().st_ino == inode, "written once"
    before = files_of(done)
    mo.export_front(load(url), folder, force=True, dtype="bfloat16")
    assert mo.Checkpoint(done).dtype(mo.Checkpoint(done).names()[0]) == torch.bfloat16
    assert before.keys() == files_of(done).keys()


def test_folders_of_others_stay(url: str, tmp_path: Path) -> None:
    study = load(url)
    number = mo.pareto(study)[-1].number
    other = next(t.number for t in study.trials if t.number != number)
    strange = mo.export(study, tmp_path / f"trial-{number:05}", trial=other)
    before = files_of(strange)
    with pytest.raises(ExportError, match=f"is not trial {number} of the study 'halves'"):
        mo.export_front(study, tmp_path)
    assert [*tmp_path.iterdir()] == [strange]
    assert files_of(strange) == before
    with pytest.raises(StudyError, match=r"2 objectives.*mo\.pareto\(study\).*--trial"):
        mo.export(study, tmp_path / "best")
    with pytest.raises(StudyError, match=r"mo\.pareto"):
        mo.recipe_of(study)


# -- what several objectives do without ------------------------------------------------------


def test_refused_before_anything_starts(task: Task) -> None:
    objective = halves.objective(task)

    def declared(**arguments: Any) -> mo.MergeStudy:
        return mo.MergeStudy("s", objective, n_trials=1, baselines=False, **arguments)

    for sampler in (mo.samplers.DESampler(), optuna.samplers.CmaEsSampler()):
        with pytest.raises(StudyError, match=r"Sampler has one objective, this study 2.*NSGA"):
            declared(sampler=sampler)
    with pytest.raises(StudyError, match=r"MedianPruner compares .* 2 objectives.*NopPruner"):
        declared(pruner=optuna.pruners.MedianPruner())
    with pytest.raises(StudyError, match=r"KeepBest follows the best .*mo\.export_front"):
        declared(keep_best=2, folder="best")
    # in a script of one's own at the first trial; the pruner that Optuna puts in is none
    pruner = optuna.pruners.WilcoxonPruner()
    study = optuna.create_study(directions=objective.directions, pruner=pruner)
    with pytest.raises(StudyError, match="WilcoxonPruner compares"):
        study.optimize(objective, n_trials=1)
    study = optuna.create_study(directions=objective.directions)
    study.optimize(objective, n_trials=1)
    assert len(mo.pareto(study)) == 1


def test_a_sampler_that_can_is_put_in(task: Task) -> None:
    declared = mo.MergeStudy("s", halves.objective(task), n_trials=2, baselines=False)
    assert isinstance(declared.sampler, mo.samplers.NSGA2Sampler)
    assert len(declared.run(progress=False).trials) == 2
    swarm = mo.spaces.SplitSlerp(task.checkpoints())
    with pytest.raises(StudyError, match="SplitSlerp has one objective, not 2"):
        mo.MergeStudy("s", mo.MergeObjective(swarm, Halves(task)), n_trials=1)


def test_points_behind_a_baseline_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """The smallest model is the base: a trial near it is no better in anything."""
    objective = around(0, 1, 3, evaluate=Two(2.0, 3.0, 4.0))
    declared = mo.MergeStudy(
        "two", objective, n_trials=8, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study = declared.run(progress=False)
    front = mo.pareto(study)
    behind = [point for point in front if point.no_better_than]
    assert behind
    first = f"{behind[0].name} than {behind[0].no_better_than[0]!r}"
    told = f"In no objective better than a baseline: {len(behind)} of {len(front)} points"
    assert told in caplog.text
    assert first in caplog.text


def test_one_model_is_one_point(task: Task) -> None:
    declared = mo.MergeStudy(
        "s", halves.objective(task), n_trials=2, first=[task.recipe().start()] * 2, baselines=False
    )
    study = declared.run(progress=False)
    assert [t.user_attrs.get("same_as") for t in study.trials] == [None, 0]
    assert len(study.best_trials) == 2
    assert [point.number for point in mo.pareto(study)] == [0]


def test_damaged_constraints() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trial(create_trial(values=[1.0, 2.0], system_attrs={"constraints:safe": "much"}))
    assert study.trials[0].constraints == {"safe": "much"}
    with pytest.raises(StudyError, match=r"constraints of a trial .* is damaged"):
        mo.pareto(study)


def test_points_keep_constraints(task: Task) -> None:
    """On other data: no point may be worse there than the base, or than nobody can be."""
    other = mo.evaluators.Classification(task.test)

    def found(than: Any) -> optuna.Study:
        constraint = mo.evaluators.NoWorse(other, than=than, name="kept")
        objective = mo.MergeObjective(task.recipe(), Halves(task), constraints=[constraint])
        declared = mo.MergeStudy("s", objective, n_trials=10, baselines=False)
        return declared.run(progress=False)

    study = found("base")
    front, base = mo.pareto(study), right_of(task.checkpoints()[0], task)
    assert [point.number for point in front] == by_definition(study)
    values = {t.number: right_of(mo.recipe_of(study, t.number), task) for t in study.trials}
    assert any(value < base for value in values.values()), "some have forgotten"
    for point in front:
        assert values[point.number] >= base
        assert point.constraints["kept"] == pytest.approx(base - values[point.number])
    with pytest.raises(StudyError, match=r"keeps all constraints.*least infeasible"):
        mo.pareto(found(1.5))


def right_of(model: mo.Recipe | mo.Checkpoint, task: Task) -> float:
    return float(right(mo.Engine().load(model), read_rows(task.test)).mean())


@pytest.mark.parametrize("tasks", [2, 6])
def test_what_values_are_made_of(tasks: int) -> None:
    """Columns where they fit; what is an objective itself has one already."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.set_metric_names(["accuracy", "tokens"])
    parts = {f"mathematics {i}": 0.125 * i for i in range(tasks)}
    attrs = {f"value/{name}": value for name, value in {**parts, "tokens": 30.0}.items()}
    study.add_trial(create_trial(values=[0.5, 30.0], user_attrs=attrs))
    front = mo.pareto(study)
    assert front[0].breakdown == {**parts, "tokens": 30.0}
    printed = str(front)
    assert max(map(len, printed.splitlines())) <= 80
    assert ("mathematics 1" in printed) == (tasks == 2)
    assert ("front[i].breakdown" in printed) == (tasks == 6)
    head = front.to_markdown().splitlines()[0]
    assert head == f"|  | accuracy | tokens | {' | '.join(parts)} | no better than |  |"
