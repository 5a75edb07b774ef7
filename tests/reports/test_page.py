"""``mo.reports.save_html``: what stands on the page, read from the page alone."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from safetensors.numpy import load_file

import merge_optuna as mo
from merge_optuna.errors import ReportError, StudyError
from tests.cli.conftest import Cli, cli  # noqa: F401
from tests.trained import Task, read_rows, right, task  # noqa: F401

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Page(HTMLParser):
    """The text of a page, its rows of cells, and the data of its figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.rows: list[list[str]] = []
        self.figures: list[dict[str, Any]] = []
        self.links: dict[str, str] = {}
        self.urls: list[str] = []
        self._text: list[str] = []
        self._inside: list[str] = []
        self.feed(self.source)
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if "download" in given:
            self.links[given["download"] or ""] = given["href"] or ""
        self.urls += [v for k, v in given.items() if k in ("src", "href") and v]
        if tag not in ("meta", "link", "br"):
            self._inside.append(given.get("type") or tag)

    def handle_endtag(self, tag: str) -> None:
        self._inside.pop()

    def handle_data(self, data: str) -> None:
        where = self._inside[-1] if self._inside else ""
        if where == "application/json":
            self.figures.append(json.loads(data))
        elif where not in ("script", "style"):
            self._text.append(data + " ")
            if {"td", "th"} & {*self._inside}:
                self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The first row that begins so."""
        return next(row for row in self.rows if row and row[0] == first)

    def command(self, word: str) -> list[str]:
        (found,) = re.findall(rf"<code>(merge-optuna {word} [^<]*)</code>", self.source)
        return shlex.split(html.unescape(found))


@pytest.fixture(scope="module")
def declared(task: Task) -> mo.MergeStudy:  # noqa: F811
    objective = mo.MergeObjective(
        task.recipe(), mo.evaluators.Classification(task.dev, batch_size=20)
    )
    test = mo.evaluators.Classification(task.test)
    return mo.MergeStudy("toy & <co>", objective, 6, test=test)


@pytest.fixture(scope="module")
def url(declared: mo.MergeStudy, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('page')}/merge.db"
    study = declared.run(url, progress=False)
    declared.test_value(study, mo.recipe_of(study))
    best = mo.baselines(study).best
    assert best is not None
    declared.test_value(study, mo.recipe_of(study, baseline=best.name))
    return url


@pytest.fixture(scope="module")
def study(url: str) -> optuna.Study:
    return optuna.load_study(study_name="toy & <co>", storage=mo.storage(url))


@pytest.fixture(scope="module")
def page(study: optuna.Study, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(mo.reports.save_html(study, tmp_path_factory.mktemp("page") / "report.html"))


def test_it_needs_nothing_else(page: Page) -> None:
    assert page.source.count("plotly.js v") == 1, "inlined, once"
    assert all(url.startswith(("#", "data:")) for url in page.urls)
    assert "<co>" not in page.source.replace("<code>", ""), "names are text"
    assert "toy & <co>" in page.text


def test_the_figures_are_those_of_the_study(page: Page, study: optuna.Study) -> None:
    figures = mo.reports.figures(study)
    assert len(page.figures) == len(figures) >= 1
    for shown, figure in zip(page.figures, figures.values(), strict=True):
        assert shown["data"] == json.loads(figure.to_json())["data"]


def test_what_won_and_by_how_much(
    page: Page,
    study: optuna.Study,
    task: Task,  # noqa: F811
) -> None:
    best, baselines = study.best_trial, mo.baselines(study)
    against = baselines.best
    assert against is not None
    assert against.values is not None
    assert f"{best.value:.4g} accuracy, higher is better" in page.text
    gain = best.values[0] - against.values[0]
    name = "task arithmetic, λ by dev" if against.kind == "task arithmetic" else against.name
    (dev,) = re.findall(
        r"by which it was chosen, its accuracy is ([\d.]+) \[[^]]*\], ([+-][\d.]+) \[", page.text
    )
    assert [*map(float, dev)] == [round(best.values[0], 3), round(gain, 3)]
    assert f"against the best baseline, {name}" in page.text
    for row in baselines:
        if row.kind in ("base", "source", "uniform average"):
            assert row.values is not None
            cells = page.row(row.name)
            assert any(cell.startswith(f"{row.values[0]:.3f} [") for cell in cells)


def test_the_held_out_test(page: Page, study: optuna.Study, task: Task) -> None:  # noqa: F811
    """Scored here text by text, and the difference by a plain paired bootstrap."""
    data, engine = read_rows(task.test), mo.Engine()
    won = right(engine.load(mo.recipe_of(study)), data).astype(float)
    best = mo.baselines(study).best
    assert best is not None
    lost = right(engine.load(mo.recipe_of(study, baseline=best.name)), data).astype(float)
    number = r"([+-]?[\d.]+)"
    estimate = rf"{number} \[{number}, {number}\]"
    said = rf"On held-out data its accuracy is {estimate}, {estimate} against"
    value, low, high, gain, *ends = map(float, re.findall(said, page.text)[0])
    assert (value, gain) == (round(won.mean(), 3), round((won - lost).mean(), 3))
    draws = np.random.default_rng(0).integers(len(data), size=(4000, len(data)))
    for of, shown in ((won, (low, high)), (won - lost, ends)):
        assert shown == pytest.approx(np.percentile(of[draws].mean(1), [2.5, 97.5]), abs=0.015)


def test_what_it_cost(page: Page, study: optuna.Study) -> None:
    assert page.row("trials")[1] == "6 complete"
    examples = sum(trial.user_attrs["examples"] for trial in study.trials)
    assert page.row("dev examples scored")[1] == f"{examples:,}"


@pytest.mark.parametrize("way", ["export", "write"])
def test_its_commands_rebuild_the_winner_bit_for_bit(
    way: str,
    page: Page,
    study: optuna.Study,
    cli: Cli,  # noqa: F811
    tmp_path: Path,
) -> None:
    saved = page.links["recipe.yaml"].partition("base64,")[2]
    (tmp_path / "recipe.yaml").write_bytes(base64.b64decode(saved))
    code, _, err = cli(*page.command(way)[1:])
    assert code == 0, err
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    live = mo.Engine().load(mo.recipe_of(study)).state_dict()
    assert merged.keys() <= live.keys()
    for name, tensor in merged.items():
        assert tensor.tobytes() == live[name].numpy().tobytes()


# -- other studies ------------------------------------------------------------------------------


def test_several_studies_side_by_side(study: optuna.Study, tmp_path: Path) -> None:
    other = optuna.create_study(study_name="other", direction="maximize")
    other.set_metric_names(["accuracy"])
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    page = Page(mo.reports.save_html([study, other], tmp_path / "report.html"))
    assert page.source.count("plotly.js v") == 1
    assert page.row("trials") == ["trials", "6 complete", "3 complete"]
    by_value = {"toy & <co>": study.best_value, "other": other.best_value}
    for name, value in by_value.items():
        assert any(cell.startswith(f"{value:.3f}") for cell in page.row(name))


def test_two_studies_of_one_name(tmp_path: Path) -> None:
    studies = [optuna.create_study(study_name="same") for _ in range(2)]
    for number, one in enumerate(studies):
        one.optimize(lambda trial, n=number: n, n_trials=1)
    page = Page(mo.reports.save_html(studies, tmp_path / "report.html"))
    assert page.row("trials") == ["trials", "1 complete", "1 complete"]
    assert "same (1)" in page.text
    named = Page(mo.reports.save_html({"a": studies[0], "b": studies[1]}, tmp_path / "b.html"))
    assert "same" not in named.text


def test_a_study_of_plain_optuna(tmp_path: Path) -> None:
    plain = optuna.create_study(study_name="plain", direction="minimize")
    plain.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=5)
    page = Page(mo.reports.save_html(plain, tmp_path / "report.html"))
    assert "merges no models" in page.text
    assert f"{plain.best_value:.4g} value, lower is better" in page.text
    assert page.row("x")[1] == f"{plain.best_params['x']:.4g}"
    assert "<code>" not in page.source, "it is in memory: there is nothing to type"


def test_an_empty_study(tmp_path: Path) -> None:
    empty = optuna.create_study(study_name="empty")
    page = Page(mo.reports.save_html(empty, tmp_path / "report.html"))
    assert "No trial is complete yet: none yet." in page.text
    assert not page.figures


def test_two_objectives(tmp_path: Path) -> None:
    front = optuna.create_study(study_name="two", directions=["minimize", "maximize"])
    front.optimize(lambda trial: (trial.suggest_int("x", 0, 9), trial.params["x"]), n_trials=5)
    page = Page(mo.reports.save_html(front, tmp_path / "report.html"))
    assert f"{len(front.best_trials)} on the front" in page.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("merge.db", "is not the name of a page"),
        ("nowhere/report.html", "there is no folder"),
        ("folder.html", "it is a folder"),
    ],
)
def test_where_no_page_can_be(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ReportError, match=words):
        mo.reports.save_html(optuna.create_study(), tmp_path / name)


@pytest.mark.parametrize("studies", [[], ["toy"], "toy"])
def test_what_is_no_study(studies: Any, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"There is no study|made of studies"):
        mo.reports.save_html(studies, tmp_path / "report.html")
