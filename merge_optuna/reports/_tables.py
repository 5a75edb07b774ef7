"""Tables and lists of facts, as a page shows them: texts, whatever they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table.

    Attributes:
        title: What it shows.
        head: Of the columns.
        rows: Cells.
        notes: Sentences below it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Fact(NamedTuple):
    """Something that is said in a line.

    Attributes:
        term: What it is about.
        text: What is so.
    """

    term: str
    text: str


def side_by_side(title: str, names: Sequence[str], facts: Sequence[Sequence[Fact]]) -> Table:
    """The facts of several studies, a column each; what one does not have stays empty."""
    terms = dict.fromkeys(fact.term for those in facts for fact in those)
    found = [dict(those) for those in facts]
    rows = [[term, *(those.get(term, "") for those in found)] for term in terms]
    return Table(title, ["", *(names if len(names) > 1 else [""])], rows)


def digits_for(values: Iterable[float], most: int = 6) -> int:
    """Digits after the point that tell values apart: three of their spread, three at least."""
    known = [value for value in values if math.isfinite(value)]
    spread = max(known, default=0.0) - min(known, default=0.0)
    if spread <= 0:
        return 3
    return min(max(3, 2 - math.floor(math.log10(spread))), most)


def count(number: float) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,.0f}"
