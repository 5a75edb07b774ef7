"""The README is short, and what it links to is there."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert len(TEXT.split()) < 900


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", TEXT)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pictures_of_the_pages_are_small() -> None:
    for path in (ROOT / "docs" / "_static").glob("*.png"):
        assert path.stat().st_size < 200_000, path.name
