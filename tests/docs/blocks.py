"""The blocks of code in README, CONTRIBUTING and docs: one way to find them, for all tests.

A comment in the line above a block says what else there is to it:

- ``<!-- not run: WHY -->``: it needs what a test has not, or would take long;
- ``<!-- NAME -->``: a test asks for it, ``block("README.md", "NAME")``, or ``.ci/run`` does.

Any other is run with the other blocks of its page, by ``test_blocks.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import merge_optuna as mo

ROOT = Path(mo.__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"))
    if "_build" not in path.parts and "auto_examples" not in path.parts
)
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
LANGUAGES = {"python", "sh", "console", "yaml", "toml"}


@dataclass(frozen=True)
class Block:
    """One block: of which page, its first line of code, its language, its mark and its code."""

    page: str
    line: int
    language: str
    mark: str | None
    code: str

    @property
    def why_not(self) -> str | None:
        """Why it is not run, if it is not."""
        found = re.fullmatch(r"not run: (.{10,})", self.mark or "", re.S)
        return found[1] if found else None

    @property
    def name(self) -> str | None:
        """By which a test asks for it, if one does."""
        return None if self.why_not else self.mark


def blocks(page: str) -> Iterator[Block]:
    """All blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(page, line, found["language"], found["mark"], found["code"])


def block(page: str, name: str) -> str:
    """The code of the block with a name."""
    (found,) = (one.code for one in blocks(page) if one.name == name)
    return found
