"""What every test runs under: one thread per process, a silent transformers."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from transformers.utils import logging

from tests import revisions

# Of this run, and of the processes that tests start.
os.environ.setdefault("MERGE_OPTUNA_CACHE", tempfile.mkdtemp(prefix="merge_optuna-tests-"))
torch.set_num_threads(1)
# How long an example takes says something about the machine and what else it does.
settings.register_profile("shrink", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# To make a failing example small can take a hundred seconds. It is printed as it was found, and
# ``pytest --hypothesis-profile=shrink`` makes it small for who looks for the reason.
settings.register_profile(
    "any", settings.get_profile("shrink"), phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
settings.load_profile("any")
logging.set_verbosity_error()
logging.disable_progress_bar()
revisions.load_once()


def pytest_collection_finish() -> None:
    """No garbage collection goes through torch, transformers and the tests again and again.

    That is a fifth of the processor time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as at a terminal: under nohup, cron or in a background job it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
