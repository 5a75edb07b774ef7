"""Five searches of 200 trials in a real dashboard, and on a page, as a person sees them.

With ``MERGE_OPTUNA_SCREENSHOTS=FOLDER`` there are pictures of all pages, for a screen and for a
telephone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import merge_optuna as mo
from tests import processes
from tests.reports import searches, truths
from tests.reports.browser import WIDTHS, Browser
from tests.reports.serving import dashboard

pytestmark = pytest.mark.browser

PICTURES = os.environ.get("MERGE_OPTUNA_SCREENSHOTS")
PATIENCE = 60


@dataclass(frozen=True)
class Shown:
    """A search in a dashboard."""

    name: str
    url: str
    study: optuna.Study
    folder: Path
    address: str
    window: Browser

    @property
    def home(self) -> str:
        return f"{self.address}/dashboard/studies/{self.study._study_id}"

    def picture(self, page: str, url: str) -> None:
        """Takes the pictures that somebody wants to look at."""
        for width in WIDTHS if PICTURES else ():
            self.window.open(url, width)
            self.window.settled()
            self.window.picture(Path(str(PICTURES)) / f"{self.name}-{page}-{width}.png")


@pytest.fixture(scope="module", params=list(searches.SEARCHES))
def shown(
    request: pytest.FixtureRequest,
    searched: Callable[[str], str],
    folder: Path,
    window: Browser,
) -> Iterator[Shown]:
    url = searched(request.param)
    study = optuna.load_study(study_name=None, storage=mo.storage(url))
    with dashboard(url, folder) as address:
        yield Shown(request.param, url, study, folder, address, window)


def test_the_search_is_as_large_as_it_should_be(shown: Shown) -> None:
    assert len(truths.paid(shown.study)) == searches.TRIALS
    if shown.name == "free":
        assert len(truths.best_of(shown.study).params) >= 60


def test_the_list_of_studies_leads_to_it(shown: Shown) -> None:
    shown.window.open(shown.address)
    shown.window.until(lambda: shown.study.study_name in shown.window.text, PATIENCE)
    assert shown.window.errors() == []


def test_every_card_shows_what_is_in_the_study(shown: Shown) -> None:
    wanted = set(mo.reports.figures(shown.study))
    assert truths.EXPECTED[shown.name] <= wanted
    shown.window.open(shown.home)
    shown.window.until(lambda: set(shown.window.cards()) >= wanted, PATIENCE)
    cards = shown.window.cards()
    assert [*cards] == sorted(wanted)
    for key, figure in cards.items():
        assert figure["drawn"]
        truths.check(shown.name, key, figure, shown.study)
    assert shown.window.errors() == []
    shown.picture("dashboard", shown.home)


@pytest.mark.slow  # of time, so that it is run alone: pytest -n 0 -m slow tests/reports
def test_the_first_card_is_there_within_five_seconds(shown: Shown) -> None:
    """The quickest of three."""
    took = []
    for _ in range(3):
        took.append(shown.window.seconds(shown.home, lambda: shown.window.cards()))
        if took[-1] < 5:
            return
    raise AssertionError(took)


def test_the_note_tells_who_won_and_how_to_get_it(shown: Shown) -> None:
    shown.window.open(f"{shown.home}/note")
    shown.window.until(lambda: "merge-optuna export" in shown.window.text, PATIENCE)
    for trial in shown.study.best_trials[:1]:
        assert f"{trial.values[0]:.4g}" in shown.window.text
    assert shown.window.errors() == []
    shown.picture("note", f"{shown.home}/note")


def test_a_trial_has_its_recipe_and_files(shown: Shown) -> None:
    trial = shown.study.best_trials[0]
    page = f"{shown.home}/trials?numbers={trial.number}"
    shown.window.open(page)
    shown.window.until(lambda: f"Trial {trial.number} " in shown.window.text, PATIENCE)
    shown.window.until(lambda: trial.user_attrs["recipe"] in shown.window.text, PATIENCE)
    assert f"{trial.values[0]}" in shown.window.text
    files = shown.window.until(shown.window.artifacts, PATIENCE)
    assert "recipe.yaml" in files
    opened = shown.window.fetched(files["recipe.yaml"])
    assert mo.Recipe.from_yaml(opened).digest == mo.recipe_of(shown.study, trial).digest
    assert shown.window.errors() == []
    shown.picture("trial", page)


def test_all_trials_are_in_the_list(shown: Shown) -> None:
    number = len(shown.study.get_trials(deepcopy=False))
    shown.window.open(f"{shown.home}/trials")
    shown.window.until(lambda: f"{number} Trials" in shown.window.text, PATIENCE)
    failed = shown.study.get_trials(deepcopy=False, states=[TrialState.FAIL])
    for trial in failed:
        shown.window.open(f"{shown.home}/trials?numbers={trial.number}")
        shown.window.until(lambda: "illegal memory access" in shown.window.text, PATIENCE)
    assert shown.window.errors() == []


def test_analytics_are_drawn(shown: Shown) -> None:
    shown.window.open(f"{shown.home}/analytics")
    shown.window.until(lambda: any(f["traces"] for f in shown.window.figures()), PATIENCE)
    assert shown.window.errors() == []


def test_the_page_shows_the_same(shown: Shown) -> None:
    file = shown.folder / f"{shown.name}.html"
    done = processes.command("report", shown.url, file, cwd=shown.folder).wait()
    assert done.code == 0, done.err
    wanted = mo.reports.figures(shown.study)
    shown.window.open(f"file://{file}")
    shown.window.until(lambda: len(shown.window.figures()) >= len(wanted), PATIENCE)
    figures = shown.window.figures()
    for key, figure in zip(sorted(wanted), figures, strict=True):
        assert figure["drawn"]
        figure["title"] = shown.window.text
        truths.check(shown.name, key, figure, shown.study)
    assert shown.window.errors() == []
    assert "merge-optuna export" in shown.window.text
    for width in WIDTHS:
        shown.window.open(f"file://{file}", width)
        assert shown.window.overflow() <= 0
    shown.picture("report", f"file://{file}")
