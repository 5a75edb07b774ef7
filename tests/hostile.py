"""What every refusal must be: an error of ours, one sentence or two, at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from merge_optuna.errors import MergeOptunaError

Call = Callable[[], object]


def check_refused(call: Call, sentence: str) -> None:
    """The time is that of the processor, so that a busy machine makes no difference."""
    began = time.process_time()
    with pytest.raises(MergeOptunaError) as caught:
        call()
    assert time.process_time() - began < 2
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 2100
