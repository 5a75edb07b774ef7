"""Databases of searches whose genealogies had algorithms of their own go on bit for bit."""

from __future__ import annotations

import json

import pytest

from tests.spaces import former

TOLD = json.loads(former.DATA.read_text())


@pytest.mark.parametrize("kind", former.SEARCHES)
def test_a_search_is_as_it_was(kind: str) -> None:
    assert former.trials(former.search(former.SEARCHES[kind]())) == TOLD[kind]


@pytest.mark.parametrize("kind", former.SEARCHES)
def test_a_search_goes_on_as_it_would_have(kind: str) -> None:
    sampler = former.SEARCHES[kind]()
    told = list(enumerate(TOLD[kind]))[: former.BEFORE]
    before = [former.stored(*one, sampler.search_space) for one in told]
    assert former.trials(former.search(sampler, before)) == TOLD[kind]
