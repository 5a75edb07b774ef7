"""mo.greedy_path against the ten-line loop, and brute force."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import merge_optuna as mo
from merge_optuna.errors import StudyError
from merge_optuna.spaces import Exchange
from tests import processes, toys
from tests.samplers.storages import make_storage
from tests.spaces import routes

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Llamas of four layers."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("ja", "math")):
        toys.save(toys.noised(toys.llama(seed, layers=4), seed), root / name)
    return root


def objective(folder: Path, **options: Any) -> mo.MergeObjective:
    space = mo.spaces.LayerPath(routes.models(folder), 2, **options)
    return mo.MergeObjective(space, routes.Logits())


def plain_loop(objective: mo.MergeObjective, models: list[mo.Checkpoint]) -> tuple[str, int]:
    known: dict[str, float] = {}

    def score(letters: str) -> float:
        if letters not in known:
            path = "-".join(f"{letter}{i}" for i, letter in enumerate(letters))
            known[letters] = float(objective.score(mo.recipes.path(path, models)))  # type: ignore[arg-type]
        return known[letters]

    best = "A" * 4
    while True:
        others = [best[:i] + "AB"[best[i] == "A"] + best[i + 1 :] for i in range(4)]
        found = min([best, *others], key=score)
        if found == best:
            return best, len(known)
        best = found


def test_it_is_the_plain_loop(folder: Path) -> None:
    one = objective(folder)
    study = mo.greedy_path(one, progress=False)
    letters, evaluations = plain_loop(one, routes.models(folder))
    assert study.best_trial.user_attrs["path"] == "-".join(
        f"{x}{i}" for i, x in enumerate(letters)
    )
    assert len(study.trials) == evaluations
    assert study.best_value < study.trials[0].value  # type: ignore[operator]
    assert one.score(mo.recipe_of(study)) == study.best_value
    begun = mo.spaces.LayerPath(routes.models(folder), 2, start=mo.recipe_of(study))
    assert begun.bind(begun.start()).path == mo.recipe_of(study).path


def test_as_a_baseline(folder: Path, tmp_path: Path) -> None:
    one = objective(folder)
    study = mo.greedy_path(one, progress=False)
    (row,) = mo.baselines(one, kinds=["greedy path"], progress=False)
    assert (row.value, row.tuned, row.examples) == (study.best_value, True, 6 * len(study.trials))
    assert row.recipe is not None
    assert row.recipe.path == mo.recipe_of(study).path
    assert "greedy path" not in [row.kind for row in mo.baselines(one, progress=False)]
    paper = objective(folder, layout="paper")
    assert not list(mo.baselines(paper, kinds=["greedy path"], progress=False))
    search = mo.MergeStudy("s", one, n_trials=3, baselines=["source", "greedy path"])
    kept = mo.baselines(search.run(f"sqlite:///{tmp_path}/s.db", progress=False))
    assert kept["greedy path"].value == study.best_value


def test_a_wide_beam_is_brute_force() -> None:
    """On a function with a trap, whose best paths no single exchange leads to."""
    names, start = ("a", "b", "c"), ("A", "A", "A")
    values = dict.fromkeys(itertools.product("ABC", repeat=3), 5.0)
    values.update({start: 1.0, ("B", "A", "A"): 2.0, ("B", "B", "A"): 3.0, ("B", "B", "C"): 0.0})

    def run(beam: int) -> tuple[float, int]:
        exchange = Exchange(names, start, (("A", "B", "C"),) * 3, beam)
        known: dict[Any, float] = {}
        while (choices := exchange.following(known, set())) is not None:
            assert choices not in known
            known[choices] = values[choices]
        return min(known.values()), len(known)

    assert run(1) == (1.0, 7)
    assert run(3)[0] == 0.0
    assert run(27) == (0.0, 27)


def test_other_processes_get_something_else() -> None:
    exchange = Exchange(("a", "b"), ("A", "A"), (("A", "B"), ("A", "B")))
    assert exchange.following({}, set()) == ("A", "A")
    known = {("A", "A"): 1.0}
    assert exchange.following(known, set()) == ("B", "A")
    assert exchange.following(known, {("B", "A")}) == ("A", "B")
    assert exchange.following(known, {("B", "A"), ("A", "B")}) == ("B", "A")


def run(folder: str, kill: int | None = None) -> None:
    from merge_optuna.testing import kill_at, on_write

    storage = make_storage("sqlite", Path(folder))
    if kill is not None:
        storage = on_write(storage, kill_at(kill, after=True, trial=4))
    mo.greedy_path(objective(Path(folder)), storage=storage, progress=False)


def test_killed_and_started_again(folder: Path, tmp_path: Path) -> None:
    for model in ("ja", "math"):
        (tmp_path / model).symlink_to(folder / model)
    killed = processes.call(run, str(tmp_path), 6, cwd=tmp_path).wait()
    assert killed.code == -9
    whole = mo.greedy_path(objective(folder), progress=False)
    url = make_storage("sqlite", tmp_path)
    study = mo.greedy_path(objective(folder), storage=url, progress=False)
    done = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert [t.params for t in done] == [t.params for t in whole.trials]
    again = mo.greedy_path(objective(folder), storage=url, progress=False)
    assert len(again.trials) == len(study.trials)


def test_scales_of_the_start_stay_and_it_can_be_ended(folder: Path) -> None:
    one = objective(folder, start="A0-B1×0.8-A2-A3")
    study = mo.greedy_path(one, max_evaluations=4, progress=False)
    paths = [trial.user_attrs["path"] for trial in study.trials]
    assert paths == [
        "A0-B1×0.80-A2-A3",
        "B0-B1×0.80-A2-A3",
        "A0-A1×0.80-A2-A3",
        "A0-B1×0.80-B2-A3",
    ]


def test_what_is_refused(folder: Path) -> None:
    with pytest.raises(StudyError, match=r"of a mo\.spaces\.LayerPath with layout='depth'"):
        mo.greedy_path(objective(folder, layout="paper"))
    with pytest.raises(StudyError, match="beam must be a whole number of at least 1, not 0"):
        mo.greedy_path(objective(folder), beam=0)
    with pytest.raises(StudyError, match="max_evaluations must be a whole number"):
        mo.greedy_path(objective(folder), max_evaluations=-1)
