"""Tables as wide as the terminal; 80 columns in a file or a pipe."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len

_INDENT, _GAP = "  ", "  "
_WORD = 16  # letters of a word, or of a text that is cut, that are never folded


@dataclass(frozen=True)
class _Column:
    """A column of a table.

    Attributes:
        head: What stands above it.
        cells: Its texts.
        is_cut: Whether texts that are too long lose their ends; else they are folded.
    """

    head: str
    cells: tuple[str, ...]
    is_cut: bool = False

    @cached_property
    def most(self) -> int:
        """Letters of its longest text."""
        return max(map(cell_len, (self.head, *self.cells)))

    @cached_property
    def least(self) -> int:
        """Letters that it needs, so that no number and no short word is torn apart."""
        words = [word for text in (self.head, *self.cells) for word in text.split()]
        long = max(map(len, words), default=0)
        return max([min(long, _WORD), *(cell_len(x) for x in self.cells if not is_text(x))])

    def lines(self, text: str, width: int) -> list[str]:
        """A text of it in so many letters."""
        if cell_len(text) <= width:
            return [text]
        if self.is_cut and text is not self.head:
            return [f"{text[: width - 1].rstrip()}…"]
        return textwrap.wrap(text, width, break_on_hyphens=False)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", *, cut: bool = False
) -> None:
    """Prints a table; one that is too wide in parts, each with the first column.

    Args:
        heads: Of the columns.
        rows: Cells; numbers are rounded.
        title: Above it.
        cut: Whether each row has one line, and what stands last loses its end.
    """
    texts = [[*map(in_words, row)] for row in rows]
    columns = [
        _Column(head, tuple(cells), is_cut=cut and i == len(heads) - 1)
        for i, (head, *cells) in enumerate(zip(heads, *texts, strict=True))
    ]
    shown = [one for one in columns if one.head or any(one.cells)]
    print(title, end="\n\n" if title else "")
    for part in _parts(shown, columns_of_terminal()):
        print("\n".join([*_lines(part, columns_of_terminal()), ""]))


def say(*texts: str) -> None:
    """Prints sentences, folded to the width of tables."""
    for text in texts:
        wide = columns_of_terminal()
        print(textwrap.fill(text, wide, break_long_words=False, break_on_hyphens=False))


def columns_of_terminal() -> int:
    """Letters that a line has."""
    return shutil.get_terminal_size().columns


def in_words(value: Any) -> str:
    """A value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_text(cell: str) -> bool:
    """Whether a cell may be folded: numbers, with their intervals, may not."""
    return not re.match(r"[+\-−]?[\d.]|nan|$", cell)


def _parts(columns: Sequence[_Column], width: int) -> Iterator[list[_Column]]:
    """The columns of each part."""
    first, *others = columns
    part = [first]
    for one in others:
        if len(part) > 1 and _total([c.least for c in (*part, one)]) > width:
            yield part
            part = [first]
        part.append(one)
    yield part


def _lines(columns: Sequence[_Column], width: int) -> Iterator[str]:
    widths = _widths(columns, width)
    if any(one.head for one in columns):
        yield from _row(columns, [one.head for one in columns], widths)
        yield _INDENT + "─" * (_total(widths) - len(_INDENT))
    for row in zip(*(one.cells for one in columns), strict=True):
        yield from _row(columns, row, widths)


def _row(columns: Sequence[_Column], texts: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    folded = [c.lines(text, w) for c, text, w in zip(columns, texts, widths, strict=True)]
    for line in zip_longest(*folded, fillvalue=""):
        padded = (text + " " * (w - cell_len(text)) for text, w in zip(line, widths, strict=True))
        yield (_INDENT + _GAP.join(padded)).rstrip()


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Of the columns, the widest folded first."""
    widths = [one.most for one in columns]
    while _total(widths) > width:
        able = [i for i, one in enumerate(columns) if widths[i] > one.least]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


def _total(widths: Sequence[int]) -> int:
    return len(_INDENT) + sum(widths) + len(_GAP) * (len(widths) - 1)
