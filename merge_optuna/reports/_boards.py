"""Against what: leaderboards and fronts of studies as tables, on dev and on held-out data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import optuna
from numpy.typing import NDArray

from merge_optuna.errors import StudyError
from merge_optuna.reports._style import number
from merge_optuna.reports._tables import Table, digits_for
from merge_optuna.reports._view import View
from merge_optuna.study import Entry, Leaderboard, Row, Run, front_of, leaderboard, why_empty
from merge_optuna.study.plumbing import HeldOut, held_out, is_better

Studies: TypeAlias = Sequence[optuna.Study] | Mapping[str, optuna.Study]


class Boards:
    """What a study is compared with.

    Args:
        view: The study.
    """

    def __init__(self, view: View) -> None:
        self.view = view

    @cached_property
    def dev(self) -> Leaderboard | None:
        """The search and its baselines on dev; None before a trial is complete, or of a front."""
        if self.view.best is None:
            return None
        return leaderboard({f"search, trial {self.view.best.number}": self.view.study})

    @cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """What is kept of held-out data, by who was scored: all on the data of the results."""
        found = held_out(self.view.study)
        first = next((one for who, one in found.items() if who.startswith("trial ")), None)
        return {
            who: one
            for who, one in found.items()
            if first is not None and (one is first or one.is_of(first))
        }

    @cached_property
    def test(self) -> Leaderboard | None:
        """The best trial and baselines on held-out data; None if that was not scored."""
        if self.view.best is None or not (found := self.held_out):
            return None
        first = next(iter(found.values()))
        return Leaderboard.of(
            [self._entry(who, one) for who, one in found.items()],
            metric=first.metrics[0],
            direction=first.directions[0],
            dev_metric=self.view.metrics[0],
        )

    def _entry(self, who: str, found: HeldOut) -> Entry:
        kind, _, name = who.partition(" ")
        if kind == "trial":
            dev = next(t.values[0] for t in self.view.complete if t.number == int(name))
            return Entry(who, [Run(dev, _scores(found))])
        row = self.view.baselines[name]
        dev = float("nan") if row.values is None else row.values[0]
        return Entry(
            name, [Run(dev, _scores(found))], "tuned baseline" if row.tuned else "baseline"
        )

    # -- as tables -------------------------------------------------------------------------------

    def on_dev(self) -> Iterator[Table]:
        """On the data by which the search has chosen."""
        if self.dev is not None:
            yield table_of(
                "On the dev data, by which the search has chosen", self.dev, self.notes()
            )
        elif self.view.single:
            yield from self._baselines()
        else:
            yield self._front()

    def on_held_out(self) -> Iterator[Table]:
        """On the data that the search has not seen, if results were scored there."""
        if self.test is not None:
            yield table_of("On held-out data, which the search has not seen", self.test)
        elif self.held_out:
            yield self._points()

    def notes(self) -> list[str]:
        """Of baselines that are no row: they have no score, or are no checkpoint."""
        return [
            f"{row.name}: {'no score' if row.values is None else number(row.values[0])}"
            f"{f' ({row.note})' if row.note else ''}."
            for row in self.view.baselines.headlines
            if row.values is None or not row.is_checkpoint
        ]

    def _baselines(self) -> Iterator[Table]:
        if rows := self.view.baselines.headlines:
            cells = [
                [row.name, "" if row.values is None else number(row.values[0]), row.note]
                for row in rows
            ]
            yield Table("What the search has to beat", ["", self.view.metrics[0], ""], cells)

    def _front(self) -> Table:
        front = front_of(self.view.study)
        if not front:
            notes = [why_empty(self.view.study)] if self.view.complete else []
            return Table("The front", [], [], notes)
        head, rows = front.table()
        return Table("The front on the dev data, and the baselines", head, rows, front.notes)

    def _points(self) -> Table:
        first = next(iter(self.held_out.values()))
        rows = [[who, *map(number, one.values)] for who, one in self.held_out.items()]
        head = ["", *(f"test {name}" for name in first.metrics)]
        return Table("On held-out data, which the search has not seen", head, rows)

    # -- in words --------------------------------------------------------------------------------

    def verdict(self) -> Iterator[str]:
        """How the best trial stands to the best baseline, on dev and on held-out data."""
        if self.dev is not None:
            yield f"On the dev data, by which it was chosen, {_said(self.dev)}."
        if self.test is not None:
            yield f"On held-out data {_said(self.test)}{_judged(self.test)}."
        elif self.dev is not None:
            yield (
                "Nothing was scored on held-out data. A search chooses what suits its dev data, "
                "so that others will see less of it."
            )


def _best(board: Leaderboard) -> Row:
    """The best trial's row."""
    return next(row for row in board.rows if row.kind == "search")


def _said(board: Leaderboard) -> str:
    row, digits = _best(board), _digits(board)
    said = f"its {board.metric} is {row.test or row.dev:.{digits}f}"
    if row.difference is None:
        return said
    return f"{said}, {row.difference:+.{digits}f} against the best baseline, {board.best_baseline}"


def _judged(board: Leaderboard) -> str:
    """Whether that could be chance."""
    difference = _best(board).difference
    if difference is None or np.isnan(difference.low):
        return ""
    if is_better(difference, board.direction):
        return ": better beyond chance"
    if is_better(difference, _other(board.direction)):
        return ": worse beyond chance"
    return ": chance could explain that"


def _other(direction: str) -> str:
    return "minimize" if direction == "maximize" else "maximize"


def _scores(found: HeldOut) -> NDArray[np.float64] | float:
    known = found.addable_scores
    return found.values[0] if known is None else known


def table_of(title: str, board: Leaderboard, notes: Sequence[str] = ()) -> Table:
    """A leaderboard."""
    head, rows = board.table(_digits(board))
    head = ["against the best baseline" if one == "− best baseline" else one for one in head]
    return Table(title, head, rows, [*board.notes, *notes])


def _digits(board: Leaderboard) -> int:
    return digits_for((row.test or row.dev).value for row in board.rows)


def compared(studies: Studies) -> tuple[Table | None, str]:
    """Several studies and all their baselines, or why they cannot be compared."""
    try:
        board = leaderboard(studies)
    except StudyError as error:
        return None, str(error)
    return table_of("Side by side on the dev data", board), ""
