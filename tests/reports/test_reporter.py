"""What a search writes for optuna-dashboard, read with the dashboard's own functions."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note, get_note_from_system_attrs, save_note

import merge_optuna as mo
from merge_optuna import _optuna_compat as compat
from merge_optuna.reports import _budget, _reporter
from merge_optuna.reports._cards import CARDS
from merge_optuna.reports._milestones import Bests
from tests import processes
from tests.reports import killed

optuna.logging.set_verbosity(optuna.logging.ERROR)

SCHEMES = ("sqlite", "journal")


@pytest.fixture(params=SCHEMES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    return mo.storage(f"{request.param}:///{tmp_path}/s")


@pytest.fixture
def sqlite(tmp_path: Path) -> BaseStorage:
    return mo.storage(f"sqlite:///{tmp_path}/s")


def create(storage: BaseStorage | None, **options: Any) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(study_name="s", storage=storage, sampler=sampler, **options)


def sphere(trial: optuna.Trial) -> float:
    return sum(trial.suggest_float(name, -1, 1) ** 2 for name in "xy")


def system_attrs(study: optuna.Study) -> dict[str, Any]:
    return study._storage.get_study_system_attrs(study._study_id)


def cards(study: optuna.Study) -> dict[str, Any]:
    found = get_plotly_graph_objects(system_attrs(study))
    return {key: json.loads(text) for key, text in found.items() if text}


def notes(study: optuna.Study) -> dict[int, str]:
    attrs = system_attrs(study)
    texts = {
        t.number: get_note_from_system_attrs(attrs, t._trial_id)["body"] for t in study.trials
    }
    return {number: text for number, text in texts.items() if text}


def new_bests(study: optuna.Study) -> list[int]:
    """The textbook: better than all before."""
    values = [trial.value if trial.value is not None else np.inf for trial in study.trials]
    return [n for n, value in enumerate(values) if value < min(values[:n], default=np.inf)]


# -- what is there ------------------------------------------------------------------------------


def test_cards_and_notes_are_there_when_a_search_is_over(storage: BaseStorage) -> None:
    study = create(storage)
    mo.optimize(study, sphere, 12, progress=False)
    made = mo.reports.figures(study)
    assert made
    assert cards(study) == {key: json.loads(figure.to_json()) for key, figure in made.items()}
    best = min(study.trials, key=lambda trial: trial.value)
    assert f"Trial {best.number} is the best" in get_note(study)
    assert f"{best.value:.4g}" in get_note(study)
    assert sorted(notes(study)) == new_bests(study)
    assert all("**New best**" in note for note in notes(study).values())


def test_nothing_is_written_without_reports_or_to_memory(storage: BaseStorage) -> None:
    silent, volatile = create(storage), create(None)
    mo.optimize(silent, sphere, 3, progress=False, reports=False)
    mo.optimize(volatile, sphere, 3, progress=False)
    assert [system_attrs(study) for study in (silent, volatile)] == [{}, {}]


def test_refresh_writes_a_study_of_plain_optuna_also_in_memory() -> None:
    study = create(None)
    study.optimize(sphere, n_trials=3)
    mo.reports.refresh(study)
    assert "2-progress" in cards(study)
    assert get_note(study).startswith("# s\n")


def test_several_objectives_have_a_note_for_each_trial_that_enters_the_front(
    sqlite: BaseStorage,
) -> None:
    study = create(sqlite, directions=["minimize", "maximize"])
    mo.optimize(study, lambda t: [t.suggest_float(n, 0, 1) for n in "xy"], 20, progress=False)
    assert all("**New on the front**" in note for note in notes(study).values())
    losses = np.array([trial.values for trial in study.trials]) * [1, -1]
    entered = [n for n, p in enumerate(losses) if not (losses[:n] <= p).all(axis=1).any()]
    assert sorted(notes(study)) == entered


def test_the_first_failure_of_each_kind_has_a_note(sqlite: BaseStorage) -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number in (1, 2):
            raise OSError(f"disk {trial.number} is full")
        if trial.number == 3:
            raise ValueError("another")
        return 1.0

    study = create(sqlite)
    mo.optimize(study, objective, 3, progress=False)
    assert sorted(notes(study)) == [0, 1, 3]
    assert "OSError: disk 1 is full" in notes(study)[1]
    assert "Traceback" in notes(study)[1]


def test_a_search_that_fails_all_the_time_says_in_its_note_why(sqlite: BaseStorage) -> None:
    def objective(trial: optuna.Trial) -> float:
        raise OSError(f"disk {trial.number % 3} is full")

    study = create(sqlite)
    with pytest.raises(mo.errors.StudyError, match="in a row"):
        mo.optimize(study, objective, 20, progress=False)
    assert "10 × OSError: disk # is full (first: trial 0)" in get_note(study)


# -- what others have written stays -------------------------------------------------------------


def test_what_is_added_below_a_note_stays_and_a_changed_note_is_not_touched(
    storage: BaseStorage,
) -> None:
    study = create(storage)
    mo.optimize(study, sphere, 2, progress=False)
    save_note(study, get_note(study) + "Mine.")
    mo.optimize(study, sphere, 9, progress=False)
    best = min(study.trials, key=lambda trial: trial.value)
    assert f"Trial {best.number} is the best" in get_note(study)
    assert get_note(study).endswith("\nMine.")
    save_note(study, "All mine.")
    mo.reports.refresh(study)
    mo.reports.refresh(study)
    assert get_note(study) == "All mine."


def test_cards_of_others_stay_and_one_without_a_figure_vanishes(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna_dashboard import save_plotly_graph_object
    from plotly.graph_objects import Figure

    study = create(storage)
    save_plotly_graph_object(study, Figure(), graph_object_id="mine")
    mo.optimize(study, sphere, 2, progress=False)
    assert {"mine", "2-progress"} <= cards(study).keys()
    monkeypatch.setattr(_reporter, "CARDS", [c._replace(draw=lambda view: None) for c in CARDS])
    mo.reports.refresh(study)
    assert cards(study).keys() == {"mine"}


# -- when ---------------------------------------------------------------------------------------


def test_cards_are_drawn_on_improvement_and_at_the_end(
    sqlite: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_at: list[int] = []

    def counted(view: Any) -> None:
        drawn_at.append(max((trial.number for trial in view.complete), default=-1))

    monkeypatch.setattr(_reporter, "CARDS", [CARDS[0]._replace(draw=counted)])
    monkeypatch.setattr(_budget, "SHARE", 1e9)
    study = create(sqlite)
    mo.optimize(study, sphere, 30, progress=False)
    assert drawn_at == [*new_bests(study), 29]
    mo.optimize(study, sphere, 30, progress=False)
    assert drawn_at == [*new_bests(study), 29], "a search that is over is shown already"


def test_what_is_due_waits_until_it_costs_a_small_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    budget, spent, refreshed = _budget.Budget(), 0.0, 0
    for _ in range(2000):
        with budget.spending():
            now[0] += 0.01  # a note
        now[0] += 0.5
        if budget.allows():
            refreshed += 1
            with budget.spending(), budget.drawing():
                now[0] += 0.4
            spent += 0.4
        assert spent <= max(0.4, _budget.SHARE * now[0])
        assert refreshed > 0, "the first time at once"
    assert refreshed > 10


def test_a_journal_grows_little_by_what_is_shown(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_budget, "SHARE", 1e9)
    falling = (1 / (1 + n) for n in range(200))
    study = create(mo.storage(f"journal:///{tmp_path}/s"))
    mo.optimize(study, lambda trial: next(falling), 200, progress=False)
    lines = (tmp_path / "s").read_text().splitlines(keepends=True)
    own = [len(line) for line in lines if re.search(r"dashboard:(plot_data|note_str)", line)]
    last = len(json.dumps(cards(study))) + len(get_note(study))
    assert sum(own) - last < 0.2 * sum(map(len, lines))
    assert len(own) > 2 * len(cards(study)), "it was shown more than once and at the end"


# -- several processes, failures ----------------------------------------------------------------


def test_all_cards_change_at_once(sqlite: BaseStorage, tmp_path: Path) -> None:
    study = create(sqlite)
    keys = [f"merge_optuna:test:{i}" for i in range(40)]
    stop = threading.Event()
    seen: set[int] = set()
    torn: list[set[Any]] = []

    def read() -> None:
        other = _again(tmp_path)
        while not stop.is_set():
            attrs = other.get_study_system_attrs(study._study_id)
            found = {attrs[key][:1] for key in keys if key in attrs}
            seen.update(map(int, found))
            if len(found) > 1:
                torn.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(20):
        attrs = dict.fromkeys(keys, f"{turn % 10}" * 1000)
        compat.replace_study_system_attrs(study, attrs, ["merge_optuna:test:"])
    stop.set()
    for reader in readers:
        reader.join()
    assert not torn
    assert len(seen) > 1


def _again(folder: Path) -> BaseStorage:
    return optuna.storages.get_storage(mo.storage(f"sqlite:///{folder}/s"))


def test_two_processes_may_write_at_once(sqlite: BaseStorage, tmp_path: Path) -> None:
    studies = [create(sqlite)]
    studies.append(optuna.load_study(study_name="s", storage=_again(tmp_path)))

    def write(study: optuna.Study, mark: str) -> None:
        for _ in range(10):
            attrs = {f"merge_optuna:test:{i}": mark for i in range(5)}
            compat.replace_study_system_attrs(study, attrs, ["merge_optuna:test:"])

    writers = [
        threading.Thread(target=write, args=pair) for pair in zip(studies, "ab", strict=True)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(system_attrs(studies[0]).values()) in ({"a"}, {"b"})
    assert len(system_attrs(studies[0])) == 5


def test_a_search_in_three_processes_is_shown_whole(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s"
    running = [processes.call(killed.run, url, "", 0, True, cwd=tmp_path) for _ in range(3)]
    for one in running:
        result = one.wait()
        assert result.code == 0, result.err
        assert "could not be written" not in result.err
    study = optuna.load_study(study_name=killed.NAME, storage=mo.storage(url))
    made = mo.reports.figures(study)
    assert cards(study) == {key: json.loads(figure.to_json()) for key, figure in made.items()}
    assert sum("dashboard:note_ver" in key for key in system_attrs(study)) == 1


def test_a_failure_of_reporting_ends_no_search_and_is_told_once(
    storage: BaseStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(view: Any) -> None:
        raise RuntimeError("no picture today")

    cards_ = [CARDS[0]._replace(key="broken", draw=broken), *CARDS]
    monkeypatch.setattr(_reporter, "CARDS", cards_)
    monkeypatch.setattr(_budget, "SHARE", 1e9)
    study = create(storage)
    with caplog.at_level(logging.WARNING, logger="merge_optuna"):
        mo.optimize(study, sphere, 12, progress=False)
    assert len(study.trials) == 12
    assert sum("no picture today" in record.message for record in caplog.records) == 1
    assert "2-progress" in cards(study), "the others are there"


@pytest.mark.parametrize("given", [1, "yes", None])
def test_reports_is_a_declaration(given: Any) -> None:
    with pytest.raises(mo.errors.StudyError, match="Reports"):
        mo.optimize(create(None), sphere, 1, reports=given)


@pytest.mark.parametrize("limit", [-1, "much", True, float("nan")])
def test_a_limit_is_a_number_of_megabytes(limit: Any) -> None:
    with pytest.raises(mo.errors.StudyError, match="limit_mb"):
        mo.reports.Reports(limit_mb=limit)


# -- the rule -----------------------------------------------------------------------------------


def test_bests_are_those_that_nothing_before_is_as_good_as() -> None:
    rng = np.random.default_rng(0)
    for case in range(60):
        n = 1 + case % 3
        values, violations = rng.integers(0, 4, (30, n)), rng.integers(0, 2, 30)
        bests = Bests([StudyDirection.MAXIMIZE] * n)
        trials = [*_completed(values, violations)]
        for i, trial in enumerate(trials):
            before = range(i)
            as_good = any(
                violations[j] < violations[i]
                or (violations[j] == violations[i] and (values[j] >= values[i]).all())
                for j in before
            )
            assert bests.beaten_by(trial.values, violations[i]) == (not as_good)
            bests.learn(trials[: i + 1])


def _completed(values: np.ndarray, violations: np.ndarray) -> Iterator[optuna.trial.FrozenTrial]:
    for number, (row, violation) in enumerate(zip(values, violations, strict=True)):
        trial = optuna.trial.create_trial(
            values=[*map(float, row)],
            system_attrs=compat.constraint_attrs({"c": float(violation)}),
        )
        trial.number = number
        yield trial
