"""The best trials as folders, against sorting by hand; killed at every step of the writing."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState
from torch import nn
from transformers import AutoModelForSequenceClassification

import merge_optuna as mo
from merge_optuna.errors import StudyError
from tests import processes
from tests.hub import files_of
from tests.trained import Task

optuna.logging.set_verbosity(optuna.logging.ERROR)

VALUES = (3.0, 1.0, float("nan"), 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0, 5.0)


def recipe(task: Task) -> mo.Recipe:
    base, *experts = task.checkpoints()
    return mo.recipes.task_arithmetic(base, experts, weight=mo.free(0, 1))


def objective(task: Task, values: Sequence[float], direction: str) -> mo.MergeObjective:
    given = iter(values)
    evaluator = mo.evaluators.Function(lambda model: next(given), direction=direction)
    return mo.MergeObjective(recipe(task), evaluator)


def best(trials: Sequence[FrozenTrial], k: int, direction: str = "maximize") -> list[int]:
    """Numbers of the k best, the earlier of equals first."""
    sign = -1 if direction == "maximize" else 1
    done = [(sign * t.values[0], t.number) for t in trials if t.state == TrialState.COMPLETE]
    return sorted(number for _, number in sorted(done)[:k])


def kept(folder: Path) -> list[int]:
    """Numbers of the folders, which must be all that is there."""
    names = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    numbers = [int(name.removeprefix("trial-")) for name in names]
    assert names == [f"trial-{number:05}" for number in numbers]
    return numbers


def assert_right(folder: Path, study: optuna.Study) -> None:
    """Plain transformers loads every folder as the merge of its trial."""
    for number in kept(folder):
        path = folder / f"trial-{number:05}"
        loaded = AutoModelForSequenceClassification.from_pretrained(path).state_dict()
        expected = mo.Engine().load(mo.recipe_of(study, number)).state_dict()
        assert loaded.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
        value = study.trials[number].values[0]
        assert f"(dev) | {value} |" in (path / "README.md").read_text()


# -- one process ------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_folder_is_right_after_every_trial(
    task: Task, k: int, direction: str, tmp_path: Path
) -> None:
    folder = tmp_path / "runs/best"
    inodes: dict[int, int] = {}

    def compare(study: optuna.Study, trial: FrozenTrial) -> None:
        numbers = best(study.trials, k, direction)
        assert kept(folder) == numbers
        for number in numbers:  # written once
            inode = (folder / f"trial-{number:05}/model.safetensors").stat().st_ino
            assert inodes.setdefault(number, inode) == inode

    study = optuna.create_study(direction=direction)
    study.optimize(
        objective(task, VALUES, direction),
        n_trials=len(VALUES),
        callbacks=[mo.callbacks.KeepBest(k, folder), compare],
    )
    assert len(inodes) > k, "some have fallen out"
    assert_right(folder, study)


def test_a_declared_search_goes_on_with_its_folder(task: Task, tmp_path: Path) -> None:
    storage, folder = optuna.storages.InMemoryStorage(), tmp_path / "best"

    def search(values: Sequence[float], k: int) -> optuna.Study:
        declared = mo.MergeStudy(
            "toy",
            objective(task, values, "maximize"),
            n_trials=0,
            keep_best=k,
            folder=folder,
            baselines=False,
        )
        done = mo.remaining(declared.open(storage), 1000)
        return declared.run(storage, n_trials=1000 - done + len(values), progress=False)

    assert search([], 2).trials == []
    assert kept(folder) == []
    search(VALUES[:6], 2)
    study = search(VALUES[6:], 2)
    assert kept(folder) == best(study.trials, 2) == [6, 8]
    search([], 3)
    assert kept(folder) == best(study.trials, 3) == [5, 6, 8]
    (folder / ".trial-00099.partial-1").mkdir()
    shutil.rmtree(folder / "trial-00006")
    search([], 1)
    assert kept(folder) == [6]
    assert_right(folder, study)


def test_sources_in_memory(tmp_path: Path) -> None:
    def module(value: float) -> nn.Module:
        made = nn.Linear(3, 2)
        nn.init.constant_(made.weight, value)
        nn.init.zeros_(made.bias)
        return made

    a, b = (mo.Checkpoint.from_module(module(i), name=n) for i, n in enumerate("ab"))
    space = mo.recipes.linear([a, b], weight=[1, mo.free(0, 1)])
    score = mo.MergeObjective(space, lambda model: float(model.weight.mean()))
    search = mo.MergeStudy(
        "memory", score, n_trials=3, keep_best=1, folder=tmp_path, baselines=False
    )
    study = search.run(f"sqlite:///{tmp_path}.db", progress=False)
    (number,) = kept(tmp_path)
    written = mo.Checkpoint(tmp_path / f"trial-{number:05}").tensor("weight")
    np.testing.assert_allclose(written, study.best_value, rtol=1e-6)


# -- kill -9 ----------------------------------------------------------------------------------

# The study file kills its own process when Python is about to do something on the disk.
LINES = """
import os, signal, sys
point, seen = os.environ.get("KILL"), []

