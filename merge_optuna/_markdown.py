"""Pages of documentation that are written from code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def page(blocks: Iterable[str]) -> str:
    """Blocks, with an empty line between two of them."""
    return "\n\n".join(blocks) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of these columns."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
