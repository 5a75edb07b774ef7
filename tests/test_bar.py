"""Progress bars, on a terminal and where there is none."""

from __future__ import annotations

import io
import re
import sys

import pytest

from merge_optuna import _bar
from merge_optuna._bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(ProgressBar(range(3), "Soup", mininterval=0)) == [0, 1, 2]
    drawn = terminal.getvalue().split("\r")
    assert len(drawn) >= 4
    assert "100%" in drawn[-1]


def test_a_file_gets_whole_lines_and_few_of_them(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(list(ProgressBar(range(100_000), "Soup"))) == 100_000
    err = capfd.readouterr().err
    assert "\r" not in err
    first, last = err.splitlines()
    assert first.startswith("Soup: 0/100000 [00:00<")
    assert last.startswith("Soup: 100000/100000 [")


def test_a_line_comes_after_a_while(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(_bar.time, "monotonic", lambda: now)
    with ProgressBar(total=1000, desc="toy", unit="trial") as bar:
        for _ in range(1000):
            now += 1
            bar.n += 1
            bar.set_postfix({"best": 0.5})  # as the bar of a search, after each trial
    lines = capfd.readouterr().err.splitlines()
    counts = [int(re.match(r"toy: (\d+)/1000", line)[1]) for line in lines]  # type: ignore[index]
    assert counts == [0, 1, 2, 4, 8, 16, 32, *range(64, 1000, 60), 1000]
    assert "best=0.5" in lines[-1]


def test_what_takes_no_time_or_is_switched_off_says_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    list(ProgressBar(range(3), "Soup", delay=2, leave=False))
    list(ProgressBar(range(3), "Soup", disable=True))
    assert capfd.readouterr().err == ""
