"""What the pages say was measured was measured: their intervals are those of the studies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from merge_optuna.study import Entry, Leaderboard, Run
from tests.docs.blocks import ROOT

INTERVAL = re.compile(r"[+-]\d\.\d+ \[[+-]\d\.\d+,\s[+-]\d\.\d+\]")
RANGE = re.compile(r"(-?\d+\.\d) ± (\d\.\d), (-?\d\.\d to -?\d+\.\d)")
PAGES = [
    ROOT / "docs" / "scorecard.md",
    ROOT / "docs" / "choose.md",
    *sorted((ROOT / "docs" / "algorithms").glob("*.md")),
]
STUDIES = "\n".join(path.read_text() for path in ROOT.glob("studies/*/*.md"))


def line(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def emotions() -> set[str]:
    """Differences of macro-F1 that results.md does not hold, from its results."""
    lines = json.loads((ROOT / "studies" / "emotions" / "results.json").read_text())["lines"]
    board = Leaderboard.of(
        [
            Entry(
                f"{one['method']}, {one['evaluations']}",
                [Run(0.0, value, seed) for seed, value in enumerate(one["test"])],
                one["kind"],
            )
            for one in lines
        ],
        metric="macro-F1",
    )
    names = {row.name.rpartition(", ")[0]: row.name for row in board.rows}
    pairs = [
        ("CMA-ES DARE-TIES, 35", "PSO-Merging, 35"),
        ("CMA-ES DARE-TIES, 100", "PSO-Merging, 100"),
        ("PSO-Merging, 100", names["uniform average"]),
    ]
    found = (board.difference(first, second) for first, second in pairs)
    return {f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]" for one in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_intervals_are_those_of_a_study(page: Path, emotions: set[str]) -> None:
    found = {line(one) for one in INTERVAL.findall(page.read_text())}
    assert found or page.stem not in ("scorecard", "choose")
    assert {one for one in found if one not in STUDIES} <= emotions


def test_differences_of_digits_are_those_of_the_study() -> None:
    found = RANGE.findall((ROOT / "docs" / "scorecard.md").read_text())
    assert len(found) > 8
    for value, error, interval in found:
        assert f"| {value} ± {error} | {interval} |" in STUDIES


def test_every_claim_has_one_of_five_verdicts() -> None:
    page = (ROOT / "docs" / "scorecard.md").read_text().partition("## And ours")[0]
    rows = [row for row in page.splitlines() if row.startswith("| ") and "**" in row]
    assert len(rows) > 20
    verdict = re.compile(r"\*\*(confirmed|refuted|not shown|untested)\*\*")
    for row in rows:
        assert verdict.search(row.split("|")[2]), row