def audit(event, args):
    path = str(args[0]) if args else ""
    write = event == "open" and isinstance(args[1], str) and "x" in args[1]
    name = "write" if write else event
    if point and f"{name} {'fallen' if '.removed' in path else 'new'}" == point:
        if ".partial-" in path or ".removed" in path:
            seen.append(path)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
values = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
done = len([*__import__("pathlib").Path("done").glob("*")])

def evaluate(model):
    made = next(value for value in values if not os.path.exists(f"done/{value}"))
    open(f"done/{made}", "w").close()
    return made

objective = mo.MergeObjective(recipe, evaluate)
"""

POINTS = ["write new", "os.rename new", "os.remove fallen"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_started_again(task: Task, point: str, tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    file = task.file(
        tmp_path / "search.py",
        n_trials=7,
        lines=LINES,
        test=None,
        keep_best=2,
        folder="'best'",
    )
    killed = processes.command("run", file, cwd=tmp_path, env={"KILL": point}).wait()
    assert killed.code == -9, killed.err
    folder = tmp_path / "best"
    left = [path.name for path in folder.glob(".trial-*")]
    assert len(left) == 1, "something to put right"
    for path in folder.glob("trial-*"):  # complete or absent
        AutoModelForSequenceClassification.from_pretrained(path)
    again = processes.command("run", file, cwd=tmp_path).wait()
    assert again.code == 0, again.err
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(done) == 7
    assert kept(folder) == best(study.trials, 2)
    assert_right(folder, study)


def kill_at(step: int, folder: str) -> None:
    """Kills this process before the step-th thing that it does to the disk in a folder."""
    events, seen = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile"), 0

    def audit(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(args[1], str) and args[1] != "r"
        if (event in events or writes) and str(args[0]).startswith(folder):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def update_until(step: int, url: str, folder: str) -> None:
    study = optuna.load_study(study_name="toy", storage=url)
    kill_at(step, folder)
    mo.callbacks.KeepBest(1, folder).update(study)


def test_killed_at_every_step(task: Task, tmp_path: Path) -> None:
    """While a better trial is written and the one that it displaces is removed."""
    url, folder = f"sqlite:///{tmp_path}/toy.db", tmp_path / "best"
    study = optuna.create_study(study_name="toy", storage=url, direction="maximize")
    score = objective(task, [1.0, 2.0], "maximize")
    study.optimize(score, n_trials=1, callbacks=[mo.callbacks.KeepBest(1, folder)])
    shutil.copytree(folder, tmp_path / "before")
    study.optimize(score, n_trials=1, callbacks=[mo.callbacks.KeepBest(1, folder)])
    whole = [files_of(tmp_path / "before/trial-00000"), files_of(folder / "trial-00001")]
    for step in range(1, 200):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        (folder / ".trial-notes").mkdir()
        (folder / "thesis.tex").touch()
        killed = processes.call(update_until, step, url, str(folder), cwd=tmp_path).wait()
        names = {path.name for path in folder.glob("trial-*")}
        assert names, "the only one that was there is never lost"
        assert all(files_of(folder / name) in whole for name in names)
        mo.callbacks.KeepBest(1, folder).update(study)
        (folder / ".trial-notes").rmdir()
        (folder / "thesis.tex").unlink()
        assert kept(folder) == [1]
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, killed.err
    assert 15 < step < 199


# -- several processes ------------------------------------------------------------------------


def test_several_processes_share_a_folder(task: Task, tmp_path: Path) -> None:
    file = task.file(
        tmp_path / "search.py",
        n_trials=24,
        lines="""
import time, uuid
objective = mo.MergeObjective(recipe, lambda model: time.time() % 1000 + uuid.uuid4().int % 2)
""",
        test=None,
        keep_best=3,
        folder="'best'",
    )
    several = [processes.command("run", file, cwd=tmp_path) for _ in range(3)]
    for running in several:
        result = running.wait()
        assert result.code == 0, result.err
        assert "Warning" not in result.err
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path}/toy.db")
    assert kept(tmp_path / "best") == best(study.trials, 3)
    assert_right(tmp_path / "best", study)


# -- what goes wrong --------------------------------------------------------------------------


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_warning(task: Task, tmp_path: Path) -> None:
    score = objective(task, [1.0, 2.0, 3.0, 4.0, 0.0, 5.0], "maximize")
    study = optuna.create_study(direction="maximize")
    keep = mo.callbacks.KeepBest(2, tmp_path)
    study.optimize(score, n_trials=2, callbacks=[keep])
    with small_files(10_000), pytest.warns(UserWarning, match="cannot be written.*too large") as w:
        study.optimize(score, n_trials=3, callbacks=[keep])
    assert len(w) == 2, "the worse one is not tried"
    assert all("The search goes on" in str(warning.message) for warning in w)
    assert kept(tmp_path) == [0, 1], "nothing is lost and nothing is left"
    study.optimize(score, n_trials=1, callbacks=[keep])
    assert kept(tmp_path) == [1, 5]
    mo.callbacks.KeepBest(2, tmp_path).update(study)
    assert kept(tmp_path) == [3, 5], "a new start tries again"
    assert_right(tmp_path, study)


def test_a_source_that_has_gone_is_a_warning(task: Task, tmp_path: Path) -> None:
    copy = Task(tmp_path / "copy")
    shutil.copytree(task.root, copy.root)
    values = iter([1.0, 2.0])

    def remove(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if trial.number == 1:
            (copy.root / "a/model.safetensors").unlink()

    study = optuna.create_study(direction="maximize")
    with pytest.warns(UserWarning, match="The search goes on"):
        study.optimize(
            mo.MergeObjective(recipe(copy), lambda model: next(values)),
            n_trials=2,
            callbacks=[remove, mo.callbacks.KeepBest(1, tmp_path / "best")],
        )
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE"]
    assert kept(tmp_path / "best") == [0]


def test_folders_of_others_are_safe(task: Task, tmp_path: Path) -> None:
    def search(name: str, seed: int, url: str) -> mo.MergeStudy:
        score = objective(task, VALUES[:2], "maximize")
        sampler = optuna.samplers.RandomSampler(seed)
        folder = tmp_path / "best"
        return mo.MergeStudy(
            name, score, 2, sampler=sampler, keep_best=1, folder=folder, baselines=False
        )

    first = f"sqlite:///{tmp_path}/first.db"
    search("toy", 0, first).run(first, progress=False)
    assert kept(tmp_path / "best") == [0]
    (tmp_path / "best/thesis.tex").touch()
    for name, url in (("other", first), ("toy", f"sqlite:///{tmp_path}/second.db")):
        with pytest.raises(StudyError, match=f"trial-00000' is not trial 0 of the study '{name}'"):
            search(name, 1, url).run(url, progress=False)
        study = optuna.load_study(study_name=name, storage=url)
        assert study.trials == [], "before the first trial"
    search("toy", 0, first).run(first, progress=False)
    (tmp_path / "best/thesis.tex").unlink()
    assert kept(tmp_path / "best") == [0]
    (tmp_path / "best/trial-00000/recipe.yaml").unlink()
    with pytest.raises(StudyError, match="is not trial 0"):
        search("toy", 0, first).run(first, progress=False)


def test_a_fallen_trial_with_somebodys_files_stays(task: Task, tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    score = objective(task, [1.0, 2.0, 3.0, 4.0, 5.0], "maximize")
    keep = mo.callbacks.KeepBest(1, tmp_path)
    study.optimize(score, n_trials=1, callbacks=[keep])
    (tmp_path / "trial-00000/notes.txt").write_text("the best I have seen")
    with pytest.warns(UserWarning, match=r"folder stays.*deleted: notes\.txt\.") as caught:
        study.optimize(score, n_trials=2, callbacks=[keep])
    assert len(caught) == 1
    assert kept(tmp_path) == [0, 2]
    assert (tmp_path / "trial-00000/notes.txt").read_text() == "the best I have seen"
    card = tmp_path / "trial-00002/README.md"
    card.write_text(card.read_text() + "edited")
    with pytest.warns(UserWarning, match=r"deleted: README\.md \(changed since\)\."):
        study.optimize(score, n_trials=1, callbacks=[keep])
    assert kept(tmp_path) == [0, 2, 3]
    for number, name in ((0, "notes.txt"), (2, "README.md")):
        (tmp_path / f"trial-{number:05}" / name).unlink()
    mo.callbacks.KeepBest(1, tmp_path).update(study)
    assert kept(tmp_path) == [3]


def test_two_studies_that_begin_in_one_folder(task: Task, tmp_path: Path) -> None:
    """Neither can know of the other before the first writes."""
    a, b = (
        optuna.create_study(study_name=name, direction="maximize", sampler=sampler)
        for name, sampler in (
            ("a", optuna.samplers.RandomSampler(0)),
            ("b", optuna.samplers.RandomSampler(1)),
        )
    )
    keep_a, keep_b = (mo.callbacks.KeepBest(1, tmp_path) for _ in range(2))
    for study, keep in ((a, keep_a), (b, keep_b)):
        keep.update(study)
    a.optimize(objective(task, VALUES, "maximize"), n_trials=1, callbacks=[keep_a])
    with pytest.raises(StudyError, match="trial-00000' is not trial 0 of the study 'b'"):
        b.optimize(objective(task, VALUES, "maximize"), n_trials=1, callbacks=[keep_b])
    assert kept(tmp_path) == [0]
    assert_right(tmp_path, a)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_best": 0, "folder": "best"}, "KeepBest needs a number of at least 1, not 0"),
        ({"keep_best": "best", "folder": 2}, "KeepBest needs a number of at least 1, not 'best'"),
        (
            {"first": [{"weigth": 1.0}]},
            r"first\[0\] has 'weigth', but the parameters of the space",
        ),
        ({"first": [{}, {"weight/b": 9.0}]}, r"first\[1\] has weight/b = 9.0, which is not in"),
        ({"keep_best": 2}, "keep_best= and folder= go together"),
        ({"folder": "best"}, "keep_best= and folder= go together"),
    ],
)
def test_refused(task: Task, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        mo.MergeStudy("toy", objective(task, [], "maximize"), n_trials=1, **options)


def test_a_file_in_its_place(task: Task, tmp_path: Path) -> None:
    (tmp_path / "best").touch()
    calls: list[int] = []
    score = mo.MergeObjective(recipe(task), lambda model: calls.append(1) or 1.0)
    search = mo.MergeStudy(
        "toy", score, n_trials=1, keep_best=1, folder=tmp_path / "best", baselines=False
    )
    with pytest.raises(StudyError, match=r"needs a folder, but .* is a file"):
        search.run(progress=False)
    assert calls == []


def test_several_objectives_have_no_best(task: Task, tmp_path: Path) -> None:
    class Two(mo.evaluators.Function):
        def __init__(self) -> None:
            super().__init__(lambda model: 1.0)
            self.directions, self.metric_names = ("maximize", "minimize"), ("up", "down")

    with pytest.raises(StudyError, match=r"KeepBest follows the best trial, but .* 2 objectives"):
        mo.MergeStudy(
            "toy", mo.MergeObjective(recipe(task), Two()), 2, keep_best=1, folder=tmp_path
        )
